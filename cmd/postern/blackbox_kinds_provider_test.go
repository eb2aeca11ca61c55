package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oidcProvider is a real OpenID provider: npm's oidc-provider, which is certified.
type oidcProvider struct{ issuer string }

func startProvider(t *testing.T) *oidcProvider {
	t.Helper()
	directory := os.Getenv("POSTERN_OIDC_PROVIDER")
	if directory == "" {
		t.Skip("POSTERN_OIDC_PROVIDER is not set: the directory in which `npm install oidc-provider@9` was run")
	}
	script, err := filepath.Abs(filepath.Join("..", "..", "server", "authn", "introspect", "testdata", "provider.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := json.Marshal(map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": "c1", "alg": "EdDSA", "use": "sig", "x": strings.Repeat("A", 43)})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", script, directory, string(key))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints journal
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%v\n%s", err, complaints.String())
	}
	return &oidcProvider{strings.TrimSpace(line)}
}

// post sends a form, as a client of the provider's or as nobody.
func (p *oidcProvider) post(t testing.TB, path, client string, form url.Values) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client != "" {
		req.SetBasicAuth(client, "secret-of-"+client)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer map[string]any
	_ = json.NewDecoder(res.Body).Decode(&answer)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", path, res.Status, answer)
	}
	return answer
}

// token is a token of client svc itself, opaque or a JWT.
func (p *oidcProvider) token(t testing.TB, form string) string {
	t.Helper()
	answer := p.post(t, "/token", "svc", url.Values{"grant_type": {"client_credentials"}, "scope": {"orders.read"}, "resource": {"https://orders.test/" + form}})
	token, _ := answer["access_token"].(string)
	return token
}

// O-01, O-07, M-01, T-03, G-13 (RFC 7662, RFC 9068): the tokens of a certified provider,
// found by discovery: opaque ones by asking it, JWTs by its keys, also after it has
// changed them.
func TestKindsProvider(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	w := prepare(t, "provider", "@ISSUER@", p.issuer)
	w.write(t, "client.secret", "p%:+/= &")
	b := start(t, w)
	opaque, signed := p.token(t, "opaque"), p.token(t, "jwt")
	b.hide(opaque)
	b.hide(secretParts(signed)...)
	for method, token := range map[string]string{"oauth": opaque, "jwt": signed} {
		a := b.expect(t, get("/", bearer(token)...), 200, "allowed")
		if s := a.seen(t); a.principal != "svc" || a.issuer != p.issuer || a.method != method || s.Kind != "service" || strings.Join(s.Scopes, " ") != "orders.read" || s.Assurance != 3 {
			t.Errorf("%v by %s: %+v", a, a.method, s)
		}
		if a := b.expect(t, get("/scoped/", bearer(token)...), 403, "insufficient_scope"); strings.Join(a.missingScopes, " ") != "orders.write" {
			t.Errorf("missing: %v", a.missingScopes)
		}
	}
	b.expect(t, get("/", bearer("WtGO7dBrY_MUMRx6-ZzM4cGR3_Pm_LKLQHYNeBUzii4")...), 401, "credential_unknown")
	p.post(t, "/token/revocation", "svc", url.Values{"token": {opaque}})
	b.denied(t, get("/", bearer(opaque)...), time.Now().Add(1500*time.Millisecond))

	p.post(t, "/test/rotate", "", nil)
	next := get("/", bearer(p.token(t, "jwt"))...)
	eventually(t, "the new key is fetched", func() bool { return b.askEnvoy(t, next).allowed() }) // a cooldown after the first
	b.expect(t, get("/", bearer(signed)...), 200, "allowed")
}
