package bundle

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// Signature says how a bundle is signed. Exactly one of Key and Secret is given.
type Signature struct {
	// KeyID is the `kid` by which a verifier finds the key.
	KeyID string
	// Key is a private key in PEM. The key decides the algorithm: RS256, ES256, ES384
	// or ES512.
	Key []byte
	// Secret is shared with the verifier, at least 32 bytes: HS256.
	Secret policy.Secret
	// Scope is what a verifier that is told a scope wants to find; empty for none.
	Scope string
	// Issued is when it is signed. Verifiers use it to tell which of two bundles is
	// older where their revisions do not say.
	Issued time.Time
	// Expires is when the signature ends; zero for never.
	Expires time.Time
}

// Sign puts a signature into a packed bundle, in place of one that it has, and returns
// the bundle with the algorithm of the signature. The result was verified with the
// other half of the key. No error shows anything of the key.
func Sign(raw []byte, limits Limits, s Signature) (signed []byte, algorithm string, err error) {
	limits = limits.withDefaults()
	signer, key, err := s.signer()
	if err != nil {
		return nil, "", err
	}
	files, err := unpacked(raw, limits)
	if err != nil {
		return nil, "", err
	}
	delete(files, signaturesFile)
	hashes, err := hashesOf(files)
	if err != nil {
		return nil, "", err
	}
	claims := map[string]any{"files": hashes, "keyid": s.KeyID, "iat": s.Issued.Unix()}
	if s.Scope != "" {
		claims["scope"] = s.Scope
	}
	if !s.Expires.IsZero() {
		claims["exp"] = s.Expires.Unix()
	}
	token, err := signer(claims)
	if err != nil {
		return nil, "", err
	}
	if files[signaturesFile], err = encodeJSON(map[string]any{"signatures": []string{token}}); err != nil {
		return nil, "", err
	}
	if signed, err = pack(files); err != nil {
		return nil, "", err
	}
	return signed, key.Algorithm, s.verify(signed, limits, key)
}

// verify reads what was signed as a server would.
func (s *Signature) verify(signed []byte, limits Limits, key Key) error {
	v, err := newVerifier(&Verify{Keys: []Key{key}, Scope: s.Scope})
	if err != nil {
		return err
	}
	for _, version := range []ast.RegoVersion{ast.RegoV1, ast.RegoV0} { // its manifest may not say
		r := reading{name: "bundle", limits: limits, verifier: v, version: version}
		if _, err = r.read(signed, s.Issued); stageOf(err) != FailedPolicy {
			break
		}
	}
	return err
}

// signer returns what signs claims, and the key that verifies it.
func (s *Signature) signer() (func(claims any) (string, error), Key, error) {
	switch {
	case s.KeyID == "":
		return nil, Key{}, errors.New("a signature needs a key id: verifiers find the key by it")
	case (len(s.Key) == 0) == s.Secret.IsZero():
		return nil, Key{}, errors.New("a signature needs a private key or a secret, and not both")
	case !s.Expires.IsZero() && !s.Issued.Before(s.Expires):
		return nil, Key{}, errors.New("the signature would have expired already")
	case !s.Secret.IsZero():
		if len(s.Secret.Reveal()) < minSecret {
			return nil, Key{}, fmt.Errorf("a secret of less than %d bytes can be guessed", minSecret)
		}
		return s.hmac, Key{ID: s.KeyID, Algorithm: "HS256", Secret: s.Secret}, nil
	}
	private, err := jose.ParseSigningKey(s.Key)
	if err != nil {
		return nil, Key{}, err
	}
	if private.Algorithm() == "EdDSA" {
		return nil, Key{}, errors.New("OPA and Postern verify no bundles that are signed with Ed25519: use an RSA key, or one on P-256, P-384 or P-521")
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, Key{}, err
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	sign := func(claims any) (string, error) { return private.Sign("JWT", s.KeyID, claims) }
	return sign, Key{ID: s.KeyID, Algorithm: private.Algorithm(), Key: public}, nil
}

// hmac signs with the secret (RFC 7515 section 5.1, RFC 7518 section 3.2).
func (s *Signature) hmac(claims any) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "HS256", "kid": s.KeyID, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	mac := hmac.New(sha256.New, []byte(s.Secret.Reveal()))
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}

// hashesOf are the digests of the files as OPA's verifier makes them: of a document,
// its values count and not how they are written.
func hashesOf(files map[string][]byte) ([]opa.FileInfo, error) {
	hasher, err := opa.NewSignatureHasher(opa.SHA256)
	if err != nil {
		return nil, err
	}
	all := make([]opa.FileInfo, 0, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		value := any(files[name])
		if opa.IsStructuredDoc(name) {
			if err := util.Unmarshal(files[name], &value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		sum, err := hasher.HashFile(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, opa.NewFile(name, hex.EncodeToString(sum), opa.SHA256.String()))
	}
	return all, nil
}
