package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/authn/appsession"
	"github.com/postern-auth/postern/server/authn/basic"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/workload"
	"github.com/postern-auth/postern/server/door/extauthz"
	"github.com/postern-auth/postern/server/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files and the schema")

// The variables that the fixtures name; those with secrets are in
// testdata/config/secrets.
func testEnv(name string) (string, bool) {
	v, ok := map[string]string{
		"POSTERN_TEST_PEPPER": "6f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
		"POSTERN_TEST_EMPTY":  "",
		"REALM":               "from the environment",
	}[name]
	return v, ok
}

func load(name string) (*server.Config, error) {
	return server.LoadConfig(name, strictyaml.WithEnv(testEnv))
}

func fixtures(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}

// TestBadConfigurations holds each file with one mistake against the exact
// message. It carries G-15 (literal secrets are refused and not shown),
// FAILOPEN-05 (an issuer without audiences), FAILOPEN-06 (typing errors, wrong
// types, empty lists, variables that are not set) and FAILOPEN-07 (secret files
// that are missing, empty or a directory).
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	names := fixtures(t, "testdata/config/bad/*.yaml")
	if len(names) < 40 {
		t.Errorf("only %d fixtures", len(names))
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			t.Parallel()
			c, err := load(name)
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(name, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if leaks(got) {
				t.Errorf("a secret is shown:\n%s", got)
			}
			if mentionsGo(got) {
				t.Errorf("a Go type is named:\n%s", got)
			}
		})
	}
}

// leaks reports whether a text shows one of the secrets that the fixtures hold
// or refer to.
func leaks(s string) bool {
	for _, secret := range []string{"hunter2", "c3b1f4d27a9e", "9d8c7b6a5f4e", "6f1e2d3c4b5a", "tooshort", "from the environment"} {
		if strings.Contains(s, secret) {
			return true
		}
	}
	return false
}

func mentionsGo(s string) bool {
	for _, word := range []string{"uint32", "int64", "struct", "[]string", "netip.", "server.C", "policy.Secret", "time.Duration", "<nil>", "unmarshal"} {
		if strings.Contains(s, word) {
			return true
		}
	}
	return false
}

// TestGoodConfigurations loads each file, and reads back what `config show`
// writes of it.
func TestGoodConfigurations(t *testing.T) {
	t.Parallel()
	for _, name := range fixtures(t, "testdata/config/good/*.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			t.Parallel()
			c, err := load(name)
			if err != nil {
				t.Fatal(err)
			}
			shown, err := c.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			if leaks(string(shown)) {
				t.Errorf("a secret is shown:\n%s", shown)
			}
			base, _ := filepath.Abs(filepath.Dir(name))
			again, err := server.ParseConfig("shown.yaml", shown, strictyaml.WithBase(base), strictyaml.WithEnv(testEnv))
			if err != nil {
				t.Fatalf("%v\n%s", err, shown)
			}
			if !reflect.DeepEqual(c, again) {
				t.Errorf("read back differently:\n%s\n%+v\n%+v", shown, c, again)
			}
		})
	}
}

func TestFullConfiguration(t *testing.T) {
	t.Parallel()
	c, err := load("testdata/config/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := filepath.Abs("testdata/config/good")
	for what, ok := range map[string]bool{
		"listener":       c.Listen.GRPC.String() == "0.0.0.0:9191" && !c.Listen.GRPC.Local() && c.Listen.Admin.Network() == "unix" && c.Listen.Admin.Local(),
		"oldest TLS":     c.TLS.MinVersion == server.TLS12,
		"caller's token": len(c.Callers[1].Token.Reveal()) == 64,
		"one address":    c.Callers[1].CIDRs[1].String() == "2001:db8::7/128",
		"scalar use":     reflect.DeepEqual(c.Credentials[0].Use, []policy.Method{policy.MethodAPIKey}),
		"pepper of env":  strings.HasPrefix(c.APIKeys.Peppers[1].Secret.Reveal(), "6f1e2d3c"),
		"file of keys":   c.APIKeys.File.String() == filepath.Join(dir, "keys.yaml"),
		"policy path":    c.Policy.Path == filepath.Join(dir, "policy"),
		"key set":        c.Issuers[1].JWKSFile == filepath.Join(dir, "partner.json"),
		"refresh":        c.Issuers[0].Keys.Refresh == 10*time.Minute,
		"issuer's limit": len(c.Issuers[0].Constraints.Networks) == 1,
		"claim":          c.Issuers[0].Claims.Roles.String() == "realm_access.roles",
		"route":          c.Routes[2].Policy().MaxAge == 15*time.Minute && c.Routes[2].Paths[0].Match("/orders/7/refund"),
		"headers":        len(c.Upstream.Headers) == 3,
		"repairs":        !*c.Request.Paths.MergeSlashes && *c.Request.Paths.StripParameters,
		"rego":           *c.Policy.RegoVersion == 0,
		"fault":          c.OnFault == extauthz.OnFaultErrorResponse,
	} {
		if !ok {
			t.Errorf("%s is wrong", what)
		}
	}
}

// TestDefaults checks that the defaults are valid themselves and safe.
func TestDefaults(t *testing.T) {
	t.Parallel()
	fromFile, err := server.ParseConfig("a.yaml", []byte("version: 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*server.Config{"default": server.Default(), "file": fromFile} {
		c.Check(func(path, message, _ string) { t.Errorf("%s: %s: %s", name, path, message) })
		if !c.Listen.GRPC.Local() || !c.Listen.Admin.Local() {
			t.Errorf("%s listens to others", name)
		}
		if c.OnFault != extauthz.OnFaultDeny || c.Upstream.InsecureKeepCredential || len(c.Routes) > 0 {
			t.Errorf("%s is not safe: %+v", name, c)
		}
	}
	if d := server.Default(); d.Plaintext.InsecureAccept || d.Reflection {
		t.Error("the default has what is for --dev only")
	}
}

// TestSecretsAreNotPrinted prints a configuration in every way that Go has. G-15
func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	c, err := load("testdata/config/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shown, err := c.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"token: ${file:../secrets/token}", "secret: ${env:POSTERN_TEST_PEPPER}"} {
		if !bytes.Contains(shown, []byte(want)) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
	asJSON, _ := json.Marshal(c)
	printed := fmt.Sprintf("%v %+v %#v", c, c, c)
	built := server.Default()
	built.APIKeys.Pepper = policy.NewSecret("hunter2hunter2")
	bare, err := built.Redacted()
	if err != nil || !bytes.Contains(bare, []byte("[redacted]")) {
		t.Errorf("%v\n%s", err, bare)
	}
	for _, text := range []string{string(shown), string(asJSON), printed, string(bare)} {
		if leaks(text) {
			t.Errorf("a secret is shown:\n%s", text)
		}
	}
}

func TestLoadConfigRefusesWhatIsNoFile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"testdata/config/missing.yaml", "testdata/config", "/dev/null"} {
		if _, err := server.LoadConfig(name); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	large := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(large, bytes.Repeat([]byte("# a\n"), 1<<19), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.LoadConfig(large); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("large file: %v", err)
	}
}

// FuzzParseConfig checks that no text panics, in reading or in comparing the
// sections, that errors carry a position, and that what is accepted can be shown
// and read back.
func FuzzParseConfig(f *testing.F) {
	for _, pattern := range []string{"testdata/config/good/*.yaml", "testdata/config/bad/*.yaml"} {
		for _, name := range fixtures(f, pattern) {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	secrets := []strictyaml.Option{
		strictyaml.WithEnv(testEnv),
		strictyaml.WithFiles(func(string) ([]byte, error) { return []byte(strings.Repeat("c3b1f4d27a9e", 4)), nil }),
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := server.ParseConfig("a.yaml", src, secrets...)
		if err != nil {
			var all strictyaml.Errors
			if !errors.As(err, &all) || len(all) == 0 || all[0].Line < 1 || all[0].Column < 1 {
				t.Fatalf("an error without position: %v", err)
			}
			return
		}
		shown, err := c.Redacted()
		if err != nil || leaks(string(shown)) && !leaks(string(src)) {
			t.Fatalf("%v\n%s", err, shown)
		}
		again, err := server.ParseConfig("shown.yaml", shown, secrets...)
		if err != nil {
			t.Fatalf("cannot be read back: %v\n%s", err, shown)
		}
		shownAgain, err := again.Redacted()
		if err != nil || !bytes.Equal(shown, shownAgain) {
			t.Fatalf("%v: shown\n%s\nand then\n%s", err, shown, shownAgain)
		}
	})
}

// What `config show` says of an issuer is what is in force: every default is
// written out, and a zero that the file says stays one.
func TestDefaultsOfIssuersAreShown(t *testing.T) {
	t.Parallel()
	for file, want := range map[string][]string{
		"kind: user": {
			"clock_skew: 30s", "max_token_bytes: 8192", "token_types: lenient", "algorithms: [RS256, ES256, EdDSA]",
			"method: jwt", "assurance: 3", "id: sub", "roles: roles",
			"refresh: 15m", "min_refresh: 1m", "cooldown: 30s", "keep_stale: 24h", "timeout: 5s",
		},
		"clock_skew: 0s, claims: {tenant: org}": {"clock_skew: 0s", "tenant: org", "id: sub"},
		"algorithms: [PS256], method: partner":  {"algorithms: [PS256]", "method: partner"},
		"keys: {refresh: 30s}":                  {"refresh: 30s", "min_refresh: 30s", "keep_stale: 24h"},
		"keys: {refresh: 48h, cooldown: 0s}":    {"refresh: 48h", "min_refresh: 1m", "keep_stale: 48h", "cooldown: 30s"},
	} {
		rules := ""
		if strings.Contains(file, "partner") {
			rules = "credentials: [{from: header:authorization/bearer, use: partner}]\n"
		}
		c, err := server.ParseConfig("a.yaml", fmt.Appendf(nil, "version: 1\n%sissuers: [{url: https://login.test, audiences: [a], %s}]\n", rules, file))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		shown, err := c.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(string(shown)), " ")
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%q: no %q in\n%s", file, part, shown)
			}
		}
	}
}

// Every file that the configuration names is relative to the configuration, not to
// where the server happens to be started. The fields are found by their types and
// names, so that a new one cannot be forgotten.
func TestRelativePaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "postern.yaml")
	src := `version: 1
tls: {cert: rel/cert, key: rel/key, client_ca: rel/ca}
api_keys: {file: rel/keys, pepper: "${env:POSTERN_TEST_PEPPER}"}
issuers:
  - {url: https://login.test, audiences: [a], jwks_file: rel/jwks}
  - {url: https://other.test, audiences: [a], keys: {ca_file: rel/ca}}
credentials:
  - {from: header:authorization/bearer, use: [jwt, oauth, jwt_svid, workload, vault]}
  - {from: header:authorization/basic, use: basic}
  - {from: "cookie:app", use: app_session}
introspection:
  - {url: "https://as.test/i", issuer: "https://as.test", audiences: [a], client_id: p, key_file: rel/key,
     http: {ca_file: rel/ca, client_cert_file: rel/cert, client_key_file: rel/key}}
mtls: {bundles: [{name: a, trust_domain: a.test, file: rel/ca}], crl_files: [rel/crl]}
basic: {insecure_anywhere: true, htpasswd_file: rel/htpasswd}
workloads:
  audiences: [a]
  trust_domains: [{name: b.test, bundle_file: rel/bundle, keys: {ca_file: rel/ca}}]
  clients: [{id: c, jwks_file: rel/jwks, keys: {ca_file: rel/ca}}]
vault: [{name: v, address: "https://v.test", ca_file: rel/ca, login: {cert: {cert_file: rel/cert, key_file: rel/key}}}]
app_sessions: [{name: s, url: "rediss://r.test", ca_file: rel/ca, fields: {id: id}}]
policy:
  bundles: [{name: a, file: rel/bundle}, {name: b, url: "https://b.test/b.tar.gz", ca_file: rel/ca, credentials: {bearer_file: rel/token}}, {name: c, url: "https://c.test/c.tar.gz", credentials: {client_certificate: {cert: rel/cert, key: rel/key}}}]
  keys: [{id: k, file: rel/key}]
  persist: rel/persist
  proto_descriptor: rel/descriptors
  shadow: {bundles: [{name: a, file: rel/bundle}], persist: rel/next, proto_descriptor: rel/descriptors}
store: {path: rel/db, mode: available, snapshot: rel/snapshot}
admin_api: {roles: rel/roles}
decisions:
  events:
    file: {path: rel/decisions}
    service: {url: "https://l.test/logs", ca_file: rel/ca, credentials: {bearer_file: rel/token}}
`
	if err := os.WriteFile(name, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(name)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	walkPaths(reflect.ValueOf(c).Elem(), "", func(field, value string) {
		if value == "" {
			return
		}
		found[field] = true
		if !strings.HasPrefix(value, filepath.Join(dir, "rel")+"/") {
			t.Errorf("%s is %q", field, value)
		}
	})
	every := server.Config{TLS: &server.TLS{}, Issuers: make([]server.Issuer, 1)}
	every.Introspection, every.MTLS, every.Basic = make([]introspect.Config, 1), &mtls.Config{Bundles: make([]mtls.Bundle, 1), CRLFiles: make([]strictyaml.Path, 1)}, &basic.Config{}
	every.Workloads = &workload.Config{TrustDomains: make([]workload.TrustDomain, 1), Clients: make([]workload.Client, 1)}
	every.Vault, every.AppSessions = []vault.Config{{Login: vault.Login{Cert: &vault.Cert{}}}}, make([]appsession.Config, 1)
	every.Policy.Keys = make([]bundle.Key, 1)
	every.Decisions.Events = &server.DecisionEvents{File: &server.EventFile{}, Service: &bundle.Upload{}}
	every.Policy.Shadow = &server.Shadow{}
	every.Policy.Bundles = []bundle.Bundle{{Credentials: bundle.Credentials{ClientCertificate: &bundle.ClientCertificate{}}}}
	elsewhere := []string{".policy.path", ".policy.shadow.path", ".workloads.trust_domains.keys.file", ".workloads.clients.keys.file"} // which exclude others above
	walkPaths(reflect.ValueOf(every), "", func(field, _ string) {
		if !found[field] && !slices.Contains(elsewhere, field) {
			t.Errorf("%s names a file and is not in this test: set it above, and see Config.rebase", field)
		}
	})
	if len(found) != 38 {
		t.Errorf("%d fields: %v", len(found), found)
	}
}

// walkPaths visits the fields that name files: those of type strictyaml.Path, and
// texts whose names say so.
func walkPaths(v reflect.Value, at string, visit func(field, value string)) {
	switch {
	case v.Type() == reflect.TypeFor[strictyaml.Path]():
		visit(at, v.String())
	case v.Kind() == reflect.String && regexp.MustCompile(`[._](file|path|dir|directory)$`).MatchString(at):
		visit(at, v.String())
	case v.Kind() == reflect.Pointer && !v.IsNil():
		walkPaths(v.Elem(), at, visit)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			walkPaths(v.Index(i), at, visit)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			tag, ok := v.Type().Field(i).Tag.Lookup("yaml")
			if name, options, _ := strings.Cut(tag, ","); ok && options == "inline" {
				walkPaths(v.Field(i), at, visit)
			} else if ok && name != "-" {
				walkPaths(v.Field(i), at+"."+name, visit)
			}
		}
	}
}
