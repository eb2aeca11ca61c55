package rego_test

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/lib"
	"github.com/postern-auth/postern/policy/rego"
)

// Each deny names the rule and the line that decided it. The line is the one
// with the mark.
func TestExplain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, policy, rule string
		line               int
	}{
		{"a boolean that nothing makes true", `
default decision := false
decision if {
	input.request.method == "GET"
	input.request.path == "/elsewhere" # here
}`, "data.postern.authz.decision", 5},
		{"undefined", `
decision if input.request.method == "POST"`, "data.postern.authz.decision", 2},
		{"only the default", `
default decision := false`, "data.postern.authz.decision", 2},
		{"an explicit deny", `
decision := {"allow": allow, "deny": deny}
default allow := false
allow if input.request.method == "GET"
deny contains "no" if input.request.path == "/never"
deny contains "no" if {
	input.request.path == "/orders/7"
}`, "data.postern.authz.deny", 6},
		{"an object whose allow has a default", `
decision := {"allow": allow, "headers": {}}
default allow := false
allow if input.request.path == "/a"
allow if {
	input.principal.tenant == "acme"
	"admin" in input.principal.roles # here
}`, "data.postern.authz.allow", 7},
		{"the rule that came furthest", `
default decision := false
decision if {
	input.principal.id == "ann"
	input.principal.tenant == "acme"
	input.principal.kind == "agent" # here
}
decision if input.request.path == "/b"`, "data.postern.authz.decision", 6},
		{"a rule that another asks", `
default decision := false
decision if {
	input.request.method == "GET"
	is_admin
}
is_admin if {
	some role in input.principal.roles
	role == "admin" # here
}`, "data.postern.authz.is_admin", 9},
		{"a rule with a default that another asks", `
default decision := false
decision if is_admin
default is_admin := false
is_admin if "admin" in input.principal.roles`, "data.postern.authz.is_admin", 5},
		{"a function", `
default decision := false
decision if holds("admin")
holds(role) if {
	role in input.principal.roles # here
}`, "data.postern.authz.holds", 5},
		{"a negation", `
default decision := false
decision if {
	input.request.method == "GET"
	not blocked
}
blocked if input.principal.id == "bob"
blocked if input.principal.id == "ann"`, "data.postern.authz.blocked", 8},
		{"a rule that says no itself", `
decision := {"allow": false} if input.principal.id == "ann"`, "data.postern.authz.decision", 2},
		{"every", `
default decision := false
decision if {
	input.principal.id
	every r in input.principal.roles { r == "admin" } # here
}`, "data.postern.authz.decision", 5},
		{"an else", `
decision := true if input.principal.id == "bob"
else := false if input.request.method == "GET"`, "data.postern.authz.decision", 3},
		{"two rules that contradict each other", `
decision := true if input.principal.id == "ann"
decision := false if input.request.method == "GET"`, "data.postern.authz.decision", 3},
		{"rules that ask each other in a chain", `
decision := {"allow": result.allow}
result := {"allow": allow}
default allow := false
allow if input.principal.id == "bob" # here`, "data.postern.authz.allow", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := load(t, module(c.policy), rego.Config{})
			if err != nil {
				t.Fatal(err)
			}
			v := decide(t, s, input())
			// The file begins with the line of the package.
			if v.Allow || v.Rule != c.rule || v.File != "authz.rego" || v.Line != c.line+1 {
				t.Errorf("%s %s:%d, want %s line %d", v.Rule, v.File, v.Line-1, c.rule, c.line)
			}
			if again := decide(t, s, input()); again != v && s.Analysis.Cacheable() {
				t.Error("explained again instead of cached")
			}
		})
	}
}

// The answer of the tables explains itself: asking them again finds nothing more.
func TestTablesExplainThemselves(t *testing.T) {
	t.Parallel()
	line := 0
	library, err := fs.ReadFile(lib.Modules, "rbac.rego")
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(library)) {
		if line++; strings.HasPrefix(text, "decision := ") {
			break
		}
	}
	tables := "roles: {}\nroutes: [ { path: /orders/*, permission: orders.read } ]\ndeny: [ { path: /never } ]"
	for name, c := range map[string]struct {
		fsys  fstest.MapFS
		path  string
		asked int64
	}{
		"data alone":       {fsys: files("t.yaml", tables), asked: 1},
		"nothing listed":   {fsys: files("t.yaml", tables), path: "/elsewhere", asked: 1},
		"a denied path":    {fsys: files("t.yaml", tables), path: "/never", asked: 1},
		"handed on":        {fsys: files("t.yaml", tables, "p.rego", "package postern.authz\nimport data.postern.lib.rbac\ndecision := rbac.decision if input.request.method == \"GET\""), asked: 1},
		"only like theirs": {fsys: files("t.yaml", tables, "p.rego", "package postern.authz\ndecision := {\"allow\": false} if not data.postern.lib.rbac.decision.allow"), asked: 2},
	} {
		s := compile(t, c.fsys, rego.Config{})
		asked := rego.CountPermits(s)
		v := decide(t, s, input(func(in *policy.Input) {
			if c.path != "" {
				in.Request.Path = c.path
			}
		}))
		if v.Allow || v.Line == 0 {
			t.Errorf("%s: %+v", name, v)
		}
		if v.Rule != lib.RBAC || v.File != "postern.lib/rbac.rego" || v.Line != line || asked.Load() != c.asked {
			t.Errorf("%s: %s %s:%d, want line %d; the tables were asked %d times", name, v.Rule, v.File, v.Line, line, asked.Load())
		}
	}
}

// Allows are not explained, and a long trace does no harm.
func TestExplainBounds(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`default decision := false
decision if {
	input.request.path == "/ok"
}
decision if {
	count([1 | some a in numbers.range(1, 400); some b in numbers.range(1, 400); a == b]) == 1
}`), rego.Config{Timeout: 10e9})
	if v := decide(t, s, at("/ok")); !v.Allow || v.Rule != "" || v.Line != 0 {
		t.Errorf("%+v", v)
	}
	if v := decide(t, s, at("/no")); v.Allow || v.Rule == "" || v.Line == 0 {
		t.Errorf("%+v", v)
	}
}

func ExampleProblems() {
	fmt.Println(rego.Problems{{File: "a.rego", Line: 3, Column: 7, Text: "var x is unsafe"}, {File: "b.json", Text: "data must be an object at the top"}})
	// Output:
	// a.rego:3:7: var x is unsafe
	// b.json: data must be an object at the top
}
