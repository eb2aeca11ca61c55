package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
)

// BenchmarkFirstSight is a Check with a token that was never seen before, from
// attributes to decision.
func BenchmarkFirstSight(b *testing.B) {
	dir := b.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("jwks.json", fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"k1","alg":"RS256","use":"sig","n":%q,"e":%q}]}`, enc(key.N.Bytes()), enc(big.NewInt(int64(key.E)).Bytes())))
	if err := os.Mkdir(filepath.Join(dir, "policy"), 0o700); err != nil {
		b.Fatal(err)
	}
	write("policy/data.yaml", "roles: {reader: [things.read]}\nroutes: [{methods: [GET], path: /things/*, permission: things.read}]\n")
	write("postern.yaml", "version: 1\nissuers: [{url: https://a.test, audiences: [x], jwks_file: jwks.json}]\npolicy: {path: policy}\n")
	cfg, err := LoadConfig(filepath.Join(dir, "postern.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	c, done, err := Offline(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer done()
	attributes := make([]*policy.Attributes, 5000)
	for i := range attributes {
		claims, _ := json.Marshal(map[string]any{"iss": "https://a.test", "aud": "x", "sub": fmt.Sprint("user", i), "exp": time.Now().Unix() + 3600, "iat": time.Now().Unix(), "roles": []string{"reader"}})
		signed := enc([]byte(`{"alg":"RS256","kid":"k1"}`)) + "." + enc(claims)
		digest := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		if err != nil {
			b.Fatal(err)
		}
		attributes[i] = &policy.Attributes{Method: "GET", Scheme: "https", Host: "api.test", Path: "/things/1",
			Headers: policy.Headers{{Name: "authorization", Value: "Bearer " + signed + "." + enc(signature)}}}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%len(attributes) == 0 && i > 0 {
			b.StopTimer()
			done()
			if c, done, err = Offline(b.Context(), cfg); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		if d := c.Check(context.Background(), attributes[i%len(attributes)]); !d.Allowed {
			b.Fatal(d.Reason, d.Detail)
		}
	}
}
