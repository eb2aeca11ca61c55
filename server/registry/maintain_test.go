package registry_test

import (
	"testing"
	"time"

	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// K-09: what was not used for as long as the tenant allows is disabled, on record;
// what was used or changed in that time is not, nor what is another tenant's.
func TestUnusedAreDisabled(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"unused_for"}, Spec: registry.TenantSpec{ID: "acme", Rules: store.Rules{UnusedFor: store.Duration(30 * day)}},
	})
	w.ok(err)
	never, used, denied, changed := w.key(), w.key(), w.key(), w.key()
	elsewhere, revoked := w.key(func(s *spec) { s.Tenant = "umbrella" }), w.key()
	_, _, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: revoked.ID})
	w.ok(err)
	use := func(c *registry.Issued, at time.Time, allowed int64) {
		u := store.Usage{Credential: c.ID, Tenant: "acme", Principal: "shop", Day: at.Format(time.DateOnly), Route: "r", Allowed: allowed, Denied: 1 - allowed}
		if allowed > 0 {
			u.LastUsedAt = at
		}
		w.ok(w.store.AddUsage(ctx, []store.Usage{u}))
	}
	use(used, w.now.Add(10*day), 1)
	for i := range 40 { // denies do not count as use, however many
		use(denied, w.now.Add(time.Duration(i)*day), 0)
	}
	w.now = w.now.Add(20 * day)
	w.ok(second(w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: changed.ID, Fields: []string{"display_name"}})))
	if done, err := w.Maintain(ctx); err != nil || done.Disabled != 0 {
		t.Errorf("after 20 days: %+v, %v", done, err)
	}
	w.now = w.now.Add(11 * day)
	fresh := w.key()

	unused, _, err := w.ListCredentials(ctx, root().Actor, registry.CredentialQuery{Tenant: "acme", UnusedFor: 30 * day, States: []registry.State{registry.Active}})
	w.ok(err)
	if len(unused) != 3 { // never, denied, and changed, which was not used either
		t.Errorf("%d unused", len(unused))
	}
	done, err := w.Maintain(ctx)
	w.ok(err)
	if done.Disabled != 2 {
		t.Errorf("%+v", done)
	}
	for c, want := range map[*registry.Issued]registry.State{
		never: registry.Disabled, denied: registry.Disabled, used: registry.Active, changed: registry.Active,
		elsewhere: registry.Active, revoked: registry.Revoked, fresh: registry.Active,
	} {
		if got := w.get(c.ID); got.State != want {
			t.Errorf("%s, want %s", got.State, want)
		}
	}
	if got := w.get(used.ID); !got.LastUsedAt.Equal(w.now.Add(-21 * day)) {
		t.Errorf("last used %s", got.LastUsedAt)
	}
	e := w.audit(registry.AuditQuery{Action: "credential.disable"})
	if len(e) != 2 || e[0].Actor != "/postern" || e[0].Tenant != "acme" || !contains(e[0].Reason, "720h") {
		t.Errorf("%+v", e)
	}
	// Who enables one again has it for as long.
	w.ok(second(w.EnableCredential(ctx, root(), registry.EndRequest{ID: never.ID})))
	if done, err := w.Maintain(ctx); err != nil || done.Disabled != 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestMaintainKeepsWhatReplicasMayNeed(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.UnusedFor = 2 * day })
	call := root()
	call.RequestID = "x"
	_, _, err := w.AddDenial(ctx, call, store.Denial{JTI: "x", ExpiresAt: w.now.Add(day)})
	w.ok(err)
	own := w.key(func(s *spec) { s.Tenant = "" })
	w.now = w.now.Add(2 * day)
	done, err := w.Maintain(ctx)
	w.ok(err)
	if done.Purged != 0 {
		t.Errorf("%+v", done)
	}
	w.now = w.now.Add(7 * day)
	done, err = w.Maintain(ctx)
	w.ok(err)
	if done.Purged != 2 || done.Disabled != 1 || w.get(own.ID).State != registry.Disabled { // the line and the request
		t.Errorf("%+v", done)
	}
	w.key(func(s *spec) { s.Tenant = "" })
	w.now = w.now.Add(3 * day)
	w.store.err = store.ErrReadOnly
	if done, err := w.Maintain(ctx); registry.ReasonOf(err) != registry.StoreUnavailable || done.Disabled != 0 {
		t.Errorf("%+v, %v", done, err)
	}
}
