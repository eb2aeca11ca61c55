package jose

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/server/vectortest"
)

// object is a JWK in the making.
type object map[string]any

// with returns a copy with some members set; nil removes one.
func (o object) with(pairs ...any) object {
	c := maps.Clone(o)
	for i := 0; i < len(pairs); i += 2 {
		if c[pairs[i].(string)] = pairs[i+1]; pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		}
	}
	return c
}

func (o object) text() string {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// setOf is a JWK set in JSON.
func setOf(keys ...object) string {
	all := make([]string, len(keys))
	for i, k := range keys {
		all[i] = k.text()
	}
	return `{"keys":[` + strings.Join(all, ",") + `]}`
}

// jwkOf is the JWK of a public key or of bytes that are a secret.
func jwkOf(kid string, public any) object {
	o := object{"kid": kid}
	switch p := public.(type) {
	case *rsa.PublicKey:
		return o.with("kty", "RSA", "n", base64url(p.N.Bytes()), "e", base64url(big.NewInt(int64(p.E)).Bytes()))
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		return o.with("kty", "EC", "crv", p.Params().Name, "x", base64url(point[1:1+half]), "y", base64url(point[1+half:]))
	case ed25519.PublicKey:
		return o.with("kty", "OKP", "crv", "Ed25519", "x", base64url(p))
	case []byte:
		return o.with("kty", "oct", "k", base64url(p))
	}
	panic(fmt.Sprintf("%T", public))
}

// edKey is the JWK of an Ed25519 key that the number alone decides.
func edKey(kid string, n byte) object {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return jwkOf(kid, ed25519.NewKeyFromSeed(seed).Public())
}

// modulus is a number of that many bits that no small prime divides, and whose
// rests are none that the ROCA generator makes.
func modulus(bits int) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(3), uint(bits-2))
	for n.Add(n, big.NewInt(1)); bits >= minRSABits && bits <= maxRSABits && checkModulus(n) != nil; {
		n.Add(n, big.NewInt(2))
	}
	return n
}

// rocaModulus is a modulus as the ROCA generator makes them: a power of 65537
// modulo the product of the small primes.
func rocaModulus() *big.Int {
	m := big.NewInt(2)
	for _, p := range smallPrimes {
		m.Mul(m, new(big.Int).SetUint64(p))
	}
	n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), m)
	high := new(big.Int).Lsh(big.NewInt(3), minRSABits-2)
	return n.Add(n, high.Sub(high, new(big.Int).Mod(high, m)).Add(high, m))
}

func rsaJWK(kid string, n *big.Int, e int64) object {
	return object{"kid": kid, "kty": "RSA", "n": base64url(n.Bytes()), "e": base64url(big.NewInt(e).Bytes())}
}

// badKeys are keys that must not be used, and a word of the reason. Those with an
// id are the scenarios of that name: each has a key that is correct but for that.
func badKeys() []struct {
	id   string
	key  object
	word string
} {
	k := testKeys()
	rsaKey, ecKey, ed := jwkOf("bad", &k.rsa.PublicKey), jwkOf("bad", &k.p256.PublicKey), edKey("bad", 1)
	oct := jwkOf("bad", k.secret).with("alg", "HS256")
	even := new(big.Int).Add(modulus(2048), big.NewInt(1))
	p224 := ecKey.with("crv", "P-224", "x", base64url(make([]byte, 28)), "y", base64url(make([]byte, 28)))
	offCurve := ecKey.with("x", ecKey["y"], "y", ecKey["x"])
	short := ecKey.with("x", base64url(make([]byte, 31)))
	point := func(y string) object {
		b, err := hex.DecodeString(y)
		if err != nil {
			panic(err)
		}
		return ed.with("x", base64url(b))
	}
	return []struct {
		id   string
		key  object
		word string
	}{
		{"JWKS-01", oct, "symmetric"},
		{"JWKS-03", rsaKey.with("use", "enc"), "use"},
		{"JWKS-04", rsaKey.with("key_ops", []string{"encrypt"}), "key_ops"},
		{"JWKS-05", rsaKey.with("key_ops", []string{"sign"}), "key_ops"},
		{"JWKS-06", rsaKey.with("alg", "RSA-OAEP"), "alg"},
		{"JWKS-07", rsaJWK("bad", modulus(512), 65537), "512 bits"},
		{"JWKS-08", rsaJWK("bad", modulus(1024), 65537), "1024 bits"},
		{"JWKS-09", rsaKey.with("e", "AQ"), "exponent"},
		{"JWKS-10", rsaKey.with("e", "Ag"), "exponent"},
		{"JWKS-11", rsaJWK("bad", even, 65537), "even"},
		{"JWKS-12", rsaJWK("bad", modulus(16384), 65537), "longer"},
		{"JWKS-13", offCurve, "not on the curve"},
		{"JWKS-14", p224, "P-224"},
		{"JWKS-15", short, "31 bytes"},
		{"JWKS-16", ecKey.with("crv", "P-384"), "32 bytes"},
		{"JWKS-17", ed.with("x", base64url(make([]byte, 32))), "low order"},
		{"JWKS-18", ed.with("x", base64url(make([]byte, 31))), "31 bytes"},
		{"JWKS-19", rsaJWK("bad", rocaModulus(), 65537), "ROCA"},

		{"use is no string", rsaKey.with("use", []string{"sig"}), "use"},
		{"use is empty", rsaKey.with("use", ""), "use"},
		{"use is null", object{"kid": "bad", "kty": "RSA", "n": rsaKey["n"], "e": "AQAB", "use": json.RawMessage("null")}, "use"},
		{"key_ops is empty", rsaKey.with("key_ops", []string{}), "key_ops"},
		{"key_ops is a string", rsaKey.with("key_ops", "verify"), "key_ops"},
		{"key_ops repeats", rsaKey.with("key_ops", []string{"verify", "verify"}), "key_ops"},
		{"key_ops holds a number", rsaKey.with("key_ops", []any{"verify", 1}), "key_ops"},
		{"alg none", rsaKey.with("alg", "none"), "alg"},
		{"alg empty", rsaKey.with("alg", ""), "alg"},
		{"alg of another case", rsaKey.with("alg", "rs256"), "alg"},
		{"alg is a number", rsaKey.with("alg", 256), "alg"},
		{"alg of another type", rsaKey.with("alg", "ES256"), "does not fit"},
		{"alg HMAC on a public key", rsaKey.with("alg", "HS256"), "does not fit"},
		{"alg of another curve", ecKey.with("alg", "ES384"), "does not fit"},
		{"alg of another curve, Ed25519", ed.with("alg", "ES256"), "does not fit"},
		{"kty missing", rsaKey.with("kty", nil), "kty"},
		{"kty of another case", rsaKey.with("kty", "rsa"), "kty"},
		{"kid is a number", rsaKey.with("kid", 7), "kid"},
		{"kid is long", rsaKey.with("kid", strings.Repeat("k", 2000)), "kid"},
		{"n missing", rsaKey.with("n", nil), "no n"},
		{"n padded", rsaKey.with("n", rsaKey["n"].(string)+"=="), "base64url"},
		{"n with a line break", rsaKey.with("n", rsaKey["n"].(string)[:9]+"\n"+rsaKey["n"].(string)[9:]), "base64url"},
		{"n in the other alphabet", rsaKey.with("n", "+/"+rsaKey["n"].(string)[2:]), "base64url"},
		{"n with a leading zero", rsaKey.with("n", base64url(append([]byte{0}, k.rsa.N.Bytes()...))), "leading zero"},
		{"n zero", rsaKey.with("n", "AA"), "leading zero"},
		{"n of 2047 bits", rsaJWK("bad", modulus(2047), 65537), "2047 bits"},
		{"n of 8200 bits", rsaJWK("bad", modulus(8200), 65537), "longer"},
		{"n with a small factor", rsaJWK("bad", new(big.Int).Mul(modulus(2050), big.NewInt(7)), 65537), "divisible by 7"},
		{"e zero", rsaKey.with("e", "AA"), "leading zero"},
		{"e even", rsaJWK("bad", k.rsa.N, 65536), "exponent"},
		{"e of 33 bits", rsaJWK("bad", k.rsa.N, 1<<32+1), "exponent"},
		{"e of 32 bits", rsaJWK("bad", k.rsa.N, 1<<31+1), "exponent"},
		{"e of 72 bits", rsaKey.with("e", base64url(make([]byte, 9))), "longer"},
		{"e is a number", rsaKey.with("e", 65537), "e is a number"},
		{"crv of another case", ecKey.with("crv", "p-256"), "curve"},
		{"crv missing", ecKey.with("crv", nil), "curve"},
		{"crv secp256k1", ecKey.with("crv", "secp256k1"), "curve"},
		{"y missing", ecKey.with("y", nil), "no y"},
		{"x too long", ecKey.with("x", base64url(append([]byte{0}, make([]byte, 32)...))), "longer"},
		{"point at infinity", ecKey.with("x", base64url(make([]byte, 32)), "y", base64url(make([]byte, 32))), "not on the curve"},
		{"X25519", ed.with("crv", "X25519"), "curve"},
		{"Ed448", ed.with("crv", "Ed448", "x", base64url(make([]byte, 57))), "curve"},
		{"Ed25519 as EC", ecKey.with("crv", "Ed25519"), "curve"},
		{"identity", point("01" + strings.Repeat("00", 31)), "low order"},
		{"identity with a sign", point("01" + strings.Repeat("00", 30) + "80"), "low order"},
		{"order 2", point("ec" + strings.Repeat("ff", 30) + "7f"), "low order"},
		{"order 4 with a sign", point(strings.Repeat("00", 31) + "80"), "low order"},
		{"order 8", point("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "low order"},
		{"order 8, the other", point("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "low order"},
		{"order 8 with a sign", point("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"), "low order"},
		{"y is the prime", point("ed" + strings.Repeat("ff", 30) + "7f"), "canonically"},
		{"y is over the prime", point("ee" + strings.Repeat("ff", 30) + "7f"), "canonically"},
		{"no point", point("02" + strings.Repeat("00", 31)), "not on the curve"},
	}
}

// J-02, JWKS-01, JWKS-03 to JWKS-19: a bad key is left out with its reason, alone
// or beside a good one, and the good one is used.
func TestBadKeysAreLeftOut(t *testing.T) {
	t.Parallel()
	for _, c := range badKeys() {
		t.Run(c.id, func(t *testing.T) {
			set, warnings, err := ParseKeySet([]byte(setOf(c.key, edKey("good", 2))))
			if err != nil {
				t.Fatal(err)
			}
			if set.Len() != 1 || len(found(t, set, "good", "EdDSA")) != 1 {
				t.Errorf("%d keys, and the good one is not among them", set.Len())
			}
			for _, alg := range Algorithms() {
				if keys := found(t, set, "bad", alg); len(keys) > 0 {
					t.Errorf("%s: found", alg)
				}
			}
			if len(warnings) != 1 || !strings.Contains(warnings[0], c.word) || !strings.Contains(warnings[0], "number 1") {
				t.Errorf("warnings %q, want one with %q", warnings, c.word)
			}
			if set, _, err := ParseKeySet([]byte(c.key.text())); set.Len() != 0 {
				t.Error("as a single key:", set.Len(), err)
			}
		})
	}
}

func found(t testing.TB, keys Keys, kid, alg string) []*Key {
	t.Helper()
	got, err := keys.Find(t.Context(), kid, alg)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Keys of every type are read, and each fits its algorithms only.
func TestGoodKeys(t *testing.T) {
	t.Parallel()
	k := testKeys()
	p521 := &ecdsa.PublicKey{Curve: elliptic.P521(), X: elliptic.P521().Params().Gx, Y: elliptic.P521().Params().Gy}
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	for name, c := range map[string]struct {
		key  object
		fits []string
	}{
		"RSA":              {jwkOf("k", &k.rsa.PublicKey), all},
		"RSA bound":        {jwkOf("k", &k.rsa.PublicKey).with("alg", "PS256"), []string{"PS256"}},
		"RSA, use and ops": {jwkOf("k", &k.rsa.PublicKey).with("use", "sig", "key_ops", []string{"verify"}), all},
		"RSA, e is 3":      {jwkOf("k", &k.rsa.PublicKey).with("e", "Aw"), all},
		"RSA, e is 2^31-1": {rsaJWK("k", k.rsa.N, 1<<31-1), all},
		"RSA, 8192 bits":   {rsaJWK("k", modulus(8192), 65537), all},
		"P-256":            {jwkOf("k", &k.p256.PublicKey), []string{"ES256"}},
		"P-384":            {jwkOf("k", &k.p384.PublicKey).with("alg", "ES384"), []string{"ES384"}},
		"P-521":            {jwkOf("k", p521), []string{"ES512"}},
		"Ed25519":          {edKey("k", 1), []string{"EdDSA", "Ed25519"}},
		"Ed25519 bound":    {edKey("k", 1).with("alg", "EdDSA"), []string{"EdDSA", "Ed25519"}},
		"secret":           {jwkOf("k", k.secret[:32]), []string{"HS256"}},
		"long secret":      {jwkOf("k", k.secret[:64]), []string{"HS256", "HS384", "HS512"}},
		"secret bound":     {jwkOf("k", k.secret[:64]).with("alg", "HS384"), []string{"HS384"}},
		"other members":    {edKey("k", 1).with("x5u", "http://x/", "x5c", []string{"?"}, "jku", 7, "kid2", nil, "ext", true), []string{"EdDSA", "Ed25519"}},
	} {
		set, warnings, err := parseWithSecrets([]byte(setOf(c.key)))
		if err != nil || len(warnings) > 0 || set.Len() != 1 {
			t.Errorf("%s: %d keys, %v, %v", name, set.Len(), warnings, err)
			continue
		}
		for _, alg := range Algorithms() {
			for _, kid := range []string{"k", ""} {
				if got := found(t, set, kid, alg); len(got) > 0 != slices.Contains(c.fits, alg) {
					t.Errorf("%s: kid %q, %s: %d keys", name, kid, alg, len(got))
				}
			}
		}
		if _, err := NewKeySet(found(t, set, "k", c.fits[0])...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A secret that is shorter than the hash it is for is refused.
func TestShortSecrets(t *testing.T) {
	t.Parallel()
	for alg, least := range symmetricAlgorithms {
		for _, n := range []int{1, least - 1} {
			set, warnings, err := parseWithSecrets([]byte(setOf(jwkOf("k", make([]byte, n)).with("alg", alg))))
			if err != nil || set.Len() != 0 || len(warnings) != 1 {
				t.Errorf("%s with %d bytes: %d keys, %v, %v", alg, n, set.Len(), warnings, err)
			}
		}
	}
}

func TestNewKeySetRefuses(t *testing.T) {
	t.Parallel()
	ed := ed25519.NewKeyFromSeed(make([]byte, 32)).Public()
	for name, keys := range map[string][]*Key{
		"nil":           {nil},
		"no key":        {{ID: "k"}},
		"a private key": {{Public: testKeys().rsa}},
		"a value":       {{Public: testKeys().rsa.PublicKey}},
		"nil RSA":       {{Public: (*rsa.PublicKey)(nil)}},
		"empty RSA":     {{Public: &rsa.PublicKey{}}},
		"small RSA":     {{Public: &testKeys().small.PublicKey}},
		"e is 1":        {{Public: &rsa.PublicKey{N: testKeys().rsa.N, E: 1}}},
		"nil EC":        {{Public: (*ecdsa.PublicKey)(nil)}},
		"empty EC":      {{Public: &ecdsa.PublicKey{}}},
		"P-224":         {{Public: &ecdsa.PublicKey{Curve: elliptic.P224(), X: elliptic.P224().Params().Gx, Y: elliptic.P224().Params().Gy}}},
		"off the curve": {{Public: &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}}},
		"short Ed25519": {{Public: ed25519.PublicKey("x")}},
		"low order":     {{Public: ed25519.PublicKey(make([]byte, 32))}},
		"empty secret":  {{Public: SymmetricKey{}}},
		"short secret":  {{Public: NewSymmetricKey(make([]byte, 31))}},
		"wrong alg":     {{Public: ed, Alg: "RS256"}},
		"same kid":      {{ID: "k", Public: ed}, {ID: "k", Public: ed}},
	} {
		if set, err := NewKeySet(keys...); err == nil || set != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if set, err := NewKeySet(&Key{Public: ed}, &Key{Public: ed}); err != nil || set.Len() != 2 {
		t.Error("keys without kid:", err)
	}
}

// No printer shows a secret, wherever the key stands.
func TestSymmetricKeyIsUnprintable(t *testing.T) {
	t.Parallel()
	const secret = "a secret that nobody should see!"
	k := NewSymmetricKey([]byte(secret))
	if string(k.Reveal()) != secret || (SymmetricKey{}).Reveal() != nil {
		t.Fatal("Reveal does not")
	}
	key := &Key{ID: "k", Public: k}
	set, err := NewKeySet(key)
	if err != nil {
		t.Fatal(err)
	}
	hidden := struct {
		k SymmetricKey
		p *SymmetricKey
		a any
		l []SymmetricKey
	}{k, &k, k, []SymmetricKey{k}}
	var out strings.Builder
	for _, v := range []any{k, &k, key, *key, hidden, &hidden, []SymmetricKey{k}, map[string]any{"k": k}, set, *set} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if data, err := json.Marshal(v); err == nil {
			out.Write(data)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64url([]byte(secret)), "97 32 115"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("printed as %q", form)
		}
	}
}

// G-13: the example of RFC 7638 section 3.1, and one key of each type.
func TestThumbprint(t *testing.T) {
	t.Parallel()
	var example struct {
		RFC7638 struct {
			JWK        json.RawMessage
			Thumbprint string
		} `json:"rfc7638_3_1_thumbprint"`
	}
	if err := json.Unmarshal(vectortest.Read(t, "rfc-jose/rfc-examples.json"), &example); err != nil {
		t.Fatal(err)
	}
	set, warnings, err := ParseKeySet(example.RFC7638.JWK)
	if err != nil || set.Len() != 1 || len(warnings) > 0 {
		t.Fatal(set.Len(), warnings, err)
	}
	if got := set.keys[0].Thumbprint(); got != example.RFC7638.Thumbprint {
		t.Errorf("%s, want %s", got, example.RFC7638.Thumbprint)
	}
	seen := map[string]bool{}
	for _, public := range []any{&testKeys().p256.PublicKey, &testKeys().p384.PublicKey, testKeys().ed.Public()} {
		print := (&Key{ID: "ignored", Public: public}).Thumbprint()
		if len(print) != 43 || seen[print] {
			t.Errorf("%T: %q", public, print)
		}
		seen[print] = true
	}
	if got := (&Key{Public: NewSymmetricKey(make([]byte, 32))}).Thumbprint(); got != "" {
		t.Error("a secret has a thumbprint", got)
	}
}

// G-13: the keys of RFC 7520 section 3 and RFC 8037 appendix A.
func TestRFCKeys(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		alg           string // empty: refused
		private, hmac bool
	}{
		"jwk/3_1.ec_public_key.json":                 {alg: "ES512"},
		"jwk/3_2.ec_private_key.json":                {alg: "ES512", private: true},
		"jwk/3_3.rsa_public_key.json":                {alg: "RS256"},
		"jwk/3_4.rsa_private_key.json":               {alg: "RS256", private: true},
		"jwk/3_5.symmetric_key_mac_computation.json": {alg: "HS256", hmac: true},
		"jwk/3_6.symmetric_key_encryption.json":      {hmac: true},
	} {
		data := vectortest.Read(t, "rfc-jose/"+name)
		set, _, err := parseWithSecrets(data)
		if err != nil || (set.Len() == 1) != (want.alg != "") || set.privateSeen != want.private || want.alg != "" && !set.keys[0].Fits(want.alg) {
			t.Errorf("%s: %d keys, private %v, %v", name, set.Len(), set.privateSeen, err)
		}
		if set, _, err := ParseKeySet(data); err != nil || (set.Len() == 0) != want.hmac {
			t.Errorf("%s as a public key: %d keys, %v", name, set.Len(), err)
		}
	}
}

// The moduli of good keys do not look like those of the ROCA generator.
func TestROCAFalseAlarm(t *testing.T) {
	t.Parallel()
	for i := range int64(2000) {
		n := new(big.Int).Add(modulus(2048), big.NewInt(2*i))
		if err := checkModulus(n); err != nil && strings.Contains(err.Error(), "ROCA") {
			t.Fatal(n)
		}
	}
}
