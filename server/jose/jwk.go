package jose

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
)

// The sizes of an RSA modulus that are accepted, in bits. Shorter ones can be
// factored (RFC 7518 section 3.3 demands 2048); a verification with longer ones
// takes milliseconds that an attacker gets for nothing.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// maxKeyIDBytes bounds the kid of a key. Longer ones are no names.
const maxKeyIDBytes = 1024

// minSymmetricBytes is the least length of a shared secret: the output of the
// smallest hash (RFC 7518 section 3.2).
const minSymmetricBytes = sha256.Size

// Key is one key that verifies signatures.
type Key struct {
	// ID is the kid; empty if the key has none.
	ID string
	// Alg is the algorithm to which the JWK binds the key; empty: any that fits
	// its type.
	Alg string
	// Public is a *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or
	// SymmetricKey.
	Public any
}

// Fits reports whether the key may verify a signature of that algorithm: its
// type, its curve, its length and the algorithm to which it is bound all agree.
// "EdDSA" and "Ed25519" are two names of one algorithm (RFC 9864 section 2.2).
func (k *Key) Fits(alg string) bool {
	if k.Alg != "" && k.Alg != alg && (!isEd25519(k.Alg) || !isEd25519(alg)) {
		return false
	}
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		return p != nil && p.N != nil && slices.Contains(rsaAlgorithms[:], alg)
	case *ecdsa.PublicKey:
		c := curveOf(p)
		return c != nil && c.alg == alg
	case ed25519.PublicKey:
		return isEd25519(alg)
	case SymmetricKey:
		least, ok := symmetricAlgorithms[alg]
		return ok && p.size() >= least
	}
	return false
}

// Thumbprint returns the JWK thumbprint with SHA-256 in base64url (RFC 7638). It
// is empty for a symmetric key, whose hash would help to guess it (section 7).
func (k *Key) Thumbprint() string {
	var members string
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		e := big.NewInt(int64(p.E)).Bytes()
		members = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, base64url(e), base64url(p.N.Bytes()))
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		c := curveOf(p)
		if err != nil || c == nil {
			return ""
		}
		x, y := point[1:1+c.size], point[1+c.size:]
		members = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, c.name, base64url(x), base64url(y))
	case ed25519.PublicKey:
		members = fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":%q}`, base64url(p))
	default:
		return ""
	}
	sum := sha256.Sum256([]byte(members))
	return base64url(sum[:])
}

// SymmetricKey is a shared secret that nothing can print. Whoever holds it can
// sign as well as verify. fmt does not ask a value in an unexported field how to
// print it, and follows a pointer to a slice where the verb does not fit; it
// never follows two pointers.
type SymmetricKey struct {
	secret **[]byte
}

// NewSymmetricKey wraps a copy of the bytes.
func NewSymmetricKey(secret []byte) SymmetricKey {
	b := new([]byte)
	*b = bytes.Clone(secret)
	return SymmetricKey{&b}
}

// Reveal returns the bytes, which must not be changed. Whoever calls it answers
// for where they go.
func (k SymmetricKey) Reveal() []byte {
	if k.secret == nil {
		return nil
	}
	return **k.secret
}

func (k SymmetricKey) size() int { return len(k.Reveal()) }

const redactedKey = "[redacted]"

// Format implements fmt.Formatter for every verb.
func (k SymmetricKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redactedKey)) }

// LogValue implements slog.LogValuer.
func (k SymmetricKey) LogValue() slog.Value { return slog.StringValue(redactedKey) }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (k SymmetricKey) MarshalText() ([]byte, error) { return []byte(redactedKey), nil }

// rsaAlgorithms need an RSA key and no more.
var rsaAlgorithms = [...]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

// symmetricAlgorithms maps an algorithm to its least key length in bytes (RFC
// 7518 section 3.2).
var symmetricAlgorithms = map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}

func isEd25519(alg string) bool { return alg == "EdDSA" || alg == "Ed25519" }

// curves are the elliptic curves of RFC 7518 section 6.2.1.1. P-224 and
// secp256k1 are not among them.
var curves = [...]curve{
	{"P-256", elliptic.P256(), "ES256", 32},
	{"P-384", elliptic.P384(), "ES384", 48},
	{"P-521", elliptic.P521(), "ES512", 66},
}

type curve struct {
	name string
	elliptic.Curve
	// alg is the one algorithm of the curve (RFC 7518 section 3.4).
	alg string
	// size is the length of a coordinate in bytes.
	size int
}

func curveOf(p *ecdsa.PublicKey) *curve {
	if p == nil {
		return nil
	}
	for i := range curves {
		if curves[i].Curve == p.Curve {
			return &curves[i]
		}
	}
	return nil
}

// privateMembers are the members that only a private key has (RFC 7518 section
// 6). k is not among them: a symmetric key has nothing else.
var privateMembers = [...]string{"d", "p", "q", "dp", "dq", "qi", "oth"}

// jwk is a JWK as it was read: an object, nothing checked yet.
type jwk struct{ Value }

// errSymmetric refuses a shared secret where others can read it. A verifier that
// knows a public key and accepts HMAC also invites the confusion of the two.
var errSymmetric = errors.New("it is a symmetric key, which is no key to publish")

// The values of the member use that name a purpose of ours (RFC 7517 section 4.2,
// JWT-SVID section 6.1).
const (
	useSignature = "sig"
	useSVID      = "jwt-svid"
)

// readKey makes a key for the purpose of a JWK. The error says why it cannot be used
// and holds no part of it but names and sizes.
func readKey(j jwk, purpose string) (*Key, error) {
	id, err := j.optional("kid")
	if err != nil {
		return nil, err
	}
	if len(id) > maxKeyIDBytes {
		return nil, fmt.Errorf("its kid has %d bytes, at most %d are accepted", len(id), maxKeyIDBytes)
	}
	alg, err := j.purpose(purpose)
	if err != nil {
		return nil, err
	}
	public, err := j.public()
	if err != nil {
		return nil, err
	}
	k := &Key{ID: id, Alg: alg, Public: public}
	if alg != "" && !k.Fits(alg) {
		return nil, fmt.Errorf("its alg %s does not fit its type, curve or length", alg)
	}
	return k, nil
}

// purpose returns the alg after checking that the key is for verifying
// signatures of that use: use, key_ops and alg (RFC 7517 sections 4.2 to 4.4).
func (j jwk) purpose(want string) (alg string, err error) {
	use, err := j.optional("use")
	switch {
	case err != nil:
		return "", err
	case j.has("use") && use != want:
		return "", fmt.Errorf("its use is %s, not %s", quote(use), want)
	}
	if err := j.operations(); err != nil {
		return "", err
	}
	alg, err = j.optional("alg")
	switch {
	case err != nil:
		return "", err
	case j.has("alg") && !slices.Contains(Algorithms(), alg):
		return "", fmt.Errorf("its alg %s is not a signature algorithm that is supported", quote(alg))
	}
	return alg, nil
}

// operations checks key_ops: if it is there, it lists "verify", and nothing
// twice (RFC 7517 section 4.3).
func (j jwk) operations() error {
	if !j.has("key_ops") {
		return nil
	}
	list := j.Get("key_ops")
	if list.Kind() != Array {
		return errors.New("its key_ops is not a list")
	}
	seen := make(map[string]bool, list.Len())
	for e := range list.Elements() {
		op, ok := e.Text()
		if !ok || seen[op] {
			return errors.New("its key_ops is not a list of different strings")
		}
		seen[op] = true
	}
	if !seen["verify"] {
		return errors.New("its key_ops does not list verify")
	}
	return nil
}

// public reads the members of the key's type.
func (j jwk) public() (any, error) {
	kty, err := j.optional("kty")
	if err != nil {
		return nil, err
	}
	switch kty {
	case "RSA":
		return j.rsa()
	case "EC":
		return j.ec()
	case "OKP":
		return j.okp()
	case "oct":
		return nil, errSymmetric
	}
	return nil, fmt.Errorf("its kty %s is not supported", quote(kty))
}

func (j jwk) rsa() (*rsa.PublicKey, error) {
	n, err := j.number("n", maxRSABits/8)
	if err != nil {
		return nil, err
	}
	e, err := j.number("e", 8)
	if err != nil {
		return nil, err
	}
	p := &rsa.PublicKey{N: n}
	if e.BitLen() < 32 {
		p.E = int(e.Int64())
	}
	return p, checkRSA(p)
}

func (j jwk) ec() (*ecdsa.PublicKey, error) {
	name, err := j.optional("crv")
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(curves[:], func(c curve) bool { return c.name == name })
	if i < 0 {
		return nil, fmt.Errorf("its curve %s is not supported", quote(name))
	}
	c := &curves[i]
	x, err := j.exactly("x", c.size)
	if err != nil {
		return nil, err
	}
	y, err := j.exactly("y", c.size)
	if err != nil {
		return nil, err
	}
	p, err := ecdsa.ParseUncompressedPublicKey(c.Curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("its point is not on the curve " + c.name)
	}
	return p, nil
}

func (j jwk) okp() (ed25519.PublicKey, error) {
	crv, err := j.optional("crv")
	if err != nil {
		return nil, err
	}
	if crv != "Ed25519" {
		return nil, fmt.Errorf("its curve %s is not supported", quote(crv))
	}
	x, err := j.exactly("x", ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	return x, checkEdwards(x)
}

// checkKey holds a key that was not read from a JWK to the same rules.
func checkKey(k *Key) error {
	if k == nil {
		return errors.New("there is none")
	}
	if k.Alg != "" && !k.Fits(k.Alg) {
		return fmt.Errorf("its alg %s does not fit its type, curve or length", quote(k.Alg))
	}
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		return checkRSA(p)
	case *ecdsa.PublicKey:
		if curveOf(p) == nil {
			return errors.New("its curve is not supported")
		}
		if _, err := p.Bytes(); err != nil {
			return errors.New("its point is not on the curve")
		}
		return nil
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize {
			return fmt.Errorf("it has %d bytes, not %d", len(p), ed25519.PublicKeySize)
		}
		return checkEdwards(p)
	case SymmetricKey:
		return checkSecret(p)
	}
	return fmt.Errorf("keys of type %T are not supported", k.Public)
}

func (j jwk) has(name string) bool { return j.Get(name).Exists() }

// isPrivate reports whether a private member is there, whatever its value.
func (j jwk) isPrivate() bool {
	return slices.ContainsFunc(privateMembers[:], j.has)
}

// optional returns the string member, or an empty text if there is none.
func (j jwk) optional(name string) (string, error) {
	v := j.Get(name)
	if !v.Exists() {
		return "", nil
	}
	s, ok := v.Text()
	if !ok {
		return "", fmt.Errorf("its %s is %s, not a string", name, v.Kind())
	}
	return s, nil
}

// octets decodes a member that must be there, of at most limit bytes, in the one
// base64url text that its bytes have (RFC 7515 section 2).
func (j jwk) octets(name string, limit int) ([]byte, error) {
	text, err := j.optional(name)
	if err != nil {
		return nil, err
	}
	if text == "" {
		return nil, fmt.Errorf("it has no %s", name)
	}
	if len(text) > base64.RawURLEncoding.EncodedLen(limit) {
		return nil, fmt.Errorf("its %s is longer than %d bytes", name, limit)
	}
	b, ok := appendBase64(nil, text)
	if !ok {
		return nil, fmt.Errorf("its %s is not base64url without padding", name)
	}
	return b, nil
}

// exactly decodes a member of exactly size bytes: a coordinate keeps its leading
// zeros (RFC 7518 section 6.2.1.2).
func (j jwk) exactly(name string, size int) ([]byte, error) {
	b, err := j.octets(name, size)
	if err != nil {
		return nil, err
	}
	if len(b) != size {
		return nil, fmt.Errorf("its %s has %d bytes, not %d", name, len(b), size)
	}
	return b, nil
}

// number decodes a Base64urlUInt: a number has no leading zeros (RFC 7518
// section 2 and the note in 6.3.1.1).
func (j jwk) number(name string, limit int) (*big.Int, error) {
	b, err := j.octets(name, limit)
	if err != nil {
		return nil, err
	}
	if b[0] == 0 {
		return nil, fmt.Errorf("its %s has a leading zero byte", name)
	}
	return new(big.Int).SetBytes(b), nil
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// quote shows a foreign text on one line, shortened.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%.*q…", most, s)
	}
	return fmt.Sprintf("%q", s)
}
