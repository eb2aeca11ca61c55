package mirror_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
)

// yes is an approval that boss has given.
func yes(id string, change ...func(*store.Approval)) *store.Approval {
	a := &store.Approval{
		ID: id, Tenant: "acme", State: store.ApprovalApproved, Requester: "bot", Needs: policy.ApproverHuman, Action: "0123", Proposal: "{}",
		Decided: &store.Ending{At: noon, By: "acme/boss"}, ApproverKind: policy.KindUser, ApproverRoles: []string{"tenant-admin"},
		CreatedAt: noon, ExpiresAt: noon.Add(time.Minute),
	}
	for _, c := range change {
		c(a)
	}
	return a
}

// lets is alice's consent that bot writes.
func lets(id string, change ...func(*store.Consent)) *store.Consent {
	c := &store.Consent{ID: id, Tenant: "acme", User: "alice", Issuer: "https://idp.test", Actor: "bot", Scopes: []string{"data:write"}, GivenAt: noon, By: "acme/alice"}
	for _, f := range change {
		f(c)
	}
	return c
}

// delegating is alice, while actors act for her.
func delegating(actors ...string) *policy.Principal {
	p := &policy.Principal{ID: "alice", Tenant: "acme", Kind: policy.KindUser, Issuer: "https://idp.test"}
	for _, id := range actors {
		p.Actors = append(p.Actors, policy.Actor{ID: id, Kind: policy.KindAgent})
	}
	return p
}

func TestApprovals(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	id := "AAAAAAAAAAA1"
	s.put(yes(id))
	a := s.Approval(id, s.now)
	if a == nil || a.ID != id || a.Action != "0123" || a.Approver != "acme/boss" || a.Kind != policy.KindUser || len(a.Roles) != 1 {
		t.Fatalf("%+v", a)
	}
	if s.Approval(id, s.now.Add(time.Minute)) != nil || s.Approval("AAAAAAAAAAA2", s.now) != nil || s.Approval("", s.now) != nil {
		t.Error("one that is over, or not there")
	}
	for _, state := range []store.ApprovalState{store.ApprovalPending, store.ApprovalUsed, store.ApprovalDenied, store.ApprovalWithdrawn, "", "given"} {
		s.put(yes(id))
		s.put(yes(id, func(a *store.Approval) { a.State = state }))
		if s.Approval(id, s.now) != nil {
			t.Errorf("one that is %q", state)
		}
	}
	for what, change := range map[string]func(a *store.Approval){
		"of nothing":    func(a *store.Approval) { a.Action = "" },
		"for ever":      func(a *store.Approval) { a.ExpiresAt = time.Time{} },
		"given by none": func(a *store.Approval) { a.Decided = nil },
	} {
		s.put(yes(id))
		s.put(yes(id, change))
		if s.Approval(id, s.now) != nil {
			t.Error("one that is", what)
		}
	}
	s.put(yes(id))
	s.remove(store.KindApproval, id)
	if s.Approval(id, s.now) != nil || s.Status().Approvals != 0 {
		t.Error("one that was deleted")
	}
}

func TestConsents(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	id := "AAAAAAAAAAA1"
	if s.Consent(delegating("bot"), s.now) != nil {
		t.Error("nobody has consented")
	}
	s.put(lets(id))
	c := s.Consent(delegating("bot", "elder"), s.now)
	if c == nil || c.Consent != id || len(c.Scopes) != 1 || c.Scopes[0] != "data:write" {
		t.Fatalf("%+v", c)
	}
	bob, elsewhere, issued := delegating("bot"), delegating("bot"), delegating("bot")
	bob.ID, elsewhere.Tenant, issued.Issuer = "bob", "umbrella", "postern"
	for _, p := range []*policy.Principal{delegating(), delegating("elder", "bot"), bob, elsewhere, issued, nil} {
		if c := s.Consent(p, s.now); c != nil {
			t.Errorf("%+v has %+v", p, c)
		}
	}
	s.put(lets(id, func(c *store.Consent) { c.ExpiresAt = noon.Add(time.Minute) }))
	if s.Consent(delegating("bot"), noon.Add(59*time.Second)) == nil || s.Consent(delegating("bot"), noon.Add(time.Minute)) != nil {
		t.Error("it ends at another time")
	}
	s.put(lets(id, func(c *store.Consent) { c.Withdrawn = &store.Ending{At: noon} }))
	if s.Consent(delegating("bot"), s.now) != nil || s.Status().Consents != 0 {
		t.Error("it was withdrawn")
	}
	// Given anew under another id, after the user was deleted: the old one's end takes
	// nothing from it.
	s.put(lets(id))
	s.remove(store.KindConsent, id)
	s.put(lets("AAAAAAAAAAA2"))
	if c := s.Consent(delegating("bot"), s.now); c == nil || c.Consent != "AAAAAAAAAAA2" {
		t.Errorf("%+v", c)
	}
	r := lets("AAAAAAAAAAA2").Columns()
	r.Body = []byte("{")
	s.update(func(tx store.Tx) error { return tx.Put(r) })
	if s.Consent(delegating("bot"), s.now) != nil {
		t.Error("it cannot be read")
	}
}

// A replica that starts while the store is down knows what was agreed to, as far as it
// may answer at all.
func TestAgreementsInASnapshot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(yes("AAAAAAAAAAA1"), lets("AAAAAAAAAAA2"), lets("AAAAAAAAAAA3", func(c *store.Consent) { c.Actor, c.ExpiresAt = "other", noon.Add(time.Hour) }))
	sh := &shelf{scene: s, file: filepath.Join(t.TempDir(), "snapshot")}
	m := s.replica(func(c *mirror.Config) { c.Snapshot = sh.file })
	if err := m.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	again, err := sh.restart()
	if err != nil && again == nil {
		t.Fatal(err)
	}
	if a := again.Approval("AAAAAAAAAAA1", noon); a == nil || a.Action != "0123" || a.Approver != "acme/boss" || a.Kind != policy.KindUser {
		t.Errorf("%+v", a)
	}
	if c := again.Consent(delegating("bot"), noon); c == nil || c.Consent != "AAAAAAAAAAA2" {
		t.Errorf("%+v", c)
	}
	if c := again.Consent(delegating("other"), noon.Add(2*time.Hour)); c != nil {
		t.Errorf("%+v", c)
	}
}

func TestOldAgreementsAreForgotten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(yes("AAAAAAAAAAA1"), lets("AAAAAAAAAAA2"), lets("AAAAAAAAAAA3", func(c *store.Consent) { c.Actor, c.ExpiresAt = "other", noon.Add(time.Hour) }))
	mirror.Forget(s.Mirror, noon.Add(2*day))
	if st := s.Status(); st.Approvals != 0 || st.Consents != 1 {
		t.Errorf("%d approvals and %d consents are left", st.Approvals, st.Consents)
	}
}

func TestConsentAllocatesNothing(t *testing.T) {
	s, p := newScene(t), delegating("bot")
	s.put(lets("AAAAAAAAAAA1"))
	if n := testing.AllocsPerRun(100, func() { _ = s.Consent(p, s.now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkConsent(b *testing.B) {
	s, p := newScene(b), delegating("bot")
	s.put(lets("AAAAAAAAAAA1"))
	b.ReportAllocs()
	for b.Loop() {
		if s.Consent(p, s.now) == nil {
			b.Fatal("none")
		}
	}
}
