package rego_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// An explanation says what the policy could read, what stood there, which rules were
// tried, and at which expression those failed that had no answer.
func TestExplanation(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`default decision := false

decision if {
	owner
	input.principal.tenant == "acme"
	not input.principal.acr
}

owner if input.principal.id == data.owners[input.request.segments[1]]`), rego.Config{})
	x, err := s.Explain(t.Context(), input())
	if err != nil || x.Verdict.Allow || x.Verdict.Rule != "data.postern.authz.owner" || x.Verdict.Line != 10 {
		t.Errorf("%+v, %v", x.Verdict, err)
	}
	reads := []rego.Reading{
		{Path: "input.principal.acr", Value: `""`},
		{Path: "input.principal.id", Value: `"ann"`},
		{Path: "input.principal.tenant", Value: `"acme"`},
		{Path: "input.request.segments[1]", Value: `"7"`},
	}
	if diff := cmp.Diff(reads, x.Reads); diff != "" {
		t.Error(diff)
	}
	steps := []rego.Step{
		{Rule: "data.postern.authz.decision", File: "authz.rego", Line: 4, Failed: "owner", FailedLine: 5},
		{Rule: "data.postern.authz.owner", File: "authz.rego", Line: 10, Failed: "input.principal.id == data.owners[input.request.segments[1]]", FailedLine: 10},
	}
	if diff := cmp.Diff(steps, x.Steps); diff != "" {
		t.Error(diff)
	}
	// It leaves the cache alone, and its places are given back.
	if st := s.Stats(); st.Entries+int64(st.Misses)+int64(st.Hits) != 0 || rego.PlacesTaken(s) != 0 {
		t.Errorf("%+v", st)
	}
	// Where there is nobody, nothing stands where a principal would.
	x, err = s.Explain(t.Context(), input(func(in *policy.Input) { in.Principal = nil }))
	if err != nil || !x.Reads[1].Absent || x.Reads[1].Value != "" {
		t.Errorf("%+v, %v", x.Reads, err)
	}
}

// An explanation agrees with the decision, verdict by verdict.
func TestExplanationAgrees(t *testing.T) {
	t.Parallel()
	for _, text := range trickyPolicies {
		s := compile(t, module(text), rego.Config{Timeout: time.Minute})
		for i := range 5 {
			in := input(func(in *policy.Input) { in.Principal.ID = fmt.Sprint("a", i) })
			want, _, wantErr := s.Decide(t.Context(), in)
			x, err := s.Explain(t.Context(), in)
			if (err == nil) != (wantErr == nil) || err == nil && want.Allow != x.Verdict.Allow {
				t.Errorf("%s: %+v %v, want %+v %v", text, x.Verdict, err, want, wantErr)
			}
		}
	}
}

// No secret is explained: not of a header that the policy may see, not of a body, and
// not of what is named like one, however the policy reads it.
func TestExplanationShowsNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2hunter2"
	in := input(func(in *policy.Input) {
		in.Attributes.Headers = policy.Headers{{Name: "authorization", Value: secret}, {Name: "x-api-key", Value: secret}, {Name: "x-mine", Value: secret}}
		in.Principal.Claims = map[string]any{"refresh_token": secret, "deep": []any{map[string]any{"password": secret}}}
		withBody("application/json", `{"a":"`+secret+`"}`)(in)
	})
	for _, text := range []string{
		`decision if input.attributes.request.http.headers.authorization == "x"`,
		`decision if input.attributes.request.http.headers["x-mine"] == "x"`,
		`decision if input.attributes.request.http.headers[_] == "x"`,
		`decision if input.principal.claims.refresh_token == "x"`,
		`decision if input.principal.claims.deep[_].password == "x"`,
		`decision if input.parsed_body.a == "x"`,
		`decision if input.attributes.request.http.body == "x"`,
		`decision if input.parsed_body == "x"`,
		`decision if count(input.attributes) == 77`,
		`decision if count(input) == 77`,
	} {
		s := compile(t, module(text), rego.Config{InsecureExposeCredentials: true, CredentialHeaders: []string{"x-mine"}})
		x, err := s.Explain(t.Context(), in)
		if err != nil || len(x.Reads) == 0 {
			t.Errorf("%s: %v", text, err)
		}
		if shown := fmt.Sprintf("%+v %+v %+v", x.Reads, x.Steps, x.Verdict); strings.Contains(shown, "hunter2") {
			t.Errorf("%s: %s", text, shown)
		}
	}
}

// Whatever goes wrong is the same error as for a request.
func TestExplanationOfFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		`decision if count(numbers.range(1, 1000000000)) == 1`:                                              &rego.Fault{},
		`decision if { some a in numbers.range(1, 60000); some b in numbers.range(1, 60000); a * b == -1 }`: rego.ErrTimeout,
	} {
		x, err := compile(t, module(text), rego.Config{Timeout: 50 * time.Millisecond}).Explain(t.Context(), input())
		_, isFault := errors.AsType[*rego.Fault](err)
		_, wantFault := errors.AsType[*rego.Fault](want)
		if x == nil || x.Verdict != nil || isFault != wantFault || !wantFault && !errors.Is(err, want) {
			t.Errorf("%+v, %v, want %v", x, err, want)
		}
	}
	x, err := compile(t, module("decision := true\ndecision := false"), rego.Config{}).Explain(t.Context(), input())
	if err != nil || x.Verdict.Reason != policy.ReasonPolicyResult {
		t.Errorf("%+v, %v", x.Verdict, err)
	}
	x, err = compile(t, module(`decision if input.request.path == "/"`), rego.Config{}).Explain(t.Context(), at(strings.Repeat("x", 70_000)))
	if err != nil || x.Verdict.Reason != policy.ReasonRequestTooLarge {
		t.Errorf("%+v, %v", x.Verdict, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := compile(t, module(`decision if input.request.path == "/"`), rego.Config{}).Explain(gone, input()); err != nil && !errors.Is(err, rego.ErrTimeout) && !errors.Is(err, rego.ErrOverloaded) {
		t.Error(err)
	}
}

// The grounds of a deny come with the verdict: what was read, and the expressions that
// failed, the one that decided first. An allow has none.
func TestGrounds(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`default decision := false

decision if {
	input.request.method == "PUT"
	input.principal.tenant == "acme"
}

decision if {
	owner
	input.principal.tenant == "acme"
}

owner if input.principal.id == data.owners[input.request.segments[1]]`), rego.Config{})
	v := decide(t, s, input())
	want := &policy.Grounds{
		Reads: []policy.Reading{
			{Path: "input.principal.id", Value: `"ann"`},
			{Path: "input.principal.tenant", Value: `"acme"`},
			{Path: "input.request.method", Value: `"GET"`},
			{Path: "input.request.segments[1]", Value: `"7"`},
		},
		Failed: []policy.Failure{
			{Rule: "data.postern.authz.owner", File: "authz.rego", Line: 14, Expression: "input.principal.id == data.owners[input.request.segments[1]]"},
			{Rule: "data.postern.authz.decision", File: "authz.rego", Line: 5, Expression: `input.request.method == "PUT"`},
			{Rule: "data.postern.authz.decision", File: "authz.rego", Line: 10, Expression: "owner"},
		},
	}
	if diff := cmp.Diff(want, v.Grounds); diff != "" {
		t.Error(diff)
	}
	if v := decide(t, s, input(func(in *policy.Input) { in.Request.Method = "PUT" })); !v.Allow || v.Grounds != nil {
		t.Errorf("%+v", v)
	}
	// A policy that contradicts itself, one that only data decides, and one that is not
	// asked twice because it may call others, say what they read all the same.
	for name, s := range map[string]*rego.Snapshot{
		"conflict": compile(t, module("decision := true if input.principal.id == \"ann\"\ndecision := false if input.principal.id == \"ann\""), rego.Config{}),
		"tables":   compile(t, files("t.yaml", "{ roles: { a: [x] }, routes: [ { path: /**, permission: x } ] }"), rego.Config{}),
		"impure":   compile(t, module(`decision if rand.intn(input.principal.id, 2) == 7`), rego.Config{AllowBuiltins: []string{"rand.intn"}}),
	} {
		if v := decide(t, s, input()); v.Grounds == nil || len(v.Grounds.Reads) == 0 || v.Line == 0 || name == "tables" && len(v.Grounds.Failed) != 1 {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// The grounds are small, whatever the policy and the request: they are kept with each
// of the last decisions.
func TestGroundsAreBounded(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 40 {
		fmt.Fprintf(&text, "decision if input.principal.claims.c%d == \"%s%d\"\n", i, strings.Repeat("z", 300), i)
	}
	text.WriteString("decision if count(input.principal) == 77\n")
	claims := map[string]any{}
	for i := range 40 {
		claims[fmt.Sprint("c", i)] = strings.Repeat("ä", 400)
	}
	claims["tree"] = map[string]any{"a": make([]any, 5000), "b": strings.Repeat("x", 5000)}
	v := decide(t, compile(t, module(text.String()), rego.Config{}), input(func(in *policy.Input) { in.Principal.Claims = claims }))
	g := v.Grounds
	if len(g.Reads) > 32 || len(g.Failed) != 12 || g.MoreFailed != 29 {
		t.Fatalf("%d read, %d more, %d failed, %d more", len(g.Reads), g.MoreReads, len(g.Failed), g.MoreFailed)
	}
	if f := g.Failed[0]; f.Line != v.Line || f.Rule != v.Rule {
		t.Errorf("the one that decided is not the first: %+v, %s:%d", f, v.File, v.Line)
	}
	values := 0
	for _, r := range g.Reads {
		values += len(r.Value)
		if !utf8.ValidString(r.Value) || len(r.Value) > 203 {
			t.Errorf("%q", r.Value)
		}
	}
	for _, f := range g.Failed {
		values += len(f.Expression)
	}
	if values > 1536+12*163+32*3 {
		t.Errorf("%d bytes", values)
	}
}

// A policy that reads whole objects of the input is told field by field, without what
// says nothing, and what Postern made of a request first.
func TestGroundsOfWholeObjects(t *testing.T) {
	t.Parallel()
	v := decide(t, compile(t, module(`decision if count(input) == 77`), rego.Config{}), input())
	paths := map[string]string{}
	for _, r := range v.Grounds.Reads {
		paths[r.Path] = r.Value
	}
	if paths["input.principal.id"] != `"ann"` || paths["input.request.method"] != `"GET"` {
		t.Errorf("%+v", v.Grounds.Reads)
	}
	for path, value := range paths {
		if value == "" && !strings.Contains(path, "body") && !strings.Contains(path, "query") || value == `""` {
			t.Errorf("%s is %q", path, value)
		}
	}
}

// Queries are not shown, wherever they stand.
func TestGroundsShowNoQuery(t *testing.T) {
	t.Parallel()
	in := func() *policy.Input {
		in := at("/a?token=hunter2&page=7")
		in.Request.Path, in.Request.Query = "/a", "token=hunter2&page=7"
		in.Attributes.Headers = policy.Headers{{Name: ":path", Value: "/a?token=hunter2"}, {Name: "referer", Value: "https://a.test/?x=hunter2"}}
		in.Attributes.Context = map[string]any{"link": "https://a.test/?x=hunter2", "query": "hunter2", "https://a.test/?hunter2": 1}
		return in
	}
	for _, text := range []string{
		`decision if input.request.query == "x"`,
		`decision if input.parsed_query.page[0] == "x"`,
		`decision if input.parsed_query == "x"`,
		`decision if input.attributes.request.http.query == "x"`,
		`decision if input.attributes.request.http.path == "x"`,
		`decision if input.attributes.request.http.headers[":path"] == "x"`,
		`decision if input.attributes.request.http.headers.referer == "x"`,
		`decision if input.attributes.request.http.headers[_] == "x"`,
		`decision if input.context[_] == "x"`,
		`decision if walk(input, [["x"], "x"])`,
	} {
		v := decide(t, compile(t, module(text), rego.Config{}), in())
		if shown := fmt.Sprintf("%+v", v.Grounds); v.Allow || len(v.Grounds.Reads) == 0 || strings.Contains(shown, "hunter2") {
			t.Errorf("%s: %s", text, shown)
		}
	}
}
