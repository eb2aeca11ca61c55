package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

func remove(t testing.TB, w world, name string) {
	t.Helper()
	if err := os.Remove(w.path(name)); err != nil {
		t.Fatal(err)
	}
}

// Every part that is read from a file: what is wrong keeps what was in force, and
// says why in the log and in /readyz; what is right takes its place.
func TestReload(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file string
		bad  map[string]string // text → what the log and /readyz have to say of it
		good func(old string) string
		sees func(b *box, i [2]issuer, key string) bool // what the good one changes
	}{
		{
			file: "postern.yaml",
			bad: map[string]string{
				"version: 1\nnonsense: true\n":     "nonsense",
				"version: [":                       "postern.yaml",
				"":                                 "postern.yaml",
				"version: 1\npolicy: {path: no}\n": "no",
			},
			good: func(old string) string { return strings.Replace(old, "/open/**", "/opened/**", 1) },
			sees: func(b *box, _ [2]issuer, _ string) bool { return b.status(get("/opened/1")) == 200 },
		},
		{
			file: "policy/tables.yaml",
			bad: map[string]string{
				"routes: [{path: nonsense, public: true}]\n": "nonsense",
				"routes: {": "tables.yaml",
			},
			good: func(string) string { return "routes: [{path: /open/**, public: true}]\n" },
			sees: func(b *box, _ [2]issuer, key string) bool { return b.status(get("/", "x-api-key", key)) == 403 },
		},
		{
			file: "keys.yaml",
			bad: map[string]string{
				"keys: [{id: nonsense}]\n": "keys.yaml",
				"keys: {":                  "keys.yaml",
				"keys:\n" + imported("billing", documented, "    expires: never\n"): "expires",
			},
			good: func(old string) string { return old + imported("billing", documented, "") },
			sees: func(b *box, _ [2]issuer, _ string) bool { return b.status(get("/", "x-api-key", documented)) == 200 },
		},
		{
			file: "jwks.json",
			bad:  map[string]string{`{"keys":[]}`: "no key", `{"keys":`: "issuer.test", `<html>`: "issuer.test"},
			good: func(string) string { return jwks(newIssuer("https://issuer.test", "k2")) },
			sees: func(b *box, i [2]issuer, _ string) bool {
				return b.status(get("/", bearer(i[1].token(claims{"sub": "alice"}))...)) == 200 &&
					b.status(get("/", bearer(i[0].token(claims{"sub": "alice"}))...)) == 401
			},
		},
	} {
		t.Run(strings.ReplaceAll(c.file, "/", "_"), func(t *testing.T) {
			t.Parallel()
			issuers := [2]issuer{newIssuer("https://issuer.test", "k1"), newIssuer("https://issuer.test", "k2")}
			w := prepare(t, "change")
			w.write(t, "jwks.json", jwks(issuers[0]))
			key := w.mint(t, order{id: "alice"})
			b := start(t, w)
			b.hide(key, documented[8:])
			old := b.read(t, c.file)
			inForce := func() {
				t.Helper()
				b.expect(t, get("/", "x-api-key", key), 200, "allowed")
				b.expect(t, get("/", bearer(issuers[0].token(claims{"sub": "alice"}))...), 200, "allowed")
				b.expect(t, get("/open/1"), 200, "allowed")
				if c.sees(b, issuers, key) {
					t.Error("what is not in force counts")
				}
			}
			inForce()
			for bad, why := range c.bad {
				b.write(t, c.file, bad)
				eventually(t, "/readyz says "+why, func() bool { return b.explains(t, why) })
				eventually(t, "the log says "+why, func() bool {
					for _, e := range b.log.entries(t, "reload failed; what was in force stays") {
						if strings.Contains(e[""].(string), why) {
							return true
						}
					}
					return false
				})
				if status, body := b.fetch(t, "/readyz"); status != 200 {
					t.Errorf("what was in force stays, but /readyz says %d %s", status, body)
				}
				if !strings.Contains(b.scrape(t), "postern_reload_failed{") {
					t.Error("no metric tells of it")
				}
				inForce()
				b.write(t, c.file, old)
				eventually(t, "/readyz has no complaint any more", func() bool { return !b.explains(t, "failed") })
			}
			inForce()
			b.write(t, c.file, c.good(old))
			eventually(t, "the good one counts", func() bool { return c.sees(b, issuers, key) })
		})
	}
}

// A named pipe where a file should be holds up nothing: it is told of, what was in force
// stays, the other files are read, and the server ends when it is told to.
func TestReloadBesidePipes(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"postern.yaml", "policy/tables.yaml", "policy/new.json", "keys.yaml", "jwks.json"} {
		t.Run(strings.ReplaceAll(file, "/", "_"), func(t *testing.T) {
			t.Parallel()
			w := prepare(t, "change")
			w.write(t, "jwks.json", jwks(newIssuer("https://issuer.test", "k1")))
			key := w.mint(t, order{id: "alice"})
			b := start(t, w)
			b.hide(key, documented[8:])
			if file != "policy/new.json" {
				remove(t, w, file)
			}
			if err := syscall.Mkfifo(w.path(file), 0o600); err != nil {
				t.Skip("there are no named pipes: ", err)
			}
			eventually(t, "/readyz tells of it", func() bool { return b.explains(t, "not a regular file") })
			b.expect(t, get("/", "x-api-key", key), 200, "allowed")
			if file != "keys.yaml" {
				w.write(t, "keys.yaml", "keys:\n"+imported("billing", documented, ""))
				eventually(t, "the keys are others", func() bool {
					return b.status(get("/", "x-api-key", documented)) == 200 && b.status(get("/", "x-api-key", key)) == 401
				})
			} else {
				w.write(t, "policy/tables.yaml", "routes: [{path: /open/**, public: true}]\n")
				eventually(t, "the policy is another", func() bool { return b.status(get("/", "x-api-key", key)) == 403 })
			}
		})
	}
}

// status is what ext_authz says.
func (b *box) status(q request) int {
	res, err := b.envoy.Check(context.Background(), q.forEnvoy())
	if err != nil {
		return 0
	}
	a, _ := readEnvoy(res)
	return a.status
}

// explains reports whether /readyz speaks of something.
func (b *box) explains(t testing.TB, what string) bool {
	_, body := b.fetch(t, "/readyz")
	return strings.Contains(body, what)
}

// A policy that changes while requests come in: each is decided whole by one
// revision, and none is lost.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	w := prepare(t, "change")
	w.write(t, "jwks.json", jwks(newIssuer("https://issuer.test", "k1")))
	key := w.mint(t, order{id: "alice"})
	version := func(n int) string {
		return fmt.Sprintf("package postern.authz\n\ndecision := {\"allow\": true, \"headers\": {\"x-version\": \"%d\", \"x-again\": data.again}}\n", n)
	}
	write := func(w world, n int) {
		w.write(t, "policy/authz.rego", version(n))
		w.write(t, "policy/data.json", fmt.Sprintf(`{"again":"%d"}`, n))
	}
	write(w, 0)
	b := start(t, w)
	b.hide(key)
	seen := map[string]string{} // revision → versions
	for n := range 8 {
		write(w, n)
		eventually(t, "the next policy counts", func() bool {
			a := b.askEnvoy(t, get("/", "x-api-key", key))
			versions := a.upstream("x-version") + " " + a.upstream("x-again")
			if before, known := seen[a.revision]; !a.allowed() || known && before != versions {
				t.Fatalf("revision %s says %q, and said %q: %v", a.revision, versions, before, a)
			}
			seen[a.revision] = versions
			return versions == fmt.Sprint(n, " ", n)
		})
	}
	t.Logf("%d revisions", len(seen))
}
