package mirror_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// newSession makes a session and its cookie.
func newSession(t testing.TB, ps *seal.Peppers, principal string, now time.Time) (*store.Session, string) {
	t.Helper()
	m, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindSession}, ps)
	if err != nil {
		t.Fatal(err)
	}
	return &store.Session{
		ID: m.ID, Tenant: "acme", Principal: principal, Digest: m.Digest.String(),
		AMR: []string{"pwd"}, AuthTime: now, TouchedAt: now, CreatedAt: now,
		Idle: store.Duration(30 * time.Minute), ExpiresAt: now.Add(8 * time.Hour),
	}, m.Secret.Reveal()
}

func (s *scene) login(principal string, change func(*store.Session)) string {
	s.Helper()
	d, secret := newSession(s, s.peppers, principal, noon)
	if change != nil {
		change(d)
	}
	s.put(d)
	return secret
}

func (s *scene) askSession(m *mirror.Mirror, secret string) (*authn.Proof, error) {
	return openSession(m, s.peppers, secret, s.now)
}

// openSession is what an authenticator of sessions does.
func openSession(m *mirror.Mirror, ps *seal.Peppers, secret string, now time.Time) (*authn.Proof, error) {
	p, err := seal.Parse(secret)
	if err != nil {
		return nil, err
	}
	s := m.Sessions().ByID(p.ID)
	if s == nil {
		return nil, authn.Refuse(policy.ReasonCredentialUnknown, "")
	}
	want, version := s.Seal()
	if got, known := ps.Sum(version, secret); !known || !seal.Equal(&got, want) {
		return nil, authn.Refuse(policy.ReasonCredentialUnknown, "")
	}
	return s.Open(now)
}

func describe(p *authn.Proof) string {
	q := *p.Principal
	narrowed := q.Narrowed
	q.Narrowed = nil
	return fmt.Sprintf(" %+v %+v %+v %+v %+v", q, narrowed, p.Constraints, p.Subject, p.NotAfter)
}

// S-01, S-10, X-01: what a session proves.
func TestSession(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(user("alice", func(p *store.Principal) { p.Name, p.Roles = "Alice", []string{"reader"} }))
	for _, c := range []struct {
		amr  []string
		want int
	}{
		{nil, 2}, {[]string{"pwd"}, 2}, {[]string{"pwd", "pin"}, 2}, {[]string{"user"}, 2}, {[]string{"pwd", "geo"}, 2},
		{[]string{"pwd", "otp"}, 4}, {[]string{"hwk"}, 2}, {[]string{"mfa", "pwd"}, 4}, {[]string{"pwd", "swk"}, 4},
	} {
		secret := s.login("alice", func(d *store.Session) { d.AMR, d.ACR = c.amr, "urn:x" })
		p, err := s.askSession(s.Mirror, secret)
		if err != nil {
			t.Fatal(err)
		}
		id := p.Subject.SessionID
		want := &policy.Principal{
			ID: "alice", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"reader"}, Claims: map[string]any{"name": "Alice"},
			Method: policy.MethodSession, Assurance: c.want, ACR: "urn:x", AMR: c.amr, AuthTime: noon,
			CredentialID: id, Issuer: "postern", IssuedAt: noon, ExpiresAt: noon.Add(8 * time.Hour),
		}
		if d := cmp.Diff(want, p.Principal); d != "" {
			t.Error(d)
		}
		if p.Subject != (authn.Subject{SessionID: id, Issuer: "postern", ID: "alice", Tenant: "acme", IssuedAt: noon}) || len(id) != seal.IDLen {
			t.Errorf("%+v", p.Subject)
		}
		if again, _ := s.askSession(s.Mirror, secret); again != p {
			t.Error("the proof was built twice")
		}
	}
	// A session is no key, and a key no session.
	secret := s.login("alice", nil)
	if got := reasonOf(s.ask(secret)); got != policy.ReasonCredentialUnknown {
		t.Errorf("a session as a key: %v", got)
	}
}

// S-02, S-03, S-06: what ends a session. Rotation leaves an overlap.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(user("alice"))
	for _, c := range []struct {
		name   string
		change func(*store.Session)
		at     time.Duration
		want   policy.Reason
	}{
		{"in use", nil, 30*time.Minute - 1, policy.ReasonAllowed},
		{"idle", nil, 30 * time.Minute, policy.ReasonExpired},
		{"before the absolute end", func(d *store.Session) { d.Idle = store.Duration(day) }, 8*time.Hour - 1, policy.ReasonAllowed},
		{"absolute end", func(d *store.Session) { d.Idle = store.Duration(day) }, 8 * time.Hour, policy.ReasonExpired},
		{"revoked", func(d *store.Session) { d.Revoked = &store.Ending{At: noon.Add(time.Hour)} }, 0, policy.ReasonRevoked},
		{"overlap", func(d *store.Session) { d.Rotated = &store.Ending{At: noon.Add(10 * time.Second)} }, 10*time.Second - 1, policy.ReasonAllowed},
		{"rotated", func(d *store.Session) { d.Rotated = &store.Ending{At: noon.Add(10 * time.Second)} }, 10 * time.Second, policy.ReasonRotated},
		{"never touched", func(d *store.Session) { d.TouchedAt = time.Time{} }, 0, policy.ReasonExpired},
		{"touched in the year 1", func(d *store.Session) { d.TouchedAt = time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC) }, 0, policy.ReasonExpired},
		{"without idle time", func(d *store.Session) { d.Idle = 0 }, 0, policy.ReasonExpired},
		{"imported", func(d *store.Session) { d.Digest = seal.ImportedDigest(policy.NewSecret("x")).String() }, 0, policy.ReasonCredentialUnknown},
	} {
		s.now = noon
		secret := s.login("alice", c.change)
		s.now = noon.Add(c.at)
		if got := reasonOf(s.askSession(s.Mirror, secret)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	s.now = noon
	secret := s.login("alice", nil)
	s.put(user("alice", func(p *store.Principal) { p.Disabled = &store.Ending{} }))
	if got := reasonOf(s.askSession(s.Mirror, secret)); got != policy.ReasonDisabled {
		t.Error(got)
	}
}

const day = 24 * time.Hour

// S-06, S-07: 10,000 requests in a tenth of the idle time are one write at most; a
// session that is used on one replica stays alive on another, and ends on both when
// it is used on neither.
func TestTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := peppers(t, pepperText)
		s := &wire{Store: memory.New(time.Now)}
		d, secret := newSession(t, ps, "alice", time.Now())
		if _, err := s.Update(t.Context(), func(tx store.Tx) error {
			return joined(store.Put(tx, &store.Tenant{ID: "acme"}), store.Put(tx, user("alice")), store.Put(tx, d))
		}); err != nil {
			t.Fatal(err)
		}
		a, b := run(t, s, mirror.Config{}, mirror.Deps{}), run(t, s, mirror.Config{}, mirror.Deps{})
		s.updates.Store(0)
		requests := func(m *mirror.Mirror, n int, over time.Duration) {
			t.Helper()
			for range n {
				time.Sleep(over / time.Duration(n))
				if _, err := openSession(m, ps, secret, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
		}
		requests(a, 10_000, 3*time.Minute)
		if n := s.updates.Load(); n > 1 {
			t.Errorf("%d writes in a tenth of the idle time", n)
		}
		requests(a, 10_000, 57*time.Minute)
		if n := s.updates.Load(); n < 15 || n > 20 {
			t.Errorf("%d writes in two idle times", n)
		}
		time.Sleep(time.Second)
		// Until now b was never asked.
		requests(b, 1, 20*time.Minute)
		time.Sleep(time.Second)
		requests(a, 1, 25*time.Minute)
		time.Sleep(30 * time.Minute)
		for _, m := range []*mirror.Mirror{a, b} {
			if got := reasonOf(openSession(m, ps, secret, time.Now())); got != policy.ReasonExpired {
				t.Errorf("idle: %v", got)
			}
		}
	})
}

// S-06: many requests at once touch once, and none of them waits for a store that
// is down.
func TestTouchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := peppers(t, pepperText)
		s := &wire{Store: memory.New(time.Now)}
		d, secret := newSession(t, ps, "alice", time.Now())
		put := func(docs ...store.Document) {
			t.Helper()
			if _, err := s.Store.Update(t.Context(), func(tx store.Tx) error {
				for _, d := range docs {
					if err := store.Put(tx, d); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		put(&store.Tenant{ID: "acme"}, user("alice"), d)
		m := run(t, s, mirror.Config{}, mirror.Deps{})
		storm := func() {
			time.Sleep(5 * time.Minute)
			start := time.Now()
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if _, err := openSession(m, ps, secret, time.Now()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if took := time.Since(start); took > 0 {
				t.Errorf("a request waited %v", took)
			}
			time.Sleep(time.Second)
		}
		storm()
		if n := s.updates.Load(); n != 1 {
			t.Errorf("%d writes", n)
		}
		s.cut.Store(true)
		storm()
		if n := s.updates.Load(); n != 1 || m.Status().TouchesDropped != 1 {
			t.Errorf("%d writes, %d dropped", n, m.Status().TouchesDropped)
		}
		s.cut.Store(false)
		storm()
		if n := s.updates.Load(); n != 2 {
			t.Errorf("%d writes", n)
		}
		// A session that was revoked meanwhile is not written back to life.
		time.Sleep(5 * time.Minute)
		s.deaf.Store(true)
		d.Revoked = &store.Ending{At: time.Now()}
		put(d)
		_, _ = openSession(m, ps, secret, time.Now())
		time.Sleep(time.Second)
		if err := s.Store.View(t.Context(), func(r store.Reader) error {
			got, err := store.Get[store.Session](r, d.ID)
			if err == nil && got.Revoked == nil {
				t.Error("the revocation is gone")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func joined(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Sessions that ended go from memory as well, though the feed says nothing of what
// the store purges: their places, and those of users who are gone.
func TestOldSessionsAreForgotten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(user("alice"), user("bob"))
	places := mirror.Slots(s.Mirror)
	old := s.login("bob", nil)
	s.remove(store.KindPrincipal, "acme/bob")
	long := s.login("alice", func(d *store.Session) {
		d.ExpiresAt, d.Idle = noon.Add(30*24*time.Hour), store.Duration(30*24*time.Hour)
	})
	s.now = noon.Add(7 * 24 * time.Hour)
	mirror.Forget(s.Mirror, s.now)
	if got := reasonOf(s.askSession(s.Mirror, old)); got != policy.ReasonExpired {
		t.Errorf("a session that ended lately: %v", got)
	}
	if s.now = s.now.Add(9 * time.Hour); s.Status().Sessions != 2 {
		t.Fatalf("%d sessions", s.Status().Sessions)
	}
	mirror.Forget(s.Mirror, s.now)
	if got := s.Status().Sessions; got != 1 || mirror.Slots(s.Mirror) != places-1 {
		t.Errorf("%d sessions are left, and %d principals", got, mirror.Slots(s.Mirror))
	}
	if _, err := s.askSession(s.Mirror, long); err != nil {
		t.Errorf("one that goes on: %v", err)
	}
	if got := reasonOf(s.askSession(s.Mirror, old)); got != policy.ReasonCredentialUnknown {
		t.Errorf("a forgotten one: %v", got)
	}
}
