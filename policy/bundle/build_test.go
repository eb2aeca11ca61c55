package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

func shopFiles() fstest.MapFS {
	return fstest.MapFS{
		"authz.rego":       {Data: []byte("package postern.authz\n\nimport data.postern.lib.rbac\n\ndecision := rbac.decision\n")},
		"authz_test.rego":  {Data: []byte("package postern.authz_test\n\ntest_nothing if true\n")},
		"tables.yaml":      {Data: []byte("roles: { reader: [orders.read] }\nlimit: 9007199254740993\n")},
		"teams/eu/d.json":  {Data: []byte(`{"lead": "ann"}`)},
		"README.md":        {Data: []byte("no policy")},
		".hidden/x.rego":   {Data: []byte("package x")},
		"cases_test.yaml":  {Data: []byte("tests: []")},
		"nested/more.rego": {Data: []byte("package more\n\nx := data.teams.eu.lead\n")},
	}
}

// Z-02: what is built is what a server reads, and is the same bytes each time.
func TestBuild(t *testing.T) {
	t.Parallel()
	build := func(m bundle.Manifest) []byte {
		t.Helper()
		raw, err := bundle.Build(t.Context(), shopFiles(), rego.Config{}, bundle.Limits{}, m)
		must(t, err)
		return raw
	}
	raw := build(bundle.Manifest{Revision: "7"})
	if !bytes.Equal(raw, build(bundle.Manifest{Revision: "7"})) {
		t.Error("two builds differ")
	}
	if bytes.Equal(raw, build(bundle.Manifest{Revision: "8"})) {
		t.Error("two revisions are the same")
	}
	files := unpack(t, raw)
	if len(files) != 4 || files[".manifest"] != `{"revision":"7","roots":[""],"rego_version":1}`+"\n" || files["authz.rego"] == "" || files["nested/more.rego"] == "" {
		t.Errorf("%v", files)
	}
	if want := `{"limit":9007199254740993,"roles":{"reader":["orders.read"]},"teams":{"eu":{"lead":"ann"}}}` + "\n"; files["data.json"] != want {
		t.Errorf("data %s, want %s", files["data.json"], want)
	}
	o, err := bundle.Open(raw, bundle.Limits{}, bundle.Verify{}, rego.Config{}, time.Now())
	must(t, err)
	if o.Revision != "7" || o.Signed || o.Verified || o.Size != len(raw) || o.Digest != digestOf(raw) {
		t.Errorf("%+v", o)
	}
}

// Roots come from flags, from a manifest in the directory, or claim everything, and
// what lies outside of them is refused.
func TestBuildRoots(t *testing.T) {
	t.Parallel()
	claims := func(files fstest.MapFS, m bundle.Manifest) (string, error) {
		raw, err := bundle.Build(t.Context(), files, rego.Config{}, bundle.Limits{}, m)
		if err != nil {
			return "", err
		}
		return unpack(t, raw)[".manifest"], nil
	}
	all := []string{"data.postern.authz", "roles", "limit", "teams.eu", "more"}
	got, err := claims(shopFiles(), bundle.Manifest{Roots: all})
	if err != nil || !strings.Contains(got, `"roots":["postern/authz","roles","limit","teams/eu","more"]`) {
		t.Errorf("%s %v", got, err)
	}
	if got, err := claims(shopFiles(), bundle.Manifest{Roots: all[1:]}); err == nil || !strings.Contains(err.Error(), "postern") {
		t.Errorf("%s %v", got, err)
	}
	named := shopFiles()
	named[".manifest"] = &fstest.MapFile{Data: []byte(`{"revision": "r1", "roots": ["postern/authz", "roles", "limit", "teams", "more"], "metadata": {"team": "shop"}}`)}
	if got, err := claims(named, bundle.Manifest{Revision: "r2"}); err != nil || !strings.Contains(got, `"r2"`) || !strings.Contains(got, `"team":"shop"`) {
		t.Errorf("%s %v", got, err)
	}
	named[".manifest"] = &fstest.MapFile{Data: []byte(`{"root": []}`)}
	if got, err := claims(named, bundle.Manifest{}); err == nil || !strings.Contains(err.Error(), ".manifest") {
		t.Errorf("a misspelt manifest: %s %v", got, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	bad := shopFiles()
	bad["bad.rego"] = &fstest.MapFile{Data: []byte("package bad\nx if http.send({})\n")}
	if _, err := bundle.Build(t.Context(), bad, rego.Config{}, bundle.Limits{}, bundle.Manifest{}); err == nil || !strings.Contains(err.Error(), "http.send is not allowed") {
		t.Errorf("%v", err)
	}
	if _, err := bundle.Build(t.Context(), shopFiles(), rego.Config{}, bundle.Limits{Bytes: 100 * strictyaml.Byte}, bundle.Manifest{}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("%v", err)
	}
}

func privatePEM(t *testing.T, private any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// What Sign signs, a Source puts in force, and nothing else.
func TestSign(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	raw, err := bundle.Build(t.Context(), shopFiles(), rego.Config{}, bundle.Limits{}, bundle.Manifest{Revision: "1"})
	must(t, err)
	for algorithm, s := range map[string]signer{"RS256": rsaSigner(), "ES256": ecSigner(), "HS256": secretSigner} {
		order := bundle.Signature{KeyID: s.id, Scope: "shop", Issued: now, Expires: now.Add(time.Hour)}
		if secret, ok := s.private.([]byte); ok {
			order.Secret = policy.NewSecret(string(secret))
		} else {
			order.Key = privatePEM(t, s.private)
		}
		signed, got, err := bundle.Sign(raw, bundle.Limits{}, order)
		if err != nil || got != algorithm {
			t.Fatalf("%s: %s, %v", algorithm, got, err)
		}
		again, _, err := bundle.Sign(signed, bundle.Limits{}, order) // in place of the first signature
		must(t, err)
		file := filepath.Join(t.TempDir(), "b.tar.gz")
		must(t, os.WriteFile(file, again, 0o600))
		for _, c := range []struct {
			scope   string
			key     bundle.Key
			now     time.Time
			failure bundle.Failure
		}{
			{"shop", s.key(), now, ""},
			{"other", s.key(), now, bundle.FailedVerify},
			{"shop", s.key(), now.Add(time.Hour), bundle.FailedVerify},
			{"shop", bundle.Key{ID: s.id, Secret: policy.NewSecret("another secret, and long enough to be one")}, now, bundle.FailedVerify},
		} {
			w := open(t, bundle.Config{Bundles: []bundle.Bundle{{Name: "shop", File: strictyaml.Path(file), Verify: bundle.Verify{Keys: []bundle.Key{c.key}, Scope: c.scope}}}},
				func() time.Time { return c.now })
			err := w.Poll(t.Context())
			if c.failure == "" && (err != nil || w.Revision() == "" || !w.Status()[0].Verified) {
				t.Errorf("%s: %v", algorithm, err)
			}
			if c.failure != "" && (err == nil || w.Status()[0].Failed != c.failure) {
				t.Errorf("%s: accepted with scope %s at %s: %v", algorithm, c.scope, c.now, err)
			}
		}
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	raw, err := bundle.Build(t.Context(), shopFiles(), rego.Config{}, bundle.Limits{}, bundle.Manifest{})
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	good := privatePEM(t, ecSigner().private)
	for want, s := range map[string]bundle.Signature{
		"needs a key id":                  {Key: good},
		"needs a private key or a secret": {KeyID: "k"},
		"and not both":                    {KeyID: "k", Key: good, Secret: policy.NewSecret(strings.Repeat("x", 40))},
		"expired already":                 {KeyID: "k", Key: good, Issued: now, Expires: now},
		"Ed25519":                         {KeyID: "k", Key: privatePEM(t, ed)},
		"less than 32 bytes":              {KeyID: "k", Secret: policy.NewSecret("hunter2")},
		"no private key":                  {KeyID: "k", Key: []byte("hunter2")},
	} {
		if _, _, err := bundle.Sign(raw, bundle.Limits{}, s); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, _, err := bundle.Sign(raw[:40], bundle.Limits{}, bundle.Signature{KeyID: "k", Key: good}); err == nil {
		t.Error("half a bundle was signed")
	}
}
