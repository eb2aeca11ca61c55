// Package providertest runs a certified OpenID provider for tests: npm's oidc-provider,
// in a process of its own.
package providertest

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed provider.mjs
var script []byte

// Provider is a running provider.
type Provider struct {
	// Issuer is its URL.
	Issuer string
	// Key is that of the client "key", whose kid is c1. The secret of another client is
	// "secret-of-" and its name; see provider.mjs.
	Key ed25519.PrivateKey
}

// Start runs one until the test ends. Where there is none the test is skipped.
func Start(t testing.TB) *Provider {
	t.Helper()
	directory := os.Getenv("POSTERN_OIDC_PROVIDER")
	if directory == "" {
		t.Skip("POSTERN_OIDC_PROVIDER is not set: the directory in which `npm install oidc-provider@9` was run")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	key, err := json.Marshal(map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": "c1", "alg": "EdDSA", "use": "sig", "x": base64.RawURLEncoding.EncodeToString(public)})
	must(err)
	file := filepath.Join(t.TempDir(), "provider.mjs")
	must(os.WriteFile(file, script, 0o600))
	command := exec.CommandContext(context.WithoutCancel(t.Context()), "node", file, directory, string(key)) //nolint:gosec // what the test's own machine has
	stdin, err := command.StdinPipe()
	must(err)
	stdout, err := command.StdoutPipe()
	must(err)
	var complaints strings.Builder
	command.Stderr = &complaints
	must(command.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = command.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = command.Wait()
		t.Fatalf("%v\n%s", err, complaints.String())
	}
	return &Provider{Issuer: strings.TrimSpace(line), Key: private}
}

// Post sends a form, as a client of the provider's or as nobody, and returns the members
// of the answer.
func (p *Provider) Post(t testing.TB, path, client, secret string, form url.Values) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client != "" {
		request.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s %v", path, response.Status, body, err)
	}
	var answer map[string]any
	if len(body) > 0 {
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
	}
	return answer
}

// Token is an access token of a client itself, for orders.read of a resource.
func (p *Provider) Token(t testing.TB, client, resource string) string {
	t.Helper()
	answer := p.Post(t, "/token", client, "secret-of-"+client, url.Values{"grant_type": {"client_credentials"}, "scope": {"orders.read"}, "resource": {resource}})
	token, _ := answer["access_token"].(string)
	return token
}
