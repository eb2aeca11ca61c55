package rego_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy/rego"
)

// load loads and compiles.
func load(t *testing.T, fsys fstest.MapFS, config rego.Config) (*rego.Snapshot, error) {
	t.Helper()
	b, err := rego.LoadFS(fsys, config)
	if err != nil {
		return nil, err
	}
	return rego.Compile(t.Context(), b, config)
}

func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

// Each bad policy is refused, with the place and all that is wrong.
// FAILOPEN-02 REGO-02 REGO-06 REGO-07 REGO-12
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	strict := rego.Config{Strict: true}
	two := 2
	small := rego.Config{Limits: rego.Limits{Files: 2, Bytes: 100, Depth: 2}}
	for _, c := range []struct {
		name   string
		fsys   fstest.MapFS
		config rego.Config
		want   []string
	}{
		{"empty directory", files(), rego.Config{}, []string{"no policy: there is no *.rego"}},
		{"only hidden and test files", files(".a.rego", "x", "a_test.rego", "x", "a_test.yaml", "x"), rego.Config{}, []string{"no policy"}},
		{"syntax, every file", files("a.rego", "package a\nallow if {", "b.rego", "package b\n\nx := )"), rego.Config{}, []string{"a.rego:2", "b.rego:3"}},
		{"no package", files("a.rego", "\n"), rego.Config{}, []string{"a.rego"}},
		{"compile errors, all", module("decision := f(1)\nx := g(1)"), rego.Config{}, []string{"authz.rego:2", "undefined function f", "authz.rego:3", "undefined function g"}},
		{"strict mode", module("decision if { x := 1 }"), rego.Config{}, []string{"authz.rego:2", "assigned var x unused"}},
		{"v0 syntax", files("a.rego", "package a\nallow { true }"), rego.Config{}, []string{"a.rego:2", "rego_version: 0"}},
		{"no entrypoint", files("a.rego", "package a\nok := true"), rego.Config{}, []string{"no rule data.postern.authz.decision", "data.a.ok"}},
		{"entrypoint is no path", module("decision := true"), rego.Config{Entrypoint: "data[x]"}, []string{"entrypoint"}},
		{"http.send", module(`decision if http.send({"url": "http://a", "method": "GET"}).status_code == 200`), rego.Config{}, []string{"authz.rego:2", "http.send is not allowed"}},
		{"opa.runtime", module(`decision if opa.runtime().env.X`), rego.Config{}, []string{"opa.runtime is not allowed"}},
		{"refused through with", module(`decision if count([]) == 1 with count as http.send`), rego.Config{}, []string{"authz.rego:2"}},
		{"refused, mocked away", module(`decision if f with http.send as {"status_code": 200}
f if http.send({}).status_code == 200`), rego.Config{}, []string{"authz.rego:2"}},
		{"data shadows a rule", files("a.rego", "package postern.authz\ndecision := true", "postern/authz/d.json", `{"decision": false}`), rego.Config{}, []string{"a.rego:2", "conflict"}},
		{"data twice", files("a.json", `{"x": {"y": 1}}`, "b.yaml", "x: { y: 2 }", "c.rego", "package c"), rego.Config{}, []string{"b.yaml: x.y is already defined"}},
		{"bad JSON", files("a.json", "{\n\"a\": 1,\n}"), rego.Config{}, []string{"a.json:3"}},
		{"duplicate name", files("a.json", `{"roles": {}, "roles": {}}`), rego.Config{}, []string{`"roles" stands twice`}},
		{"bad YAML", files("a.yaml", "a: 1\nb: [\n"), rego.Config{}, []string{"a.yaml:"}},
		{"duplicate YAML key", files("a.yaml", "a: 1\na: 2\n"), rego.Config{}, []string{"a.yaml:2", "stands twice"}},
		{"YAML alias", files("a.yaml", "a: &x 1\nb: *x\n"), rego.Config{}, []string{"a.yaml:2", "aliases"}},
		{"data is a list", files("a.json", `[]`), rego.Config{}, []string{"must be an object"}},
		{"reserved package", files("a.rego", "package postern.lib.mine\nx := 1"), rego.Config{}, []string{"a.rego:1", "belongs to Postern"}},
		{"too many files", files("a.json", "{}", "b.json", "{}", "c.json", "{}"), small, []string{"more than 2 files"}},
		{"too many bytes", files("a.json", `{"a": "`+strings.Repeat("x", 100)+`"}`), small, []string{"more than 100 bytes"}},
		{"too deep a directory", files("a/b/c/d.json", "{}"), small, []string{"more than 2 directories"}},
		{"too deep data", files("a.json", `{"a": [[[1]]]}`), small, []string{"nested too deeply"}},
		{"a version that is not", module("decision := true"), rego.Config{RegoVersion: &two}, []string{"rego_version is 0 or 1"}},
		{"default allow", module("default decision := true"), strict, []string{"authz.rego:2", "deny by default"}},
		{"default allow elsewhere", module("decision := allow\ndefault allow := true"), strict, []string{"authz.rego:3", "deny by default"}},
		{"allowed without opa_envoy", module(`decision := {"allowed": true}`), strict, []string{"authz.rego:2", "opa_envoy"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := load(t, c.fsys, c.config)
			if err == nil {
				t.Fatalf("loaded as %s", s.Revision)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
		})
	}
}

// REGO-02: without strict, what is dubious loads and warns.
func TestWarnings(t *testing.T) {
	t.Parallel()
	s := compile(t, module("decision := allow\ndefault allow := true"), rego.Config{})
	if len(s.Warnings) != 1 || s.Warnings[0].Line != 3 {
		t.Errorf("%v", s.Warnings)
	}
	if s := compile(t, module("default decision := false"), rego.Config{}); len(s.Warnings) != 0 {
		t.Errorf("%v", s.Warnings)
	}
}

func TestErrNoPolicy(t *testing.T) {
	t.Parallel()
	if _, err := rego.LoadFS(files(), rego.Config{}); !errors.Is(err, rego.ErrNoPolicy) {
		t.Error(err)
	}
	var e rego.Engine
	if _, _, err := e.Decide(t.Context(), input()); !errors.Is(err, rego.ErrNoPolicy) {
		t.Error(err)
	}
}

// A refused function works once it is named, and is never cached; hosts stay
// closed until they are listed. REGO-06 CACHE-08
func TestAllowBuiltins(t *testing.T) {
	t.Parallel()
	config := rego.Config{AllowBuiltins: []string{"rand.intn", "http.send"}}
	s := compile(t, module(`decision := {"allow": true, "obligations": [sprintf("%d", [rand.intn("x", 1000000000)])]}`), config)
	if s.Analysis.Cacheable() || !s.Stats().Off {
		t.Error("an impure decision is cached")
	}
	first, second := decide(t, s, input()), decide(t, s, input())
	if first.Obligations[0].Type == second.Obligations[0].Type {
		t.Error("random numbers are equal")
	}
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	s = compile(t, module(fmt.Sprintf(`decision if http.send({"url": %q, "method": "GET"}).status_code == 200`, server.URL)), config)
	_, _, err := s.Decide(t.Context(), input())
	server.Close()
	if err == nil || asked {
		t.Errorf("a host that nobody allowed was asked: %v", err)
	}
}

// Data of subdirectories, v0 modules, other entrypoints, revisions.
func TestLoad(t *testing.T) {
	t.Parallel()
	v0 := 0
	config := rego.Config{RegoVersion: &v0, Entrypoint: "envoy/authz/allow"}
	policy := files("p.rego", "package envoy.authz\ndefault allow = false\nallow { data.teams.eu.lead == data.top; data.teams.n == 9007199254740993 }",
		"teams/eu/d.json", `{"lead": "ann"}`, "teams/n.yml", "n: 9007199254740993", "top.yaml", "top: ann", "README.md", "no policy")
	s, err := load(t, policy, config)
	if err != nil {
		t.Fatal(err)
	}
	if v := decide(t, s, input()); !v.Allow || v.Revision != s.Revision {
		t.Errorf("%+v", v)
	}
	again, _ := load(t, policy, config)
	policy["top.yaml"].Data = []byte("top: bob")
	changed, _ := load(t, policy, config)
	if s.Revision != again.Revision || s.Revision == changed.Revision || len(s.Revision) != 12 {
		t.Errorf("revisions %s, %s, %s", s.Revision, again.Revision, changed.Revision)
	}
}

// Links may point inside the directory, as Kubernetes mounts do, and nowhere else.
func TestLinks(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret.json")
	write(t, secret, `{"stolen": true}`)
	for name, c := range map[string]struct {
		target, link string
		ok           bool
	}{
		"inside":       {"..2026/policy.rego", "policy.rego", true},
		"outside":      {secret, "d.json", false},
		"up and out":   {"../../../../../../etc/passwd", "d.json", false},
		"a directory":  {filepath.Dir(secret), "data", false},
		"nowhere":      {"missing.json", "d.json", false},
		"inside a dir": {"..2026", "data", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "..2026"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "..2026", "policy.rego"), "package postern.authz\ndecision := true")
			write(t, filepath.Join(dir, "roles.json"), "{}")
			if err := os.Symlink(c.target, filepath.Join(dir, c.link)); err != nil {
				t.Fatal(err)
			}
			b, err := rego.Load(dir, rego.Config{})
			if (err == nil) != c.ok {
				t.Fatalf("%v", err)
			}
			if c.ok && !slices.Contains(b.Files, c.link) {
				t.Errorf("not read: %v", b.Files)
			}
		})
	}
	if _, err := rego.Load(filepath.Join(t.TempDir(), "missing"), rego.Config{}); err == nil {
		t.Error("a directory that is not there was loaded")
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// REGO-13: a policy of many rules loads within the limits and answers.
func TestManyRules(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("default decision := false\n")
	for i := range 2000 {
		fmt.Fprintf(&text, "decision if input.request.path == \"/p%d\"\n", i)
	}
	s := compile(t, module(text.String()), rego.Config{Timeout: time.Minute})
	if v := decide(t, s, at("/p1999")); !v.Allow {
		t.Errorf("%+v", v)
	}
	if v := decide(t, s, at("/p2000")); v.Allow {
		t.Errorf("%+v", v)
	}
}

func FuzzDecodeJSON(f *testing.F) {
	f.Add([]byte(`{"a": [1, 2.5e3, "x", null, true, {}]}`))
	f.Add([]byte(`{"a": 1, "a": 2}`))
	f.Add([]byte(`{"a": {"b": [{"a": ""}, [[[[]]]]]}, "b" : {"a": "\"}{"}, "\u0061": -1e9}`))
	f.Add([]byte("{\"\xff\": 1, \"\xfe\": 2}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := rego.DecodeJSON(text, 4)
		if rego.HasOneReading(text, 4) && err != nil {
			t.Errorf("%q has one reading: %v", text, err)
		}
		// It gives up on nothing but names that are spelt in an odd way.
		if err == nil && !rego.HasOneReading(text, 4) && json.Valid(text) && utf8.Valid(text) && !bytes.ContainsRune(text, '\\') {
			t.Errorf("%q has more than one", text)
		}
		_, _ = rego.DecodeYAML(text, 16)
	})
}
