package registry_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
	"pgregory.net/rapid"
)

// rights reads "r:role s:scope p:permission".
func rights(text string) (r registry.Rights) {
	for _, item := range strings.Fields(text) {
		kind, name, _ := strings.Cut(item, ":")
		switch kind {
		case "r":
			r.Roles = append(r.Roles, name)
		case "s":
			r.Scopes = append(r.Scopes, name)
		case "p":
			r.Permissions = append(r.Permissions, name)
		}
	}
	return r
}

// G-09: what an issuer has, and what it can and cannot grant in an API key.
func TestGrantsAreBoundByTheIssuer(t *testing.T) {
	for _, tt := range []struct{ has, grants, missing string }{
		{"s:a", "s:a", ""},
		{"s:a", "s:a s:b", "b"},
		{"s:a s:b", "s:b s:a", ""},
		{"p:orders.*", "p:orders.read", ""},
		{"p:orders.*", "p:orders.items.read", ""},
		{"p:orders.*", "p:orders", "orders"},
		{"p:orders.*", "p:ordersx.read", "ordersx.read"},
		{"p:orders.read", "p:orders.read p:orders.write p:orders.list", "orders.write orders.list"},
		{"p:*", "p:anything.at.all", ""},
		{"s:*", "p:orders.read", "orders.read"}, // a scope is no permission
		{"r:reader", "r:reader", ""},
		{"r:reader", "r:clerk", "clerk"},
		{"r:*", "r:clerk", "clerk"}, // roles have no patterns
		{"", "s:a", "a"},

		// Roles of Postern's own API.
		{"r:platform-admin", "r:tenant-admin r:issuer r:auditor", ""},
		{"r:tenant-admin", "r:tenant-admin r:issuer r:auditor", ""},
		{"r:issuer", "r:issuer", ""},
		{"r:issuer", "r:tenant-admin", "tenant-admin"},
		{"r:issuer", "r:auditor", "auditor"},
		{"r:auditor", "r:auditor", ""},
		{"r:auditor", "r:issuer", "issuer"},
		{"r:tenant-admin", "r:reader", "reader"},
		{"p:postern.credentials.issue", "p:postern.credentials.issue", ""},
		{"p:postern.credentials.*", "p:postern.credentials.issue", ""},
		{"p:orders.read", "p:postern.credentials.issue", "postern.credentials.issue"},
	} {
		w := newWorld(t)
		_, _, err := w.IssueCredential(ctx, with(rights(tt.has)), keyOf(func(s *registry.CredentialSpec) { s.Rights = rights(tt.grants) }))
		if tt.missing == "" {
			if err != nil {
				t.Errorf("%q cannot grant %q: %v", tt.has, tt.grants, err)
			}
			continue
		}
		if registry.ReasonOf(err) != registry.GrantExceedsIssuer || err.(*registry.Error).Meta["missing"] != tt.missing {
			t.Errorf("%q grants %q: %v, want that %s is missing", tt.has, tt.grants, err, tt.missing)
		}
	}
}

// What an unlimited actor still cannot grant: more of Postern itself than it has.
func TestUnlimitedIsNotAlmighty(t *testing.T) {
	w := newWorld(t)
	admin := of("acme")
	for _, tt := range []struct {
		grants string
		reason registry.Reason
		field  string
	}{
		{"r:clerk s:orders.read p:orders.read", "", ""},
		{"r:tenant-admin r:issuer", "", ""},
		{"r:platform-admin", registry.InvalidField, "roles"}, // not in a tenant
		{"p:postern.tenants.create", registry.GrantExceedsIssuer, "permissions"},
		{"p:postern.*", registry.WildcardNotAllowed, "permissions"},
		{"p:*", registry.WildcardNotAllowed, "permissions"},
	} {
		_, _, err := w.IssueCredential(ctx, admin, keyOf(func(s *registry.CredentialSpec) { s.Rights = rights(tt.grants) }))
		if registry.ReasonOf(err) != tt.reason {
			t.Errorf("%s: %v, want %q", tt.grants, err, tt.reason)
		}
	}
	// With wildcards allowed, one that covers Postern's own permissions is still more.
	admin.Actor.Wildcard = true
	for _, grants := range []string{"p:*", "p:postern.*", "p:postern.credentials.*"} {
		req := keyOf(func(s *registry.CredentialSpec) { s.Rights = rights(grants) })
		req.AllowWildcard = true
		_, _, err := w.IssueCredential(ctx, admin, req)
		w.refused(err, registry.GrantExceedsIssuer, "permissions")
		_, _, err = w.IssueCredential(ctx, root(), req)
		w.ok(err)
	}
	// The installation's role is for principals of the installation, by its holders.
	req := keyOf(func(s *registry.CredentialSpec) { s.Tenant, s.Rights = "", rights("r:platform-admin") })
	w.ok(second(w.IssueCredential(ctx, root(), req)))
	issuer := root()
	issuer.Actor.Rights = rights("r:tenant-admin")
	_, _, err := w.IssueCredential(ctx, issuer, req)
	w.refused(err, registry.GrantExceedsIssuer, "roles")
}

func second[A, B any](_ A, _ B, err error) error { return err }

// G-09: Issue(scopes=["*"]) is refused without allow_wildcard, and without the
// permission; a wildcard in a principal's rights likewise.
func TestWildcards(t *testing.T) {
	for _, tt := range []struct {
		name             string
		allow, may, have bool
		want             registry.Reason
	}{
		{"neither", false, false, true, registry.WildcardNotAllowed},
		{"not asked for", false, true, true, registry.WildcardNotAllowed},
		{"no permission", true, false, true, registry.WildcardNotAllowed},
		{"does not have it", true, true, false, registry.GrantExceedsIssuer},
		{"all", true, true, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			call := with(rights("r:x"))
			if tt.have {
				call = with(rights("s:* p:orders.* p:*"))
			}
			call.Actor.Wildcard = tt.may
			for _, grants := range []string{"s:*", "p:orders.*", "p:*"} {
				req := keyOf(func(s *registry.CredentialSpec) { s.Rights = rights(grants) })
				req.AllowWildcard = tt.allow
				if _, _, err := w.IssueCredential(ctx, call, req); registry.ReasonOf(err) != tt.want {
					t.Errorf("%s: %v", grants, err)
				}
				id := "p-" + strings.Trim(strings.ReplaceAll(grants, "*", "x"), " ")
				_, _, err := w.CreatePrincipal(ctx, call, registry.CreatePrincipalRequest{AllowWildcard: tt.allow, PrincipalSpec: registry.PrincipalSpec{
					Tenant: "acme", ID: id, Kind: policy.KindService, Rights: rights(grants),
				}})
				if registry.ReasonOf(err) != tt.want {
					t.Errorf("principal with %s: %v", grants, err)
				}
			}
		})
	}
	w := newWorld(t)
	for _, bad := range []string{"orders*", "*.read", "or*ders.*", "**"} {
		req := keyOf(func(s *registry.CredentialSpec) { s.Rights.Permissions = []string{bad} })
		req.AllowWildcard = true
		_, _, err := w.IssueCredential(ctx, root(), req)
		w.refused(err, registry.InvalidField, "permissions[0]")
	}
}

// A key that says nothing has what its principal has: so must its issuer.
func TestWhatAKeyInheritsIsGranted(t *testing.T) {
	w := newWorld(t)
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "strong", Kind: policy.KindService, Rights: rights("r:admin s:all")})
	inherit := keyOf(func(s *registry.CredentialSpec) { s.Principal = "strong" })
	_, _, err := w.IssueCredential(ctx, with(rights("s:all")), inherit)
	w.refused(err, registry.GrantExceedsIssuer, "roles")
	w.ok(second(w.IssueCredential(ctx, with(rights("r:admin s:all")), inherit)))

	// It cannot be had by taking the rights of a weak key away, ...
	weak := keyOf(func(s *registry.CredentialSpec) { s.Principal, s.Rights = "strong", rights("s:all") })
	c, _, err := w.IssueCredential(ctx, with(rights("s:all")), weak)
	w.ok(err)
	clear := registry.UpdateCredentialRequest{ID: c.ID, Fields: []string{"scopes"}}
	_, _, err = w.UpdateCredential(ctx, with(rights("s:all")), clear)
	w.refused(err, registry.GrantExceedsIssuer, "roles")
	// ... by rotating the strong one, ...
	s, _, err := w.IssueCredential(ctx, root(), inherit)
	w.ok(err)
	_, _, err = w.RotateCredential(ctx, with(rights("s:all")), registry.RotateRequest{ID: s.ID})
	w.refused(err, registry.GrantExceedsIssuer, "roles")
	// ... by importing one's own secret for it, ...
	row := registry.ImportRow{Secret: policy.NewSecret("known-to-the-issuer")}
	row.CredentialSpec = registry.CredentialSpec{Type: store.Token, Tenant: "acme", Principal: "strong"}
	_, _, err = w.ImportCredentials(ctx, with(rights("s:all")), registry.ImportRequest{Rows: []registry.ImportRow{row}})
	w.refused(err, registry.GrantExceedsIssuer, "credentials[0].roles")
	// ... or by setting a stronger user's password.
	_, _, err = w.SetPassword(ctx, with(rights("s:orders.read")), registry.SetPasswordRequest{Tenant: "acme", ID: "alice", Password: policy.NewSecret("my own password")})
	w.refused(err, registry.GrantExceedsIssuer, "roles")
	w.ok(second(w.SetPassword(ctx, with(rights("r:clerk r:reader s:orders.* p:reports.read")), registry.SetPasswordRequest{Tenant: "acme", ID: "alice", Password: policy.NewSecret("my own password")})))
}

// An update that grants nothing new asks for nothing: who may rename need not be as
// strong as what is renamed.
func TestUpdateGrantsOnlyWhatIsNew(t *testing.T) {
	w := newWorld(t)
	c := w.key(func(s *registry.CredentialSpec) { s.Rights = rights("s:a s:b r:boss") })
	weak := with(rights("s:c"))
	update := func(fields []string, g string) error {
		_, _, err := w.UpdateCredential(ctx, weak, registry.UpdateCredentialRequest{
			ID: c.ID, Fields: fields, Spec: registry.CredentialSpec{Name: "new", Rights: rights(g)},
		})
		return err
	}
	w.ok(update([]string{"display_name"}, ""))
	w.ok(update([]string{"scopes"}, "s:a s:c")) // b goes, c comes
	w.refused(update([]string{"scopes"}, "s:a s:b s:c"), registry.GrantExceedsIssuer, "scopes")
	got := w.get(c.ID)
	if !slices.Equal(got.Scopes, []string{"a", "c"}) || got.Name != "new" || !slices.Equal(got.Roles, []string{"boss"}) {
		t.Errorf("%+v", got.Credential)
	}
	_, _, err := w.UpdatePrincipal(ctx, weak, registry.UpdatePrincipalRequest{
		Fields: []string{"roles"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "alice", Rights: rights("r:clerk r:king")},
	})
	w.refused(err, registry.GrantExceedsIssuer, "roles")
	_, _, err = w.UpdatePrincipal(ctx, weak, registry.UpdatePrincipalRequest{
		Fields: []string{"roles"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "alice", Rights: rights("r:clerk")},
	})
	w.ok(err)
}

// The limits of an issuer's own credential hold what it issues.
func TestConstraintsCarryOver(t *testing.T) {
	path := func(s string) policy.PathPattern {
		p, err := policy.ParsePathPattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	host := func(s string) policy.HostPattern {
		p, err := policy.ParseHostPattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	own := policy.Constraints{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		Methods:  []string{"GET", "POST"}, Hosts: []policy.HostPattern{host("*.example.com")},
		Paths: []policy.PathPattern{path("/orders/**")}, Audiences: []string{"orders"}, Resources: []string{"order:*", "item:7"},
		Windows:    []policy.TimeWindow{{Days: []string{"mon", "tue"}, From: "08:00", To: "18:00"}},
		RequireTLS: true,
	}
	narrow := func() policy.Constraints {
		return policy.Constraints{
			Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Methods: []string{"GET"},
			Hosts: []policy.HostPattern{host("a.example.com")}, Paths: []policy.PathPattern{path("/orders/7")},
			Audiences: []string{"orders"}, Resources: []string{"order:1", "item:7"},
			Windows: []policy.TimeWindow{{Days: []string{"tue"}, From: "08:00", To: "12:00"}}, RequireTLS: true,
		}
	}
	call := with(rights("s:a"))
	call.Actor.Constraints = &own
	issue := func(call registry.Call, c *policy.Constraints) error {
		w := newWorld(t)
		_, _, err := w.IssueCredential(ctx, call, keyOf(func(s *registry.CredentialSpec) { s.Rights, s.Constraints = rights("s:a"), c }))
		return err
	}
	for _, c := range []policy.Constraints{own, narrow()} {
		if err := issue(call, &c); err != nil {
			t.Error(err)
		}
	}
	for name, change := range map[string]func(*policy.Constraints){
		"networks": func(c *policy.Constraints) { c.Networks[0] = netip.MustParsePrefix("0.0.0.0/0") },
		"methods":  func(c *policy.Constraints) { c.Methods = nil }, "hosts": func(c *policy.Constraints) { c.Hosts[0] = host("example.org") },
		"paths":     func(c *policy.Constraints) { c.Paths[0] = path("/**") },
		"audiences": func(c *policy.Constraints) { c.Audiences = []string{"users"} },
		"resources": func(c *policy.Constraints) { c.Resources[1] = "item:*" },
		"windows":   func(c *policy.Constraints) { c.Windows[0].Days = nil }, "require_tls": func(c *policy.Constraints) { c.RequireTLS = false },
	} {
		c := narrow()
		change(&c)
		newWorld(t).refused(issue(call, &c), registry.GrantExceedsIssuer, "constraints."+name)
		unlimited := call
		unlimited.Actor.Unlimited = true
		if err := issue(unlimited, &c); err != nil {
			t.Error(err)
		}
	}
	newWorld(t).refused(issue(call, nil), registry.GrantExceedsIssuer, "constraints.networks")
}

// Property: whoever is not unlimited issues and updates nothing whose rights are not
// covered by their own, whatever they try.
func TestPropertyGrantsAreCovered(t *testing.T) {
	names := []string{"a", "b", "a.x", "a.y", "a.*", "*", "a.x.z", "postern.x", "postern.*", "tenant-admin", "issuer"}
	some := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 4, rapid.ID)
	gen := rapid.Custom(func(t *rapid.T) registry.Rights {
		return registry.Rights{Roles: some.Draw(t, "roles"), Scopes: some.Draw(t, "scopes"), Permissions: some.Draw(t, "permissions")}
	})
	stronger := map[string]string{"issuer": "tenant-admin"}
	covered := func(held []string, right string, patterns bool) bool {
		for _, h := range held {
			if h == right || !patterns && stronger[right] == h && h != "" {
				return true
			}
			if prefix, ok := strings.CutSuffix(h, "*"); patterns && ok && strings.HasPrefix(right, prefix) {
				return true
			}
		}
		return false
	}
	check := func(t *rapid.T, has, got registry.Rights) {
		for _, r := range got.Roles {
			if !covered(has.Roles, r, false) {
				t.Fatalf("role %s from %v", r, has.Roles)
			}
		}
		for _, r := range got.Scopes {
			if !covered(has.Scopes, r, true) {
				t.Fatalf("scope %s from %v", r, has.Scopes)
			}
		}
		for _, r := range got.Permissions {
			if !covered(has.Permissions, r, true) {
				t.Fatalf("permission %s from %v", r, has.Permissions)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		call := with(gen.Draw(t, "has"))
		call.Actor.Wildcard = true
		req := keyOf(func(s *registry.CredentialSpec) { s.Rights = gen.Draw(t, "asks") })
		req.AllowWildcard = true
		c, _, err := w.IssueCredential(ctx, call, req)
		if err != nil {
			return
		}
		check(t, call.Actor.Rights, registry.Rights{Roles: c.Roles, Scopes: c.Scopes, Permissions: c.Permissions})
		updated, _, err := w.UpdateCredential(ctx, call, registry.UpdateCredentialRequest{
			ID: c.ID, AllowWildcard: true, Fields: []string{"roles", "scopes", "permissions"},
			Spec: registry.CredentialSpec{Rights: gen.Draw(t, "wants")},
		})
		if err == nil {
			check(t, call.Actor.Rights, registry.Rights{Roles: updated.Roles, Scopes: updated.Scopes, Permissions: updated.Permissions})
		}
	})
}
