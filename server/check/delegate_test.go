package check

import (
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// the depth is held whoever issued the token, and zero stands for three.
func TestChained(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		most, actors int
		want         bool
	}{{0, 0, true}, {0, 3, true}, {0, 4, false}, {1, 1, true}, {1, 2, false}, {8, 8, true}, {-1, 4, false}} {
		c := &Checker{cfg: Config{MaxDepth: tt.most}}
		fine, deep := &authn.Proof{Principal: &policy.Principal{}}, &authn.Proof{Principal: &policy.Principal{Actors: make([]policy.Actor, tt.actors)}}
		x := &exchange{proofs: []*authn.Proof{fine, deep}}
		if got := c.chained(x); got != tt.want || !got && (x.decision.Reason != policy.ReasonDelegation || x.decision.Phase != policy.PhaseHold) {
			t.Errorf("%+v: %v, %v", tt, got, x.decision.Reason)
		}
	}
}

// the words, and that nothing in them can end a header field.
func TestLacks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		id     string
		kind   policy.Kind
		reason policy.Reason
		scopes []string
		want   string
	}{
		{"researcher", policy.KindAgent, policy.ReasonScope, []string{"data:write"}, "Agent researcher lacks scope: data:write"},
		{"researcher", policy.KindAgent, policy.ReasonScope, []string{"data:read", "data:write"}, "Agent researcher lacks scope: data:read, data:write"},
		{"a\r\nSet-Cookie: x=1", policy.KindAgent, policy.ReasonScope, []string{"b\nc, d"}, "Agent a%0D%0ASet-Cookie:%20x=1 lacks scope: b%0Ac%2C%20d"},
		{"é", policy.KindAgent, policy.ReasonScope, []string{"x"}, "Agent %C3%A9 lacks scope: x"},
		{"ann", policy.KindUser, policy.ReasonScope, []string{"x"}, ""},
		{"researcher", policy.KindAgent, policy.ReasonPermission, []string{"x"}, ""},
		{"researcher", policy.KindAgent, policy.ReasonScope, nil, ""},
	} {
		d := &policy.Decision{Reason: tt.reason, Principal: &policy.Principal{ID: tt.id, Kind: tt.kind}, MissingScopes: tt.scopes}
		if got := lacks(d); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	if lacks(&policy.Decision{Reason: policy.ReasonScope}) != "" {
		t.Error("nobody lacks something")
	}
	many := &policy.Decision{Reason: policy.ReasonScope, Principal: &policy.Principal{ID: "a", Kind: policy.KindAgent}, MissingScopes: make([]string, 10_000)}
	if got := lacks(many); len(got) > 200 || strings.ContainsAny(got, "\r\n") {
		t.Errorf("%d bytes", len(got))
	}
}
