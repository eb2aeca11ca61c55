package server_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
)

// G-02: the field of the identity token is Postern's alone, in every spelling that some
// server takes for it. A client without a credential gets no token, and cannot send one
// that it got hold of elsewhere.
func TestIdentityTokenCannotBeSent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"postern.yaml": `version: 1
signing: {issuer: https://auth.example.com, keys: [{id: k1, key: "${env:POSTERN_TEST_PEPPER}"}]}
upstream:
  identity_token: {header: x-caller-token}
routes: [{name: open, anonymous: true}]
policy: {path: policy}
`,
		"policy/p.rego": "package postern.authz\n\nimport rego.v1\n\ndecision := {\"allow\": true}\n",
	} {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := load(filepath.Join(dir, "postern.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	checker, done, err := server.Offline(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	for _, name := range []string{"x-caller-token", "x_caller_token", "x-caller.token"} {
		d := checker.Check(t.Context(), &policy.Attributes{
			Method: "GET", Scheme: "https", Host: "api.example.com", Path: "/", Headers: policy.Headers{{Name: name, Value: "somebody-elses"}},
		})
		if !d.Allowed || d.Principal.Kind != policy.KindAnonymous || !slices.Contains(d.Remove, name) {
			t.Errorf("%s: %v, removed %v", name, d.Reason, d.Remove)
		}
	}
}
