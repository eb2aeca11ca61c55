package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// fixture is a directory with everything that a configured Postern needs: an
// issuer with one RSA key, API keys, and a policy of roles.
type fixture struct {
	dir    string
	signer *rsa.PrivateKey
	key    string // one API key of the many
}

const issuer = "https://issuer.bench.test"

func newFixture(dir string, keys int) (*fixture, error) {
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	f := &fixture{dir: dir, signer: signer}
	if err := os.MkdirAll(filepath.Join(dir, "policy"), 0o700); err != nil {
		return nil, err
	}
	for name, content := range map[string]any{
		"jwks.json": map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig",
			"n": rig.Encode(signer.N.Bytes()), "e": rig.Encode(big.NewInt(int64(signer.E)).Bytes()),
		}}},
		"policy/data.json": rig.RoleTable(100),
	} {
		text, err := json.Marshal(content)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	all, err := rig.WriteKeys(dir, keys, rig.Service)
	if err != nil {
		return nil, err
	}
	f.key = all[len(all)-1]
	return f, nil
}

// config writes the configuration for the addresses and returns its path.
func (f *fixture) config(grpcAddr, adminAddr string) string {
	path := filepath.Join(f.dir, "postern.yaml")
	text := fmt.Sprintf(`version: 1
listen: { grpc: %q, admin: %q }
api_keys: { pepper: "${file:pepper}", file: keys.yaml }
issuers:
  - url: %s
    audiences: [bench]
    jwks_file: jwks.json
    algorithms: [RS256]
    claims: { tenant: org, roles: roles }
policy: { path: policy }
`, grpcAddr, adminAddr, issuer)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

// token signs an access token with RS256.
func (f *fixture) token(id int) string {
	now := time.Now().Unix()
	header := rig.Encode([]byte(`{"alg":"RS256","typ":"at+jwt","kid":"k1"}`))
	claims, _ := json.Marshal(map[string]any{
		"iss": issuer, "aud": "bench", "sub": fmt.Sprintf("user-%d", id), "exp": now + 3600, "iat": now, "jti": fmt.Sprintf("t-%d", id),
		"client_id": "web", "org": "acme", "roles": []string{"role7", "role8"}, "scope": "openid profile things:read",
		"email": "somebody@example.com", "name": "Some Body", "locale": "en",
	})
	signed := header + "." + rig.Encode(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, f.signer, crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + rig.Encode(signature)
}

// scenarios are what is measured. Requests are made when they are needed: tokens
// take a while to sign.
func (f *fixture) scenarios() []scenario {
	one := func(name, value string) func() [][]byte {
		return func() [][]byte { return [][]byte{rig.Request(map[string]string{name: value})} }
	}
	tokens := func(from, n int) func() [][]byte {
		return func() [][]byte {
			all := make([][]byte, n)
			for i := range all {
				all[i] = rig.Request(map[string]string{"authorization": "Bearer " + f.token(from+i)})
			}
			return all
		}
	}
	const junk = "pst_key_live_000000000000_0000000000000000000000000000000000000000000000000"
	return []scenario{
		{name: "warm-key", requests: one("x-api-key", f.key), allowed: true},
		{name: "warm-jwt", requests: tokens(0, 1), allowed: true},
		{name: "warm-jwt-1000", requests: tokens(0, 1000), allowed: true},
		{name: "no-credential", requests: one("x-nothing", "here")},
		{name: "junk-key", requests: one("x-api-key", junk)},
		{name: "cold-jwt", requests: tokens(1_000_000, 30_001), allowed: true, once: true},
	}
}

// rsaMicros is what one RSA-2048 verification costs on this machine, now.
func rsaMicros(f *fixture) float64 {
	digest := sha256.Sum256([]byte("x"))
	signature, err := rsa.SignPKCS1v15(rand.Reader, f.signer, crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	var v []float64
	for range 2000 {
		begin := time.Now()
		if err := rsa.VerifyPKCS1v15(&f.signer.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
			panic(err)
		}
		v = append(v, float64(time.Since(begin))/1e3)
	}
	return rig.Median(v)
}
