package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/signer"
)

// What a token is exchanged for is bound as the actor's is, knows how the user logged in,
// and has a part of the budget of what it came from.
func TestExchangeKeepsOrigins(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	mine, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	at := w.now.Add(-time.Minute).Truncate(time.Second)
	shown := authn.Subject{TokenID: "jti-of-bob", SessionID: "sid", KeyID: "k", Issuer: "https://idp.example", ID: "bob", Client: "web", Tenant: "acme", IssuedAt: at}
	agents := authn.Subject{TokenID: strings.Repeat("t", 22), KeyID: "k1", Issuer: "postern", ID: "researcher", Agent: "researcher", Tenant: "acme", IssuedAt: at}
	parent := authn.Subject{TokenID: strings.Repeat("P", 12), Issuer: "postern", ID: "root", IssuedAt: at.Add(300 * time.Millisecond).Local()}
	good := func() registry.ExchangeRequest {
		r := registry.ExchangeRequest{Subject: registry.Party{Principal: subject("data:read")}, Actor: registry.Party{Principal: actor("researcher", "data:read")}}
		r.Subject.CredentialID, r.Subject.ACR, r.Subject.AMR, r.Subject.AuthTime = "jti-of-bob", "gold", []string{"pwd", "pop", "otp"}, at
		r.Actor.CredentialID, r.Actor.TokenBudget, r.Actor.BoundTo = strings.Repeat("t", 22), 1000, mine
		r.Actor.Via = []string{strings.Repeat("P", 12)}
		r.Subject.Origins = []authn.Subject{shown}
		r.Actor.Origins = []authn.Subject{agents, parent}
		return r
	}
	made, _, err := w.ExchangeToken(ctx, root(), tokenRules(), good())
	w.ok(err)
	s := made.Said
	if s.Certificate != mine || s.ACR != "gold" || !slices.Equal(s.AMR, []string{"pwd", "otp"}) || !s.AuthTime.Equal(at) || s.Root != "jti-of-bob" {
		t.Errorf("%+v", s)
	}
	if diff := cmp.Diff([]policy.SharedBudget{{ID: strings.Repeat("t", 22), Limit: 1000, ExpiresAt: good().Actor.ExpiresAt}}, s.Budgets); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{strings.Repeat("P", 12)}, s.Via); diff != "" { // others have no record
		t.Error(diff)
	}
	ofParent := signer.Origin(parent)
	ofParent.IssuedAt = at // as a token says it
	if diff := cmp.Diff([]signer.Origin{signer.Origin(shown), signer.Origin(agents), ofParent}, s.Origins); diff != "" {
		t.Error(diff)
	}

	req := good()
	req.Certificate = mine
	_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.ok(err)
	req.Certificate = other
	_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.refused(err, registry.GrantExceedsIssuer, "certificate")

	// So is one that is bound to a key.
	req = good()
	req.Actor.BoundToKey = strings.Repeat("k", 43)
	made, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.ok(err)
	if made.Said.Key != req.Actor.BoundToKey {
		t.Errorf("%+v", made.Said)
	}
	req.Key = strings.Repeat("A", 43)
	_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.refused(err, registry.GrantExceedsIssuer, "key")

	// The subject's budget counts, and the actor's; those that are no wider are one.
	req = good()
	req.Subject.TokenBudget, req.Subject.BudgetID = 500, "first"
	req.Subject.Budgets = []policy.SharedBudget{{ID: "first", Limit: 500, ExpiresAt: w.now.Add(time.Hour)}}
	made, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.ok(err)
	both := append(slices.Clone(req.Subject.Budgets), policy.SharedBudget{ID: strings.Repeat("t", 22), Limit: 1000, ExpiresAt: req.Actor.ExpiresAt})
	if diff := cmp.Diff(both, made.Said.Budgets); diff != "" || made.Said.Root != "first" || made.Said.TokenBudget != 500 {
		t.Errorf("%s %+v", diff, made.Said)
	}
	// Parts of parts have an end.
	for n := range 4 { // besides the subject's own and the actor's
		req.Subject.Budgets = nil
		for i := range n {
			req.Subject.Budgets = append(req.Subject.Budgets, policy.SharedBudget{ID: fmt.Sprint("x", i), Limit: int64(1000 - i), ExpiresAt: w.now.Add(time.Hour)})
		}
		if _, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req); n < 3 {
			w.ok(err)
		} else {
			w.refused(err, registry.PermissionDenied, "subject_token")
		}
	}
	// What both come from counts once, and altogether it is bounded.
	req = good()
	req.Subject.Origins = append(req.Subject.Origins, req.Actor.Origins...)
	for n := len(req.Subject.Origins); n <= signer.MaxOrigins; n++ {
		_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
		w.ok(err)
		req.Subject.Origins = append(req.Subject.Origins, authn.Subject{TokenID: fmt.Sprint("j", n), Issuer: "https://idp.example", ID: "bob"})
	}
	_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.refused(err, registry.PermissionDenied, "subject_token")
	req = good()
	req.Subject.Origins = []authn.Subject{{TokenID: strings.Repeat("j", 8<<10), Issuer: "https://idp.example", ID: "bob"}}
	_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.refused(err, registry.InvalidField, "scopes")
}

// What is issued to an agent comes from the credential by which it was asked for: one of
// an issuer as well, and one that is kept here by its record too.
func TestIssuedTokensKeepOrigins(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	key, _, err := w.IssueCredential(ctx, root(), keyOf())
	w.ok(err)
	id := key.Credential.ID
	for name, tt := range map[string]struct {
		origins []authn.Subject
		via     []string
	}{
		"a key":             {[]authn.Subject{{TokenID: id, Issuer: "postern", ID: "shop", Tenant: "acme"}}, []string{id}},
		"a key in a file":   {[]authn.Subject{{TokenID: strings.Repeat("F", 12), Issuer: "postern", ID: "shop"}}, nil},
		"an issuer's token": {[]authn.Subject{{TokenID: id, SessionID: "s", Issuer: "https://idp.example", ID: "boss"}}, nil},
	} {
		call := root()
		call.Actor.Origins = tt.origins
		made, _, err := w.IssueAgentToken(ctx, call, tokenRules(), issueOf())
		w.ok(err)
		if s := made.Said; !slices.Equal(s.Via, tt.via) || !slices.Equal(s.Origins, []signer.Origin{signer.Origin(tt.origins[0])}) {
			t.Errorf("%s: %v %+v", name, s.Via, s.Origins)
		}
	}
}
