package jose

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/postern-auth/postern/server/vectortest"
)

// testKeys are one private key of each type, made once.
var testKeys = sync.OnceValue(func() (k struct {
	rsa, small *rsa.PrivateKey
	p256, p384 *ecdsa.PrivateKey
	ed         ed25519.PrivateKey
	secret     []byte
}) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.small, _ = rsa.GenerateKey(rand.Reader, 1024)
	k.p256, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k.p384, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	k.secret = []byte(strings.Repeat("0123456789abcdef", 4))
	return k
})

func sign(t testing.TB, alg string, private any, payload string) string {
	t.Helper()
	name := alg
	if alg == "Ed25519" {
		name = "EdDSA"
	}
	text := b64(`{"alg":"`+alg+`"}`) + "." + b64(payload)
	signature, err := jwt.GetSigningMethod(name).Sign(text, private)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func parse(t testing.TB, token string) *Token {
	t.Helper()
	tok, err := ParseCompact(token, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// J-02: an algorithm is bound to a type of key, to a curve and to the key's own
// alg; every other pair is refused, whatever signed the token.
func TestVerifyBindsAlgorithmToKey(t *testing.T) {
	t.Parallel()
	k := testKeys()
	shared := NewSymmetricKey(k.secret)
	publics := map[string]any{"rsa": &k.rsa.PublicKey, "P-256": &k.p256.PublicKey, "P-384": &k.p384.PublicKey, "ed": k.ed.Public(), "secret": shared}
	privates := map[string]any{"rsa": k.rsa, "P-256": k.p256, "P-384": k.p384, "ed": k.ed, "secret": k.secret}
	fits := map[string]string{"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "P-256", "ES384": "P-384", "EdDSA": "ed", "Ed25519": "ed", "HS256": "secret", "HS384": "secret", "HS512": "secret"}
	for alg, kind := range fits {
		tok := parse(t, sign(t, alg, privates[kind], `{}`))
		for other, public := range publics {
			key := &Key{Public: public}
			got, err := Verify(tok, []*Key{nil, {}, key}, []string{alg})
			if (other == kind) != (got == key) || (err == nil) != (got != nil) || err != nil && !errors.Is(err, ErrSignature) {
				t.Errorf("%s with a key of type %s: %v, %v", alg, other, got, err)
			}
		}
		key := &Key{Public: publics[kind], Alg: "RS1"}
		if got, err := Verify(tok, []*Key{key}, []string{alg}); got != nil || !errors.Is(err, ErrSignature) {
			t.Errorf("%s with a key bound to another: %v", alg, err)
		}
		if got, err := Verify(tok, []*Key{{Public: publics[kind]}}, []string{"RS1"}); got != nil || !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%s where it is not allowed: %v", alg, err)
		}
		if got, err := Verify(tok, []*Key{{Public: publics[kind]}}, nil); got != nil || !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%s where nothing is allowed: %v", alg, err)
		}
	}
}

// J-01, J-02: the classic confusion, a public key as HMAC secret.
func TestVerifyRefusesPublicKeyAsSecret(t *testing.T) {
	t.Parallel()
	k := testKeys()
	public := k.ed.Public().(ed25519.PublicKey)
	tok := parse(t, sign(t, "HS256", []byte(public), `{}`))
	for _, key := range []any{public, []byte(public), string(public), &public, k.ed, k.rsa, k.rsa.PublicKey, nil, (*rsa.PublicKey)(nil), &rsa.PublicKey{}, &ecdsa.PublicKey{}, SymmetricKey{}} {
		for i := range algorithms {
			tok.alg = &algorithms[i]
			if got, err := Verify(tok, []*Key{{Public: key}}, Algorithms()); got != nil || err == nil {
				t.Errorf("%s with %T: accepted", tok.alg.name, key)
			}
		}
	}
}

func TestVerifyRefusesSmallKeys(t *testing.T) {
	t.Parallel()
	k := testKeys()
	for alg, private := range map[string]any{"RS256": k.small, "PS256": k.small, "HS256": k.secret[:31], "HS384": k.secret[:47], "HS512": k.secret[:63]} {
		var public any
		switch p := private.(type) {
		case *rsa.PrivateKey:
			public = &p.PublicKey
		case []byte:
			public = NewSymmetricKey(p)
		}
		if got, err := Verify(parse(t, sign(t, alg, private, `{}`)), []*Key{{Public: public}}, Algorithms()); got != nil || !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// J-12: a PSS salt has the length of the hash and no other (RFC 7518 section
// 3.5).
func TestVerifyPSSSalt(t *testing.T) {
	t.Parallel()
	k := testKeys().rsa
	for _, salt := range []int{0, 20, 31, 32, 33, 64} {
		text := b64(`{"alg":"PS256"}`) + "." + b64(`{}`)
		h := crypto.SHA256.New()
		h.Write([]byte(text))
		signature, err := rsa.SignPSS(rand.Reader, k, crypto.SHA256, h.Sum(nil), &rsa.PSSOptions{SaltLength: max(salt, 0)})
		if salt == 0 { // 0 means automatic, which is the longest
			signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, h.Sum(nil), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		tok := parse(t, text+"."+base64.RawURLEncoding.EncodeToString(signature))
		got, err := Verify(tok, []*Key{{Public: &k.PublicKey}}, []string{"PS256"})
		if (got != nil) != (salt == 32) {
			t.Errorf("salt of %d bytes: %v", salt, err)
		}
	}
}

// Trying every key of an issuer is bounded.
func TestVerifyTriesAFewKeys(t *testing.T) {
	t.Parallel()
	k := testKeys()
	tok := parse(t, sign(t, "HS256", k.secret, `{}`))
	wrong := &Key{Public: NewSymmetricKey([]byte(strings.Repeat("x", 32)))}
	right := &Key{Public: NewSymmetricKey(k.secret)}
	keys := make([]*Key, maxTries-1, maxTries+1)
	for i := range keys {
		keys[i] = wrong
	}
	if got, err := Verify(tok, append(keys, right), []string{"HS256"}); got != right {
		t.Error(err)
	}
	if got, err := Verify(tok, append(keys, wrong, right), []string{"HS256"}); got != nil || !errors.Is(err, ErrSignature) {
		t.Error(got, err)
	}
}

// wycheproof is a file of Project Wycheproof.
type wycheproof struct {
	NumberOfTests int
	TestGroups    []struct {
		Private, Public            json.RawMessage
		PublicKeyJwk, KeyJwk       json.RawMessage
		PublicKeyPem               string
		KeySize, TagSize, SLen     int
		Comment, Sha, MgfSha, Type string
		Tests                      []struct {
			TcID               int
			Comment, Result    string
			JWS, JWE           json.RawMessage
			Msg, Sig, Key, Tag string
			Flags              []string
		}
	}
}

func readWycheproof(t *testing.T, name string) (w wycheproof) {
	t.Helper()
	if err := json.Unmarshal(vectortest.Read(t, "wycheproof/"+name), &w); err != nil {
		t.Fatal(err)
	}
	return w
}

// override says which results of a file are not followed, by tcId.
type override struct {
	Skip           map[string]string
	TreatAsInvalid map[string]string `json:"treat_as_invalid"`
	Either         map[string]string
}

func readOverrides(t *testing.T) map[string]override {
	t.Helper()
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(vectortest.Read(t, "wycheproof/OVERRIDES.json"), &raw); err != nil {
		t.Fatal(err)
	}
	all := map[string]override{}
	for name, text := range raw {
		var o override
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(name, err)
		}
		all[name] = o
	}
	return all
}

// verifyJWS is the whole way: the text, its keys, its signature.
func verifyJWS(token string, keys Keys) error {
	tok, _, err := parseSigned(token, Limits{})
	if err != nil {
		return err
	}
	found, err := keys.Find(context.Background(), tok.KeyID(), tok.Algorithm())
	if err != nil {
		return err
	}
	_, err = Verify(tok, found, Algorithms())
	return err
}

// J-01, J-02, J-12, G-13: Wycheproof's JWS, JWK and JOSE suites, read with our
// key sets. OVERRIDES.json says which results are not followed, and why.
func TestWycheproofJOSE(t *testing.T) {
	t.Parallel()
	overrides := readOverrides(t)
	for _, name := range []string{"json_web_signature_test.json", "json_web_key_test.json", "json_web_crypto_test.json"} {
		over, counts, cases := overrides[name], map[string]int{}, 0
		w := readWycheproof(t, name)
		for _, g := range w.TestGroups {
			text := g.Public
			if len(text) == 0 {
				text = g.Private
			}
			keys, _, err := parseWithSecrets(text)
			if err != nil {
				keys = &KeySet{}
			}
			for _, c := range g.Tests {
				cases++
				id := strconv.Itoa(c.TcID)
				token := string(c.JWS) + string(c.JWE)
				if text, err := strconv.Unquote(token); err == nil {
					token = text // the others are in JSON serialization
				}
				want := c.Result
				if over.TreatAsInvalid[id] != "" || c.JWE != nil {
					want = "invalid" // nothing here decrypts
				}
				if over.Skip[id] != "" || over.Either[id] != "" {
					want = "either"
				}
				err := verifyJWS(token, keys)
				counts[want]++
				if want == "valid" && err != nil || want == "invalid" && err == nil {
					t.Errorf("%s %d (%s, %s): want %s, got %v", name, c.TcID, g.Comment, c.Comment, want, err)
				}
			}
		}
		if cases != w.NumberOfTests {
			t.Errorf("%s: %d of %d cases", name, cases, w.NumberOfTests)
		}
		t.Log(name, counts)
	}
}

// J-01, G-13: Wycheproof's primitives, through the same door as tokens. "acceptable"
// is a signature that lacks the NULL in its digest algorithm; crypto/rsa refuses it.
func TestWycheproofPrimitives(t *testing.T) {
	t.Parallel()
	for name, alg := range map[string]string{
		"ecdsa_secp256r1_sha256_p1363_test.json": "ES256",
		"ed25519_test.json":                      "EdDSA",
		"rsa_signature_2048_sha256_test.json":    "RS256",
		"rsa_pss_2048_sha256_mgf1_32_test.json":  "PS256",
		"hmac_sha256_test.json":                  "HS256",
	} {
		counts, cases := map[string]int{}, 0
		w := readWycheproof(t, name)
		for _, g := range w.TestGroups {
			for _, c := range g.Tests {
				cases++
				want, public, sig := c.Result, any(nil), c.Sig
				if alg == "HS256" {
					secret := fromHex(t, c.Key)
					public, sig = NewSymmetricKey(secret), c.Tag
					if g.TagSize != 256 || len(secret) < 32 {
						want = "invalid" // a JWS has whole tags and long keys only
					}
				} else {
					public = fromPEM(t, g.PublicKeyPem)
				}
				tok := &Token{alg: algorithmNamed(t, alg), signed: string(fromHex(t, c.Msg)), signature: fromHex(t, sig)}
				_, err := Verify(tok, []*Key{{Public: public}}, []string{alg})
				counts[want]++
				if want == "valid" && err != nil || want != "valid" && err == nil {
					t.Errorf("%s %d (%s): want %s, got %v", name, c.TcID, c.Comment, want, err)
				}
			}
		}
		if cases != w.NumberOfTests {
			t.Errorf("%s: %d of %d cases", name, cases, w.NumberOfTests)
		}
		t.Log(name, counts)
	}
}

func fromHex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fromPEM(t *testing.T, text string) any {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func algorithmNamed(t *testing.T, name string) *algorithm {
	t.Helper()
	i := slices.IndexFunc(algorithms[:], func(a algorithm) bool { return a.name == name })
	if i < 0 {
		t.Fatalf("no algorithm %s", name)
	}
	return &algorithms[i]
}

// G-13: the signatures of RFC 7520 section 4 and of RFC 7515, 8037 and 7797.
func TestRFCExamples(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"jws/4_1.rsa_v15_signature.json", "jws/4_2.rsa-pss_signature.json", "jws/4_3.ecdsa_signature.json",
		"jws/4_4.hmac-sha2_integrity_protection.json", "jws/4_5.signature_with_detached_content.json", "curve25519/jws.json",
	} {
		var c struct {
			Input  struct{ Key, Payload json.RawMessage }
			Output struct{ Compact string }
		}
		if err := json.Unmarshal(vectortest.Read(t, "rfc-jose/"+name), &c); err != nil {
			t.Fatal(name, err)
		}
		token := c.Output.Compact
		if strings.Contains(token, "..") { // detached: the payload travels apart, and alone it is refused
			var payload string
			if err := json.Unmarshal(c.Input.Payload, &payload); err != nil {
				t.Fatal(name, err)
			}
			if err := verifyJWS(token, oneKey(t, c.Input.Key)); err == nil {
				t.Errorf("%s: accepted without its content", name)
			}
			token = strings.Replace(token, "..", "."+b64(payload)+".", 1)
		}
		if err := verifyJWS(token, oneKey(t, c.Input.Key)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"rfc7797/4.2.hmac-sha2_b64_false.json", "rfc7797/hmac-sha2_b64_false.json"} {
		var c struct {
			Input  struct{ Key json.RawMessage }
			Output struct{ Compact string }
		}
		if err := json.Unmarshal(vectortest.Read(t, "rfc-jose/"+name), &c); err != nil {
			t.Fatal(name, err)
		}
		if err := verifyJWS(c.Output.Compact, oneKey(t, c.Input.Key)); err == nil {
			t.Errorf("%s: an unencoded payload was accepted", name)
		}
	}

	var rfc map[string]struct {
		JWS, JWT string
		JWK      json.RawMessage
	}
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(vectortest.Read(t, "rfc-jose/rfc-examples.json"), &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "rfc7617") // HTTP Basic
	text, _ := json.Marshal(raw)
	if err := json.Unmarshal(text, &rfc); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rfc7515_A1_HS256", "rfc8037_A4_EdDSA"} {
		if err := verifyJWS(rfc[name].JWS, oneKey(t, rfc[name].JWK)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseCompact(rfc["rfc7519_6_1_none"].JWT, Limits{}); err == nil {
		t.Error("an unsecured JWT was accepted")
	}
}

// oneKey reads a key of the examples. Those are for signing, and say so in
// members that a verifier's key does not have.
func oneKey(t *testing.T, text json.RawMessage) Keys {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	for _, private := range privateMembers {
		delete(members, private)
	}
	text, _ = json.Marshal(members)
	keys, warnings, err := parseWithSecrets(text)
	if err != nil || keys.Len() != 1 {
		t.Fatalf("%s: %v, %v", text, warnings, err)
	}
	return keys
}

func BenchmarkParseCompact(b *testing.B) {
	token := benchToken(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseCompact(token, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyRS256(b *testing.B) {
	tok := parse(b, benchToken(b))
	keys := []*Key{{Public: &testKeys().rsa.PublicKey, Alg: "RS256"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(tok, keys, []string{"RS256"}); err != nil {
			b.Fatal(err)
		}
	}
}

func benchToken(b *testing.B) string {
	var claims strings.Builder
	for i := range 8 {
		fmt.Fprintf(&claims, `"claim_%d":"value %d",`, i, i)
	}
	return sign(b, "RS256", testKeys().rsa, `{"iss":"https://issuer.example.com/","sub":"alice","aud":["orders"],`+claims.String()+`"exp":4102444800,"iat":1704067200,"jti":"j-1","scope":"read write"}`)
}
