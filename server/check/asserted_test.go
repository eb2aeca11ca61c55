package check_test

import (
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/check"
)

// Whom a caller names without a credential counts only where it is believed, has no
// rights of its own, and never comes in the place of a credential.
func TestAsserted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Trust = map[string]check.Trust{"pep": {Subject: true}, "envoy": {SourcePrincipal: true, Extensions: true, OwnCertificate: true}}
	ask := func(caller string, subject policy.Asserted, fields ...string) policy.Decision {
		a := request(fields...)
		a.Caller, a.Asserted = caller, &subject
		return w.check(t, a)
	}
	bob := policy.Asserted{ID: "bob", Kind: policy.KindUser, Tenant: "acme", Properties: map[string]any{"roles": []any{"admin"}}}
	d := ask("pep", bob)
	want(t, d, policy.ReasonAllowed, policy.PhaseRecord)
	if p := d.Principal; p == nil || p.ID != "bob" || p.Tenant != "acme" || p.Method != policy.MethodAsserted || p.Assurance != 1 || p.Issuer != "pep" || len(p.Roles)+len(p.Scopes)+len(p.Permissions) > 0 {
		t.Errorf("%+v", d.Principal)
	}
	want(t, ask("envoy", bob), policy.ReasonCredentialMissing, policy.PhaseFind)
	want(t, ask("", bob), policy.ReasonCredentialMissing, policy.PhaseFind)
	want(t, ask("pep", policy.Asserted{Kind: policy.KindUser}), policy.ReasonRequestInvalid, policy.PhaseProve)
	want(t, ask("pep", policy.Asserted{ID: "bob", Kind: policy.KindAnonymous}), policy.ReasonRequestInvalid, policy.PhaseProve)
	if d := ask("pep", bob, "x-api-key", "key"); d.Principal == nil || d.Principal.ID != "alice" {
		t.Errorf("a name comes in the place of a credential: %+v", d.Principal)
	}
	want(t, ask("pep", bob, "x-api-key", "other"), policy.ReasonCredentialUnknown, policy.PhaseProve)

	w.cfg.Revocations = revokedID("bob")
	if d := ask("pep", bob); d.Allowed {
		t.Error("a revoked user is let in by name")
	}
	w.cfg.Revocations = nil
	w.cfg.Routes = route(func(r *policy.Route) { r.AnyOf = []policy.Method{"api_key"} })
	want(t, ask("pep", bob), policy.ReasonCredentialMissing, policy.PhaseProve)
	w.cfg.Routes = route(func(r *policy.Route) { r.Tenant = "other" })
	want(t, ask("pep", bob), policy.ReasonTenant, policy.PhaseHold)
}

// A credential that is shown as somebody's is refused if it is another's, before
// anything is spent or recorded as allowed.
func TestOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := func(of policy.Owner) policy.Decision {
		a := request()
		a.Presented = &policy.Presented{Use: "api_key", Secret: policy.NewSecret("key"), Of: of}
		return w.check(t, a)
	}
	alice := ask(policy.Owner{})
	want(t, alice, policy.ReasonAllowed, policy.PhaseRecord)
	p := alice.Principal
	want(t, ask(policy.Owner{ID: p.ID, Kind: p.Kind}), policy.ReasonAllowed, policy.PhaseRecord)
	want(t, ask(policy.Owner{ID: "bob", Kind: p.Kind}), policy.ReasonBinding, policy.PhaseProve)
	want(t, ask(policy.Owner{ID: p.ID, Kind: policy.KindAgent}), policy.ReasonBinding, policy.PhaseProve)
	want(t, ask(policy.Owner{Kind: p.Kind}), policy.ReasonBinding, policy.PhaseProve)
}
