package jose

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

var (
	// ErrAlgorithm says that a token's algorithm is unknown or not accepted.
	ErrAlgorithm = errors.New("algorithm not accepted")
	// ErrSignature says that no key that was given signed the token.
	ErrSignature = errors.New("signature not valid")
)

// maxTries is how many keys are tried for a token without kid. An issuer with
// more keys that look alike has to name them.
const maxTries = 16

// algorithm is a signature algorithm: how to check it, and the one length that
// its signatures have; 0 for the length of the RSA modulus. To which type and
// curve of keys it is bound, Key.Fits says.
type algorithm struct {
	name   string
	method jwt.SigningMethod
	length int
}

// algorithms are all that are known; "none" is not among them. Ed25519 is the
// newer name of EdDSA with that curve (RFC 9864 section 2.2).
var algorithms = [...]algorithm{
	{"RS256", jwt.SigningMethodRS256, 0},
	{"RS384", jwt.SigningMethodRS384, 0},
	{"RS512", jwt.SigningMethodRS512, 0},
	{"PS256", pss(crypto.SHA256), 0},
	{"PS384", pss(crypto.SHA384), 0},
	{"PS512", pss(crypto.SHA512), 0},
	{"ES256", jwt.SigningMethodES256, 64},
	{"ES384", jwt.SigningMethodES384, 96},
	{"ES512", jwt.SigningMethodES512, 132},
	{"EdDSA", jwt.SigningMethodEdDSA, ed25519.SignatureSize},
	{"Ed25519", jwt.SigningMethodEdDSA, ed25519.SignatureSize},
	{"HS256", jwt.SigningMethodHS256, 32},
	{"HS384", jwt.SigningMethodHS384, 48},
	{"HS512", jwt.SigningMethodHS512, 64},
}

func findAlgorithm(name Value) *algorithm {
	for i := range algorithms {
		if name.Is(algorithms[i].name) {
			return &algorithms[i]
		}
	}
	return nil
}

// Algorithms returns the names of all algorithms that are known.
func Algorithms() []string {
	names := make([]string, len(algorithms))
	for i := range algorithms {
		names[i] = algorithms[i].name
	}
	return names
}

// pss is RSASSA-PSS with a salt exactly as long as the hash, as RFC 7518
// section 3.5 demands. The library's own methods accept any length.
func pss(hash crypto.Hash) jwt.SigningMethod {
	return &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: &jwt.SigningMethodRSA{Name: "PS" + hash.String()[len("SHA-"):], Hash: hash},
		Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash},
	}
}

// Verify returns the key that signed the token. The token's algorithm must be
// in allowed, and only keys that fit it are tried: of its type, curve and size,
// and not bound to another algorithm. Errors wrap ErrAlgorithm or ErrSignature.
func Verify(t *Token, keys []*Key, allowed []string) (*Key, error) {
	if !slices.Contains(allowed, t.alg.name) {
		return nil, fmt.Errorf("%w: %s", ErrAlgorithm, t.alg.name)
	}
	tried := 0
	for _, k := range keys {
		if k == nil || !k.Fits(t.alg.name) {
			continue
		}
		if tried++; tried > maxTries {
			return nil, fmt.Errorf("%w: more than %d keys fit, and the token names none", ErrSignature, maxTries)
		}
		if t.alg.verify(k.Public, t.signed, t.signature) {
			return k, nil
		}
	}
	if tried == 0 {
		return nil, fmt.Errorf("%w: no key for %s", ErrSignature, t.alg.name)
	}
	return nil, ErrSignature
}

// verify checks a signature with a key that fits. The sizes are checked here as
// well as where keys are read, because a key may come from elsewhere.
func (a *algorithm) verify(public any, signed string, signature []byte) bool {
	length := a.length
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k == nil || k.N == nil || k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits {
			return false
		}
		length = k.Size()
	case SymmetricKey:
		public = k.Reveal()
	}
	return len(signature) == length && a.method.Verify(signed, signature, public) == nil
}
