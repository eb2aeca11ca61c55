package registry_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

func tokenRules() *registry.TokenRules {
	return &registry.TokenRules{
		Roles:     map[string][]string{"reader": {"data:read"}, "writer": {"data:read", "data:write"}, "executor": {"data:read", "data:write", "exec:sandbox"}},
		Audiences: []string{"api", "tools"}, TTL: 15 * time.Minute, MaxTTL: time.Hour, TokenBudget: 10_000, MaxTokenBudget: 1 << 50, MaxDepth: 3,
	}
}

// tokenWorld has agents that may get tokens.
func tokenWorld(t tester) *world {
	w := newWorld(t)
	w.signs("k1")
	w.agent("researcher", func(b *bot) { b.Owner, b.TokenRoles = "alice", []string{"reader", "writer"} })
	w.agent("coder", func(b *bot) { b.Owner, b.TokenRoles = "researcher", []string{"reader"} })
	return w
}

func issueOf(change ...func(*registry.IssueTokenRequest)) registry.IssueTokenRequest {
	req := registry.IssueTokenRequest{Tenant: "acme", Agent: "researcher", Role: "writer"}
	for _, c := range change {
		c(&req)
	}
	return req
}

// a token of a role, which the agent may have, for an hour at most, and
// its entry in the audit log.
func TestIssueAgentToken(t *testing.T) {
	w := tokenWorld(t)
	made, _, err := w.IssueAgentToken(ctx, root(), tokenRules(), issueOf())
	w.ok(err)
	if s := made.Said; s.Subject != "researcher" || s.Tenant != "acme" || s.Kind != "" || !slices.Equal(s.Roles, []string{"writer"}) || !slices.Equal(s.Scopes, []string{"data:read", "data:write"}) ||
		s.TokenBudget != 10_000 || !slices.Equal(s.Audience, []string{"api"}) || !s.ExpiresAt.Equal(w.now.Add(15*time.Minute)) {
		t.Errorf("%+v", s)
	}
	if claims := claimsOf(t, made.Token); claims["jti"] != made.Said.ID || claims["type"] != "agent" {
		t.Errorf("%v", claims)
	}
	entry := w.audit(registry.AuditQuery{Action: "token.issue"})[0]
	if entry.Denied || entry.Target != "principal/acme/researcher" || entry.Detail["jti"] != made.Said.ID || entry.Detail["role"] != "writer" || entry.Detail["scopes"] != "data:read data:write" {
		t.Errorf("%+v", entry)
	}
	if strings.Contains(w.dump(), made.Token.Reveal()[len(made.Token.Reveal())-40:]) {
		t.Error("the token was kept")
	}

	dry := root()
	dry.ValidateOnly = true
	if made, _, err := w.IssueAgentToken(ctx, dry, tokenRules(), issueOf()); err != nil || !made.Token.IsZero() || made.Said.ID != "" {
		t.Errorf("%+v %v", made, err)
	}
	again := root()
	again.RequestID = "once"
	_, _, err = w.IssueAgentToken(ctx, again, tokenRules(), issueOf())
	w.ok(err)
	_, _, err = w.IssueAgentToken(ctx, again, tokenRules(), issueOf())
	w.refused(err, registry.SecretNotRepeated, "request_id")

	for _, tt := range []struct {
		change func(*registry.IssueTokenRequest)
		reason registry.Reason
		field  string
	}{
		{func(r *registry.IssueTokenRequest) { r.Role = "root" }, registry.InvalidField, "role"},
		{func(r *registry.IssueTokenRequest) { r.Role = "executor" }, registry.PermissionDenied, "role"},
		{func(r *registry.IssueTokenRequest) { r.TTL = 2 * time.Hour }, registry.TTLTooLong, "ttl_minutes"},
		{func(r *registry.IssueTokenRequest) { r.TTL = time.Hour + 1 }, registry.TTLTooLong, "ttl_minutes"},
		{func(r *registry.IssueTokenRequest) { r.TTL = -1 }, registry.InvalidField, "ttl_minutes"},
		{func(r *registry.IssueTokenRequest) { r.TokenBudget = -1 }, registry.InvalidField, "token_budget"},
		{func(r *registry.IssueTokenRequest) { r.TokenBudget = 1<<50 + 1 }, registry.InvalidField, "token_budget"},
		{func(r *registry.IssueTokenRequest) { r.Audiences = []string{"elsewhere"} }, registry.InvalidField, "audiences[0]"},
		{func(r *registry.IssueTokenRequest) { r.Scopes = []string{"exec:sandbox"} }, registry.GrantExceedsIssuer, "scopes"},
		{func(r *registry.IssueTokenRequest) { r.Scopes = []string{"*"} }, registry.GrantExceedsIssuer, "scopes"},
		{func(r *registry.IssueTokenRequest) { r.Certificate = "x" }, registry.InvalidField, "certificate"},
		{func(r *registry.IssueTokenRequest) { r.Key = strings.Repeat("A", 42) + "B" }, registry.InvalidField, "key"},
		{func(r *registry.IssueTokenRequest) { r.Agent = "alice" }, registry.NotFound, "agent_id"},
		{func(r *registry.IssueTokenRequest) { r.Agent = "ghost" }, registry.NotFound, "agent_id"},
		{func(r *registry.IssueTokenRequest) { r.Tenant = "umbrella" }, registry.NotFound, "agent_id"},
	} {
		_, _, err := w.IssueAgentToken(ctx, root(), tokenRules(), issueOf(tt.change))
		w.refused(err, tt.reason, tt.field)
	}
	_, _, err = w.IssueAgentToken(ctx, of("umbrella"), tokenRules(), issueOf())
	w.refused(err, registry.NotFound, "agent_id")
	_, _, err = w.IssueAgentToken(ctx, root(), nil, issueOf())
	w.refused(err, registry.NotConfigured, "")

	// Nobody gets one for an agent that is off, or whose owner is.
	_, _, err = w.DisableAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: "researcher"})
	w.ok(err)
	for _, id := range []string{"researcher", "coder"} {
		_, _, err = w.IssueAgentToken(ctx, root(), tokenRules(), issueOf(func(r *registry.IssueTokenRequest) { r.Agent, r.Role = id, "reader" }))
		if registry.ReasonOf(err) != registry.WrongState {
			t.Errorf("%s: %v", id, err)
		}
	}
	w.signer = nil
	_, _, err = w.IssueAgentToken(ctx, root(), tokenRules(), issueOf())
	w.refused(err, registry.NotConfigured, "")
}

// G-09: who issues a token has what it grants, or owns the agent.
func TestWhoIssuesAgentTokens(t *testing.T) {
	w := tokenWorld(t)
	ask := func(a registry.Actor) error {
		_, _, err := w.IssueAgentToken(ctx, registry.Call{Actor: a}, tokenRules(), issueOf())
		return err
	}
	rights := registry.Rights{Roles: []string{"writer"}, Scopes: []string{"data:*"}}
	login := w.now.Add(-time.Minute)
	alice := registry.Actor{Tenant: "acme", ID: "alice", Kind: policy.KindUser, AuthTime: login}
	w.ok(ask(registry.Actor{Tenant: "acme", ID: "ci", Kind: policy.KindService, Rights: rights}))
	w.ok(ask(alice))
	for name, a := range map[string]registry.Actor{
		"has a role less":      {Tenant: "acme", ID: "ci", Rights: registry.Rights{Scopes: rights.Scopes}},
		"has a scope less":     {Tenant: "acme", ID: "ci", Rights: registry.Rights{Roles: rights.Roles, Scopes: []string{"data:read"}}},
		"is limited":           {Tenant: "acme", ID: "ci", Rights: rights, Constraints: &policy.Constraints{RequireTLS: true}},
		"another's alice":      {Tenant: "acme", ID: "https://idp.example#alice", Kind: policy.KindUser, AuthTime: login},
		"by a key of a part":   {Tenant: "acme", ID: "alice", Kind: policy.KindUser, AuthTime: login, Narrowed: []string{"x"}},
		"nobody knows by what": {Tenant: "acme", ID: "alice", Kind: policy.KindUser},
		"somebody acts":        {Tenant: "acme", ID: "alice", Kind: policy.KindUser, AuthTime: login, Actors: []policy.Actor{{ID: "coder"}}},
		"an agent that owns":   {Tenant: "acme", ID: "researcher", Kind: policy.KindAgent, Rights: registry.Rights{Roles: []string{"reader"}}},
	} {
		if err := ask(a); registry.ReasonOf(err) != registry.GrantExceedsIssuer && registry.ReasonOf(err) != registry.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is for a service alone can be had by who is limited to it.
	_, _, err := w.IssueAgentToken(ctx, registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "ci", Rights: rights, Constraints: &policy.Constraints{Audiences: []string{"tools"}}}},
		tokenRules(), issueOf(func(r *registry.IssueTokenRequest) { r.Audiences = []string{"tools"} }))
	w.ok(err)
	// No token brings about one that lives longer.
	made, _, err := w.IssueAgentToken(ctx, registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "researcher", Kind: policy.KindAgent, Rights: rights, Ends: w.now.Add(90 * time.Second)}}, tokenRules(), issueOf())
	w.ok(err)
	if !made.Said.ExpiresAt.Equal(w.now.Add(90 * time.Second)) {
		t.Errorf("%s", made.Said.ExpiresAt)
	}
	_, _, err = w.IssueAgentToken(ctx, registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "researcher", Kind: policy.KindAgent, Rights: rights, Ends: w.now}}, tokenRules(), issueOf())
	w.refused(err, registry.WrongState, "")
}

// subject and actor are principals that were proven.
func subject(scopes ...string) *policy.Principal {
	return &policy.Principal{ID: "bob", Kind: policy.KindUser, Tenant: "acme", Issuer: "https://idp.example", Scopes: scopes}
}

func actor(id string, scopes ...string) *policy.Principal {
	return &policy.Principal{ID: id, Kind: policy.KindAgent, Tenant: "acme", Issuer: "postern", Scopes: scopes, Roles: []string{"reader"}}
}

// what cannot be exchanged.
func TestExchangeTokenRefuses(t *testing.T) {
	w := tokenWorld(t)
	good := func() registry.ExchangeRequest {
		return registry.ExchangeRequest{Subject: registry.Party{Principal: subject("data:read", "mail")}, Actor: registry.Party{Principal: actor("researcher", "data:read")}}
	}
	made, _, err := w.ExchangeToken(ctx, root(), tokenRules(), good())
	w.ok(err)
	if s := made.Said; s.Subject != "bob" || s.Kind != policy.KindUser || s.Origin != "https://idp.example" || !slices.Equal(s.Scopes, []string{"data:read"}) ||
		!slices.Equal(s.Actors, []policy.Actor{{ID: "researcher", Kind: policy.KindAgent}}) {
		t.Errorf("%+v", s)
	}
	entry := w.audit(registry.AuditQuery{Action: "token.exchange"})[0]
	if entry.Detail["subject"] != "bob" || entry.Detail["actor"] != "researcher" || entry.Detail["jti"] != made.Said.ID {
		t.Errorf("%+v", entry)
	}
	links := func(n int) (all []policy.Actor) {
		for range n {
			all = append(all, policy.Actor{ID: "coder", Kind: policy.KindAgent})
		}
		return all
	}
	for name, tt := range map[string]struct {
		change func(*registry.ExchangeRequest)
		reason registry.Reason
		field  string
	}{
		"nobody":                  {func(r *registry.ExchangeRequest) { r.Subject = registry.Party{} }, registry.PermissionDenied, "subject_token"},
		"nobody acts":             {func(r *registry.ExchangeRequest) { r.Actor = registry.Party{} }, registry.PermissionDenied, "subject_token"},
		"another tenant":          {func(r *registry.ExchangeRequest) { r.Subject.Tenant = "umbrella" }, registry.PermissionDenied, "actor_token"},
		"a service":               {func(r *registry.ExchangeRequest) { r.Subject.Kind = policy.KindService }, registry.PermissionDenied, "subject_token"},
		"an agent of another":     {func(r *registry.ExchangeRequest) { r.Subject.Kind = policy.KindAgent }, registry.PermissionDenied, "subject_token"},
		"a service acts":          {func(r *registry.ExchangeRequest) { r.Actor.ID, r.Actor.Kind = "shop", policy.KindService }, registry.PermissionDenied, "actor_token"},
		"a user acts":             {func(r *registry.ExchangeRequest) { r.Actor.Kind = policy.KindUser }, registry.PermissionDenied, "actor_token"},
		"somebody else's actor":   {func(r *registry.ExchangeRequest) { r.Actor.Issuer = "https://idp.example" }, registry.PermissionDenied, "actor_token"},
		"an actor that is acted":  {func(r *registry.ExchangeRequest) { r.Actor.Actors = links(1) }, registry.PermissionDenied, "actor_token"},
		"a ghost acts":            {func(r *registry.ExchangeRequest) { r.Actor.ID = "ghost" }, registry.NotFound, ""},
		"a service as an agent":   {func(r *registry.ExchangeRequest) { r.Actor.ID = "shop" }, registry.PermissionDenied, ""},
		"depth 4":                 {func(r *registry.ExchangeRequest) { r.Subject.Actors = links(3) }, registry.PermissionDenied, "subject_token"},
		"an actor of no kind":     {func(r *registry.ExchangeRequest) { r.Subject.Actors = []policy.Actor{{ID: "x"}} }, registry.PermissionDenied, "subject_token"},
		"wider than the actor":    {func(r *registry.ExchangeRequest) { r.Scopes = []string{"mail"} }, registry.GrantExceedsIssuer, "scopes"},
		"wider than all":          {func(r *registry.ExchangeRequest) { r.Scopes = []string{"*"} }, registry.GrantExceedsIssuer, "scopes"},
		"nothing in common":       {func(r *registry.ExchangeRequest) { r.Actor.Scopes = []string{"x"} }, registry.PermissionDenied, "scopes"},
		"a larger budget":         {func(r *registry.ExchangeRequest) { r.Actor.TokenBudget, r.TokenBudget = 5, 6 }, registry.GrantExceedsIssuer, "token_budget"},
		"limited in its networks": {func(r *registry.ExchangeRequest) { r.Subject.Limits = &policy.Constraints{RequireTLS: true} }, registry.PermissionDenied, "subject_token"},
		"a limited actor":         {func(r *registry.ExchangeRequest) { r.Actor.Limits = &policy.Constraints{Methods: []string{"GET"}} }, registry.PermissionDenied, "actor_token"},
		"for nowhere": {func(r *registry.ExchangeRequest) {
			r.Subject.Limits, r.Actor.Limits = &policy.Constraints{Audiences: []string{"tools"}}, &policy.Constraints{Audiences: []string{"x"}}
		}, registry.PermissionDenied, "audiences"},
		"for more than it is for": {func(r *registry.ExchangeRequest) {
			r.Subject.Limits, r.Audiences = &policy.Constraints{Audiences: []string{"tools"}}, []string{"api"}
		}, registry.GrantExceedsIssuer, "audiences"},
		"over":       {func(r *registry.ExchangeRequest) { r.Subject.ExpiresAt = w.now }, registry.WrongState, ""},
		"long ago":   {func(r *registry.ExchangeRequest) { r.Actor.ExpiresAt = w.now.Add(-time.Hour) }, registry.WrongState, ""},
		"two hours":  {func(r *registry.ExchangeRequest) { r.TTL = 2 * time.Hour }, registry.TTLTooLong, "ttl_minutes"},
		"own ghost":  {func(r *registry.ExchangeRequest) { r.Subject.Issuer = "postern" }, registry.NotFound, ""},
		"own, other": {func(r *registry.ExchangeRequest) { r.Subject.Issuer, r.Subject.ID = "postern", "shop" }, registry.PermissionDenied, ""},
	} {
		req := good()
		tt.change(&req)
		_, _, err := w.ExchangeToken(ctx, root(), tokenRules(), req)
		if registry.ReasonOf(err) != tt.reason {
			t.Errorf("%s: %v, want %s", name, err, tt.reason)
			continue
		}
		w.refused(err, tt.reason, tt.field)
	}
	_, _, err = w.ExchangeToken(ctx, of("umbrella"), tokenRules(), good())
	w.refused(err, registry.PermissionDenied, "subject_token")
	req := good()
	req.Subject.Limits = &policy.Constraints{Audiences: []string{"tools"}}
	made, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.ok(err)
	if !slices.Equal(made.Said.Audience, []string{"tools"}) {
		t.Errorf("%q", made.Said.Audience)
	}
}

// whatever is exchanged for whatever, in whatever order, the result has no scope, no
// budget and no minute that one of those has not that it came from.
func TestExchangeOnlyNarrows(t *testing.T) {
	w := tokenWorld(t)
	scopes := []string{"data:read", "data:write", "data:*", "mail", "exec:sandbox", "*"}
	covers := func(held []string, scope string) bool {
		return slices.ContainsFunc(held, func(h string) bool {
			prefix, star := strings.CutSuffix(h, "*")
			return h == scope || star && strings.HasPrefix(scope, prefix)
		})
	}
	rapid.Check(t, func(rt *rapid.T) {
		some := func(name string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(scopes), 0, 4, rapid.ID[string]).Draw(rt, name)
		}
		ends := func(name string) time.Time {
			return w.now.Add(time.Duration(rapid.IntRange(-60, 7200).Draw(rt, name)) * time.Second)
		}
		s, a := subject(some("subject")...), actor("researcher", some("actor")...)
		s.ExpiresAt, a.ExpiresAt = ends("subject ends"), ends("actor ends")
		s.TokenBudget, a.TokenBudget = int64(rapid.IntRange(0, 20_000).Draw(rt, "budget")), int64(rapid.IntRange(0, 20_000).Draw(rt, "other"))
		for range rapid.IntRange(0, 4).Draw(rt, "links") {
			s.Actors = append(s.Actors, policy.Actor{ID: "coder", Kind: policy.KindAgent})
		}
		req := registry.ExchangeRequest{Subject: registry.Party{Principal: s}, Actor: registry.Party{Principal: a}, TokenOptions: registry.TokenOptions{
			Scopes: some("asked"), TokenBudget: int64(rapid.IntRange(0, 20_000).Draw(rt, "wanted")), TTL: time.Duration(rapid.IntRange(0, 80).Draw(rt, "ttl")) * time.Minute,
		}}
		made, _, err := w.ExchangeToken(ctx, root(), tokenRules(), req)
		if err != nil {
			return
		}
		said := made.Said
		for _, scope := range said.Scopes {
			if !covers(s.Scopes, scope) || !covers(a.Scopes, scope) || len(req.Scopes) > 0 && !slices.Contains(req.Scopes, scope) {
				rt.Fatalf("%q of %q and %q, asked %q", said.Scopes, s.Scopes, a.Scopes, req.Scopes)
			}
		}
		for _, end := range []time.Time{s.ExpiresAt, a.ExpiresAt, w.now.Add(time.Hour)} {
			if said.ExpiresAt.After(end) {
				rt.Fatalf("it ends at %s, after %s", said.ExpiresAt, end)
			}
		}
		for _, n := range []int64{s.TokenBudget, a.TokenBudget} {
			if n > 0 && said.TokenBudget > n || said.TokenBudget <= 0 {
				rt.Fatalf("a budget of %d from %d", said.TokenBudget, n)
			}
		}
		if len(said.Actors) != len(s.Actors)+1 || len(said.Actors) > 3 || said.Actors[0].ID != "researcher" || len(said.Scopes) == 0 || len(said.Roles) != 0 {
			rt.Fatalf("%+v", said)
		}
	})
}

// A token is revoked by its jti, and by that no key can be.
func TestRevokeAgentToken(t *testing.T) {
	w := tokenWorld(t)
	made, _, err := w.IssueAgentToken(ctx, root(), tokenRules(), issueOf())
	w.ok(err)
	line, _, err := w.RevokeAgentToken(ctx, of("acme"), "acme", made.Said.ID, "seen")
	w.ok(err)
	if line.JTI != made.Said.ID || line.Tenant != "acme" || line.Issuer != "" || line.ExpiresAt.Before(made.Said.ExpiresAt) {
		t.Errorf("%+v", line)
	}
	for _, jti := range []string{"", w.key().ID, strings.Repeat("x", 23), strings.Repeat("x", 21) + "\n", strings.Repeat("x", 21) + "*"} {
		_, _, err := w.RevokeAgentToken(ctx, root(), "acme", jti, "")
		w.refused(err, registry.InvalidField, "jti")
	}
	_, _, err = w.RevokeAgentToken(ctx, of("umbrella"), "acme", made.Said.ID, "")
	w.refused(err, registry.NotFound, "")
	if entries := w.audit(registry.AuditQuery{Action: "denial.add"}); len(entries) == 0 || entries[0].Target != string(store.KindDenial)+"/"+line.ID && !entries[0].Denied {
		t.Errorf("%+v", entries)
	}
}
