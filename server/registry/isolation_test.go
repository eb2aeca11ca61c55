package registry_test

import (
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// What is another tenant's is not there: every operation answers an id of another
// tenant as it answers one that does not exist, and lists hold none of it. The same
// operation on one's own is done.
func TestTenantsAreApart(t *testing.T) {
	type ids struct{ tenant, key, session, line string }
	setUp := func(w *world, tenant string) ids {
		key := w.key(func(s *spec) { s.Tenant, s.Period = tenant, day })
		session, _, err := w.CreateSession(ctx, root(), registry.SessionSpec{Tenant: tenant, Principal: "alice"})
		w.ok(err)
		w.agent("bot", func(s *bot) { s.Tenant = tenant })
		line, _, err := w.AddDenial(ctx, root(), store.Denial{Tenant: tenant, JTI: "x"})
		w.ok(err)
		return ids{tenant, key.ID, session.ID, line.ID}
	}
	call := of("acme")
	operations := map[string]func(w *world, i ids) error{
		"get": func(w *world, i ids) error { _, err := w.GetCredential(ctx, call.Actor, i.key); return err },
		"issue": func(w *world, i ids) error {
			return second(w.IssueCredential(ctx, call, keyOf(func(s *spec) { s.Tenant = i.tenant })))
		},
		"import": func(w *world, i ids) error {
			r := row("shop", "some secret of theirs"[:4])
			r.Tenant = i.tenant
			return second(w.ImportCredentials(ctx, call, registry.ImportRequest{Rows: []registry.ImportRow{r}}))
		},
		"update": func(w *world, i ids) error {
			return second(w.UpdateCredential(ctx, call, registry.UpdateCredentialRequest{ID: i.key, Fields: []string{"display_name"}}))
		},
		"rotate": func(w *world, i ids) error {
			return second(w.RotateCredential(ctx, call, registry.RotateRequest{ID: i.key}))
		},
		"renew": func(w *world, i ids) error { return second(w.RenewCredential(ctx, call, i.key)) },
		"disable": func(w *world, i ids) error {
			return second(w.DisableCredential(ctx, call, registry.EndRequest{ID: i.key}))
		},
		"enable": func(w *world, i ids) error {
			return second(w.EnableCredential(ctx, call, registry.EndRequest{ID: i.key}))
		},
		"revoke": func(w *world, i ids) error {
			_, _, _, err := w.RevokeCredential(ctx, call, registry.EndRequest{ID: i.key})
			return err
		},
		"batch": func(w *world, i ids) error {
			return second(w.BatchRevokeCredentials(ctx, call, registry.BatchRevokeRequest{IDs: []string{i.key}}))
		},
		"batch of a tenant": func(w *world, i ids) error {
			return second(w.BatchRevokeCredentials(ctx, call, registry.BatchRevokeRequest{Tenant: i.tenant}))
		},
		"create principal": func(w *world, i ids) error {
			return second(w.CreatePrincipal(ctx, call, registry.CreatePrincipalRequest{PrincipalSpec: person{Tenant: i.tenant, ID: "new", Kind: policy.KindUser}}))
		},
		"get principal": func(w *world, i ids) error {
			_, err := w.GetPrincipal(ctx, call.Actor, i.tenant, "alice")
			return err
		},
		"update principal": func(w *world, i ids) error {
			return second(w.UpdatePrincipal(ctx, call, registry.UpdatePrincipalRequest{Fields: []string{"display_name"}, Spec: person{Tenant: i.tenant, ID: "alice"}}))
		},
		"delete principal": func(w *world, i ids) error {
			return second(w.DeletePrincipal(ctx, call, registry.DeletePrincipalRequest{Tenant: i.tenant, ID: "alice"}))
		},
		"create agent": func(w *world, i ids) error {
			return second(w.CreateAgent(ctx, call, botOf("new", func(s *bot) { s.Tenant = i.tenant })))
		},
		"get agent": func(w *world, i ids) error { _, err := w.GetAgent(ctx, call.Actor, i.tenant, "bot"); return err },
		"update agent": func(w *world, i ids) error {
			return second(w.UpdateAgent(ctx, call, registry.UpdateAgentRequest{Fields: []string{"model"}, Spec: bot{PrincipalSpec: person{Tenant: i.tenant, ID: "bot"}}}))
		},
		"disable agent": func(w *world, i ids) error {
			return second(w.DisableAgent(ctx, call, registry.AgentRequest{Tenant: i.tenant, ID: "bot"}))
		},
		"enable agent": func(w *world, i ids) error {
			return second(w.EnableAgent(ctx, call, registry.AgentRequest{Tenant: i.tenant, ID: "bot"}))
		},
		"decommission": func(w *world, i ids) error {
			return second(w.DecommissionAgent(ctx, call, registry.AgentRequest{Tenant: i.tenant, ID: "bot"}))
		},
		"import users": func(w *world, i ids) error {
			return second(w.ImportUsers(ctx, call, registry.ImportUsersRequest{Rows: []registry.UserRow{{PrincipalSpec: person{Tenant: i.tenant, ID: "new"}}}}))
		},
		"set password": func(w *world, i ids) error {
			return second(w.SetPassword(ctx, call, registry.SetPasswordRequest{Tenant: i.tenant, ID: "alice", Password: policy.NewSecret("long enough")}))
		},
		"get tenant": func(w *world, i ids) error { _, err := w.GetTenant(ctx, call.Actor, i.tenant); return err },
		"update tenant": func(w *world, i ids) error {
			return second(w.UpdateTenant(ctx, call, registry.UpdateTenantRequest{Fields: []string{"labels"}, Spec: registry.TenantSpec{ID: i.tenant}}))
		},
		"create session": func(w *world, i ids) error {
			return second(w.CreateSession(ctx, call, registry.SessionSpec{Tenant: i.tenant, Principal: "alice"}))
		},
		"get session": func(w *world, i ids) error { _, err := w.GetSession(ctx, call.Actor, i.session); return err },
		"rotate session": func(w *world, i ids) error {
			return second(w.RotateSession(ctx, call, registry.RotateSessionRequest{ID: i.session}))
		},
		"delete session": func(w *world, i ids) error { _, err := w.DeleteSession(ctx, call, i.session); return err },
		"delete sessions": func(w *world, i ids) error {
			return second(w.DeleteSessionsOf(ctx, call, i.tenant, "alice"))
		},
		"remove denial": func(w *world, i ids) error { _, err := w.RemoveDenial(ctx, call, i.line); return err },
		"add denial": func(w *world, i ids) error {
			return second(w.AddDenial(ctx, call, store.Denial{Tenant: i.tenant, SID: "x"}))
		},
		"list": func(w *world, i ids) error {
			return second(w.ListCredentials(ctx, call.Actor, registry.CredentialQuery{Tenant: i.tenant}))
		},
		"list principals": func(w *world, i ids) error {
			return second(w.ListPrincipals(ctx, call.Actor, registry.PrincipalQuery{Tenant: i.tenant}))
		},
		"list agents": func(w *world, i ids) error {
			return second(w.ListAgents(ctx, call.Actor, registry.AgentQuery{Tenant: i.tenant}))
		},
		"list sessions": func(w *world, i ids) error {
			return second(w.ListSessions(ctx, call.Actor, registry.SessionQuery{Tenant: i.tenant}))
		},
		"list denials": func(w *world, i ids) error {
			return second(w.ListDenials(ctx, call.Actor, registry.DenialQuery{Tenant: i.tenant}))
		},
		"list audit": func(w *world, i ids) error {
			return second(w.ListAudit(ctx, call.Actor, registry.AuditQuery{Tenant: i.tenant}))
		},
		"usage": func(w *world, i ids) error {
			_, err := w.Usage(ctx, call.Actor, store.UsageQuery{Tenant: i.tenant})
			return err
		},
	}
	for name, do := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if err := do(w, setUp(w, "acme")); err != nil {
				t.Errorf("on one's own: %v", err)
			}
			theirs := setUp(w, "umbrella")
			before, err := w.store.Changes(ctx, 0, 1000)
			w.ok(err)
			foreign := do(w, theirs)
			if registry.ReasonOf(foreign) != registry.NotFound {
				t.Errorf("on another's: %v", foreign)
			}
			missing := do(w, ids{"nobody", "000000000000", "000000000000", "000000000000"})
			if missing == nil || missing.Error() != foreign.Error() {
				t.Errorf("another's: %v; none: %v", foreign, missing)
			}
			after, err := w.store.Changes(ctx, 0, 1000)
			w.ok(err)
			if after.Next != before.Next {
				t.Error("something was changed")
			}
		})
	}
}

// Lists without a tenant hold one's own, for the installation everything.
func TestListsAreOfOnesOwn(t *testing.T) {
	w := newWorld(t)
	for _, tenant := range []string{"", "acme", "umbrella"} {
		c := w.key(func(s *spec) { s.Tenant = tenant })
		w.ok(second(w.CreateSession(ctx, root(), registry.SessionSpec{Tenant: tenant, Principal: "alice"})))
		w.ok(second(w.AddDenial(ctx, root(), store.Denial{Tenant: tenant, JTI: "x"})))
		w.ok(w.store.AddUsage(ctx, []store.Usage{{Credential: c.ID, Tenant: tenant, Principal: "shop", Day: "2026-03-01", Allowed: 1, LastUsedAt: w.now}}))
	}
	count := func(a registry.Actor) (n []int) {
		c, _, err := w.ListCredentials(ctx, a, registry.CredentialQuery{})
		w.ok(err)
		p, _, err := w.ListPrincipals(ctx, a, registry.PrincipalQuery{})
		w.ok(err)
		s, _, err := w.ListSessions(ctx, a, registry.SessionQuery{})
		w.ok(err)
		d, _, err := w.ListDenials(ctx, a, registry.DenialQuery{})
		w.ok(err)
		u, err := w.Usage(ctx, a, store.UsageQuery{})
		w.ok(err)
		entries, _, err := w.ListAudit(ctx, a, registry.AuditQuery{Page: registry.Page{Size: 1000}})
		w.ok(err)
		for _, e := range entries {
			if a.Tenant != "" && e.Tenant != a.Tenant {
				t.Errorf("%+v", e)
			}
		}
		return []int{len(c), len(p), len(s), len(d), len(u)}
	}
	for actor, want := range map[*registry.Actor][]int{
		ptr(of("acme").Actor): {1, 2, 1, 1, 1}, ptr(root().Actor): {3, 6, 3, 3, 3},
	} {
		for i, n := range count(*actor) {
			if n != want[i] {
				t.Errorf("%s: list %d has %d, want %d", actor.Name(), i, n, want[i])
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }
