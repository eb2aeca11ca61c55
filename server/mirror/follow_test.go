package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// wire is a store behind a connection that can be cut, hang, or lose hints.
type wire struct {
	store.Store
	cut, hang, deaf atomic.Bool
	changes, views  atomic.Int64
	updates, usages atomic.Int64
	hanging         atomic.Int64
}

var errCut = errors.New("the connection was cut")

func (w *wire) Changes(ctx context.Context, after int64, limit int) (store.Batch, error) {
	w.changes.Add(1)
	if w.hang.Load() {
		w.hanging.Add(1)
		defer w.hanging.Add(-1)
		time.Sleep(time.Minute) // a system call that no context reaches
		return store.Batch{}, errCut
	}
	if w.cut.Load() {
		return store.Batch{}, errCut
	}
	return w.Store.Changes(ctx, after, limit)
}

func (w *wire) Listen(ctx context.Context, hint func()) error {
	return w.Store.Listen(ctx, func() {
		if !w.deaf.Load() {
			hint()
		}
	})
}

func (w *wire) Update(ctx context.Context, fn func(store.Tx) error) (store.Change, error) {
	if w.cut.Load() {
		return store.Change{}, errCut
	}
	w.updates.Add(1)
	return w.Store.Update(ctx, fn)
}

func (w *wire) View(ctx context.Context, fn func(store.Reader) error) error {
	w.views.Add(1)
	return w.Store.View(ctx, fn)
}

func (w *wire) AddUsage(ctx context.Context, add []store.Usage) error {
	if w.cut.Load() {
		return errCut
	}
	w.usages.Add(1)
	return w.Store.AddUsage(ctx, add)
}

// run starts a mirror of the store, which ends with the test.
func run(t *testing.T, s store.Store, cfg mirror.Config, deps mirror.Deps) *mirror.Mirror {
	t.Helper()
	m := mirror.New(cfg, s, deps)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Load(ctx)
		_ = m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	synctest.Wait()
	return m
}

// deny puts a line on the denylist, which stands for all that is revoked.
func deny(t *testing.T, s store.Store, id string) store.Change {
	t.Helper()
	c, err := s.Update(context.Background(), func(tx store.Tx) error { return store.Put(tx, &store.Denial{ID: id, JTI: id}) })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func knows(m *mirror.Mirror, id string) bool {
	_, revoked := m.Revoked(&authn.Subject{TokenID: id})
	return revoked
}

// G-12, J-09, S-02: a hint makes a replica know at once, and without any hint the
// next poll does; WaitFor waits for just that.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &wire{Store: memory.New(time.Now)}
		m := run(t, s, mirror.Config{}, mirror.Deps{})
		for i, c := range []struct {
			deaf   bool
			within time.Duration
		}{{false, 10 * time.Millisecond}, {true, 200 * time.Millisecond}} {
			s.deaf.Store(c.deaf)
			id := string(rune('a' + i))
			change := deny(t, s.Store, id)
			start := time.Now()
			if err := m.WaitFor(t.Context(), change.Number); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); !knows(m, id) || took > c.within {
				t.Errorf("deaf %v: known %v after %v", c.deaf, knows(m, id), took)
			}
		}
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.WaitFor(late, 99); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waited for what never came: %v", err)
		}
	})
}

// G-12: nobody is let in by a view that is older than the bound. A store that hangs
// or is cut is noticed by the reader's own clock, and found again.
func TestBound(t *testing.T) {
	for name, fault := range map[string]func(*wire) *atomic.Bool{
		"cut":  func(w *wire) *atomic.Bool { return &w.cut },
		"hang": func(w *wire) *atomic.Bool { return &w.hang },
	} {
		for _, mode := range []mirror.Mode{mirror.Strict, mirror.Available} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &wire{Store: memory.New(time.Now)}
					var log bytes.Buffer
					m := run(t, s, mirror.Config{Mode: mode, MaxStale: time.Minute}, mirror.Deps{Logger: slog.New(slog.NewTextHandler(&log, nil))})
					state := func(want mirror.Freshness) {
						t.Helper()
						if got := m.State(time.Now()); got != want {
							t.Errorf("%v, want %v", got, want)
						}
					}
					time.Sleep(time.Minute)
					state(mirror.Fresh)
					fault(s).Store(true)
					deny(t, s.Store, "missed")
					past := map[mirror.Mode]mirror.Freshness{mirror.Strict: mirror.Blind, mirror.Available: mirror.Stale}[mode]
					time.Sleep(790 * time.Millisecond) // the last poll began at most 200 ms before
					state(mirror.Fresh)
					time.Sleep(211 * time.Millisecond)
					state(past)
					time.Sleep(10 * time.Second)
					state(past)
					if st := m.Status(); st.Err == nil || st.Age < 10*time.Second || st.Failures == 0 || s.hanging.Load() > 4 {
						t.Errorf("%+v; %d calls hang", st, s.hanging.Load())
					}
					if n := strings.Count(log.String(), "cannot be followed"); n != 1 {
						t.Errorf("said %d times:\n%s", n, log.String())
					}
					time.Sleep(50 * time.Second)
					state(mirror.Blind)
					fault(s).Store(false)
					time.Sleep(map[string]time.Duration{"cut": 1100 * time.Millisecond, "hang": 61 * time.Second}[name])
					state(mirror.Fresh)
					if !knows(m, "missed") || m.Status().Err != nil {
						t.Error("what was missed is not known")
					}
				})
			})
		}
	}
}

// G-12: a process that was stopped is blind when it goes on, until it has asked
// again: no goroutine has to run for that. The same with a machine that slept, whose
// monotonic clock stood still.
func TestStopped(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.poll()
	view := s.View()
	for _, c := range []struct {
		after time.Duration
		want  mirror.Freshness
	}{{0, mirror.Fresh}, {time.Second, mirror.Fresh}, {time.Second + 1, mirror.Blind}, {5 * time.Second, mirror.Blind}} {
		if got := s.State(noon.Add(c.after)); got != c.want {
			t.Errorf("after %v: %v", c.after, got)
		}
	}
	s.now = noon.Add(5 * time.Second)
	s.poll()
	if s.State(s.now) != mirror.Fresh || view.State(s.now) != mirror.Blind {
		t.Error("the new view is not fresh, or the old one is")
	}
	if s.State(s.now.Add(-time.Hour)) != mirror.Fresh {
		t.Error("a wall clock that was set back makes blind")
	}
	// A time with a monotonic reading, whose wall clock has gone on alone.
	m := mirror.New(mirror.Config{}, s.store, mirror.Deps{})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if m.State(now) != mirror.Fresh || m.State(now.Round(0).Add(2*time.Second)) != mirror.Blind {
		t.Error("the time that the machine slept does not count")
	}
	if (&mirror.View{}).State(now) != mirror.Blind || mirror.New(mirror.Config{}, s.store, mirror.Deps{}).State(now) != mirror.Blind {
		t.Error("who has seen nothing is not blind")
	}
}

// A mirror without a store knows nothing and is always fresh.
func TestNoStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := run(t, nil, mirror.Config{}, mirror.Deps{})
		time.Sleep(time.Hour)
		if m.State(time.Now()) != mirror.Fresh || m.WaitFor(t.Context(), 7) != nil || m.Flush(t.Context()) != nil {
			t.Error("not fresh")
		}
		if m.Credentials().ByID("0123456789AB") != nil || m.Sessions().ByID("") != nil || m.Credentials().ByDigest([32]byte{}) != nil {
			t.Error("it knows something")
		}
		m.Used("0123456789AB", "", true, time.Now())
		if m.Status().State != mirror.Fresh {
			t.Error(m.Status())
		}
	})
}

// swapped is a store that can become another one.
type swapped struct {
	store.Store // none: only the feed is asked
	now         atomic.Pointer[memory.Store]
}

func (s *swapped) Changes(ctx context.Context, after int64, limit int) (store.Batch, error) {
	return s.now.Load().Changes(ctx, after, limit)
}

// E-02: a store that was restored, or purged beyond what the mirror has seen, is
// read anew, and nothing of the old one stays.
func TestAnotherStore(t *testing.T) {
	t.Parallel()
	now := noon
	clock := func() time.Time { return now }
	first, second := memory.New(clock), memory.New(clock)
	var s swapped
	s.now.Store(first)
	m := mirror.New(mirror.Config{}, &s, mirror.Deps{Now: clock})
	deny(t, first, "one")
	if err := m.Load(t.Context()); err != nil || !knows(m, "one") {
		t.Fatal(err)
	}
	for range 3 {
		deny(t, second, "two")
	}
	s.now.Store(second)
	epoch := m.Epoch()
	if err := m.Poll(t.Context()); err != nil || knows(m, "one") || !knows(m, "two") || m.Epoch() == epoch {
		t.Fatalf("%v: one %v, two %v", err, knows(m, "one"), knows(m, "two"))
	}
	// What was deleted and purged while nobody asked is gone.
	if _, err := second.Update(t.Context(), func(tx store.Tx) error { return tx.Delete(store.KindDenial, "two") }); err != nil {
		t.Fatal(err)
	}
	deny(t, second, "three")
	now = now.AddDate(1, 0, 0)
	if n, err := second.Purge(t.Context(), now); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	if err := m.Poll(t.Context()); err != nil || knows(m, "two") || !knows(m, "three") {
		t.Fatalf("%v: two %v, three %v", err, knows(m, "two"), knows(m, "three"))
	}
	if st := m.Status(); st.Loads != 3 || st.Denials != 1 || st.State != mirror.Fresh {
		t.Errorf("%+v", st)
	}
}

// T-06, M-04: however many decisions are made, good and bad, the store is not read
// for them.
func TestNoStoreReads(t *testing.T) {
	s := newScene(t)
	w := &wire{Store: s.store}
	m := mirror.New(mirror.Config{}, w, mirror.Deps{Peppers: s.peppers, Now: func() time.Time { return s.now }})
	s.put(service("svc"))
	_, secret := s.issue(store.APIKey, "svc")
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys, before := s.authenticator(m), w.changes.Load()
	good := &authn.Credential{Secret: policy.NewSecret(secret)}
	for i := range 100_000 {
		bad := []byte(secret)
		for j := 8; j < 20; j++ {
			bad[j] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(i>>(j-8)+j)%62]
		}
		_, _ = keys.Authenticate(t.Context(), &authn.Credential{Secret: policy.NewSecret(string(bad))})
		p, err := keys.Authenticate(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		m.Revoked(&authn.Subject{TokenID: "jti", Issuer: "https://idp.example", ID: "alice"})
		m.Used(p.Principal.CredentialID, "r", true, s.now)
	}
	if w.changes.Load() != before || w.views.Load() != 0 || w.updates.Load() != 0 || w.usages.Load() != 0 {
		t.Errorf("the store was asked: %d, %d, %d, %d", w.changes.Load()-before, w.views.Load(), w.updates.Load(), w.usages.Load())
	}
}
