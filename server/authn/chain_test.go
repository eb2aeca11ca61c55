package authn_test

import (
	"context"
	"errors"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

type fixed struct {
	proof *authn.Proof
	err   error
}

func (f fixed) Authenticate(context.Context, *authn.Credential) (*authn.Proof, error) {
	return f.proof, f.err
}

// The chain stops at the first answer that is not "not mine"; a fault never
// makes it go on to somebody who says yes.
func TestChain(t *testing.T) {
	t.Parallel()
	alice := &authn.Proof{Principal: &policy.Principal{ID: "alice"}}
	bad := authn.Refuse(policy.ReasonExpired, "")
	down := errors.New("store down")
	tests := []struct {
		name  string
		chain authn.Chain
		uses  []policy.Method
		proof *authn.Proof
		err   error
	}{
		{"first owns", authn.Chain{{Method: "a", Authenticator: fixed{alice, nil}}, {Method: "b", Authenticator: fixed{nil, bad}}}, []policy.Method{"a", "b"}, alice, nil},
		{"second owns", authn.Chain{{Method: "a", Authenticator: fixed{nil, authn.ErrNotMine}}, {Method: "b", Authenticator: fixed{alice, nil}}}, []policy.Method{"a", "b"}, alice, nil},
		{"bad stops", authn.Chain{{Method: "a", Authenticator: fixed{nil, bad}}, {Method: "b", Authenticator: fixed{alice, nil}}}, []policy.Method{"a", "b"}, nil, bad},
		{"a fault stops", authn.Chain{{Method: "a", Authenticator: fixed{nil, down}}, {Method: "b", Authenticator: fixed{alice, nil}}}, []policy.Method{"a", "b"}, nil, down},
		{"the rule's order counts", authn.Chain{{Method: "a", Authenticator: fixed{nil, bad}}, {Method: "b", Authenticator: fixed{alice, nil}}}, []policy.Method{"b", "a"}, alice, nil},
		{"not in the rule", authn.Chain{{Method: "a", Authenticator: fixed{alice, nil}}}, []policy.Method{"b"}, nil, nil},
		{"nobody owns", authn.Chain{{Method: "a", Authenticator: fixed{nil, authn.ErrNotMine}}}, []policy.Method{"a"}, nil, nil},
		{"empty chain", nil, []policy.Method{"a"}, nil, nil},
	}
	for _, tt := range tests {
		proof, err := tt.chain.Authenticate(t.Context(), &authn.Credential{Uses: tt.uses})
		var refusal *authn.Refusal
		switch {
		case proof != tt.proof:
			t.Errorf("%s: proof %v", tt.name, proof)
		case tt.proof != nil && err != nil || tt.err != nil && !errors.Is(err, tt.err):
			t.Errorf("%s: error %v", tt.name, err)
		case tt.proof == nil && tt.err == nil && (!errors.As(err, &refusal) || refusal.Reason != policy.ReasonCredentialUnknown):
			t.Errorf("%s: %v, want a refusal as unknown", tt.name, err)
		}
	}
}

// An authenticator that answers nothing at all is a fault, never a pass.
func TestChainZeroAnswers(t *testing.T) {
	t.Parallel()
	for _, f := range []fixed{{nil, nil}, {&authn.Proof{}, nil}} {
		proof, err := authn.Chain{{Method: "a", Authenticator: f}}.Authenticate(t.Context(), &authn.Credential{Uses: []policy.Method{"a"}})
		var refusal *authn.Refusal
		if proof != nil || err == nil || errors.As(err, &refusal) {
			t.Errorf("%v %v", proof, err)
		}
	}
}

// T-02: a token is shown to nobody but the one kind whose shape it has. (Where two of
// one shape could own it, that is a mistake of the configuration, or refused by whoever
// sees it: jwt and workload.)
func TestRouter(t *testing.T) {
	t.Parallel()
	link := func(m policy.Method, shapes authn.Shape) authn.Link {
		return authn.Link{Method: m, Shapes: shapes, Authenticator: fixed{&authn.Proof{Principal: &policy.Principal{ID: string(m)}}, nil}}
	}
	keys := authn.Link{Method: "api_key", Authenticator: fixed{nil, authn.ErrNotMine}}
	chain := authn.Chain{keys, link("jwt", authn.ShapeSigned), link("vault", authn.ShapeVault), link("oauth", authn.ShapeOpaque)}
	all := []policy.Method{"api_key", "oauth", "vault", "jwt"}
	long := "abcdefghijklmnopqrstuvwxyz"
	for _, tt := range []struct {
		token string
		uses  []policy.Method
		want  string
	}{
		{"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", all, "jwt"},
		{"a.b.c", all, "jwt"},
		{"eyJhbGciOiJSUzI1NiJ9", all, "jwt"},
		{"hvs." + long, all, "vault"},
		{"hvb." + long, all, "vault"},
		{"hvr.x", all, "vault"},
		{"s." + long, all, "vault"},
		{"b." + long, all, "vault"},
		{"s.short", all, "oauth"},
		{"opaque", all, "oauth"},
		{"a.b", all, "oauth"},
		{"", all, "oauth"},
		{"hvs", all, "oauth"},
		// With a namespace, which is no third part of a JWS.
		{"hvs." + long + ".c2ln", all, "vault"},
		{"s." + long + ".c2ln", all, "vault"},
		{"s.short.c2ln", all, "jwt"},
		// Where its kind is not in the rule, a text is opaque.
		{"hvs." + long + ".c2ln", []policy.Method{"jwt"}, "credential_unknown"},
		{"hvs." + long, []policy.Method{"oauth"}, "oauth"},
		{"a.b.c", []policy.Method{"oauth", "vault"}, "oauth"},
		{"opaque", []policy.Method{"jwt", "vault"}, "credential_unknown"},
	} {
		proof, err := chain.Authenticate(t.Context(), &authn.Credential{Uses: tt.uses, Secret: policy.NewSecret(tt.token)})
		got := ""
		if refusal := (*authn.Refusal)(nil); errors.As(err, &refusal) {
			got = refusal.Reason.String()
		} else if err == nil {
			got = proof.Principal.ID
		}
		if got != tt.want {
			t.Errorf("%q for %v: %s (%v), want %s", tt.token, tt.uses, got, err, tt.want)
		}
	}
}

// An issuer that one kind does not know may be another's; if nobody knows it, that is
// the answer.
func TestChainOfIssuers(t *testing.T) {
	t.Parallel()
	foreign := authn.Refuse(policy.ReasonIssuerUntrusted, "")
	alice := &authn.Proof{Principal: &policy.Principal{ID: "alice"}}
	a, b := authn.Link{Method: "a", Authenticator: fixed{nil, foreign}}, authn.Link{Method: "b", Authenticator: fixed{alice, nil}}
	cred := &authn.Credential{Uses: []policy.Method{"a", "b"}}
	if proof, err := (authn.Chain{a, b}).Authenticate(t.Context(), cred); proof != alice {
		t.Errorf("%v, %v", proof, err)
	}
	if _, err := (authn.Chain{a}).Authenticate(t.Context(), cred); !errors.Is(err, foreign) {
		t.Errorf("%v", err)
	}
	if proof, err := (authn.Union{fixed{nil, authn.ErrNotMine}, fixed{alice, nil}}).Authenticate(t.Context(), cred); proof != alice {
		t.Errorf("%v, %v", proof, err)
	}
	if proof, err := (authn.Union{fixed{nil, foreign}, fixed{alice, nil}}).Authenticate(t.Context(), cred); proof != alice {
		t.Errorf("%v, %v", proof, err)
	}
	if _, err := (authn.Union{fixed{nil, foreign}, fixed{nil, authn.ErrNotMine}}).Authenticate(t.Context(), cred); !errors.Is(err, foreign) {
		t.Errorf("%v", err)
	}
	if _, err := (authn.Union{}).Authenticate(t.Context(), cred); !errors.Is(err, authn.ErrNotMine) {
		t.Errorf("%v", err)
	}
}
