package rego_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// trickyPolicies read the request in ways that a pruned input or a key could get
// wrong: by shape, by a name that is only known at run time, through aliases,
// functions, negation and `with`.
var trickyPolicies = []string{
	`decision if { some h, v in input.attributes.request.http.headers; startswith(h, "x-"); v == "1" }`,
	`decision if input.attributes.request.http.headers[input.principal.id] == "1"`,
	`decision if input.parsed_query.a[_] == "1"
decision if input.parsed_query.b[1]`,
	`decision if not input.parsed_query.a`,
	`decision if input.parsed_path[0] == "a"
decision if count(input.parsed_path) == 3`,
	`decision if input.parsed_body.a.b == 1`,
	`decision if is_null(input.parsed_body)`,
	`decision if input.truncated_body`,
	`decision if input.principal.claims.a.b
decision if is_string(input.principal.claims.a)`,
	`claims := input.principal.claims
decision if claims[input.principal.tenant] == 1`,
	`decision if object.get(input.principal.claims, "a", null) == null`,
	`decision if object.get(input, ["principal", "claims", "a", "0"], 7) == 7`,
	`decision if input.principal.claims.a[0] == "x"`,
	`decision if input.peer
decision if input.principal.peer`,
	`decision if not input.peer.id`,
	`decision if not input.target.action
decision if input.target.action.properties.a`,
	`decision if input.target.grpc.service == input.request.grpc.service`,
	`f(x) if x.a
f(x) if x.b == 1
decision if f(input.principal.claims)`,
	`decision if input.principal.id == "a" with input.principal.id as input.principal.tenant`,
	`p := input.principal
decision if { p.id == "a"; count(p.roles) > 0 }`,
	`decision if { some path; walk(input.principal.claims, [path, "x"]) }`,
	`decision := {"allow": count(input) > 4, "message": json.marshal(input.principal.claims)}`,
	`decision := {"allow": true, "headers": {"x-who": input.principal.id}} if input.principal.id`,
	`decision if every r in input.principal.roles { r != "b" }`,
	`decision := {"allow": allow, "deny": deny}
default allow := false
allow if "a" in input.principal.roles
deny contains s if some s in input.principal.scopes`,
	`decision if input.context.a == input.route.labels.a`,
	`decision if "a" in input.request.zones`,
	`decision if input.attributes.source.address.socketAddress.address == input.request.client_ip`,
	`decision if input.principal.expires_at > 5
decision if not input.principal.auth_time`,
	`decision if input.principal.actors[0].id == "a"`,
	`decision if input.principal == input.peer
decision if count(object.keys(input.principal)) == 16`,
	`x := {"a": input.principal.id, "b": {"c": input.request.path}}
decision if x.b.c == "/a"`,
	`decision if input.target.model == "m"
decision if input.target.tier != "t"`,
	`decision if input.target.max_tokens <= 1
decision if not input.target.prompt_tokens`,
	`decision if { some tool in input.target.tools; tool.name == "a"; tool.arguments.a }`,
	`decision if input.target.tools[0].arguments.a == 1
decision if input.target.tools[1].schema`,
	`decision if not input.target.tools[0].arguments`,
	`decision if is_object(input.target.tools[0].arguments)`,
	`decision if input.target.resources[0].tenant == input.principal.tenant
decision if input.target.resources[_].id == "a"`,
	`decision if count(input.target.resources) == 2`,
	`decision if not input.principal.actors[0]`,
	`decision if input.target.tools == [] with input.target.method as "x"
decision if input.target.method`,
	`decision if not input.agreement.approval
decision if { "s" in input.agreement.scopes; input.agreement.approval.expires_at > 1 }`,
	`decision if input.agreement.approval.roles[0] == "a"
decision if input.agreement.consent == input.agreement.approval.id`,
	`decision if input.principal.token_budget > 1
decision if not input.principal.token_budget`,
	`decision := {"allow": true, "message": json.marshal([input.target, object.get(input, "agreement", null)])}`,
	`decision if glob.match("/a/*", ["/"], input.request.path)
decision if time.now_ns() % 2 == 1`,
}

// randomInput draws from small sets, so that requests are often alike in some
// fields and different in others.
func randomInput(r *rand.Rand) *policy.Input {
	pick := func(options ...string) string { return options[r.IntN(len(options))] }
	some := func(options ...string) (all []string) {
		for range r.IntN(3) {
			all = append(all, pick(options...))
		}
		return all
	}
	var tree func(int) any
	tree = func(depth int) any {
		options := []any{nil, true, false, "x", "", "1", json.Number("1"), json.Number("1.0"), 1, 1.5, []any{}, map[string]any{}, []string{"x"}}
		if n := r.IntN(len(options) + 4); n < len(options) || depth == 0 {
			return options[n%len(options)]
		}
		if r.IntN(2) == 0 {
			return []any{tree(depth - 1), tree(depth - 1)}
		}
		return map[string]any{pick("a", "b", "0"): tree(depth - 1), pick("a", "c"): tree(depth - 1)}
	}
	object := func() map[string]any {
		m := map[string]any{}
		for range r.IntN(3) {
			m[pick("a", "b", "c", "0")] = tree(2)
		}
		return m
	}
	in := &policy.Input{
		Attributes: &policy.Attributes{Method: "GET", Path: "/raw", Body: []byte(pick("", `{"a":{"b":1}}`, `{"a":1}`, `null`, `[1]`)), BodyTruncated: r.IntN(5) == 0, Context: object()},
		Request:    &policy.Request{Method: "GET", Path: pick("/", "/a", "/a/b", "/a/b/c", "/a/"), Query: pick("", "a=1", "a=1&b=2&b=3", "b=&a="), Zones: some("a", "b")},
		Principal: &policy.Principal{ID: pick("a", "b", "x-h"), Tenant: pick("a", "b", ""), Roles: some("a", "b"), Scopes: some("s"),
			Claims: object(), Metadata: object()},
		Route: &policy.Route{Labels: map[string]string{"a": pick("", "x", "1")}},
	}
	for range r.IntN(4) {
		in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: pick("x-h", "x-i", "a", "b", "authorization"), Value: pick("1", "2", "")})
	}
	if r.IntN(2) == 0 {
		in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: "content-type", Value: pick("application/json", "text/plain")})
	}
	if r.IntN(2) == 0 {
		in.Peer = &policy.Peer{ID: pick("", "a")}
	}
	if r.IntN(3) == 0 {
		in.Attributes.Action = &policy.Action{Name: pick("", "a"), Properties: object()}
	}
	if r.IntN(3) == 0 {
		in.Request.Service, in.Request.RPC = pick("s", "t"), "m"
	}
	if r.IntN(2) == 0 {
		in.Request.ClientIP = netip.MustParseAddr(pick("192.0.2.1", "2001:db8::1"))
		in.Attributes.Source.Address = netip.AddrPortFrom(netip.MustParseAddr(pick("192.0.2.1", "192.0.2.2")), 0)
	}
	if r.IntN(2) == 0 {
		in.Principal.AuthTime = time.Unix(int64(r.IntN(3)), 0)
		in.Principal.Actors = []policy.Actor{{ID: pick("a", "b")}}
	}
	if r.IntN(2) == 0 {
		in.Target = &policy.Target{Model: pick("", "m", "n"), Tier: pick("", "t"), Method: pick("", "a"), Category: pick("", "c"),
			MaxTokens: int64(r.IntN(4) - 1), PromptTokens: int64(r.IntN(3) - 1)}
		for range r.IntN(3) {
			call := policy.ToolCall{Name: pick("a", "b"), Schema: pick("", "x")}
			if r.IntN(2) == 0 {
				call.Arguments = object()
			}
			in.Target.Tools = append(in.Target.Tools, call)
			in.Target.Resources = append(in.Target.Resources, policy.Resource{Type: pick("a", "b"), Tenant: pick("a", "b"), ID: pick("", "a"), From: pick("a", "b")})
		}
	}
	if r.IntN(2) == 0 {
		in.Agreement = &policy.Agreement{Consent: pick("", "a"), Scopes: some("s", "t")}
		if r.IntN(2) == 0 {
			in.Agreement.Approval = &policy.Approval{ID: pick("a", "b"), Roles: some("a"), ExpiresAt: time.Unix(int64(r.IntN(3)), 0)}
		}
	}
	in.Principal.TokenBudget = int64(r.IntN(3))
	return in
}

// differ returns how a cached policy and a fresh evaluation of the whole input
// differ over some requests, and how many answers were cached.
func differ(t testing.TB, s *rego.Snapshot, r *rand.Rand, c *clock, requests int) (difference string, cached int) {
	for range requests {
		if r.IntN(20) == 0 {
			c.advance(700 * time.Millisecond)
		}
		in := randomInput(r)
		evaluated.Add(1)
		got, hit, gotErr := s.Decide(t.Context(), in)
		want, wantErr := rego.Evaluate(t.Context(), s, in)
		if (gotErr == nil) != (wantErr == nil) {
			return fmt.Sprintf("errors %v and %v", gotErr, wantErr), cached
		}
		if diff := cmp.Diff(want, got); diff != "" {
			key, _ := rego.KeyOf(s, in)
			return fmt.Sprintf("cached %v, key %q, claims %v: %s", hit, key, in.Principal.Claims, diff), cached
		}
		if hit {
			cached++
		}
	}
	return "", cached
}

// CACHE-05 CACHE-06 CACHE-07: the cache and the pruning change no answer.
func TestCachedEqualsFresh(t *testing.T) {
	t.Parallel()
	for i, text := range append(trickyPolicies, "import data.postern.lib.rbac\ndecision := rbac.decision") {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			fsys := module(text)
			fsys["t.yaml"] = files("t.yaml", `{ roles: { a: [x] }, routes: [ { path: /a/**, permission: x }, { path: /, public: true } ] }`)["t.yaml"]
			c := newClock()
			s := compile(t, fsys, rego.Config{Timeout: time.Minute, Cache: rego.CacheConfig{MaxTTL: time.Hour}}, rego.WithClock(c.Now))
			difference, hits := differ(t, s, rand.New(rand.NewPCG(1, uint64(i))), c, *checks)
			if difference != "" {
				t.Errorf("%s\n%s", text, difference)
			}
			t.Logf("%d of %d cached; reads %v", hits, *checks, s.Analysis.Paths)
		})
	}
}

// The experiment notices a key that leaves something out.
func TestDifferentialNotices(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if input.principal.id == "a"`), rego.Config{Timeout: time.Minute, Cache: rego.CacheConfig{MaxTTL: time.Hour}})
	rego.ForgetPaths(s)
	if difference, _ := differ(t, s, rand.New(rand.NewPCG(1, 2)), newClock(), 400); difference == "" {
		t.Error("nothing noticed")
	}
}

// FuzzDecide is the same over random requests without end.
func FuzzDecide(f *testing.F) {
	c := newClock()
	var snapshots []*rego.Snapshot
	for _, text := range trickyPolicies {
		snapshots = append(snapshots, compile(f, module(text), rego.Config{Timeout: time.Minute, Cache: rego.CacheConfig{MaxTTL: time.Hour}}, rego.WithClock(c.Now)))
	}
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, which, seed uint64) {
		if difference, _ := differ(t, snapshots[which%uint64(len(snapshots))], rand.New(rand.NewPCG(which, seed)), c, 50); difference != "" {
			t.Error(difference)
		}
	})
}
