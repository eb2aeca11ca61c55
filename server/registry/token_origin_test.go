package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
)

// What a token is exchanged for is bound as the actor's is, knows how the user logged in,
// and has a part of the budget of what it came from.
func TestExchangeKeepsOrigins(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	mine, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	at := w.now.Add(-time.Minute).Truncate(time.Second)
	good := func() registry.ExchangeRequest {
		r := registry.ExchangeRequest{Subject: subject("data:read"), Actor: actor("researcher", "data:read")}
		r.Subject.CredentialID, r.Subject.ACR, r.Subject.AMR, r.Subject.AuthTime = "jti-of-bob", "gold", []string{"pwd", "pop", "otp"}, at
		r.Actor.CredentialID, r.Actor.TokenBudget, r.Actor.BoundTo = strings.Repeat("t", 22), 1000, mine
		r.Actor.Via = []string{strings.Repeat("p", 22)}
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
	if diff := cmp.Diff([]string{strings.Repeat("p", 22), strings.Repeat("t", 22)}, s.Via); diff != "" { // the issuer's own jti is not ours to revoke
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
	req = good()
	for i := range 12 {
		req.Subject.Via = append(req.Subject.Via, strings.Repeat(string(rune('a'+i)), 22))
	}
	_, _, err = w.ExchangeToken(ctx, root(), tokenRules(), req)
	w.refused(err, registry.PermissionDenied, "subject_token")
}
