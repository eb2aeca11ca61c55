package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/regular"
)

// Bounds of keys.
const (
	minRSABits    = 2048
	minSecret     = 32      // bytes; RFC 7518 section 3.2
	maxKeyFile    = 1 << 20 // bytes
	signatureSkew = time.Minute
)

// curves are the algorithms of ECDSA keys (RFC 7518 section 3.4).
var curves = map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}

// parse returns the key as OPA's reader takes it. The text is that of File, if it
// was read.
func (k *Key) parse(file []byte) (*opa.KeyConfig, error) {
	given := 0
	for _, is := range []bool{k.Key != "", k.File != "", !k.Secret.IsZero()} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("needs exactly one of key, file and secret")
	}
	if !k.Secret.IsZero() {
		return k.symmetric()
	}
	if k.Key != "" {
		file = []byte(k.Key)
	}
	block, rest := pem.Decode(file)
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("is not exactly one PEM block")
	}
	public, err := parsePublic(block)
	if err != nil {
		return nil, err
	}
	algorithm, err := k.algorithmFor(public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return &opa.KeyConfig{Key: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), Algorithm: algorithm}, nil
}

func (k *Key) symmetric() (*opa.KeyConfig, error) {
	algorithm := k.Algorithm
	if algorithm == "" {
		algorithm = "HS256"
	}
	if !slices.Contains([]string{"HS256", "HS384", "HS512"}, algorithm) {
		return nil, fmt.Errorf("%.20q does not sign with a secret: use HS256, HS384 or HS512", algorithm)
	}
	if len(k.Secret.Reveal()) < minSecret {
		return nil, fmt.Errorf("has a secret of less than %d bytes", minSecret)
	}
	return &opa.KeyConfig{Key: k.Secret.Reveal(), Algorithm: algorithm}, nil
}

func parsePublic(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return nil, errors.New("is a private key: give the public one (openssl pkey -pubout)")
	}
	return nil, fmt.Errorf("is a PEM block of type %.40q, not a public key", block.Type)
}

func (k *Key) algorithmFor(public any) (string, error) {
	var fit []string
	switch public := public.(type) {
	case *rsa.PublicKey:
		if public.N.BitLen() < minRSABits {
			return "", fmt.Errorf("is an RSA key of %d bits, at least %d are needed", public.N.BitLen(), minRSABits)
		}
		fit = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		if name := curves[public.Curve]; name != "" {
			fit = []string{name}
		}
	}
	switch {
	case fit == nil:
		return "", errors.New("is neither an RSA key nor one on P-256, P-384 or P-521")
	case k.Algorithm == "":
		return fit[0], nil
	case !slices.Contains(fit, k.Algorithm):
		return "", fmt.Errorf("does not fit the algorithm %.20q: use %s", k.Algorithm, strings.Join(fit, ", "))
	}
	return k.Algorithm, nil
}

// load reads a key and its file.
func (k *Key) load() (*opa.KeyConfig, error) {
	var text []byte
	if k.File != "" {
		var err error
		if text, err = regular.ReadFile(string(k.File), maxKeyFile); err != nil {
			return nil, err
		}
	}
	return k.parse(text)
}

// verifier holds the keys of one bundle. Without any, signatures are not looked at.
type verifier struct {
	config  *opa.VerificationConfig
	exclude []string
}

func newVerifier(v *Verify) (*verifier, error) {
	if v.InsecureSkip || len(v.Keys) == 0 {
		return &verifier{}, nil
	}
	keys := map[string]*opa.KeyConfig{}
	for i := range v.Keys {
		key, err := v.Keys[i].load()
		if err != nil {
			return nil, fmt.Errorf("verification key %.80q %w", v.Keys[i].ID, err)
		}
		keys[v.Keys[i].ID] = key
	}
	return &verifier{config: opa.NewVerificationConfig(keys, "", v.Scope, v.Exclude), exclude: v.Exclude}, nil
}

func (v *verifier) on() bool { return v.config != nil }

// mayExclude refuses to leave what the policy is made of out of the signature.
func (v *verifier) mayExclude(name string) error {
	if !v.on() || !isPolicy(name) {
		return nil
	}
	for _, pattern := range v.exclude {
		if match, _ := path.Match(pattern, name); match {
			return fmt.Errorf("%s is part of the policy, and verify.exclude takes it out of the signature", name)
		}
	}
	return nil
}

// signed is what a signature says besides the hashes.
type signed struct {
	issued time.Time // zero if it does not say
}

// claims are those of a signature that OPA's reader does not look at.
type claims struct {
	Files   []opa.FileInfo `json:"files"`
	KeyID   string         `json:"keyid"`
	Expires *json.Number   `json:"exp"`
	Begins  *json.Number   `json:"nbf"`
	Issued  *json.Number   `json:"iat"`
}

// strong are the digests that are accepted.
var strong = []string{opa.SHA256.String(), opa.SHA384.String(), opa.SHA512.String(), opa.SHA512256.String()}

// check looks at a signature that OPA has found to be good, for what OPA lets pass:
// weak digests, its own times, and a header that contradicts the key.
func (v *verifier) check(token string, now time.Time) (signed, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return signed{}, errors.New("the signature is no compact JWT")
	}
	var header struct {
		Algorithm string   `json:"alg"`
		KeyID     string   `json:"kid"`
		Critical  []string `json:"crit"`
	}
	var c claims
	if err := errors.Join(decodePart(parts[0], &header), decodePart(parts[1], &c)); err != nil {
		return signed{}, err
	}
	id := header.KeyID
	if id == "" {
		id = c.KeyID
	}
	key := v.config.PublicKeys[id]
	if key == nil || header.Algorithm != key.Algorithm {
		return signed{}, fmt.Errorf("the signature says algorithm %.20q, and its key is for another", header.Algorithm)
	}
	if header.Critical != nil {
		return signed{}, errors.New("the signature has a critical extension") // RFC 7515 section 4.1.11
	}
	seen := map[string]bool{}
	for _, f := range c.Files {
		if !slices.Contains(strong, f.Algorithm) {
			return signed{}, fmt.Errorf("the digest of %s is %.20q, which is too weak: sign with SHA-256", f.Name, f.Algorithm)
		}
		if seen[f.Name] {
			return signed{}, fmt.Errorf("the signature names %s twice", f.Name)
		}
		seen[f.Name] = true
	}
	return c.times(now)
}

func (c *claims) times(now time.Time) (s signed, err error) {
	read := func(n *json.Number) (t time.Time) {
		if n == nil {
			return t
		}
		seconds, bad := n.Float64()
		if bad != nil || seconds < 0 || seconds > 1<<40 {
			err = errors.New("a time in the signature is out of range")
			return t
		}
		return time.Unix(int64(seconds), 0)
	}
	expires, begins := read(c.Expires), read(c.Begins)
	s.issued = read(c.Issued)
	switch {
	case err != nil:
	case c.Expires != nil && !now.Before(expires):
		err = fmt.Errorf("%w: at %s", errExpired, expires.UTC().Format(time.RFC3339))
	case c.Begins != nil && now.Add(signatureSkew).Before(begins):
		err = fmt.Errorf("the signature is not valid before %s", begins.UTC().Format(time.RFC3339))
	}
	return s, err
}

// errExpired says that a signature was good once.
var errExpired = errors.New("the signature has expired")

func decodePart(part string, into any) error {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return fmt.Errorf("the signature is no JWT: %w", err)
	}
	if err := rego.CheckData("signature.json", text, 8); err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the signature is no JWT: %w", err)
	}
	return nil
}
