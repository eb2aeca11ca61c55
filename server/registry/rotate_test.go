package registry_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

func (w *world) rotate(id string, grace time.Duration) *registry.RotateResult {
	w.t.Helper()
	r, _, err := w.RotateCredential(ctx, root(), registry.RotateRequest{ID: id, Grace: grace})
	w.ok(err)
	return r
}

// K-12: what differs between the old record and its successor is id, digest and
// timestamps, and who issued it.
func TestRotationCopies(t *testing.T) {
	w := newWorld(t)
	parent := w.key()
	old := w.key(func(s *spec) {
		s.Rights, s.Environment, s.Metadata = rights("r:a s:b p:c"), "live", map[string]any{"team": "blue"}
		s.Constraints, s.TTL, s.Period, s.Parent = networks("10.0.0.0/8"), 10*day, day, parent.ID
	})
	before := *w.get(old.ID).Credential
	w.now = w.now.Add(2 * day)
	r := w.rotate(old.ID, time.Hour)
	after := *w.get(r.ID).Credential

	if after.ID == before.ID || after.Digest == before.Digest || r.Secret.Reveal() == old.Secret.Reveal() {
		t.Error("it is the same")
	}
	if life := after.ExpiresAt.Sub(after.CreatedAt); life != 10*day || !after.CreatedAt.Equal(w.now) {
		t.Errorf("lives %s from %s", life, after.CreatedAt)
	}
	for _, c := range []*store.Credential{&before, &after} {
		c.ID, c.Digest, c.Version = "", "", 0
		c.CreatedAt, c.UpdatedAt, c.ExpiresAt, c.MaxExpiresAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	}
	if d := cmp.Diff(&before, &after, cmp.Transformer("constraints", func(c *policy.Constraints) string {
		if c == nil {
			return ""
		}
		return c.Networks[0].String()
	}), cmp.AllowUnexported(store.Credential{})); d != "" {
		t.Error(d)
	}
}

// K-07: both keys are good during the grace period, the old one is not after it.
func TestRotationOverlaps(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	r := w.rotate(old.ID, 2*time.Second)
	if r.Predecessor.Successor != r.ID || r.Predecessor.State != registry.Rotating || w.get(old.ID).State != registry.Rotating || w.get(r.ID).State != registry.Active {
		t.Errorf("%+v", r.Predecessor)
	}
	w.now = w.now.Add(2 * time.Second)
	if w.get(old.ID).State != registry.Rotated || w.get(r.ID).State != registry.Active {
		t.Errorf("%s", w.get(old.ID).State)
	}
	if at := w.rotate(r.ID, 0); at.Predecessor.State != registry.Rotated {
		t.Errorf("without grace: %s", at.Predecessor.State)
	}
}

// A token that may only rotate itself gets nothing by it that it did not have: no
// second secret beside its own, and no longer life.
func TestRotationByItself(t *testing.T) {
	w := newWorld(t)
	token := w.key(func(s *spec) {
		s.Type, s.Principal, s.Name, s.TTL = store.PAT, "alice", "laptop", time.Hour
	})
	call := root()
	call.Actor.Itself, call.Actor.Credential = true, token.ID
	rotate := func(req registry.RotateRequest) (*registry.RotateResult, error) {
		req.ID = token.ID
		r, _, err := w.RotateCredential(ctx, call, req)
		return r, err
	}
	_, err := rotate(registry.RotateRequest{Grace: time.Second})
	w.refused(err, registry.PermissionDenied, "grace_period")
	_, err = rotate(registry.RotateRequest{TTL: time.Hour + time.Second})
	w.refused(err, registry.PermissionDenied, "ttl")
	w.now = w.now.Add(30 * time.Minute)
	r, err := rotate(registry.RotateRequest{})
	w.ok(err)
	if r.Predecessor.State != registry.Rotated || r.ExpiresAt.Sub(w.now) != time.Hour {
		t.Errorf("%s, and the next one ends at %s", r.Predecessor.State, r.ExpiresAt)
	}
}

func TestRotationRefuses(t *testing.T) {
	w := newWorld(t)
	rotate := func(req registry.RotateRequest) error {
		_, _, err := w.RotateCredential(ctx, root(), req)
		return err
	}
	twice := w.key()
	w.rotate(twice.ID, time.Hour)
	w.refused(rotate(registry.RotateRequest{ID: twice.ID}), registry.WrongState, "")
	revoked := w.key()
	_, _, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: revoked.ID})
	w.ok(err)
	if e := w.refused(rotate(registry.RotateRequest{ID: revoked.ID}), registry.WrongState, ""); e.Meta["state"] != "REVOKED" {
		t.Errorf("%v", e.Meta)
	}
	disabled := w.key()
	w.ok(second(w.DisableCredential(ctx, root(), registry.EndRequest{ID: disabled.ID})))
	w.refused(rotate(registry.RotateRequest{ID: disabled.ID}), registry.WrongState, "")
	short := w.key(func(s *spec) { s.TTL = time.Hour })
	for _, grace := range []time.Duration{-1, 31 * day} {
		w.refused(rotate(registry.RotateRequest{ID: short.ID, Grace: grace}), registry.InvalidField, "grace_period")
	}
	w.refused(rotate(registry.RotateRequest{ID: short.ID, TTL: 91 * day}), registry.TTLTooLong, "ttl")
	w.now = w.now.Add(time.Hour)
	w.refused(rotate(registry.RotateRequest{ID: short.ID}), registry.WrongState, "") // expired
	good := w.key()
	_, _, err = w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{
		Fields: []string{"disabled"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "shop", Disabled: true},
	})
	w.ok(err)
	w.refused(rotate(registry.RotateRequest{ID: good.ID}), registry.WrongState, "principal_id")
}

// A tenant that has become stricter holds successors of what it allowed before.
func TestRotationKeepsToTheRule(t *testing.T) {
	w := newWorld(t)
	c := w.key(func(s *spec) { s.TTL = 80 * day })
	_, _, err := w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"max_ttl"}, Spec: registry.TenantSpec{ID: "acme", Rules: store.Rules{MaxTTL: store.Duration(day)}},
	})
	w.ok(err)
	if r := w.rotate(c.ID, 0); r.ExpiresAt.Sub(w.now) != day {
		t.Errorf("lives until %s", r.ExpiresAt)
	}
}

// What fell with a key falls with its successor, and no longer with the key.
func TestChildrenFollowTheSuccessor(t *testing.T) {
	w := newWorld(t)
	parent := w.key()
	child := w.key(func(s *spec) { s.Parent = parent.ID })
	next := w.rotate(parent.ID, time.Hour)
	_, n, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: parent.ID})
	w.ok(err)
	if n != 0 || w.get(child.ID).State != registry.Active || w.get(next.ID).State != registry.Active {
		t.Errorf("%d fell with the old key", n)
	}
	_, n, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: next.ID})
	w.ok(err)
	if n != 1 || w.get(child.ID).State != registry.Revoked {
		t.Errorf("%d fell with the successor", n)
	}
}

// An imported secret is replaced by one of ours.
func TestRotatingAnImportedToken(t *testing.T) {
	w := newWorld(t)
	done, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{row("alice", "abc1234")}})
	w.ok(err)
	r := w.rotate(done.Results[0].ID, 0)
	if r.Low || r.Imported() || r.Type != store.Token || !r.Predecessor.Low {
		t.Errorf("%+v", r.Credential.Credential)
	}
}

// P-11: renewing moves the end by the period until the explicit maximum.
func TestRenew(t *testing.T) {
	w := newWorld(t)
	start := w.now
	c := w.key(func(s *spec) { s.Period, s.MaxExpiresAt = day, start.Add(2*day+time.Hour) })
	for i, want := range []time.Duration{day, 2 * day, 2*day + time.Hour} {
		if got := w.get(c.ID).ExpiresAt; !got.Equal(start.Add(want)) {
			t.Errorf("after %d renewals it ends at %s", i, got)
		}
		_, _, err := w.RenewCredential(ctx, root(), c.ID)
		if i < 2 {
			w.ok(err)
		} else {
			w.refused(err, registry.MaxTTLExceeded, "")
		}
	}
	w.now = start.Add(3 * day)
	w.refused(second(w.RenewCredential(ctx, root(), c.ID)), registry.WrongState, "") // expired
	w.refused(second(w.RenewCredential(ctx, root(), w.key().ID)), registry.WrongState, "")
	// A request that is repeated renews once.
	again := w.key(func(s *spec) { s.Period = day })
	call := root()
	call.RequestID = "renew"
	for range 2 {
		r, _, err := w.RenewCredential(ctx, call, again.ID)
		w.ok(err)
		if r.ExpiresAt != w.now.Add(2*day) {
			t.Errorf("ends at %s", r.ExpiresAt)
		}
	}
	// The tenant's rule of today bounds it too.
	_, _, err := w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"max_ttl"}, Spec: registry.TenantSpec{ID: "acme", Rules: store.Rules{MaxTTL: store.Duration(day)}},
	})
	w.ok(err)
	w.refused(second(w.RenewCredential(ctx, root(), again.ID)), registry.MaxTTLExceeded, "")
}
