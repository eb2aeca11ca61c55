package bundle_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

func inspect(config bundle.Config) ([]string, error) {
	return bundle.Inspect(context.Background(), config, bundle.Deps{Rego: rego.Config{Timeout: time.Minute}})
}

// What a Source would refuse of files is found without one.
func TestInspect(t *testing.T) {
	t.Parallel()
	signed := allowing("2").signedBy(t, rsaSigner())
	for name, c := range map[string]struct {
		raw  []byte // nil: there is no file
		says string
	}{
		"good":      {signed, ""},
		"missing":   {nil, "no such file"},
		"cut":       {signed[:len(signed)/2], "EOF"},
		"empty":     {[]byte{}, "empty"},
		"unsigned":  {allowing("2").pack(t), "verify: "},
		"traversal": {allowing("2").with("../authz.rego", "package a").signedBy(t, rsaSigner()), "../authz.rego"},
		"broken":    {allowing("2").with("authz.rego", "package postern.authz\ndecision := nothing\n").signedBy(t, rsaSigner()), "authz.rego:2"},
		"no rule":   {allowing("2").with("policy.rego", "package postern.authz\nother := 1\n").signedBy(t, rsaSigner()), "policy: "},
	} {
		config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
		if c.raw != nil {
			write(c.raw)
		}
		absent, err := inspect(config)
		if len(absent) > 0 || (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "bundle shop: ") && !strings.HasPrefix(err.Error(), "policy: ")) {
			t.Errorf("%s: %v, %v", name, absent, err)
		}
	}
}

// Of a bundle that is fetched, what was kept is read, and nothing is changed on disk; if
// nothing was kept, it is named.
func TestInspectRemote(t *testing.T) {
	t.Parallel()
	config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
	dir := t.TempDir()
	config.Persist = strictyaml.Path(dir)
	write(allowing("2").signedBy(t, rsaSigner()))
	must(t, open(t, config, nil).Poll(context.Background()))
	write(allowing("1").signedBy(t, rsaSigner()))
	if _, err := inspect(config); err == nil || !strings.Contains(err.Error(), "rollback: ") {
		t.Errorf("an older file: %v", err)
	}
	config.Bundles[0].File, config.Bundles[0].URL = "", "https://bundles.invalid/shop.tar.gz"
	current := filepath.Join(dir, "shop", "current.json")
	before, err := os.Stat(current)
	must(t, err)
	if absent, err := inspect(config); err != nil || len(absent) > 0 {
		t.Errorf("what was kept: %v, %v", absent, err)
	}
	if after, err := os.Stat(current); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("what was kept is touched: %v", err)
	}
	other := config.Bundles[0]
	other.Name = "roles"
	config.Bundles = append(config.Bundles, other)
	if absent, err := inspect(config); err != nil || len(absent) != 1 || absent[0] != "roles" {
		t.Errorf("what was not kept: %v, %v", absent, err)
	}
	must(t, os.WriteFile(current, []byte("{"), 0o600))
	if _, err := inspect(config); err == nil || !strings.Contains(err.Error(), "persist: ") {
		t.Errorf("what is damaged: %v", err)
	}
}

// What a bundle says without effect is told when it comes into force.
func TestUnused(t *testing.T) {
	t.Parallel()
	config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
	w := open(t, config, nil)
	write(allowing("1").signedBy(t, rsaSigner()))
	must(t, w.Poll(context.Background()))
	if strings.Contains(w.log.String(), "WARN") {
		t.Error(w.log)
	}
	write(allowing("2").with(".manifest", `{"revision":"2","rotts":["x"]}`).with("policy.wasm", "x").with("plan.json", "{}").signedBy(t, rsaSigner()))
	must(t, w.Poll(context.Background()))
	for _, says := range []string{"the manifest has no key", "rotts", "policy.wasm is ignored", "plan.json is ignored"} {
		if !strings.Contains(w.log.String(), says) {
			t.Errorf("%s: %s", says, w.log)
		}
	}
}
