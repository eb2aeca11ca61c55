package bundle_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// fromFile is a source with one bundle on disk, and what writes it.
func fromFile(t testing.TB, verify bundle.Verify) (config bundle.Config, write func([]byte)) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "bundle.tar.gz")
	write = func(raw []byte) { replace(t, name, raw) }
	return bundle.Config{Bundles: []bundle.Bundle{{Name: "shop", File: strictyaml.Path(name), Verify: verify}}}, write
}

// replace puts a file in the place of another, as deployments do: two writes in one
// tick of the file system's clock are told apart.
func replace(t testing.TB, name string, raw []byte) {
	t.Helper()
	must(t, os.WriteFile(name+".new", raw, 0o600))
	must(t, os.Rename(name+".new", name))
}

// What a signature must be. BND-03 to BND-19
func TestVerify(t *testing.T) {
	t.Parallel()
	s, good := rsaSigner(), allowing("1")
	tampered := func(change func(made) made) []byte {
		signed := good.signedBy(t, s)
		return change(made{files: unpack(t, signed)}).pack(t)
	}
	for name, c := range map[string]struct {
		raw  []byte
		key  func(*bundle.Verify)
		fail bundle.Failure
		says string
	}{
		"rsa":             {raw: good.signedBy(t, s)},
		"ecdsa":           {raw: good.signedBy(t, ecSigner())},
		"secret":          {raw: good.signedBy(t, secretSigner)},
		"scope":           {raw: good.claim("scope", "read").signedBy(t, s), key: func(v *bundle.Verify) { v.Scope = "read" }},
		"other scope":     {raw: good.claim("scope", "write").signedBy(t, s), key: func(v *bundle.Verify) { v.Scope = "read" }, fail: bundle.FailedVerify, says: "scope"},
		"no scope":        {raw: good.signedBy(t, s), key: func(v *bundle.Verify) { v.Scope = "read" }, fail: bundle.FailedVerify, says: "scope"},
		"unsigned":        {raw: good.pack(t), fail: bundle.FailedVerify, says: "missing .signatures.json"},
		"unknown key":     {raw: good.signedBy(t, signer{"other", "RS256", s.private}), fail: bundle.FailedVerify, says: "other"},
		"wrong algorithm": {raw: made{files: good.files, header: map[string]any{"alg": "none"}}.signedBy(t, s), fail: bundle.FailedVerify, says: "algorithm"},
		"critical":        {raw: made{files: good.files, header: map[string]any{"crit": []string{"x"}}}.signedBy(t, s), fail: bundle.FailedVerify, says: "critical"},
		"confused":        {raw: good.signedBy(t, signer{"rsa", "HS256", []byte(publicPEM(&s.private.(*rsa.PrivateKey).PublicKey))}), fail: bundle.FailedVerify, says: "verif"},
		"sha-1":           {raw: made{files: good.files, digest: opa.SHA1}.signedBy(t, s), fail: bundle.FailedVerify, says: "too weak"},
		"sha-224":         {raw: made{files: good.files, digest: opa.SHA224}.signedBy(t, s), fail: bundle.FailedVerify, says: "too weak"},
		"sha-512":         {raw: made{files: good.files, digest: opa.SHA512}.signedBy(t, s)},
		"not expired":     {raw: good.claim("exp", noon.Add(time.Second).Unix()).signedBy(t, s)},
		"expired":         {raw: good.claim("exp", noon.Unix()).signedBy(t, s), fail: bundle.FailedVerify, says: "expired"},
		"expired at 0":    {raw: good.claim("exp", 0).signedBy(t, s), fail: bundle.FailedVerify, says: "expired"},
		"odd expiry":      {raw: good.claim("exp", "never").signedBy(t, s), fail: bundle.FailedVerify, says: "no JWT"},
		"huge expiry":     {raw: good.claim("exp", 1e300).signedBy(t, s), fail: bundle.FailedVerify, says: "out of range"},
		"not yet":         {raw: good.claim("nbf", noon.Add(time.Hour).Unix()).signedBy(t, s), fail: bundle.FailedVerify, says: "not valid before"},
		"tampered":        {raw: tampered(func(m made) made { return m.with("policy.rego", "package evil") }), fail: bundle.FailedVerify, says: "digest mismatch"},
		"added":           {raw: tampered(func(m made) made { return m.with("evil.rego", "package evil") }), fail: bundle.FailedVerify, says: "not included"},
		"excluded":        {raw: tampered(func(m made) made { return m.with("docs/a.md", "hello") }), key: func(v *bundle.Verify) { v.Exclude = []string{"docs/*"} }},
		"excluded policy": {raw: tampered(func(m made) made { return m.with("docs/a.rego", "package evil") }), key: func(v *bundle.Verify) { v.Exclude = []string{"docs/*"} }, fail: bundle.FailedRead, says: "takes it out of the signature"},
		"skipped":         {raw: good.pack(t), key: func(v *bundle.Verify) { v.InsecureSkip = true }},
		"skipped, signed": {raw: good.signedBy(t, ecSigner()), key: func(v *bundle.Verify) { *v = bundle.Verify{InsecureSkip: true} }},
		"empty":           {raw: nil, fail: bundle.FailedRead, says: "empty"},
		"odd revision":    {raw: good.with(".manifest", `{"revision":"1\r\nx-evil: 1"}`).signedBy(t, s), fail: bundle.FailedRead, says: "printable"},
		"outside roots":   {raw: good.with("other/data.json", `{"x":1}`).signedBy(t, s), fail: bundle.FailedRead, says: "roots"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verify := bundle.Verify{Keys: []bundle.Key{s.key(), ecSigner().key(), secretSigner.key()}}
			if c.key != nil {
				c.key(&verify)
			}
			config, write := fromFile(t, verify)
			write(c.raw)
			w := open(t, config, func() time.Time { return noon })
			err := w.Poll(context.Background())
			runs := "1"
			if c.fail != "" {
				runs = ""
			}
			w.expect(err, runs, c.fail, c.says)
		})
	}
}

// What OPA itself signs is good here, with the claims that it can be told to add.
func TestSignedByOPA(t *testing.T) {
	t.Parallel()
	plain := allowing("7")
	read, err := opa.NewCustomReader(opa.NewTarballLoaderWithBaseURL(bytes.NewReader(plain.with("data.json", `{"postern":{"authz":{"list":[1,2.50,"é"]}}}`).pack(t)), "")).Read()
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(rsaSigner().private)
	must(t, err)
	claims := filepath.Join(t.TempDir(), "claims.json")
	must(t, os.WriteFile(claims, fmt.Appendf(nil, `{"keyid": "rsa", "exp": %d}`, noon.Add(time.Hour).Unix()), 0o600))
	must(t, read.GenerateSignature(opa.NewSigningConfig(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "RS256", claims), "", false))
	var packed bytes.Buffer
	must(t, opa.NewWriter(&packed).Write(read))
	config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
	write(packed.Bytes())
	now := noon
	w := open(t, config, func() time.Time { return now })
	w.expect(w.Poll(context.Background()), "7", "", "")
	now = noon.Add(2 * time.Hour)
	w = open(t, config, func() time.Time { return now })
	w.expect(w.Poll(context.Background()), "", bundle.FailedVerify, "expired")
}

// What a verified bundle must say to be put in force. BND-35
func TestPolicyMustFit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, text, says string }{
		"http.send":      {"policy.rego", `package postern.authz` + "\n" + `decision := http.send({"method": "GET", "url": "http://x"}).status_code == 200`, "http.send is not allowed"},
		"no entrypoint":  {"policy.rego", "package postern.authz\nother := true", "no rule data.postern.authz.decision"},
		"does not parse": {"policy.rego", "package postern.authz\ndecision if {", "rego_parse_error"},
		"our package":    {"lib.rego", "package postern.lib.rbac\ndecision := true", "roots"},
		"conflict":       {"postern/authz/data.json", `{"decision": true}`, "conflict"},
	} {
		config, write := fromFile(t, bundle.Verify{})
		w := open(t, config, nil)
		write(allowing("1").pack(t))
		must(t, w.Poll(context.Background()))
		write(allowing("2").with(c.file, c.text).pack(t))
		err := w.Poll(context.Background())
		failure := w.Status()[0].Failed
		if failure != bundle.FailedPolicy && c.says != "roots" {
			t.Errorf("%s: fails at %q", name, failure)
		}
		w.expect(err, "1", failure, c.says)
		if !strings.Contains(w.log.String(), "not in force") {
			t.Errorf("%s: the log does not say so: %s", name, w.log)
		}
	}
}

func TestReservedPackage(t *testing.T) {
	t.Parallel()
	config, write := fromFile(t, bundle.Verify{})
	w := open(t, config, nil)
	write(made{files: map[string]string{"a.rego": "package postern.lib.rbac\ndecision := true"}}.pack(t))
	w.expect(w.Poll(context.Background()), "", bundle.FailedPolicy, "belongs to Postern")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(rsaSigner().private)
	must(t, err)
	for name, c := range map[string]struct {
		key  bundle.Key
		says string
	}{
		"good":             {rsaSigner().key(), ""},
		"small":            {bundle.Key{Key: publicPEM(&small.PublicKey)}, "1024 bits"},
		"odd curve":        {bundle.Key{Key: publicPEM(&p224.PublicKey)}, "neither an RSA key"},
		"wrong algorithm":  {bundle.Key{Algorithm: "ES256", Key: rsaSigner().key().Key}, "use RS256"},
		"wrong curve":      {bundle.Key{Algorithm: "ES384", Key: ecSigner().key().Key}, "use ES256"},
		"public as secret": {bundle.Key{Algorithm: "HS256", Key: rsaSigner().key().Key}, "use RS256"},
		"none":             {bundle.Key{Algorithm: "none", Secret: policy.NewSecret(strings.Repeat("x", 32))}, "use HS256"},
		"short secret":     {bundle.Key{Secret: policy.NewSecret("short")}, "less than 32 bytes"},
		"private":          {bundle.Key{Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))}, "private key"},
		"no PEM":           {bundle.Key{Key: "hello"}, "one PEM block"},
		"nothing":          {bundle.Key{}, "exactly one of"},
		"two":              {bundle.Key{Key: "x", File: "y"}, "exactly one of"},
		"no file":          {bundle.Key{File: "/nonexistent/key.pem"}, "no such file"},
	} {
		c.key.ID = "k"
		_, err := bundle.New(context.Background(), bundle.Config{
			Bundles: []bundle.Bundle{{Name: "b", URL: "https://bundles.test/b"}}, Keys: []bundle.Key{c.key},
		}, bundle.Deps{Engine: &rego.Engine{}})
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("short")) && name == "short secret" {
			t.Errorf("the secret is in the error: %v", err)
		}
	}
}
