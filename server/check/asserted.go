package check

import (
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// assert takes whom the caller names for the principal. It has proven the subject itself
// (OpenID AuthZEN), and strip has left the name only where it is believed. What is only
// said has no roles, and the least assurance.
func (x *exchange) assert() bool {
	a := x.attributes.Asserted
	kinds := []policy.Kind{policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice}
	if a.ID == "" || !slices.Contains(kinds, a.Kind) {
		return x.deny(policy.ReasonRequestInvalid, "the subject that the caller names is nobody")
	}
	p := &policy.Principal{
		ID: a.ID, Kind: a.Kind, Tenant: a.Tenant, Claims: a.Properties,
		Method: policy.MethodAsserted, Assurance: 1, Issuer: x.attributes.Caller,
	}
	x.proofs = append(x.proofs, &authn.Proof{Principal: p, Subject: authn.SubjectOf(p), State: policy.StateNone})
	return true
}
