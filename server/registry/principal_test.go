package registry_test

import (
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

type person = registry.PrincipalSpec

func TestCreatePrincipal(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		spec   person
		reason registry.Reason
		field  string
	}{
		"no id":           {person{Tenant: "acme", Kind: policy.KindUser}, registry.InvalidField, "id"},
		"a slash":         {person{Tenant: "acme", ID: "a/b", Kind: policy.KindUser}, registry.InvalidField, "id"},
		"a control":       {person{Tenant: "acme", ID: "a\x00", Kind: policy.KindUser}, registry.InvalidField, "id"},
		"unicode":         {person{Tenant: "acme", ID: "änne", Kind: policy.KindUser}, registry.InvalidField, "id"},
		"long":            {person{Tenant: "acme", ID: strings.Repeat("x", 129), Kind: policy.KindUser}, registry.InvalidField, "id"},
		"no kind":         {person{Tenant: "acme", ID: "x"}, registry.InvalidField, "kind"},
		"anonymous":       {person{Tenant: "acme", ID: "x", Kind: policy.KindAnonymous}, registry.InvalidField, "kind"},
		"no tenant":       {person{Tenant: "nobody", ID: "x", Kind: policy.KindUser}, registry.NotFound, "tenant"},
		"exists":          {person{Tenant: "acme", ID: "alice", Kind: policy.KindUser}, registry.AlreadyExists, "id"},
		"no owner":        {person{Tenant: "acme", ID: "x", Kind: policy.KindUser, Owner: "nobody"}, registry.InvalidField, "owner_id"},
		"own owner":       {person{Tenant: "acme", ID: "x", Kind: policy.KindUser, Owner: "x"}, registry.InvalidField, "owner_id"},
		"odd owner":       {person{Tenant: "acme", ID: "x", Kind: policy.KindUser, Owner: "../x"}, registry.InvalidField, "owner_id"},
		"metadata":        {person{Tenant: "acme", ID: "x", Kind: policy.KindUser, Metadata: map[string]any{"a": strings.Repeat("b", 8<<10)}}, registry.InvalidField, "metadata"},
		"reason alone":    {person{Tenant: "acme", ID: "x", Kind: policy.KindUser, DisabledReason: "y"}, registry.InvalidField, "disabled_reason"},
		"role of another": {person{Tenant: "acme", ID: "x", Kind: policy.KindUser, Rights: rights("r:platform-admin")}, registry.InvalidField, "roles"},
	} {
		_, _, err := w.CreatePrincipal(ctx, root(), registry.CreatePrincipalRequest{PrincipalSpec: tt.spec})
		t.Run(name, func(t *testing.T) { w.refused(err, tt.reason, tt.field) })
	}
	p := w.principal(person{Tenant: "acme", ID: "a.b-c_d~e@f+g:h", Kind: policy.KindAgent, Owner: "shop", Rights: rights("r:x r:x s:y")})
	if len(p.Roles) != 1 || p.Owner != "shop" || p.CreatedAt != w.now {
		t.Errorf("%+v", p)
	}
	call := root()
	call.RequestID = "create"
	var versions []int64
	for range 2 {
		p, change, err := w.CreatePrincipal(ctx, call, registry.CreatePrincipalRequest{PrincipalSpec: person{Tenant: "acme", ID: "once", Kind: policy.KindUser}})
		w.ok(err)
		versions = append(versions, p.Version, change.Number)
	}
	if versions[0] != versions[1] || versions[1] != versions[2] || versions[2] != versions[3] {
		t.Errorf("%v", versions)
	}
	// An id that was deleted does not come back as somebody else at once.
	w.ok(second(w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "once"})))
	_, _, err := w.CreatePrincipal(ctx, root(), registry.CreatePrincipalRequest{PrincipalSpec: person{Tenant: "acme", ID: "once", Kind: policy.KindUser}})
	w.refused(err, registry.AlreadyExists, "")
}

func TestUpdatePrincipal(t *testing.T) {
	w := newWorld(t)
	update := func(fields []string, s person) error {
		s.Tenant = "acme"
		_, _, err := w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{Fields: fields, Spec: s})
		return err
	}
	for _, id := range []string{"a", "b", "c"} {
		w.principal(person{Tenant: "acme", ID: id, Kind: policy.KindService})
	}
	w.ok(update([]string{"owner_id"}, person{ID: "b", Owner: "a"}))
	w.ok(update([]string{"owner_id"}, person{ID: "c", Owner: "b"}))
	w.refused(update([]string{"owner_id"}, person{ID: "a", Owner: "c"}), registry.InvalidField, "owner_id") // a ring
	w.refused(update([]string{"owner_id"}, person{ID: "a", Owner: "a"}), registry.InvalidField, "owner_id")
	w.refused(update([]string{"kind"}, person{ID: "a"}), registry.InvalidField, "update_mask")
	w.refused(update(nil, person{ID: "a"}), registry.InvalidField, "update_mask")
	w.refused(update([]string{"display_name"}, person{ID: "nobody"}), registry.NotFound, "")

	// K-16: disabling says when, why and by whom, and can be taken back.
	w.ok(update([]string{"disabled", "disabled_reason"}, person{ID: "a", Disabled: true, DisabledReason: "sold"}))
	p, err := w.GetPrincipal(ctx, root().Actor, "acme", "a")
	w.ok(err)
	if p.Disabled == nil || p.Disabled.Reason != "sold" || p.Disabled.By != "/root" {
		t.Errorf("%+v", p.Disabled)
	}
	w.refused(second(w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.Principal = "c" }))), registry.WrongState, "principal_id")
	w.ok(update([]string{"disabled"}, person{ID: "a"}))
	w.ok(second(w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.Principal = "c" }))))
}

// A principal does not leave an owner while a credential of it falls with one of the
// owner's: nobody would find it any more.
func TestMovingKeepsFamiliesTogether(t *testing.T) {
	w := newWorld(t)
	w.principal(person{Tenant: "acme", ID: "agent", Kind: policy.KindAgent, Owner: "shop"})
	w.principal(person{Tenant: "acme", ID: "sub", Kind: policy.KindAgent, Owner: "agent"})
	parent := w.key()
	child := w.key(func(s *spec) { s.Principal, s.Parent = "sub", parent.ID })
	move := func(owner string) error {
		_, _, err := w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{Fields: []string{"owner_id"}, Spec: person{Tenant: "acme", ID: "agent", Owner: owner}})
		return err
	}
	w.principal(person{Tenant: "acme", ID: "mall", Kind: policy.KindService})
	w.refused(move(""), registry.WrongState, "owner_id")
	w.refused(move("mall"), registry.WrongState, "owner_id")
	_, _, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: child.ID})
	w.ok(err)
	w.ok(move("mall"))
}

func TestTenants(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"", "Acme", "a/b", "a b", strings.Repeat("x", 65), "ä"} {
		_, _, err := w.CreateTenant(ctx, root(), registry.TenantSpec{ID: id})
		w.refused(err, registry.InvalidField, "id")
	}
	_, _, err := w.CreateTenant(ctx, root(), registry.TenantSpec{ID: "acme"})
	w.refused(err, registry.AlreadyExists, "id")
	for field, change := range map[string]func(*registry.TenantSpec){
		"max_ttl":         func(s *registry.TenantSpec) { s.Rules.MaxTTL = -1 },
		"max_pats":        func(s *registry.TenantSpec) { s.Rules.MaxPATs = -1 },
		"unused_for":      func(s *registry.TenantSpec) { s.Rules.UnusedFor = 1 },
		"session_idle":    func(s *registry.TenantSpec) { s.Rules.SessionIdle = 1 },
		"session_max":     func(s *registry.TenantSpec) { s.Rules.SessionMax = 1 << 62 },
		"labels":          func(s *registry.TenantSpec) { s.Labels = map[string]string{"": "x"} },
		"labels.k":        func(s *registry.TenantSpec) { s.Labels = map[string]string{"k": "\x00"} },
		"display_name":    func(s *registry.TenantSpec) { s.Name = " x" },
		"disabled_reason": func(s *registry.TenantSpec) { s.DisabledReason = "x" },
	} {
		s := registry.TenantSpec{ID: "new"}
		change(&s)
		_, _, err := w.CreateTenant(ctx, root(), s)
		w.refused(err, registry.InvalidField, field)
	}
	// A tenant names itself, but does not set its own bounds.
	update := func(call registry.Call, id string, fields ...string) error {
		_, _, err := w.UpdateTenant(ctx, call, registry.UpdateTenantRequest{Fields: fields, Spec: registry.TenantSpec{ID: id, Name: "Acme"}})
		return err
	}
	w.ok(update(of("acme"), "acme", "display_name", "labels"))
	for _, field := range []string{"max_ttl", "max_pats", "unused_for", "session_idle", "session_max", "disabled", "disabled_reason"} {
		w.refused(update(of("acme"), "acme", field), registry.PermissionDenied, field)
	}
	w.refused(update(of("acme"), "umbrella", "display_name"), registry.NotFound, "")
	got, err := w.GetTenant(ctx, of("acme").Actor, "acme")
	w.ok(err)
	if got.Name != "Acme" {
		t.Errorf("%+v", got)
	}
	mine, _, err := w.ListTenants(ctx, of("acme").Actor, registry.Page{})
	w.ok(err)
	all, _, err := w.ListTenants(ctx, root().Actor, registry.Page{})
	w.ok(err)
	if len(mine) != 1 || mine[0].ID != "acme" || len(all) != 2 {
		t.Errorf("%d, %d", len(mine), len(all))
	}
}
