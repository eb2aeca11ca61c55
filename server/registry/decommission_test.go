package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

func named(id string) registry.AgentRequest { return registry.AgentRequest{Tenant: "acme", ID: id} }

// approvals writes approvals for which an agent has asked, one in each of some states.
func (w *world) approvals(of string, states ...store.ApprovalState) {
	w.t.Helper()
	_, err := w.store.Update(ctx, func(tx store.Tx) error {
		for _, s := range states {
			err := store.Put(tx, &store.Approval{ID: of + "-" + string(s), Tenant: "acme", State: s, Requester: "alice", Agent: of, ExpiresAt: w.now.Add(day)})
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.ok(err)
}

func (w *world) records(q store.Query) (found []store.Record) {
	w.t.Helper()
	w.ok(w.store.View(ctx, func(from store.Reader) (err error) {
		found, err = from.List(q)
		return err
	}))
	return found
}

// with an agent ends all that it ever held, and all of what falls with it, in one
// change.
func TestDecommission(t *testing.T) {
	w := newWorld(t)
	w.agent("root", func(s *bot) {
		s.Owner, s.SPIFFEIDs, s.Certificates, s.JWKS = "alice", []string{spiffe}, []string{print1}, keySet(edKey)
	})
	w.agent("child", func(s *bot) { s.Owner = "root" })
	w.agent("grandchild", func(s *bot) { s.Owner = "child" })
	w.agent("off", func(s *bot) { s.Owner = "root" })
	w.agent("bystander", func(s *bot) { s.Owner = "alice" })
	w.principal(person{Tenant: "acme", ID: "helper", Kind: policy.KindService, Owner: "child"})
	w.ok(second(w.DisableAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: "off", Reason: "odd"})))
	var keys []string
	for _, id := range []string{"root", "root", "child", "grandchild", "helper"} {
		keys = append(keys, w.key(func(s *spec) { s.Principal = id }).ID)
	}
	child := w.key(func(s *spec) { s.Principal, s.Parent = "grandchild", keys[0] }).ID
	keys = append(keys, child)
	w.ok(second(w.DisableCredential(ctx, root(), registry.EndRequest{ID: keys[1]})))
	other := w.key(func(s *spec) { s.Principal = "bystander" }).ID
	w.approvals("root", store.ApprovalPending, store.ApprovalUsed, store.ApprovalDenied)
	w.approvals("grandchild", store.ApprovalApproved)
	w.approvals("bystander", store.ApprovalApproved)
	_, err := w.store.Update(ctx, func(tx store.Tx) error { // agents have none, but who knows who wrote it
		return store.Put(tx, &store.Session{ID: "s", Tenant: "acme", Principal: "helper", Digest: "x", Idle: store.Duration(time.Hour), ExpiresAt: w.now.Add(time.Hour)})
	})
	w.ok(err)

	req := named("root")
	req.Reason = "replaced"
	counts := func(d registry.Decommissioned) []int {
		return []int{d.Agents, d.Principals, d.Credentials, d.Sessions, d.Approvals}
	}
	want := []int{4, 1, 6, 1, 2}

	// A dry run says the same, and does nothing.
	before := w.dump()
	dry := root()
	dry.ValidateOnly = true
	done, change, err := w.DecommissionAgent(ctx, dry, req)
	w.ok(err)
	if diff := cmp.Diff(want, counts(done)); diff != "" || change.Number != 0 || w.dump() != before {
		t.Error(diff, change)
	}

	call := root()
	call.RequestID = "the end"
	head, err := w.store.Changes(ctx, 0, 1000)
	w.ok(err)
	done, change, err = w.DecommissionAgent(ctx, call, req)
	w.ok(err)
	if diff := cmp.Diff(want, counts(done)); diff != "" {
		t.Error(diff)
	}
	if change.Number != head.Next+1 || !change.EffectiveAt.Equal(change.CommittedAt.Add(time.Second)) || !slices.Contains(w.seen, change.Number) {
		t.Errorf("%+v after %d", change, head.Next)
	}
	if p := done.Agent; !p.Decommissioned() || p.Agent.Decommissioned.Reason != "replaced" || p.Agent.Decommissioned.By != "/root" || p.Version != change.Number {
		t.Errorf("%+v", p)
	}
	after := w.dump()
	for _, again := range []registry.Call{call, call} {
		repeated, same, err := w.DecommissionAgent(ctx, again, req)
		w.ok(err)
		if diff := cmp.Diff(want, counts(repeated)); diff != "" || same != change || w.dump() != after {
			t.Errorf("repeated: %s %+v", diff, same)
		}
	}

	for _, id := range []string{"root", "child", "grandchild", "off"} {
		p := w.agentNow("acme", id)
		if registry.AgentStateOf(p) != registry.AgentDecommissioned || p.Disabled == nil || p.Version != change.Number {
			t.Errorf("%s: %+v", id, p)
		}
		if id != "root" && p.Agent.Decommissioned.Reason != "its owner root was decommissioned" {
			t.Errorf("%s: %+v", id, p.Agent.Decommissioned)
		}
		denials := w.records(store.Query{Kind: store.KindDenial, Owner: p.Key()})
		if len(denials) != 1 {
			t.Fatalf("%s: %d lines", id, len(denials))
		}
		line, err := store.Decode[store.Denial](denials[0])
		w.ok(err)
		if line.Agent != id || line.Tenant != "acme" || line.IssuedBefore != w.now || line.ExpiresAt.Before(w.now.Add(90*day)) {
			t.Errorf("%+v", line)
		}
	}
	if p := w.agentNow("acme", "off"); p.Disabled.Reason != "odd" { // since when it was off
		t.Errorf("%+v", p.Disabled)
	}
	helper, err := w.GetPrincipal(ctx, root().Actor, "acme", "helper")
	w.ok(err)
	if helper.Disabled == nil {
		t.Error("what an agent owned is on")
	}
	for _, id := range keys {
		if c := w.get(id); c.State != registry.Revoked {
			t.Errorf("%s is %s", id, c.State)
		}
	}
	if c := w.get(other); c.State != registry.Active || registry.AgentStateOf(w.agentNow("acme", "bystander")) != registry.AgentActive {
		t.Error("a bystander fell")
	}
	for kind, want := range map[store.Kind]int{store.KindSession: 0, store.KindApproval: 5, store.KindWorkload: 0} {
		if n := len(w.records(store.Query{Kind: kind})); n != want {
			t.Errorf("%d records of the kind %s", n, kind)
		}
	}
	var living []string
	for _, r := range w.records(store.Query{Kind: store.KindApproval}) {
		a, err := store.Decode[store.Approval](r)
		w.ok(err)
		if a.State == store.ApprovalPending || a.State == store.ApprovalApproved {
			living = append(living, a.ID)
		}
	}
	if !slices.Equal(living, []string{"bystander-approved"}) {
		t.Errorf("approvals live: %v", living)
	}
	targets := map[string]store.AuditEntry{}
	for _, e := range w.audit(registry.AuditQuery{Action: "agent.decommission"}) {
		if e.Change != change.Number || e.Tenant != "acme" || e.RequestID != "the end" {
			t.Errorf("%+v", e)
		}
		targets[e.Target] = e
	}
	if len(targets) != 4 || targets["principal/acme/root"].Detail["credentials"] != "6" || targets["principal/acme/child"].Detail["with"] != "root" {
		t.Errorf("%+v", targets)
	}
}

// What was decommissioned is so for good: it changes no more, gets nothing, and nobody
// gets its id.
func TestDecommissionedIsForGood(t *testing.T) {
	w := newWorld(t)
	w.principal(person{Tenant: "acme", ID: "team", Kind: policy.KindService})
	w.agent("a", func(s *bot) { s.Owner, s.SPIFFEIDs = "team", []string{spiffe} })
	w.agent("living")
	key := w.key(func(s *spec) { s.Principal, s.Period = "a", day })
	w.ok(second(w.DecommissionAgent(ctx, of("acme"), named("a"))))
	before := w.dump()
	for name, tt := range map[string]struct {
		do     func() error
		reason registry.Reason
		field  string
	}{
		"enable":  {func() error { return second(w.EnableAgent(ctx, root(), named("a"))) }, registry.WrongState, ""},
		"disable": {func() error { return second(w.DisableAgent(ctx, root(), named("a"))) }, registry.WrongState, ""},
		"update": {func() error {
			return second(w.UpdateAgent(ctx, root(), registry.UpdateAgentRequest{Fields: []string{"model"}, Spec: bot{PrincipalSpec: person{Tenant: "acme", ID: "a"}}}))
		}, registry.WrongState, ""},
		"switch on": {func() error {
			return second(w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{Fields: []string{"disabled"}, Spec: person{Tenant: "acme", ID: "a"}}))
		}, registry.WrongState, ""},
		"delete": {func() error {
			return second(w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "a"}))
		}, registry.WrongState, ""},
		"create": {func() error { return second(w.CreateAgent(ctx, root(), botOf("a"))) }, registry.AlreadyExists, "id"},
		"as a user": {func() error {
			return second(w.CreatePrincipal(ctx, root(), registry.CreatePrincipalRequest{PrincipalSpec: person{Tenant: "acme", ID: "a", Kind: policy.KindUser}}))
		}, registry.AlreadyExists, "id"},
		"issue": {func() error {
			return second(w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.Principal = "a" })))
		}, registry.WrongState, "principal_id"},
		"enable a key": {func() error { return second(w.EnableCredential(ctx, root(), registry.EndRequest{ID: key.ID})) }, registry.WrongState, ""},
		"renew a key":  {func() error { return second(w.RenewCredential(ctx, root(), key.ID)) }, registry.WrongState, ""},
		"own":          {func() error { return second(w.CreateAgent(ctx, root(), botOf("new", func(s *bot) { s.Owner = "a" }))) }, registry.WrongState, "owner_id"},
		"adopt": {func() error {
			return second(w.UpdateAgent(ctx, root(), registry.UpdateAgentRequest{Fields: []string{"owner_id"}, Spec: bot{PrincipalSpec: person{Tenant: "acme", ID: "living", Owner: "a"}}}))
		}, registry.WrongState, "owner_id"},
	} {
		err := tt.do()
		t.Run(name, func(t *testing.T) {
			w.refused(err, tt.reason, tt.field)
			if w.dump() != before {
				t.Error("something was changed")
			}
		})
	}
	// Once more is no mistake, and changes nothing.
	p := w.agentNow("acme", "a")
	done, _, err := w.DecommissionAgent(ctx, root(), named("a"))
	w.ok(err)
	if done.Agents != 0 || done.Agent.Version != p.Version {
		t.Errorf("%+v", done)
	}
	// Its workload can be another agent.
	w.agent("successor", func(s *bot) { s.SPIFFEIDs = []string{spiffe} })
	// Whoever owned it can go, and it stays.
	n, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "team"})
	w.ok(err)
	w.now = w.now.Add(400 * day)
	if _, err := w.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if n != 2 || registry.AgentStateOf(w.agentNow("acme", "a")) != registry.AgentDecommissioned {
		t.Errorf("%d records went", n) // the owner, and the key
	}
	_, _, err = w.CreateAgent(ctx, root(), botOf("a"))
	w.refused(err, registry.AlreadyExists, "id")
	// Only with its tenant does it go.
	w.ok(second(w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{Fields: []string{"disabled"}, Spec: registry.TenantSpec{ID: "acme", Disabled: true}})))
	w.ok(second(w.DeleteTenant(ctx, root(), "acme", "")))
	for _, kind := range []store.Kind{store.KindPrincipal, store.KindDenial, store.KindWorkload} {
		if left := w.records(store.Query{Kind: kind, Tenant: "acme"}); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
	}
}

func TestDecommissionRefused(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	for name, tt := range map[string]struct {
		req    registry.AgentRequest
		reason registry.Reason
		field  string
	}{
		"nobody":       {named("nobody"), registry.NotFound, ""},
		"a user":       {named("alice"), registry.NotFound, ""},
		"another etag": {registry.AgentRequest{Tenant: "acme", ID: "a", Etag: "v0"}, registry.EtagMismatch, "etag"},
		"a reason":     {registry.AgentRequest{Tenant: "acme", ID: "a", Reason: strings.Repeat("x", 257)}, registry.InvalidField, "reason"},
	} {
		_, _, err := w.DecommissionAgent(ctx, root(), tt.req)
		t.Run(name, func(t *testing.T) { w.refused(err, tt.reason, tt.field) })
	}
	_, _, err := w.DecommissionAgent(ctx, of("umbrella"), named("a"))
	w.refused(err, registry.NotFound, "")
	_, _, err = w.DecommissionAgent(ctx, registry.Call{}, named("a"))
	w.refused(err, registry.PermissionDenied, "")

	// More than a change can take is refused, and says what to do.
	w.agent("big")
	const many = 10_000
	_, err = w.store.Store.Update(ctx, func(tx store.Tx) error {
		for i := range many {
			id := fmt.Sprintf("%012d", i)
			if err := store.Put(tx, &store.Credential{ID: id, Type: store.APIKey, Tenant: "acme", Principal: "big", Digest: "hmac-sha256:v1:" + id}); err != nil {
				return err
			}
		}
		return nil
	})
	w.ok(err)
	_, _, err = w.DecommissionAgent(ctx, root(), named("big"))
	if e := w.refused(err, registry.QuotaExceeded, ""); !strings.Contains(e.Message, "disable it") {
		t.Error(e)
	}
}

// An agent that is deleted with its owner leaves no record; tokens that were issued to it
// before are refused all the same.
func TestDeletedAgentsLeaveALine(t *testing.T) {
	w := newWorld(t)
	w.principal(person{Tenant: "acme", ID: "team", Kind: policy.KindUser})
	w.agent("a", func(s *bot) { s.Owner, s.SPIFFEIDs = "team", []string{spiffe} })
	w.agent("b", func(s *bot) { s.Owner = "a" })
	n, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "team"})
	w.ok(err)
	if n != 3 {
		t.Errorf("%d records went", n)
	}
	var lines []string
	for _, r := range w.records(store.Query{Kind: store.KindDenial}) {
		d, err := store.Decode[store.Denial](r)
		w.ok(err)
		if d.Tenant == "acme" && d.IssuedBefore == w.now && d.ExpiresAt.After(w.now.Add(90*day)) {
			lines = append(lines, d.Agent)
		}
	}
	slices.Sort(lines)
	if !slices.Equal(lines, []string{"a", "b"}) || len(w.records(store.Query{Kind: store.KindWorkload})) != 0 {
		t.Errorf("lines of %v", lines)
	}
}

// Ended agents take no place in a tenant's denylist, whose lines are counted.
func TestDecommissionNeedsNoRoom(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.MaxDenials = 1 })
	for _, id := range []string{"a", "b", "c"} {
		w.agent(id)
		w.ok(second(w.DecommissionAgent(ctx, root(), named(id))))
	}
	w.ok(second(w.AddDenial(ctx, root(), store.Denial{Tenant: "acme", JTI: "x"})))
	w.agent("d")
	w.ok(second(w.DecommissionAgent(ctx, root(), named("d"))))
	_, _, err := w.AddDenial(ctx, root(), store.Denial{Tenant: "acme", JTI: "y"})
	w.refused(err, registry.QuotaExceeded, "tenant")
}
