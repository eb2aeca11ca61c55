package main

import (
	"bufio"
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
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
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
			"n": encode(signer.N.Bytes()), "e": encode(big.NewInt(int64(signer.E)).Bytes()),
		}}},
		"policy/data.json": roleTable(100),
	} {
		text, err := json.Marshal(content)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	return f, f.writeKeys(keys)
}

// roleTable is RBAC as users write it: roles with permissions, and routes that
// ask for them.
func roleTable(roles int) map[string]any {
	table, routes := map[string]any{}, []any{}
	for i := range roles {
		permission := fmt.Sprintf("things%d.read", i)
		table[fmt.Sprintf("role%d", i)] = map[string]any{"permissions": []string{permission, fmt.Sprintf("things%d.write", i)}}
		routes = append(routes, map[string]any{"methods": []string{"GET"}, "path": fmt.Sprintf("/api/v1/things%d/*", i), "permission": permission})
	}
	return map[string]any{"roles": table, "routes": routes}
}

func (f *fixture) writeKeys(n int) error {
	pepper := make([]byte, 32)
	_, _ = rand.Read(pepper)
	secret := policy.NewSecret(encode(pepper))
	peppers, err := apikey.NewPeppers(apikey.Config{Pepper: secret})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "pepper"), []byte(secret.Reveal()), 0o600); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(f.dir, "keys.yaml"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	fmt.Fprintln(w, "keys:")
	for i := range n {
		minted, err := seal.Mint(rand.Reader, seal.Spec{Environment: "live"}, peppers)
		if err != nil {
			return err
		}
		key := apikey.Key{ID: minted.ID, Digest: minted.Digest, Environment: "live"}
		key.Principal = apikey.Principal{ID: fmt.Sprintf("service-%d", i), Kind: policy.KindService, Tenant: "acme", Roles: []string{"role7"}}
		key.CreatedAt = time.Now().UTC().Truncate(time.Second)
		fmt.Fprint(w, key.Entry())
		f.key = minted.Secret.Reveal()
	}
	return w.Flush()
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
	header := encode([]byte(`{"alg":"RS256","typ":"at+jwt","kid":"k1"}`))
	claims, _ := json.Marshal(map[string]any{
		"iss": issuer, "aud": "bench", "sub": fmt.Sprintf("user-%d", id), "exp": now + 3600, "iat": now, "jti": fmt.Sprintf("t-%d", id),
		"client_id": "web", "org": "acme", "roles": []string{"role7", "role8"}, "scope": "openid profile things:read",
		"email": "somebody@example.com", "name": "Some Body", "locale": "en",
	})
	signed := header + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, f.signer, crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + encode(signature)
}

// scenarios are what is measured. Requests are made when they are needed: tokens
// take a while to sign.
func (f *fixture) scenarios() []scenario {
	one := func(name, value string) func() [][]byte {
		return func() [][]byte { return [][]byte{request(name, value)} }
	}
	tokens := func(from, n int) func() [][]byte {
		return func() [][]byte {
			all := make([][]byte, n)
			for i := range all {
				all[i] = request("authorization", "Bearer "+f.token(from+i))
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

// request is a question as Envoy asks it for a browser's call.
func request(name, value string) []byte {
	fields := map[string]string{
		":method": "GET", ":path": "/api/v1/things7/42?page=2", ":authority": "api.bench.test", ":scheme": "https",
		"user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36",
		"accept":     "application/json, text/plain, */*", "accept-language": "en-US,en;q=0.9", "accept-encoding": "gzip, deflate, br",
		"x-request-id": "2f0c9a1e-6f0b-4f6a-9c58-1d2a3b4c5d6e", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.5",
		"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "referer": "https://app.bench.test/things", name: value,
	}
	address := func(ip string, port uint32) *authv3.AttributeContext_Peer {
		return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}}
	}
	out, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: address("192.0.2.5", 40000), Destination: address("10.0.0.7", 8443),
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1234567890", Method: "GET", Scheme: "https", Host: "api.bench.test", Path: "/api/v1/things7/42?page=2", Protocol: "HTTP/2", Headers: fields,
		}},
	}})
	if err != nil {
		panic(err)
	}
	return out
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
	return median(v)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
