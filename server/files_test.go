package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every file that a configuration names is found, and those that are secret are known.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("pepper", "of course this is not a secret, as it stands in a test")
	write("postern.yaml", `version: 1
api_keys: {pepper: "${file:pepper}", file: keys.yaml}
tls: {cert: tls.crt, key: tls.key}
issuers: [{url: https://a.test, audiences: [x], jwks_file: jwks.json}]
policy: {path: policy}
tracing: {endpoint: "https://collector.test", ca_file: ca.pem, client_cert_file: c.pem, client_key_file: c.key}
`)
	cfg, err := LoadConfig(filepath.Join(dir, "postern.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := []File{
		{"api_keys.file", "keys.yaml", false}, {"api_keys.pepper", "pepper", true}, {"issuers.jwks_file", "jwks.json", false},
		{"policy.path", "policy", false}, {"store.path", "postern.db", false}, {"tls.cert", "tls.crt", false}, {"tls.key", "tls.key", true},
		{"tracing.ca_file", "ca.pem", false}, {"tracing.client_cert_file", "c.pem", false}, {"tracing.client_key_file", "c.key", true},
	}
	for i := range want {
		want[i].Path = filepath.Join(dir, want[i].Path)
	}
	if diff := cmp.Diff(want, cfg.Files(dir)); diff != "" {
		t.Error(diff)
	}
}
