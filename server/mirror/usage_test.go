package mirror_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

func usageOf(t testing.TB, s store.Store, id string) []store.Usage {
	t.Helper()
	all, err := s.Usage(context.Background(), store.UsageQuery{Credential: id})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// K-13: the counters are what was sent, over three replicas and many goroutines.
func TestUsageOverReplicas(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(service("svc"))
	c, _ := s.issue(store.APIKey, "svc")
	var all sync.WaitGroup
	for range 3 {
		m := s.replica()
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		for worker := range 4 {
			all.Go(func() {
				for i := range 1000 {
					m.Used(c.ID, []string{"orders", ""}[i%2], i%4 < 2, noon.Add(time.Duration(i)*time.Second))
					if i%100 == 0 && worker == 0 {
						if err := m.Flush(context.Background()); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		all.Wait()
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []store.Usage{
		{Credential: c.ID, Tenant: "acme", Principal: "svc", Day: "2026-03-01", Route: "", Allowed: 3000, Denied: 3000, LastUsedAt: noon.Add(997 * time.Second)},
		{Credential: c.ID, Tenant: "acme", Principal: "svc", Day: "2026-03-01", Route: "orders", Allowed: 3000, Denied: 3000, LastUsedAt: noon.Add(996 * time.Second)},
	}
	if d := cmp.Diff(want, usageOf(t, s.store, c.ID)); d != "" {
		t.Error(d)
	}
}

// K-09: nothing is written on the way, only every 30 s and at the end; a store that
// does not take it gets it the next time.
func TestUsageFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &wire{Store: memory.New(time.Now)}
		if _, err := s.Update(t.Context(), func(tx store.Tx) error {
			return joined(store.Put(tx, &store.Tenant{ID: "acme"}), store.Put(tx, service("svc")),
				store.Put(tx, &store.Credential{ID: "0123456789AB", Type: store.APIKey, Tenant: "acme", Principal: "svc", Digest: "sha256:" + fingerprint}))
		}); err != nil {
			t.Fatal(err)
		}
		m := mirror.New(mirror.Config{Poll: 10 * time.Second}, s, mirror.Deps{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		if err := m.Load(ctx); err != nil {
			t.Fatal(err)
		}
		go func() { done <- m.Run(ctx) }()
		total := func() (allowed, denied int64, days int) {
			seen := map[string]bool{}
			for _, u := range usageOf(t, s.Store, "0123456789AB") {
				allowed, denied, seen[u.Day] = allowed+u.Allowed, denied+u.Denied, true
			}
			return allowed, denied, len(seen)
		}
		for range 1000 {
			m.Used("0123456789AB", "r", true, time.Now())
			m.Used("nobody", "r", true, time.Now())
		}
		time.Sleep(29 * time.Second)
		if n := s.usages.Load(); n != 0 {
			t.Errorf("%d writes", n)
		}
		time.Sleep(2 * time.Second)
		if allowed, _, _ := total(); allowed != 1000 || s.usages.Load() != 1 {
			t.Errorf("%d allowed, %d writes", allowed, s.usages.Load())
		}
		time.Sleep(time.Minute)
		if n := s.usages.Load(); n != 1 {
			t.Errorf("%d writes of nothing", n)
		}
		s.cut.Store(true)
		m.Used("0123456789AB", "r", false, time.Now())
		time.Sleep(time.Minute)
		m.Used("0123456789AB", "r", false, time.Now())
		s.cut.Store(false)
		time.Sleep(time.Minute)
		if _, denied, _ := total(); denied != 2 {
			t.Errorf("%d denied", denied)
		}
		// A counter that rests for long goes, and comes again; days are apart.
		time.Sleep(25 * time.Hour)
		m.Used("0123456789AB", "r", true, time.Now())
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if allowed, _, days := total(); allowed != 1001 || days != 2 {
			t.Errorf("%d allowed on %d days", allowed, days)
		}
	})
}

// K-07: how old the keys are, when they end, and one warning for each threshold.
func TestSurvey(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(service("svc"))
	aged := func(days int) func(*store.Credential) {
		return func(c *store.Credential) { c.CreatedAt = noon.Add(-time.Duration(days) * day) }
	}
	for _, days := range []int{1, 31, 91, 366} {
		s.issue(store.APIKey, "svc", aged(days))
	}
	s.issue(store.APIKey, "svc", aged(1000), func(c *store.Credential) { c.Revoked = &store.Ending{} })
	ending, _ := s.issue(store.APIKey, "svc", func(c *store.Credential) { c.Name, c.ExpiresAt = "nightly", noon.Add(20*day) })
	s.issue(store.APIKey, "svc", func(c *store.Credential) { c.Rotated = &store.Ending{At: noon.Add(20 * day)} })
	mirror.Survey(s.Mirror, noon)
	want := mirror.Keys{Active: 6, Oldest: 366 * day, OlderThan: [4]int{3, 2, 1, 1}}
	if got := s.Status().Keys; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	var told []string
	at := func(d time.Duration) {
		s.ends = nil
		mirror.Survey(s.Mirror, noon.Add(d))
		for _, e := range s.ends {
			told = append(told, fmt.Sprint(e.Credential == ending.ID, e.Tenant, e.Principal, e.Name, e.Days, e.At.Equal(ending.ExpiresAt)))
		}
	}
	for _, d := range []time.Duration{5 * day, 6 * day, 7 * day, 12 * day, 13 * day, 14 * day, 19 * day, 19*day + 1} {
		at(d)
	}
	if got := s.Status().Keys.Ending; got != [3]int{1, 1, 1} {
		t.Errorf("%v", got)
	}
	at(20 * day) // over
	ending.ExpiresAt = noon.Add(40 * day)
	s.put(ending)
	at(20 * day)
	at(35 * day)
	line := func(days int) string { return fmt.Sprint(true, "acme", "svc", "nightly", days, true) }
	if d := cmp.Diff([]string{line(14), line(7), line(1), line(7)}, told); d != "" {
		t.Error(d)
	}
}
