package rego_test

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy/rego"
)

func partOf(t *testing.T, name, digest, text string, data map[string]any) rego.Part {
	t.Helper()
	p := rego.Part{Name: name, Digest: []byte(digest), Data: data, Modules: map[string]*ast.Module{}}
	if text != "" {
		p.Modules["p.rego"] = ast.MustParseModule(text)
	}
	return p
}

// Parts make one policy with a revision of its own, and may not contradict each
// other or use what belongs to Postern.
func TestNewBundle(t *testing.T) {
	t.Parallel()
	const text = "package postern.authz\ndecision := data.lists.on"
	main := func(digest string) rego.Part { return partOf(t, "main", digest, text, nil) }
	lists := func() rego.Part {
		return partOf(t, "lists", "1", "", map[string]any{"lists": map[string]any{"on": true}})
	}
	one, err := rego.NewBundle("7", []rego.Part{main("1"), lists()}, rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rego.Compile(t.Context(), one, rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if v, _, err := s.Decide(t.Context(), at("/")); err != nil || !v.Allow || !strings.HasPrefix(v.Revision, "7+") {
		t.Errorf("%+v, %v", v, err)
	}
	two, err := rego.NewBundle("7", []rego.Part{main("2"), lists()}, rego.Config{})
	if err != nil || two.Revision == one.Revision || one.Files[0] != "main/p.rego" {
		t.Errorf("%+v, %+v, %v", one, two, err)
	}
	if _, err := rego.NewBundle("", []rego.Part{lists(), lists()}, rego.Config{}); err == nil || !strings.Contains(err.Error(), "lists.on is already defined") {
		t.Error(err)
	}
	own := partOf(t, "main", "1", "package postern.lib.rbac\ndecision := true", nil)
	if _, err := rego.NewBundle("", []rego.Part{own}, rego.Config{}); err == nil || !strings.Contains(err.Error(), "belongs to Postern") {
		t.Error(err)
	}
}
