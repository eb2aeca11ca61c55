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
