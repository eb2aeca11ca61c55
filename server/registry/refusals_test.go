package registry_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// G-11: who is refused ten thousand times fills neither the log nor the disk, and the
// log says how often it was.
func TestRefusalsAreCounted(t *testing.T) {
	w := newWorld(t)
	stranger := registry.Call{Actor: registry.Actor{Tenant: "umbrella", ID: "mallory"}}
	c := w.key()
	written := func() int { return len(w.audit(registry.AuditQuery{Actor: "umbrella/mallory"})) }
	for range 1000 {
		_, _, err := w.DisableCredential(ctx, stranger, registry.EndRequest{ID: c.ID})
		w.refused(err, registry.NotFound, "")
	}
	if n := written(); n != 10 {
		t.Errorf("%d entries of one kind in a minute", n)
	}
	for i := range 1000 { // always another one
		w.ok(w.Refused(ctx, stranger, registry.Refusal{Action: "credential.get", Target: fmt.Sprintf("credential/%d", i), Tenant: "umbrella"}))
	}
	if n := written(); n != 100 {
		t.Errorf("%d entries of one actor in a minute", n)
	}
	w.now = w.now.Add(time.Minute)
	_, err := w.Maintain(ctx)
	w.ok(err)
	counts := map[string]string{}
	for _, e := range w.audit(registry.AuditQuery{Actor: "umbrella/mallory"}) {
		if n := e.Detail["refusals"]; n != "" {
			counts[e.Action] = n
			if !e.Denied || e.Target != "" || e.Detail["since"] == "" {
				t.Errorf("%+v", e)
			}
		}
	}
	if counts["credential.disable"] != "990" || counts["credential.get"] != "910" || len(counts) != 2 {
		t.Errorf("%v", counts)
	}
	// Another minute, another ten, and nobody else's share is used up.
	_, _, err = w.DisableCredential(ctx, stranger, registry.EndRequest{ID: c.ID})
	w.refused(err, registry.NotFound, "")
	if n := written(); n != 103 {
		t.Errorf("%d entries", n)
	}
}

// G-11: many actors at once are bounded as well, and what is held back is written by the
// next refusal or before the end.
func TestRefusalsOfMany(t *testing.T) {
	w := newWorld(t)
	w.now = w.now.Add(time.Hour)
	denied := func() (n, counted int) {
		for _, e := range w.audit(registry.AuditQuery{From: w.now.Add(-time.Hour + time.Second)}) {
			if e.Denied {
				n++
			}
			if e.Detail["refusals"] != "" {
				counted++
			}
		}
		return n, counted
	}
	refuse := func(i int) {
		call := registry.Call{Actor: registry.Actor{Tenant: "acme", ID: fmt.Sprintf("m%d", i)}}
		w.ok(w.Refused(ctx, call, registry.Refusal{Action: "credential.issue", Tenant: "acme"}))
	}
	for i := range 1000 {
		refuse(i)
	}
	if n, _ := denied(); n != 600 {
		t.Errorf("%d entries in a minute", n)
	}
	w.ok(w.FlushAudit(ctx))
	if n, counted := denied(); counted != 257 || n != 857 { // 256 kinds, and the rest in one
		t.Errorf("%d entries, %d of them counts", n, counted)
	}
	w.ok(w.FlushAudit(ctx))
	if n, _ := denied(); n != 857 {
		t.Errorf("%d entries: the same was written twice", n)
	}
	w.store.err = errors.New("down")
	refuse1 := w.Refused(ctx, registry.Call{Actor: registry.Actor{ID: "x"}}, registry.Refusal{Action: "a"})
	w.refused(refuse1, registry.StoreUnavailable, "")
}

// S-11: who has as many sessions as are allowed loses the one that was not used for the
// longest time, and nobody else loses any.
func TestSessionsOfAUserAreBounded(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.MaxSessions = 3 })
	begin := func(principal string) string {
		w.now = w.now.Add(time.Second)
		s, _, err := w.CreateSession(ctx, root(), registry.SessionSpec{Tenant: "acme", Principal: principal})
		w.ok(err)
		return s.ID
	}
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "bob", Kind: "user"})
	bobs := begin("bob")
	var ids []string
	for range 3 {
		ids = append(ids, begin("alice"))
	}
	rotated, _, err := w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: ids[2]})
	w.ok(err)
	there := func(id string) bool {
		_, err := w.GetSession(ctx, root().Actor, id)
		return err == nil
	}
	if !there(ids[0]) || !there(rotated.ID) {
		t.Error("a rotation counts as one more")
	}
	fourth := begin("alice")
	if there(ids[0]) || !there(ids[1]) || !there(rotated.ID) || !there(fourth) || !there(bobs) {
		t.Error("not the one that was used longest ago has ended")
	}
	if e := w.audit(registry.AuditQuery{Action: "session.create"})[0]; e.Detail["ended"] != "1" {
		t.Errorf("%+v", e)
	}
	// Those that are over go when the next one begins.
	w.now = w.now.Add(time.Hour)
	begin("alice")
	batch, err := w.store.Changes(ctx, 0, 1_000_000)
	w.ok(err)
	n := 0
	for _, r := range batch.Records {
		if r.Kind == store.KindSession && r.Owner == "acme/alice" && !r.Deleted {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d sessions are kept", n)
	}
}

// J-09: a tenant has so many lines of the denylist, of which every replica holds all; the
// installation is not held to that, and lines that have run out do not count.
func TestLinesOfATenantAreBounded(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.MaxDenials = 3 })
	add := func(call registry.Call, d store.Denial) error {
		_, _, err := w.AddDenial(ctx, call, d)
		return err
	}
	w.ok(add(of("acme"), store.Denial{JTI: "0", ExpiresAt: w.now.Add(time.Minute)}))
	w.ok(add(of("acme"), store.Denial{JTI: "1"}))
	w.ok(add(of("acme"), store.Denial{JTI: "2"}))
	w.refused(add(of("acme"), store.Denial{JTI: "3"}), registry.QuotaExceeded, "tenant")
	w.refused(add(root(), store.Denial{JTI: "3", Tenant: "acme"}), registry.QuotaExceeded, "tenant")
	w.ok(add(of("umbrella"), store.Denial{JTI: "3"}))
	for range 5 {
		w.ok(add(root(), store.Denial{JTI: "3"}))
	}
	w.now = w.now.Add(time.Minute)
	w.ok(add(of("acme"), store.Denial{JTI: "3"}))
}
