package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// transfer is what acme's agent bot wants to do.
func transfer(change ...func(p *policy.Proposal)) string {
	sum := sha256.Sum256([]byte(`{"amount":7}`))
	p := policy.Proposal{
		Version: 1, Approver: policy.ApproverHuman, Route: "pay",
		Requester: policy.Requester{Tenant: "acme", ID: "bot", Kind: policy.KindAgent, Issuer: "postern"},
		Request:   &policy.ProposedRequest{Method: "POST", Scheme: "https", Host: "bank.test", Target: "/pay", Body: hex.EncodeToString(sum[:]), Length: 12},
	}
	for _, c := range change {
		c(&p)
	}
	out, err := p.Encode()
	if err != nil {
		panic(err)
	}
	return out.Text
}

func needsAdmin(p *policy.Proposal) { p.Approver = policy.ApproverAdmin }

func asBot() registry.Call {
	return registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "bot", Kind: policy.KindAgent}}
}

// asUser is a person of acme.
func asUser(id string, roles ...string) registry.Call {
	return registry.Call{Actor: registry.Actor{Tenant: "acme", ID: id, Kind: policy.KindUser, Rights: registry.Rights{Roles: roles}}}
}

func (w *world) asks(text string) *store.Approval {
	w.t.Helper()
	a, _, err := w.RequestApproval(ctx, asBot(), registry.ApprovalRequest{Proposal: text, Reason: "rent"})
	w.ok(err)
	return a
}

func (w *world) approves(call registry.Call, id string) error {
	_, _, err := w.ApproveApproval(ctx, call, registry.DecideApprovalRequest{ID: id, Reason: "fine"})
	return err
}

// unusable fails unless the approval is refused, for a reason that holds some words.
func (w *world) unusable(a *store.Approval, action, words string) {
	w.t.Helper()
	err := w.UseApproval(ctx, a.ID, action, "d")
	if no := (*policy.Refusal)(nil); !errors.As(err, &no) || no.Reason != policy.ReasonApproval || !strings.Contains(no.Detail, words) {
		w.t.Fatalf("%v, want one about %q", err, words)
	}
}

func TestApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.asks(transfer())
	if a.State != store.ApprovalPending || a.Requester != "bot" || a.RequestedBy != "acme/bot" || a.Needs != policy.ApproverHuman || !a.ExpiresAt.Equal(w.now.Add(time.Hour)) {
		t.Errorf("%+v", a)
	}
	w.unusable(a, a.Action, "pending")
	w.ok(w.approves(asUser("alice"), a.ID))
	w.unusable(a, strings.Repeat("0", 64), "another action")
	w.unusable(a, "", "another action")
	w.unusable(&store.Approval{ID: "AAAAAAAAAAAA"}, a.Action, "not there")
	w.unusable(&store.Approval{ID: "../etc"}, a.Action, "no such id")

	w.ok(w.UseApproval(ctx, a.ID, a.Action, "d1"))
	w.unusable(a, a.Action, "used")
	w.refused(w.approves(asUser("alice"), a.ID), registry.WrongState, "")
	used, err := w.GetApproval(ctx, root().Actor, a.ID)
	w.ok(err)
	if used.UsedBy != "d1" || !used.UsedAt.Equal(w.now) || used.Decided.By != "acme/alice" || !used.Recorded {
		t.Errorf("%+v", used)
	}

	// The audit log names the human and the agent.
	for action, want := range map[string]map[string]string{
		"approval.request": {"by": "acme/bot", "requester": "bot"},
		"approval.approve": {"by": "acme/alice", "requester": "bot", "action": a.Action},
		"approval.use":     {"by": "acme/bot", "approver": "acme/alice", "decision": "d1"},
	} {
		entries := w.audit(registry.AuditQuery{Action: action})
		if len(entries) != 1 {
			t.Fatalf("%s: %v", action, entries)
		}
		got := maps.Clone(entries[0].Detail)
		got["by"] = entries[0].Actor
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %q, want %q", action, k, got[k], v)
			}
		}
	}
}

// Of two who use an approval, one succeeds; also of two hundred.
func TestApprovalIsUsedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.asks(transfer())
	w.ok(w.approves(asUser("alice"), a.ID))
	var all sync.WaitGroup
	var mu sync.Mutex
	var won []string
	for i := range 200 {
		all.Go(func() {
			decision := fmt.Sprint(i)
			if w.UseApproval(ctx, a.ID, a.Action, decision) == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, decision)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%v have used it", won)
	}
	w.ok(w.ReturnApproval(ctx, a.ID, won[0]+"x")) // not theirs to return
	w.unusable(a, a.Action, "used")
	w.ok(w.ReturnApproval(ctx, a.ID, won[0]))
	w.ok(w.ReturnApproval(ctx, a.ID, won[0])) // no more
	w.ok(w.UseApproval(ctx, a.ID, a.Action, "next"))
	w.ok(w.ReturnApproval(ctx, a.ID, won[0]))
	w.unusable(a, a.Action, "used")
	w.ok(w.ReturnApproval(ctx, "AAAAAAAAAAAA", "d"))
}

// Who may not approve, whatever a policy says.
func TestWhoApproves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	through := func(p *policy.Proposal) {
		p.Requester = policy.Requester{Tenant: "acme", ID: "alice", Kind: policy.KindUser, Issuer: "https://idp.test", Actors: []policy.ProposedActor{{ID: "bot", Kind: policy.KindAgent}}}
	}
	human, admin, alices := w.asks(transfer()), w.asks(transfer(needsAdmin)), w.asks(transfer(through))
	if alices.Requester != "https://idp.test#alice" || alices.Agent != "bot" {
		t.Errorf("%+v", alices)
	}
	elsewhere := asUser("alice")
	elsewhere.Actor.ID = "https://other.test#alice"
	acted := asUser("bob")
	acted.Actor.Actors = []policy.Actor{{ID: "bot", Kind: policy.KindAgent}}
	self := asUser("bot")
	service := asUser("bob")
	service.Actor.Kind = policy.KindService
	unknown := asUser("bob")
	unknown.Actor.Kind = ""
	for what, no := range map[string]struct {
		call registry.Call
		of   *store.Approval
	}{
		"the requester itself":                  {asBot(), human},
		"a user of the requester's id":          {self, human},
		"a service":                             {service, human},
		"nobody known":                          {unknown, human},
		"an agent, by a user's token":           {acted, human},
		"who has no role":                       {asUser("bob", "clerk"), admin},
		"platform-admin of a tenant":            {asUser("bob", registry.PlatformAdmin), admin},
		"the user for whom the agent acts":      {asUser("alice"), alices},
		"the same, by another issuer":           {elsewhere, alices},
		"a user of the agent's id":              {self, alices},
		"who asked for it":                      {asBot(), alices},
		"an admin role is not enough for bot":   {asBot(), admin},
		"a role of an admin for the user alice": {asUser("alice", registry.TenantAdmin), alices},
	} {
		if err := w.approves(no.call, no.of.ID); registry.ReasonOf(err) != registry.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(w.audit(registry.AuditQuery{Action: "approval.approve"})); n == 0 {
		t.Error("what was refused is not in the audit log")
	}
	stranger := asUser("bob", registry.TenantAdmin)
	stranger.Actor.Tenant = "umbrella"
	w.refused(w.approves(stranger, human.ID), registry.NotFound, "")
	_, err := w.GetApproval(ctx, stranger.Actor, human.ID)
	w.refused(err, registry.NotFound, "")

	w.ok(w.approves(asUser("bob"), human.ID))
	w.ok(w.approves(asUser("bob", registry.TenantAdmin), admin.ID))
	w.ok(w.approves(asUser("bob"), alices.ID))
}

// An approver who has lost what made one before it is used is an approver no more.
func TestApproverIsLost(t *testing.T) {
	t.Parallel()
	for words, lose := range map[string]func(w *world){
		"has lost the role": func(w *world) {
			_, _, err := w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{
				Fields: []string{"roles"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "boss"},
			})
			w.ok(err)
		},
		"is disabled": func(w *world) {
			_, _, err := w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{
				Fields: []string{"disabled"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "boss", Disabled: true},
			})
			w.ok(err)
		},
		"is gone": func(w *world) {
			_, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "boss"})
			w.ok(err)
		},
		"is of a tenant that is disabled": func(w *world) {
			_, _, err := w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
				Fields: []string{"disabled"}, Spec: registry.TenantSpec{ID: "acme", Disabled: true},
			})
			w.ok(err)
		},
	} {
		t.Run(words, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "boss", Kind: policy.KindUser, Rights: registry.Rights{Roles: []string{registry.TenantAdmin}}})
			a := w.asks(transfer(needsAdmin))
			w.ok(w.approves(asUser("boss", registry.TenantAdmin), a.ID))
			lose(w)
			w.unusable(a, a.Action, words)
		})
	}
}

func TestApprovalsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	waiting, given, denied, gone := w.asks(transfer()), w.asks(transfer(needsAdmin)), w.asks(transfer(func(p *policy.Proposal) { p.Route = "a" })), w.asks(transfer(func(p *policy.Proposal) { p.Route = "b" }))
	w.ok(w.approves(asUser("bob", registry.TenantAdmin), given.ID))
	_, _, err := w.DenyApproval(ctx, asUser("bob"), registry.DecideApprovalRequest{ID: denied.ID})
	w.ok(err)
	w.unusable(denied, denied.Action, "denied")
	w.refused(w.approves(asUser("bob"), denied.ID), registry.WrongState, "")
	_, _, err = w.DenyApproval(ctx, asUser("bob"), registry.DecideApprovalRequest{ID: given.ID})
	w.refused(err, registry.WrongState, "")

	w.ok(w.approves(asUser("bob"), gone.ID))
	_, _, err = w.WithdrawApproval(ctx, asBot(), registry.DecideApprovalRequest{ID: gone.ID})
	w.ok(err)
	w.unusable(gone, gone.Action, "withdrawn")

	w.now = w.now.Add(15 * time.Minute)
	w.unusable(given, given.Action, "expired")
	w.now = w.now.Add(time.Hour)
	w.refused(w.approves(asUser("bob"), waiting.ID), registry.WrongState, "")
}

func TestRequestApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *registry.Config) { c.Approvals.MaxPending = 3 })
	ask := func(call registry.Call, req registry.ApprovalRequest) (*store.Approval, error) {
		a, _, err := w.RequestApproval(ctx, call, req)
		return a, err
	}
	secret := w.key().Secret.Reveal()
	for _, bad := range []struct {
		req   registry.ApprovalRequest
		field string
	}{
		{registry.ApprovalRequest{}, "proposal"},
		{registry.ApprovalRequest{Proposal: "{}"}, "proposal"},
		{registry.ApprovalRequest{Proposal: transfer(func(p *policy.Proposal) { p.Request.Target = "/?k=" + secret })}, "proposal"},
		{registry.ApprovalRequest{Proposal: transfer(func(p *policy.Proposal) { p.Requester.Tenant = "AC/ME" })}, "tenant"},
		{registry.ApprovalRequest{Proposal: transfer(), Body: []byte(`{"amount":8}`)}, "body"},
		{registry.ApprovalRequest{Proposal: transfer(), ExpiresAt: w.now.Add(2 * time.Hour)}, "expire_time"},
		{registry.ApprovalRequest{Proposal: transfer(), ExpiresAt: w.now}, "expire_time"},
	} {
		call := asBot()
		call.Actor.Tenant = "" // or the tenant would be foreign
		_, err := ask(call, bad.req)
		reason := registry.InvalidField
		if bad.field == "expire_time" && bad.req.ExpiresAt.After(w.now) {
			reason = registry.TTLTooLong
		}
		w.refused(err, reason, bad.field)
	}
	// A requester of another tenant is not there.
	_, err := ask(asBot(), registry.ApprovalRequest{Proposal: transfer(func(p *policy.Proposal) { p.Requester.Tenant = "umbrella" })})
	w.refused(err, registry.NotFound, "")

	a, err := ask(asBot(), registry.ApprovalRequest{Proposal: transfer(), Body: []byte(`{"amount":7}`)})
	w.ok(err)
	if a.Body != `{"amount":7}` {
		t.Errorf("%q", a.Body)
	}
	_, err = ask(asBot(), registry.ApprovalRequest{Proposal: transfer()})
	if e := w.refused(err, registry.AlreadyExists, "proposal"); e.Meta["id"] != a.ID {
		t.Errorf("%v", e)
	}
	for _, route := range []string{"a", "b"} {
		_, err = ask(asBot(), registry.ApprovalRequest{Proposal: transfer(func(p *policy.Proposal) { p.Route = route })})
		w.ok(err)
	}
	_, err = ask(asBot(), registry.ApprovalRequest{Proposal: transfer(func(p *policy.Proposal) { p.Route = "c" })})
	w.refused(err, registry.QuotaExceeded, "")
	// What is over makes room, and goes some time later.
	w.now = w.now.Add(26 * time.Hour)
	_, err = ask(asBot(), registry.ApprovalRequest{Proposal: transfer()})
	w.ok(err)
	list, _, err := w.ListApprovals(ctx, root().Actor, registry.ApprovalQuery{Tenant: "acme", Principal: "bot"})
	w.ok(err)
	if len(list) != 1 {
		t.Errorf("%d are left", len(list))
	}
}

func TestApproverHasLoggedIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *registry.Config) { c.Approvals.MaxLoginAge = 5 * time.Minute })
	a := w.asks(transfer())
	call := asUser("bob")
	w.refused(w.approves(call, a.ID), registry.PermissionDenied, "")
	for _, at := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
		call.Actor.AuthTime = w.now.Add(at)
		w.refused(w.approves(call, a.ID), registry.PermissionDenied, "")
	}
	call.Actor.AuthTime = w.now.Add(-4 * time.Minute)
	w.ok(w.approves(call, a.ID))
}

func TestUseWithoutAStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.asks(transfer())
	w.ok(w.approves(asUser("alice"), a.ID))
	w.store.err = errors.New("no route to host")
	err := w.UseApproval(ctx, a.ID, a.Action, "d")
	if no := (*policy.Refusal)(nil); err == nil || errors.As(err, &no) {
		t.Errorf("%v says no, and nobody knows", err)
	}
}

// agreesTo is alice's consent that bot reads and writes.
func agreesTo(change ...func(s *registry.ConsentSpec)) registry.ConsentSpec {
	s := registry.ConsentSpec{Tenant: "acme", User: "alice", Actor: "bot", Scopes: []string{"data:read", "data:write"}}
	for _, c := range change {
		c(&s)
	}
	return s
}

func TestConsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _, err := w.GrantConsent(ctx, asUser("alice"), agreesTo())
	w.ok(err)
	if c.Issuer != "postern" || c.By != "acme/alice" || !c.GivenAt.Equal(w.now) {
		t.Errorf("%+v", c)
	}
	// To give it anew changes it.
	again, _, err := w.GrantConsent(ctx, asUser("alice"), agreesTo(func(s *registry.ConsentSpec) { s.Scopes = []string{"data:read"} }))
	w.ok(err)
	if again.ID != c.ID || len(again.Scopes) != 1 {
		t.Errorf("%+v", again)
	}
	gone, _, err := w.WithdrawConsent(ctx, asUser("alice"), registry.DecideApprovalRequest{ID: c.ID, Reason: "enough"})
	w.ok(err)
	if gone.Withdrawn == nil || gone.Withdrawn.By != "acme/alice" {
		t.Errorf("%+v", gone)
	}
	_, _, err = w.WithdrawConsent(ctx, asUser("alice"), registry.DecideApprovalRequest{ID: c.ID})
	w.ok(err)
	back, _, err := w.GrantConsent(ctx, asUser("alice"), agreesTo())
	w.ok(err)
	if back.ID != c.ID || back.Withdrawn != nil {
		t.Errorf("%+v", back)
	}
	// Users of the same id of another issuer, and of another tenant, are others.
	proof := func(s *registry.ConsentSpec) { s.Evidence = "ticket 7" }
	for _, change := range []func(s *registry.ConsentSpec){
		func(s *registry.ConsentSpec) { s.Issuer = "https://idp.test" },
		func(s *registry.ConsentSpec) { s.Tenant = "umbrella" },
		func(s *registry.ConsentSpec) { s.Actor = "bot2" },
	} {
		other, _, err := w.GrantConsent(ctx, root(), agreesTo(change, proof))
		w.ok(err)
		if other.ID == c.ID {
			t.Errorf("%+v", other)
		}
	}
	list, _, err := w.ListConsents(ctx, asUser("alice").Actor, registry.ConsentQuery{User: "alice", Issuer: "postern", Actor: "bot"})
	w.ok(err)
	if len(list) != 1 || list[0].ID != c.ID {
		t.Errorf("%v", list)
	}
}

func TestNoConsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acted := asUser("alice")
	acted.Actor.Actors = []policy.Actor{{ID: "bot", Kind: policy.KindAgent}}
	for what, call := range map[string]registry.Call{"the agent itself": asBot(), "the agent, by the user's token": acted} {
		if _, _, err := w.GrantConsent(ctx, call, agreesTo(func(s *registry.ConsentSpec) { s.Evidence = "trust me" })); registry.ReasonOf(err) != registry.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	for field, change := range map[string]func(s *registry.ConsentSpec){
		"principal_id": func(s *registry.ConsentSpec) { s.User = "" },
		"actor_id":     func(s *registry.ConsentSpec) { s.Actor = s.User },
		"scopes":       func(s *registry.ConsentSpec) { s.Scopes = []string{"data:*"} },
		"evidence":     func(s *registry.ConsentSpec) { s.User = "bob" },
		"expire_time":  func(s *registry.ConsentSpec) { s.ExpiresAt = w.now },
	} {
		_, _, err := w.GrantConsent(ctx, asUser("alice"), agreesTo(change))
		w.refused(err, registry.InvalidField, field)
	}
	stranger := asUser("alice")
	stranger.Actor.Tenant = "umbrella"
	_, _, err := w.GrantConsent(ctx, stranger, agreesTo())
	w.refused(err, registry.NotFound, "")
}

// What a principal has agreed to, and what was agreed to of it, goes with it: who gets
// its id next has none of it.
func TestAgreementsFall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "bot", Kind: policy.KindAgent})
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "bob", Kind: policy.KindUser})
	left := func() (n int) {
		for _, kind := range []store.Kind{store.KindApproval, store.KindConsent} {
			w.ok(w.store.View(ctx, func(from store.Reader) error {
				some, err := from.List(store.Query{Kind: kind})
				n += len(some)
				return err
			}))
		}
		return n
	}
	grant := func() {
		for _, user := range []string{"alice", "bob"} {
			_, _, err := w.GrantConsent(ctx, asUser(user), agreesTo(func(s *registry.ConsentSpec) { s.User = user }))
			w.ok(err)
		}
	}
	grant()
	w.asks(transfer())
	if n := left(); n != 3 {
		t.Fatal(n)
	}
	_, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "bot"})
	w.ok(err)
	if n := left(); n != 0 {
		t.Errorf("%d are left of an agent", n)
	}
	grant()
	_, _, err = w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "bob"})
	w.ok(err)
	if n := left(); n != 1 {
		t.Errorf("%d are left of a user", n)
	}
	_, _, err = w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{Fields: []string{"disabled"}, Spec: registry.TenantSpec{ID: "acme", Disabled: true}})
	w.ok(err)
	_, _, err = w.DeleteTenant(ctx, root(), "acme", "")
	w.ok(err)
	if n := left(); n != 0 {
		t.Errorf("%d are left of a tenant", n)
	}
}
