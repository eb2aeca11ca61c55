package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
)

func inPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// What is signed is what this package itself accepts; the key decides the algorithm,
// and nothing prints it.
func TestSigningKey(t *testing.T) {
	t.Parallel()
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	modulus, _ := rsa.GenerateKey(rand.Reader, 2048)
	keys := map[string]crypto.Signer{"EdDSA": edwards, "RS256": modulus}
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		keys[name], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	for algorithm, private := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		texts := [][]byte{inPEM("PRIVATE KEY", der)}
		if k, ok := private.(*ecdsa.PrivateKey); ok {
			sec1, _ := x509.MarshalECPrivateKey(k)
			texts = append(texts, inPEM("EC PRIVATE KEY", sec1))
		}
		if k, ok := private.(*rsa.PrivateKey); ok {
			texts = append(texts, inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k)))
		}
		for _, text := range texts {
			k, err := ParseSigningKey(text)
			if err != nil || k.Algorithm() != algorithm {
				t.Fatalf("%s: %v, %v", algorithm, k, err)
			}
			signed, err := k.Sign("JWT", "k1", map[string]string{"sub": "alice"})
			if err != nil {
				t.Fatal(err)
			}
			token, err := ParseCompact(signed, Limits{})
			if err != nil || !token.Claims().Get("sub").Is("alice") || !token.Header().Get("typ").Is("JWT") || token.KeyID() != "k1" {
				t.Fatalf("%s: %v", signed, err)
			}
			if _, err := Verify(token, []*Key{{Public: k.Public()}}, []string{algorithm}); err != nil {
				t.Errorf("%s: %v", algorithm, err)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
				if got := fmt.Sprintf(verb, k); got != algorithm {
					t.Errorf("%s prints %q", verb, got)
				}
			}
		}
	}
	if signed, err := keyOf(t, keys["EdDSA"]).Sign("", "", nil); err != nil || strings.Count(signed, ".") != 2 || !strings.HasPrefix(signed, "eyJhbGciOiJFZERTQSJ9.") {
		t.Errorf("%s, %v", signed, err)
	}
	if _, err := keyOf(t, keys["EdDSA"]).Sign("", "", make(chan int)); err == nil {
		t.Error("signed what is no JSON")
	}
}

func keyOf(t *testing.T, private crypto.Signer) *SigningKey {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseSigningKey(inPEM("PRIVATE KEY", der))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSigningKeysRefused(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no small keys")
	}
	curve, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p224, _ := x509.MarshalPKCS8PrivateKey(curve)
	public, _ := x509.MarshalPKIXPublicKey(small.Public())
	for name, text := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("hush"), "small RSA": inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(small)), "P-224": inPEM("PRIVATE KEY", p224),
		"public": inPEM("PUBLIC KEY", public), "broken": inPEM("PRIVATE KEY", []byte("hush")), "encrypted": inPEM("ENCRYPTED PRIVATE KEY", []byte("hush")),
	} {
		if _, err := ParseSigningKey(text); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// C-06: what a token is bound to; whatever is not understood is refused, because it
// could not be demanded.
func TestReadConfirmation(t *testing.T) {
	t.Parallel()
	const thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" // of RFC 9449 section 6.1
	sum := "d1970e08e459358cbe0d6a6aab7d236722461d33747761e0941577ba282e0382"
	for text, want := range map[string]string{
		`{}`: " ", `{"cnf":{"jkt":"` + thumbprint + `"}}`: " " + thumbprint, `{"cnf":{"x5t#S256":"` + thumbprint + `"}}`: sum + " ",
		`{"cnf":{"x5t#S256":"` + thumbprint + `","jkt":"` + thumbprint + `"}}`: sum + " " + thumbprint,
		`{"cnf":null}`: "", `{"cnf":{}}`: "", `{"cnf":[]}`: "", `{"cnf":"` + thumbprint + `"}`: "", `{"cnf":{"jkt":null}}`: "", `{"cnf":{"jkt":""}}`: "",
		`{"cnf":{"jkt":"` + thumbprint + `","kid":"a"}}`: "", `{"cnf":{"kid":"a"}}`: "", `{"cnf":{"jwk":{}}}`: "", `{"cnf":{"x5t":"` + thumbprint + `"}}`: "",
		`{"cnf":{"jkt":"` + thumbprint + `="}}`: "", `{"cnf":{"jkt":"` + thumbprint[:42] + `J"}}`: "", `{"cnf":{"jkt":"` + thumbprint + `\n"}}`: "",
		`{"cnf":{"x5t#s256":"` + thumbprint + `"}}`: "", `{"cnf":{"jkt":"` + sum + `"}}`: "",
	} {
		claims, err := ParseJSON([]byte(text), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		certificate, key, err := ReadConfirmation(claims.Get("cnf"))
		if got := certificate + " " + key; err == nil && got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
		if b, _ := hex.DecodeString(certificate); err == nil && certificate != "" && len(b) != 32 {
			t.Errorf("%s: %s", text, certificate)
		}
	}
}
