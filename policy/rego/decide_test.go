package rego_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

func at(path string) *policy.Input {
	return input(func(in *policy.Input) { in.Request.Path = path })
}

// What a policy can say, and what it means. FAILOPEN-03 FAILOPEN-04 REGO-01 G-09
func TestResults(t *testing.T) {
	t.Parallel()
	for result, want := range map[string]policy.Reason{
		`decision := true`:  policy.ReasonAllowed,
		`decision := false`: policy.ReasonPolicyDenied,

		`decision if false`:                        policy.ReasonPolicyUndefined,
		`decision := null`:                         policy.ReasonPolicyResult,
		`decision := "true"`:                       policy.ReasonPolicyResult,
		`decision := 1`:                            policy.ReasonPolicyResult,
		`decision := 0`:                            policy.ReasonPolicyResult,
		`decision := {}`:                           policy.ReasonPolicyResult,
		`decision := []`:                           policy.ReasonPolicyResult,
		`decision := [true]`:                       policy.ReasonPolicyResult,
		`decision := {true}`:                       policy.ReasonPolicyResult,
		`decision contains true`:                   policy.ReasonPolicyResult,
		`decision := {"allow": "true"}`:            policy.ReasonPolicyResult,
		`decision := {"allow": 1}`:                 policy.ReasonPolicyResult,
		`decision := {"allow": null}`:              policy.ReasonPolicyResult,
		`decision := {"allow": [true]}`:            policy.ReasonPolicyResult,
		`decision := {"allowed": true}`:            policy.ReasonPolicyResult,
		`decision := {"Allow": true}`:              policy.ReasonPolicyResult,
		`decision := {"result": true}`:             policy.ReasonPolicyResult,
		`decision := {"allow": true}`:              policy.ReasonAllowed,
		`decision := {"allow": false}`:             policy.ReasonPolicyDenied,
		`decision.allow := true`:                   policy.ReasonAllowed,
		`decision := {"allow": true, "mine": [1]}`: policy.ReasonAllowed,

		`decision := {"allow": true, "allowed": true}`:                  policy.ReasonAllowed,
		`decision := {"allow": true, "allowed": false}`:                 policy.ReasonPolicyDenied,
		`decision := {"allow": true, "allowed": "x"}`:                   policy.ReasonPolicyResult,
		`decision := {"allow": true, "deny": ["x"]}`:                    policy.ReasonPolicyDenied,
		`decision := {"allow": true, "deny": {"x"}}`:                    policy.ReasonPolicyDenied,
		`decision := {"allow": true, "deny": "x"}`:                      policy.ReasonPolicyDenied,
		`decision := {"allow": true, "deny": true}`:                     policy.ReasonPolicyDenied,
		`decision := {"allow": true, "deny": {"a": 1}}`:                 policy.ReasonPolicyDenied,
		`decision := {"allow": true, "deny": 1}`:                        policy.ReasonPolicyResult,
		`decision := {"allow": true, "deny": []}`:                       policy.ReasonAllowed,
		`decision := {"allow": true, "deny": set()}`:                    policy.ReasonAllowed,
		`decision := {"allow": true, "deny": false}`:                    policy.ReasonAllowed,
		"decision.allow := true\ndecision.deny contains \"x\"":          policy.ReasonPolicyDenied,
		"decision := true\ndecision := false":                           policy.ReasonPolicyResult,
		"decision := {\"allow\": true}\ndecision := {\"allow\": false}": policy.ReasonPolicyResult,
		"decision := x if some x in [true, false]":                      policy.ReasonPolicyResult,

		`decision := {"allow": false, "missing_scopes": ["a"]}`:                    policy.ReasonScope,
		`decision := {"allow": false, "missing_permissions": {"a"}}`:               policy.ReasonPermission,
		`decision := {"allow": false, "reason": "insufficient_scope"}`:             policy.ReasonScope,
		`decision := {"allow": false, "reason": "tenant_mismatch"}`:                policy.ReasonTenant,
		`decision := {"allow": false, "reason": "because"}`:                        policy.ReasonPolicyDenied,
		`decision := {"allow": false, "reason": "allowed"}`:                        policy.ReasonPolicyDenied,
		`decision := {"allow": false, "reason": "internal"}`:                       policy.ReasonPolicyDenied,
		`decision := {"allow": false, "reason": 7}`:                                policy.ReasonPolicyResult,
		`decision := {"allow": false, "missing_scopes": ["a b"]}`:                  policy.ReasonPolicyResult,
		`decision := {"allow": false, "missing_scopes": ["a\"b"]}`:                 policy.ReasonPolicyResult,
		`decision := {"allow": false, "missing_scopes": "a"}`:                      policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"x-a": "b"}}`:                     policy.ReasonAllowed,
		`decision := {"allow": true, "headers": {"x-a": "b\r\nx-admin: 1"}}`:       policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"x-a": "b\u0000"}}`:               policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"x a": "b"}}`:                     policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {":path": "/admin"}}`:              policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"": "b"}}`:                        policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"x-a": 1}}`:                       policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"x-a": null}}`:                    policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": "x"}`:                              policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": ["x"]}`:                            policy.ReasonPolicyResult,
		`decision := {"allow": true, "headers": {"Transfer-Encoding": "chunked"}}`: policy.ReasonPolicyResult,
		`decision := {"allow": true, "request_headers_to_remove": ["a\nb"]}`:       policy.ReasonPolicyResult,
		`decision := {"allow": true, "request_headers_to_remove": "x-a"}`:          policy.ReasonPolicyResult,
		`decision := {"allow": true, "dynamic_metadata": []}`:                      policy.ReasonPolicyResult,
		`decision := {"allow": true, "query_parameters_to_set": {"a": 1}}`:         policy.ReasonPolicyResult,
		`decision := {"allow": true, "obligations": [{"parameters": {}}]}`:         policy.ReasonPolicyResult,
		`decision := {"allow": true, "message": "a\nb"}`:                           policy.ReasonPolicyResult,
		`decision := {"allow": true, "body": 1}`:                                   policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": 200}`:                         policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": 999}`:                         policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": "403"}`:                       policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": 403.5}`:                       policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": 1e999}`:                       policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": 304}`:                         policy.ReasonPolicyResult,
		`decision := {"allow": false, "http_status": 302}`:                         policy.ReasonPolicyDenied,
		`decision := {"allow": false, "http_status": 404}`:                         policy.ReasonPolicyDenied,
		`decision := {"allow": true, "missing_scopes": numbers.range(1, 300)}`:     policy.ReasonPolicyResult,
	} {
		t.Run(result, func(t *testing.T) {
			t.Parallel()
			s, err := load(t, module(result), rego.Config{})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // evaluated and cached
				v := decide(t, s, input())
				if v.Reason != want || v.Allow != (want == policy.ReasonAllowed) {
					t.Errorf("got %v, want %v", v.Reason, want)
				}
				if want == policy.ReasonPolicyResult && (len(v.UpstreamHeaders) > 0 || len(v.ClientHeaders) > 0) {
					t.Errorf("a bad result has effects: %+v", v)
				}
			}
		})
	}
}

// Everything an allow and a deny can carry, under the plugin's names and ours.
func TestEffects(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision := {
	"allow": input.request.path == "/ok",
	"headers": {"X-User": "ann", "x-group": ["a", "b"]},
	"response_headers_to_add": [{"x-cost": "7"}],
	"request_headers_to_remove": {"X-Secret"},
	"query_parameters_to_set": {"page": "1", "q": ["x", "y"]},
	"query_parameters_to_remove": ["debug"],
	"dynamic_metadata": {"tier": "gold", "n": 1},
	"obligations": ["log", {"type": "mask", "parameters": {"field": "ssn"}}],
	"http_status": 404, "body": "no such\nthing", "message": "no",
}`), rego.Config{})
	common := policy.Verdict{
		Message: "no", RemoveHeaders: []string{"x-secret"},
		SetQuery:    []policy.Header{{Name: "page", Value: "1"}, {Name: "q", Value: "x"}, {Name: "q", Value: "y"}},
		RemoveQuery: []string{"debug"}, Metadata: map[string]any{"tier": "gold", "n": json.Number("1")},
		Obligations: []policy.Obligation{{Type: "log"}, {Type: "mask", Parameters: map[string]any{"field": "ssn"}}},
		Revision:    s.Revision,
	}
	main := []policy.Header{{Name: "x-user", Value: "ann"}, {Name: "x-group", Value: "a"}, {Name: "x-group", Value: "b"}}
	cost := policy.Header{Name: "x-cost", Value: "7"}

	allow := common
	allow.Allow, allow.Reason, allow.UpstreamHeaders, allow.ClientHeaders = true, policy.ReasonAllowed, main, []policy.Header{cost}
	if diff := cmp.Diff(&allow, decide(t, s, at("/ok"))); diff != "" {
		t.Error(diff)
	}
	deny := common
	deny.Reason, deny.Status, deny.Body, deny.ClientHeaders = policy.ReasonPolicyDenied, 404, "no such\nthing", append(main, cost)
	deny.Rule, deny.File, deny.Line = "data.postern.authz.decision", "authz.rego", 2
	deny.Grounds = &policy.Grounds{Reads: []policy.Reading{{Path: "input.request.path", Value: `"/no"`}}}
	if diff := cmp.Diff(&deny, decide(t, s, at("/no"))); diff != "" {
		t.Error(diff)
	}
}

// Policies for the OPA-Envoy plugin run unchanged where the configuration says so.
func TestOPAEnvoy(t *testing.T) {
	t.Parallel()
	fsys := files("p.rego", `package envoy.authz
import input.attributes.request.http
default allow := {"allowed": false}
allow := {"allowed": true, "headers": {"x-user": payload.sub}} if http.method == "GET"
payload := p if [_, p, _] := io.jwt.decode("broken")
payload := {"sub": "nobody"} if not valid
valid if io.jwt.decode("broken")`)
	s, err := load(t, fsys, rego.Config{Entrypoint: "envoy/authz/allow", OPAEnvoy: true})
	if err != nil {
		t.Fatal(err)
	}
	if v := decide(t, s, input()); !v.Allow || v.UpstreamHeaders[0].Value != "nobody" {
		t.Errorf("%+v", v)
	}
	if s, err = load(t, fsys, rego.Config{Entrypoint: "envoy/authz/allow"}); err != nil {
		t.Fatal(err)
	}
	var fault *rego.Fault
	if _, _, err := s.Decide(t.Context(), input()); !errors.As(err, &fault) {
		t.Errorf("a function that failed is taken for undefined: %v", err)
	}
}

// REGO-04: whatever burns time is stopped, and is a timeout, not a deny.
func TestTimeout(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`decision if { some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); some c in numbers.range(1, 3000); a * b * c == 7000000001 }`,
		`decision if { some a in numbers.range(1, 60000); some b in numbers.range(1, 60000); concat("", [format_int(a, 10), "x"]) == format_int(b, 10) }`,
	} {
		s := compile(t, module(text), rego.Config{Timeout: 20 * time.Millisecond})
		v, _, err := s.Decide(t.Context(), input())
		if !errors.Is(err, rego.ErrTimeout) || v != nil {
			t.Errorf("%v, %v", v, err)
		}
		if s.Stats().Entries != 0 {
			t.Error("a timeout is cached")
		}
	}
	s := compile(t, module(`decision := true`), rego.Config{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Decide(gone, input()); err == nil {
		t.Error("decided for a caller that is gone")
	}
}

// Evaluations beyond the bound wait within their time, then give up.
func TestOverload(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision := true`), rego.Config{MaxEvaluations: 2, Timeout: time.Millisecond})
	rego.OccupySlots(s)
	if _, _, err := s.Decide(t.Context(), input()); !errors.Is(err, rego.ErrOverloaded) {
		t.Error(err)
	}
}

// A request that finds no place gives up at half of its time, and ends before its
// caller does: a gateway that hears nothing may let the request through.
func TestOverloadLeavesRoom(t *testing.T) {
	t.Parallel()
	for deadline, want := range map[time.Duration]time.Duration{
		time.Hour:             50 * time.Millisecond,
		50 * time.Millisecond: 20 * time.Millisecond,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := compile(t, module(`decision := true`), rego.Config{Timeout: 100 * time.Millisecond})
			rego.OccupySlots(s)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			began := time.Now()
			_, _, err := s.Decide(ctx, input())
			if took := time.Since(began); !errors.Is(err, rego.ErrOverloaded) || took != want {
				t.Errorf("with %v left: %v after %v, want %v", deadline, err, took, want)
			}
		})
	}
}

// One evaluation a processor: more would only keep the processors from those that
// have an answer to send.
func TestDefaultEvaluations(t *testing.T) {
	t.Parallel()
	if n := rego.Slots(compile(t, module(`decision := true`), rego.Config{})); n != runtime.GOMAXPROCS(0) {
		t.Errorf("%d places", n)
	}
}

// A fault says where the policy failed, and nothing of what it was given.
func TestFaultQuotesNothing(t *testing.T) {
	t.Parallel()
	for text, what := range map[string]string{
		`decision if to_number(input.principal.id) == 1`:                               "eval_builtin_error in to_number",
		`decision if count(input.principal.claims.n) == 1`:                             "eval_type_error in count",
		`decision if regex.match(input.principal.id, "x")`:                             "eval_builtin_error in regex.match",
		`decision if json.unmarshal(input.principal.id)`:                               "eval_builtin_error in json.unmarshal",
		`decision if time.parse_rfc3339_ns(input.principal.id) == 1`:                   "eval_builtin_error in time.parse_rfc3339_ns",
		`decision if postern.permits({}, {input.principal.id: 1, "roles": 1})`:         "eval_builtin_error in postern.permits",
		`decision if postern.permits({"roles": {"r": [{input.principal.id: 1}]}}, {})`: "eval_builtin_error in postern.permits",
	} {
		s := compile(t, module("\n"+text), rego.Config{})
		_, _, err := s.Decide(t.Context(), input(func(in *policy.Input) {
			in.Principal.ID, in.Principal.Claims["n"] = "hunter2(", json.Number("4711")
		}))
		fault, ok := errors.AsType[*rego.Fault](err)
		if !ok || fault.What != what || fault.File != "authz.rego" || fault.Line != 3 {
			t.Errorf("%s: %+v", text, err)
		}
		if shown := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(shown, "hunter2") || strings.Contains(shown, "4711") {
			t.Errorf("%s: quotes the request: %s", text, shown)
		}
		if !strings.Contains(fmt.Sprint(err), "authz.rego:3: "+what) {
			t.Errorf("%s: does not say where: %v", text, err)
		}
	}
}

// What a policy may return is bounded, each text and all together.
func TestResultBounds(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`
kib := concat("", [c | some _ in numbers.range(1, 1024); c := "x"])
times(n) := concat("", [kib | some _ in numbers.range(1, n)])
of := {
	"/header": {"allow": true, "headers": {"x": times(8)}},
	"/header+": {"allow": true, "headers": {"x": concat("", [times(8), "x"])}},
	"/list+": {"allow": true, "response_headers_to_add": {"x": ["a", concat("", [times(8), "x"])]}},
	"/body": {"allow": false, "body": times(64)},
	"/body+": {"allow": false, "body": concat("", [times(64), "x"])},
	"/message": {"allow": true, "message": kib},
	"/message+": {"allow": true, "message": concat("", [kib, "x"])},
	"/metadata": {"allow": true, "dynamic_metadata": {"a": [times(250)]}},
	"/metadata+": {"allow": true, "dynamic_metadata": {"a": [times(256)]}},
	"/values+": {"allow": true, "dynamic_metadata": {"a": numbers.range(1, 10000)}},
	"/obligations+": {"allow": true, "obligations": [o | some i in numbers.range(1, 9); o := {"type": sprintf("%d", [i]), "parameters": {"a": times(32)}}]},
	"/fields+": {"allow": true, "headers": {sprintf("x%d", [i]): times(8) | some i in numbers.range(1, 33)}},
}
decision := of[input.request.path]`), rego.Config{Timeout: time.Minute})
	for path, want := range map[string]policy.Reason{
		"/header": policy.ReasonAllowed, "/header+": policy.ReasonPolicyResult, "/list+": policy.ReasonPolicyResult,
		"/body": policy.ReasonPolicyDenied, "/body+": policy.ReasonPolicyResult,
		"/message": policy.ReasonAllowed, "/message+": policy.ReasonPolicyResult,
		"/metadata": policy.ReasonAllowed, "/metadata+": policy.ReasonPolicyResult, "/values+": policy.ReasonPolicyResult,
		"/obligations+": policy.ReasonPolicyResult, "/fields+": policy.ReasonPolicyResult,
	} {
		if v := decide(t, s, at(path)); v.Reason != want {
			t.Errorf("%s: %v, want %v", path, v.Reason, want)
		}
	}
}

// A panic below is a fault that shows nothing of what it was about.
func TestPanic(t *testing.T) {
	t.Parallel()
	s := compile(t, files("t.json", `{}`), rego.Config{})
	rego.BreakBuiltins(s)
	_, _, err := s.Decide(t.Context(), input())
	var fault *rego.Fault
	if !errors.As(err, &fault) || fault.Revision != s.Revision || strings.Contains(err.Error(), "nil pointer") {
		t.Errorf("%v", err)
	}
}

// What is not handed to a policy denies: long values, impossible numbers,
// documents with two readings. REGO-03 REGO-05
func TestUnreadable(t *testing.T) {
	t.Parallel()
	whole := compile(t, module(`decision if count(input) > 0`), rego.Config{Timeout: time.Minute})
	for name, c := range map[string]struct {
		change func(*policy.Input)
		want   policy.Reason
	}{
		"long header":    {func(in *policy.Input) { in.Attributes.Headers[1].Value = strings.Repeat("a,", 512<<10) }, policy.ReasonRequestTooLarge},
		"long claim":     {func(in *policy.Input) { in.Principal.Claims["x"] = strings.Repeat("a", 1<<20) }, policy.ReasonRequestTooLarge},
		"deep claim":     {func(in *policy.Input) { in.Principal.Claims["x"] = deep(100) }, policy.ReasonRequestTooLarge},
		"huge number":    {func(in *policy.Input) { in.Principal.Claims["x"] = json.Number("1e9999999") }, policy.ReasonRequestInvalid},
		"no number":      {func(in *policy.Input) { in.Principal.Claims["x"] = json.Number("x") }, policy.ReasonRequestInvalid},
		"broken query":   {func(in *policy.Input) { in.Request.Query = "a=1;b=2" }, policy.ReasonRequestInvalid},
		"broken body":    {withBody("application/json", `{"a":`), policy.ReasonRequestInvalid},
		"duplicate name": {withBody("application/json", `{"a":1,"a":2}`), policy.ReasonRequestInvalid},
		"huge in body":   {withBody("application/json", `{"a":1e9999999}`), policy.ReasonRequestInvalid},
		"broken form":    {withBody("application/x-www-form-urlencoded", `a=%zz`), policy.ReasonRequestInvalid},
		"large body":     {withBody("text/plain", strings.Repeat("x", 2<<20)), policy.ReasonRequestTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 2 {
				if v := decide(t, whole, input(c.change)); v.Allow || v.Reason != c.want {
					t.Errorf("%v", v.Reason)
				}
			}
		})
	}
	// What the policy does not look at does no harm.
	narrow := compile(t, module(`decision if input.request.method == "GET"`), rego.Config{})
	if !decide(t, narrow, input(func(in *policy.Input) { in.Request.Query = "a=1;b=2" })).Allow {
		t.Error("denied for what the policy does not read")
	}
	var fault *rego.Fault
	_, _, err := whole.Decide(t.Context(), input(func(in *policy.Input) { in.Principal.Claims["x"] = struct{}{} }))
	if !errors.As(err, &fault) {
		t.Errorf("a value of no JSON type: %v", err)
	}
}

func deep(n int) any {
	var v any = "x"
	for range n {
		v = []any{v}
	}
	return v
}

func withBody(kind, body string) func(*policy.Input) {
	return func(in *policy.Input) {
		in.Attributes.Body = []byte(body)
		in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: "content-type", Value: kind})
	}
}

// REGO-10 REGO-11: numbers keep their digits, texts are compared as bytes.
func TestExactValues(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if { input.principal.claims.id == 9007199254740993; input.principal.id == "\u00e9" }`), rego.Config{})
	for _, c := range []struct {
		id    any
		name  string
		allow bool
	}{
		{json.Number("9007199254740993"), "\u00e9", true},
		{int64(9007199254740993), "\u00e9", true},
		{json.Number("9007199254740992"), "\u00e9", false},
		{json.Number("9007199254740993"), "e\u0301", false},
		{json.Number("9007199254740993"), "\u00c9", false},
	} {
		v := decide(t, s, input(func(in *policy.Input) { in.Principal.Claims["id"], in.Principal.ID = c.id, c.name }))
		if v.Allow != c.allow {
			t.Errorf("%v %q: %v", c.id, c.name, v.Allow)
		}
	}
}

// REGO-08 CACHE-13: policies are swapped under load; each decision is by exactly
// one of them, and none by an older one than was in force when it began.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	const swaps = 40
	var snapshots []*rego.Snapshot
	numbers := map[string]int{}
	for n := range swaps {
		s := compile(t, files("p.rego", "package postern.authz\ndecision := {\"allow\": true, \"message\": sprintf(\"%d\", [data.n])} if input.principal.id",
			"n.json", fmt.Sprintf(`{"n": %d}`, n)), rego.Config{Timeout: time.Minute})
		snapshots = append(snapshots, s)
		numbers[s.Revision] = n
	}
	var engine rego.Engine
	engine.Activate(snapshots[0])
	var active atomic.Int64
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for last := 0; last < swaps-1; {
				before := int(active.Load())
				v, _, err := engine.Decide(context.Background(), input())
				if err != nil {
					t.Error(err)
					return
				}
				last = numbers[v.Revision]
				if v.Message != fmt.Sprint(last) || last < before {
					t.Errorf("revision %d said %s while %d was in force", last, v.Message, before)
					return
				}
			}
		})
	}
	for n, s := range snapshots {
		engine.Activate(s)
		active.Store(int64(n))
		_, _, _ = engine.Decide(t.Context(), input())
	}
	readers.Wait()
	if engine.Snapshot() != snapshots[swaps-1] {
		t.Error("the last one is not in force")
	}
}
