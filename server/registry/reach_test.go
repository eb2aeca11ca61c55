package registry_test

import (
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
)

// P-02, P-07: a token's rights are within its user's, and where it lists permissions
// they are a ceiling, which its issuer has by name or by being able to be the user.
func TestTokensOfUsers(t *testing.T) {
	whole := "r:clerk r:reader s:orders.read s:orders.write p:reports.read" // alice's
	for _, tt := range []struct {
		has, lists string
		reason     registry.Reason
		field      string
	}{
		{whole, "", "", ""},
		{whole, "r:clerk s:orders.read", "", ""},
		{whole, "p:orders.delete", "", ""}, // her roles may stand for it
		{"s:orders.*", "s:orders.read", registry.GrantExceedsIssuer, "roles"},
		{"s:orders.* p:orders.delete", "s:orders.read p:orders.delete", "", ""},
		{"s:orders.*", "s:orders.read p:orders.delete", registry.GrantExceedsIssuer, "permissions"},
		{"s:orders.* p:orders.delete", "r:clerk s:orders.read p:orders.delete", registry.GrantExceedsIssuer, "roles"},
		{whole + " r:king", "r:king", registry.InvalidField, "roles"},
		{whole + " s:king", "s:king", registry.InvalidField, "scopes"},
	} {
		w := newWorld(t)
		_, _, err := w.IssueCredential(ctx, with(rights(tt.has)), patOf(func(s *registry.CredentialSpec) { s.Rights = rights(tt.lists) }))
		if tt.reason == "" {
			if err != nil {
				t.Errorf("%q cannot issue %q: %v", tt.has, tt.lists, err)
			}
			continue
		}
		w.refused(err, tt.reason, tt.field)
	}
	w := newWorld(t)
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "bob", Kind: policy.KindUser, Rights: rights("p:a.*")})
	_, _, err := w.IssueCredential(ctx, root(), patOf(func(s *registry.CredentialSpec) { s.Principal, s.Rights = "bob", rights("p:a.b") }))
	w.ok(err)
	_, _, err = w.IssueCredential(ctx, root(), patOf(func(s *registry.CredentialSpec) { s.Principal, s.Rights = "bob", rights("p:b.c") }))
	w.refused(err, registry.InvalidField, "permissions")
}

// An actor whose permissions are narrowed passes on nothing that is not.
func TestNarrowedActors(t *testing.T) {
	w := newWorld(t)
	// alice, with a token that lists orders.* of what her roles stand for.
	alice := registry.Call{Actor: registry.Actor{
		Tenant: "acme", ID: "alice", Narrowed: []string{"orders.*"},
		Rights: rights("r:clerk r:reader s:orders.read s:orders.write p:reports.read p:orders.read"), Unlimited: true,
	}}
	for _, tt := range []struct {
		req  registry.IssueRequest
		want registry.Reason
	}{
		{patOf(func(s *registry.CredentialSpec) { s.Rights = rights("s:orders.read p:orders.delete") }), ""},
		{patOf(func(s *registry.CredentialSpec) { s.Rights = rights("r:clerk s:orders.read p:orders.delete") }), ""},
		{patOf(func(s *registry.CredentialSpec) { s.Rights = rights("s:orders.read p:orders.delete p:reports.read") }), registry.GrantExceedsIssuer},
		{patOf(func(s *registry.CredentialSpec) { s.Rights = rights("s:orders.read") }), registry.GrantExceedsIssuer},
		{patOf(), registry.GrantExceedsIssuer},
		{keyOf(func(s *registry.CredentialSpec) { s.Rights = rights("p:orders.read") }), ""},
		{keyOf(func(s *registry.CredentialSpec) { s.Rights = rights("p:reports.read") }), registry.GrantExceedsIssuer},
		{keyOf(func(s *registry.CredentialSpec) { s.Rights = rights("r:reader") }), registry.GrantExceedsIssuer},
	} {
		if _, _, err := w.IssueCredential(ctx, alice, tt.req); registry.ReasonOf(err) != tt.want {
			t.Errorf("%+v: %v, want %q", tt.req.Rights, err, tt.want)
		}
	}
	// Such a token can rotate itself.
	c, _, err := w.IssueCredential(ctx, root(), patOf(func(s *registry.CredentialSpec) { s.Rights = rights("s:orders.read p:orders.delete") }))
	w.ok(err)
	self := registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "alice", Credential: c.ID, Narrowed: []string{"orders.delete"}, Rights: rights("s:orders.read")}}
	w.ok(second(w.RotateCredential(ctx, self, registry.RotateRequest{ID: c.ID})))
	_, _, err = w.CreatePrincipal(ctx, alice, registry.CreatePrincipalRequest{PrincipalSpec: registry.PrincipalSpec{Tenant: "acme", ID: "x", Kind: policy.KindAgent, Rights: rights("r:clerk")}})
	w.refused(err, registry.GrantExceedsIssuer, "roles")
}
