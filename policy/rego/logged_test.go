package rego_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// system is a policy with rules for the decision log.
func system(rules string) fstest.MapFS {
	return fstest.MapFS{
		"authz.rego": {Data: []byte("package postern.authz\ndecision := true")},
		"log.rego":   {Data: []byte("package system.log\n" + rules)},
	}
}

func scribe(t *testing.T, rules string, c rego.Config) *rego.Scribe {
	t.Helper()
	s, err := compile(t, system(rules), c).Scribe("", "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// G-11, REGO-09: the input for a log is the whole one, but for the fields that carry
// credentials, also where a policy is shown them.
func TestScribeInput(t *testing.T) {
	t.Parallel()
	for _, exposed := range []bool{false, true} {
		s := scribe(t, "", rego.Config{InsecureExposeCredentials: exposed, CredentialHeaders: []string{"x-region"}})
		doc, err := s.Input(input(func(in *policy.Input) {
			in.Attributes.Headers = append(in.Attributes.Headers, policy.Headers{{Name: "Authorization", Value: "Bearer secret-token"}, {Name: "X-REGION ", Value: "secret-token"}}...)
		}))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(doc)
		if strings.Contains(string(text), "secret-token") || strings.Contains(string(text), "x-region") {
			t.Errorf("exposed %v: %s", exposed, text)
		}
		for _, part := range []string{`"parsed_path":["orders","7"]`, `"accept":"a,b"`, `"id":"ann"`, `"tier":"gold"`, `"client_ip":"198.51.100.1"`, `"team":"billing"`} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s is not in %s", part, text)
			}
		}
	}
	doc, err := scribe(t, "", rego.Config{}).Input(input(withBody("application/json", `{"a":1,"a":2}`)))
	if err == nil || doc == nil || strings.Contains(err.Error(), "a") && strings.Contains(err.Error(), `"a"`) {
		t.Error("a body that cannot be read:", doc, err)
	}
}

// Masks and drops are what OPA's rules of the same names say of an event.
func TestScribeAsks(t *testing.T) {
	t.Parallel()
	s := scribe(t, `
mask contains "/input/password"
mask contains {"op": "upsert", "path": "/input/who", "value": "***"} if input.input.who
drop if input.path == "health"`, rego.Config{})
	if s.Silent() {
		t.Error("there are rules")
	}
	mask, err := s.Mask(t.Context(), map[string]any{"input": map[string]any{"who": "ann"}})
	if text, _ := json.Marshal(mask); err != nil || string(text) != `["/input/password",{"op":"upsert","path":"/input/who","value":"***"}]` {
		t.Errorf("%s %v", text, err)
	}
	for path, want := range map[string]bool{"health": true, "other": false} {
		if drop, err := s.Drop(t.Context(), map[string]any{"path": path}); drop != want || err != nil {
			t.Error(path, drop, err)
		}
	}
	none := scribe(t, "x := 1", rego.Config{})
	mask, err = none.Mask(t.Context(), nil)
	if drop, dropErr := none.Drop(t.Context(), nil); !none.Silent() || mask != nil || err != nil || drop || dropErr != nil {
		t.Error(mask, err, drop, dropErr)
	}
}

// What fails is an error, never "nothing to mask": a conflict, a function, a loop, and
// a drop that is neither true nor false.
func TestScribeFails(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]string{
		"conflict": "mask := [\"/input/a\"]\nmask := [\"/input/b\"] if input",
		"function": "mask := [to_number(\"hunter2\")]",
		"loop":     "mask := [x | x := numbers.range(1, 100000)[_]; numbers.range(1, 100000)[_] == x]",
	} {
		s := scribe(t, rules, rego.Config{Timeout: 20 * time.Millisecond})
		if mask, err := s.Mask(t.Context(), map[string]any{"a": 1}); err == nil || mask != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v %v", name, mask, err)
		}
	}
	s := scribe(t, "drop := \"yes\"", rego.Config{})
	if drop, err := s.Drop(t.Context(), nil); drop || err == nil {
		t.Error(drop, err)
	}
	for _, rule := range []string{"system.log.mask x", "data.a[x]"} {
		if _, err := compile(t, system(""), rego.Config{}).Scribe(rule, ""); err == nil {
			t.Errorf("%s is taken for a rule", rule)
		}
	}
}
