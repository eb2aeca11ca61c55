package registry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

type visit = registry.SessionSpec

func (w *world) session(change ...func(*visit)) *registry.NewSession {
	w.t.Helper()
	s := visit{Tenant: "acme", Principal: "alice", AMR: []string{"pwd"}}
	for _, c := range change {
		c(&s)
	}
	created, _, err := w.CreateSession(ctx, root(), s)
	w.ok(err)
	return created
}

// S-01, S-03, S-10: ids and secrets are always new, and only a digest is kept.
func TestCreateSession(t *testing.T) {
	w := newWorld(t)
	one, two := w.session(), w.session()
	parts, err := seal.Parse(one.Secret.Reveal())
	w.ok(err)
	if one.ID == two.ID || parts.ID != one.ID || parts.Kind != seal.KindSession || contains(w.dump(), one.Secret.Reveal()) {
		t.Errorf("%+v", one.Session)
	}
	got, err := w.GetSession(ctx, root().Actor, one.ID)
	w.ok(err)
	if got.AuthTime != w.now || time.Duration(got.Idle) != 30*time.Minute || got.ExpiresAt != w.now.Add(8*time.Hour) {
		t.Errorf("%+v", got)
	}
	w.principal(person{Tenant: "acme", ID: "off", Kind: policy.KindUser, Disabled: true})
	for name, tt := range map[string]struct {
		change func(*visit)
		reason registry.Reason
		field  string
	}{
		"a service":    {func(s *visit) { s.Principal = "shop" }, registry.InvalidField, "principal_id"},
		"nobody":       {func(s *visit) { s.Principal = "nobody" }, registry.NotFound, ""},
		"disabled":     {func(s *visit) { s.Principal = "off" }, registry.WrongState, "principal_id"},
		"long idle":    {func(s *visit) { s.Idle = 31 * time.Minute }, registry.InvalidField, "idle_timeout"},
		"negative":     {func(s *visit) { s.Idle = -1 }, registry.InvalidField, "idle_timeout"},
		"long life":    {func(s *visit) { s.ExpiresAt = w.now.Add(9 * time.Hour) }, registry.TTLTooLong, "expire_time"},
		"past":         {func(s *visit) { s.ExpiresAt = w.now }, registry.InvalidField, "expire_time"},
		"future login": {func(s *visit) { s.AuthTime = w.now.Add(time.Hour) }, registry.InvalidField, "auth_time"},
		"amr":          {func(s *visit) { s.AMR = []string{"a\nb"} }, registry.InvalidField, "amr"},
		"many amr":     {func(s *visit) { s.AMR = make([]string, 17) }, registry.InvalidField, "amr"},
		"acr":          {func(s *visit) { s.ACR = strings.Repeat("x", 257) }, registry.InvalidField, "acr"},
		"metadata":     {func(s *visit) { s.Metadata = map[string]string{"k": strings.Repeat("x", 513)} }, registry.InvalidField, "metadata.k"},
	} {
		s := visit{Tenant: "acme", Principal: "alice"}
		tt.change(&s)
		_, _, err := w.CreateSession(ctx, root(), s)
		t.Run(name, func(t *testing.T) { w.refused(err, tt.reason, tt.field) })
	}
	_, _, err = w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"session_idle", "session_max"}, Spec: registry.TenantSpec{ID: "acme", Rules: store.Rules{
			SessionIdle: store.Duration(time.Minute), SessionMax: store.Duration(time.Hour),
		}},
	})
	w.ok(err)
	if s := w.session(); time.Duration(s.Idle) != time.Minute || s.ExpiresAt != w.now.Add(time.Hour) {
		t.Errorf("%+v", s.Session)
	}
}

// Whoever vouches for a user does not become an administrator by it.
func TestVouching(t *testing.T) {
	w := newWorld(t)
	w.principal(person{Tenant: "acme", ID: "chief", Kind: policy.KindUser, Rights: rights("r:tenant-admin")})
	app := with(rights("s:nothing"))
	w.ok(second(w.CreateSession(ctx, app, visit{Tenant: "acme", Principal: "alice"})))
	_, _, err := w.CreateSession(ctx, app, visit{Tenant: "acme", Principal: "chief"})
	w.refused(err, registry.GrantExceedsIssuer, "principal_id")
	s, _, err := w.CreateSession(ctx, of("acme"), visit{Tenant: "acme", Principal: "chief"})
	w.ok(err)
	_, _, err = w.RotateSession(ctx, app, registry.RotateSessionRequest{ID: s.ID})
	w.refused(err, registry.GrantExceedsIssuer, "principal_id")
	self := registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "chief", Credential: s.ID}}
	w.ok(second(w.RotateSession(ctx, self, registry.RotateSessionRequest{ID: s.ID})))

	w.principal(person{Tenant: "acme", ID: "deputy", Kind: policy.KindUser, Rights: rights("p:postern.credentials.issue")})
	_, _, err = w.CreateSession(ctx, of("acme"), visit{Tenant: "acme", Principal: "deputy"})
	w.refused(err, registry.GrantExceedsIssuer, "principal_id")
}

// S-06: a session ends when it was not used for a while, and at the latest at its
// end; neither is there any more then.
func TestSessionsEnd(t *testing.T) {
	w := newWorld(t)
	idle, short := w.session(), w.session(func(s *visit) { s.ExpiresAt = w.now.Add(time.Minute) })
	living := func(id string) bool {
		_, err := w.GetSession(ctx, root().Actor, id)
		return err == nil
	}
	w.now = w.now.Add(time.Minute)
	if !living(idle.ID) || living(short.ID) {
		t.Error("after a minute")
	}
	w.now = w.now.Add(29 * time.Minute)
	if living(idle.ID) {
		t.Error("not used for half an hour")
	}
	if all, _, err := w.ListSessions(ctx, root().Actor, registry.SessionQuery{Tenant: "acme"}); err != nil || len(all) != 0 {
		t.Errorf("%d, %v", len(all), err)
	}
}

// S-03: rotation gives a new id and secret, the old one ends within 10 seconds, and
// the latest end stays.
func TestRotateSession(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.SessionOverlap = time.Hour }) // more than is allowed
	old := w.session()
	w.now = w.now.Add(10 * time.Minute)
	next, change, err := w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: old.ID, AMR: []string{"otp", "pwd"}, ACR: "aal2"})
	w.ok(err)
	if next.ID == old.ID || next.Secret.Reveal() == old.Secret.Reveal() || next.ExpiresAt != old.ExpiresAt || next.AuthTime != w.now ||
		fmt.Sprint(next.AMR) != "[pwd otp]" || next.ACR != "aal2" || next.Version != change.Number || next.TouchedAt != w.now {
		t.Errorf("%+v", next.Session)
	}
	_, _, err = w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: old.ID})
	w.refused(err, registry.WrongState, "")
	got, err := w.GetSession(ctx, root().Actor, old.ID)
	w.ok(err)
	if got.Successor != next.ID || got.Rotated.At != w.now.Add(10*time.Second) {
		t.Errorf("%+v", got)
	}
	w.now = w.now.Add(10 * time.Second)
	_, err = w.GetSession(ctx, root().Actor, old.ID)
	w.refused(err, registry.NotFound, "")
	same, _, err := w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: next.ID})
	w.ok(err)
	if same.AuthTime != next.AuthTime || same.ACR != "aal2" {
		t.Errorf("%+v", same.Session)
	}
}

// S-02: logging out with the old cookie, a moment after it was replaced, ends the new
// one as well. Other sessions of the user stay.
func TestDeleteSession(t *testing.T) {
	w := newWorld(t)
	a, other := w.session(), w.session()
	b, _, err := w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: a.ID})
	w.ok(err)
	c, _, err := w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: b.ID})
	w.ok(err)
	_, err = w.DeleteSession(ctx, root(), b.ID)
	w.ok(err)
	for _, id := range []string{a.ID, b.ID, c.ID} {
		_, err := w.DeleteSession(ctx, root(), id)
		w.refused(err, registry.NotFound, "")
	}
	w.session()
	n, change, err := w.DeleteSessionsOf(ctx, root(), "acme", "alice")
	w.ok(err)
	if _, err := w.GetSession(ctx, root().Actor, other.ID); n != 2 || err == nil || change.Number == 0 {
		t.Errorf("%d ended", n)
	}
}
