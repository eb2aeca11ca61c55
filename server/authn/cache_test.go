package authn_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// oracle is an authenticator that a test plays.
type oracle struct {
	calls  atomic.Int64
	epoch  atomic.Uint64
	answer func(ctx context.Context, secret string) (*authn.Proof, error)
}

func (o *oracle) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	o.calls.Add(1)
	return o.answer(ctx, c.Secret.Reveal())
}

func (o *oracle) Epoch() uint64 { return o.epoch.Load() }

func proofFor(id string, notAfter time.Time) *authn.Proof {
	return &authn.Proof{Principal: &policy.Principal{ID: id}, NotAfter: notAfter}
}

func credential(secret string) *authn.Credential {
	return &authn.Credential{Uses: []policy.Method{"jwt"}, Secret: policy.NewSecret(secret)}
}

// E-01: a credential is proven once in its time, and the memory is counted.
func TestCachedProvesOnce(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	o := &oracle{answer: func(_ context.Context, s string) (*authn.Proof, error) { return proofFor(s, time.Time{}), nil }}
	c := authn.NewCached(o, authn.CacheConfig{MaxTTL: time.Minute, Now: func() time.Time { return now }})
	for range 10 {
		if p, err := c.Authenticate(t.Context(), credential("a")); err != nil || p.Principal.ID != "a" {
			t.Fatal(p, err)
		}
	}
	if n := o.calls.Load(); n != 1 {
		t.Errorf("proven %d times", n)
	}
	now = now.Add(time.Minute)
	_, _ = c.Authenticate(t.Context(), credential("a"))
	if n := o.calls.Load(); n != 2 {
		t.Errorf("proven %d times after its time", n)
	}
	if s := c.Stats(); s.Hits != 9 || s.Misses != 2 {
		t.Errorf("%+v", s)
	}
}

// E-03: a proof is never served at or after any of its deadlines.
func TestCachedNeverOutlivesADeadline(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		ttl := time.Duration(rapid.IntRange(1, 1000).Draw(t, "ttl")) * time.Second
		life := time.Duration(rapid.IntRange(1, 1000).Draw(t, "life")) * time.Second
		notAfter := now.Add(life)
		o := &oracle{answer: func(context.Context, string) (*authn.Proof, error) { return proofFor("a", notAfter), nil }}
		c := authn.NewCached(o, authn.CacheConfig{MaxTTL: ttl, Now: func() time.Time { return now }})
		start := now
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			before := o.calls.Load()
			_, _ = c.Authenticate(context.Background(), credential("a"))
			if o.calls.Load() == before && (!now.Before(notAfter) || now.Sub(start) >= ttl) {
				t.Fatalf("served from memory %v after it was proven, with a life of %v and a cap of %v", now.Sub(start), life, ttl)
			}
			if o.calls.Load() != before {
				start = now
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "wait")) * time.Second)
		}
	})
}

// Refusals are remembered for their own short time; what could not be found out
// never is. Another epoch forgets both.
func TestCachedKindsOfAnswers(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var err error
	o := &oracle{answer: func(context.Context, string) (*authn.Proof, error) { return nil, err }}
	c := authn.NewCached(o, authn.CacheConfig{NegativeTTL: 2 * time.Second, Now: func() time.Time { return now }})
	ask := func() int64 { _, _ = c.Authenticate(t.Context(), credential("a")); return o.calls.Load() }

	err = errors.New("issuer down")
	if ask(); ask() != 4 { // each time at once, and then with time to wait
		t.Error("a fault was remembered")
	}
	err = authn.ErrNotMine
	if ask(); ask() != 6 {
		t.Error("ErrNotMine was remembered")
	}
	err = authn.Refuse(policy.ReasonSignatureInvalid, "")
	if ask(); ask() != 7 {
		t.Error("a refusal was not remembered")
	}
	o.epoch.Add(1)
	if ask(); ask() != 8 {
		t.Error("a refusal survived new keys")
	}
	now = now.Add(2 * time.Second)
	if ask() != 9 {
		t.Error("a refusal outlived its time")
	}
}

// E-04: garbage does not drive out good credentials.
func TestCachedGarbageDoesNotEvict(t *testing.T) {
	t.Parallel()
	o := &oracle{answer: func(_ context.Context, s string) (*authn.Proof, error) {
		if s[0] == 'g' {
			return proofFor(s, time.Time{}), nil
		}
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, "")
	}}
	c := authn.NewCached(o, authn.CacheConfig{Size: 1000, NegativeSize: 1000})
	for i := range 500 {
		_, _ = c.Authenticate(t.Context(), credential(fmt.Sprint("good", i)))
	}
	for i := range 1_000_000 / 20 { // a twentieth of a million: the share per good one is the same
		_, _ = c.Authenticate(t.Context(), credential(fmt.Sprint("bad", i)))
	}
	before := o.calls.Load()
	for i := range 500 {
		_, _ = c.Authenticate(t.Context(), credential(fmt.Sprint("good", i)))
	}
	if again := o.calls.Load() - before; again != 0 {
		t.Errorf("%d of 500 good credentials had to be proven again", again)
	}
	if s := c.Stats(); s.NegativeSize > 2000 { // it evicts behind the writers
		t.Errorf("%d refusals kept", s.NegativeSize)
	}
}

// E-05: a thousand callers with one unknown credential wait for one look-up, and
// the first of them to leave takes nobody down.
func TestCachedOneFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var lookups atomic.Int64
		o := &oracle{answer: func(ctx context.Context, s string) (*authn.Proof, error) {
			if ctx.Err() != nil {
				return nil, ctx.Err() // would have to wait
			}
			lookups.Add(1)
			select {
			case <-release:
				return proofFor(s, time.Time{}), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		c := authn.NewCached(o, authn.CacheConfig{})
		first, leave := context.WithCancel(t.Context())
		var group sync.WaitGroup
		var good atomic.Int64
		for i := range 1000 {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			group.Go(func() {
				if p, err := c.Authenticate(ctx, credential("a")); err == nil && p.Principal.ID == "a" {
					good.Add(1)
				}
			})
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		close(release)
		group.Wait()
		if lookups.Load() != 1 || good.Load() != 999 {
			t.Errorf("%d look-ups, %d good answers", lookups.Load(), good.Load())
		}
	})
}

// A caller with a deadline hears in time that the truth could not be found out.
func TestCachedLeavesRoomToAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{answer: func(ctx context.Context, _ string) (*authn.Proof, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		c := authn.NewCached(o, authn.CacheConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := c.Authenticate(ctx, credential("a"))
		if took := time.Since(begin); err == nil || took != 160*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
		time.Sleep(time.Minute) // the flight ends by its own timeout
	})
}

// A panic on the goroutine of a flight must not end the process.
func TestCachedPanicIsAFault(t *testing.T) {
	t.Parallel()
	o := &oracle{answer: func(context.Context, string) (*authn.Proof, error) { panic("secret text") }}
	c := authn.NewCached(o, authn.CacheConfig{})
	_, err := c.Authenticate(t.Context(), credential("a"))
	var refusal *authn.Refusal
	if err == nil || errors.As(err, &refusal) || err.Error() != "the authenticator panicked" {
		t.Errorf("%v", err)
	}
}

// CACHE-19: credentials that share long prefixes and suffixes share no entry.
func TestCachedTakesTheWholeCredential(t *testing.T) {
	t.Parallel()
	o := &oracle{answer: func(_ context.Context, s string) (*authn.Proof, error) { return proofFor(s, time.Time{}), nil }}
	c := authn.NewCached(o, authn.CacheConfig{})
	long := string(make([]byte, 5000))
	for _, s := range []string{"a", "b", long + "a", long + "b", "a" + long, "b" + long, long + "a" + long, long + "b" + long} {
		for range 2 {
			if p, err := c.Authenticate(t.Context(), credential(s)); err != nil || p.Principal.ID != s {
				t.Fatalf("another's proof for a credential of %d bytes", len(s))
			}
		}
	}
}

func TestCachedHitDoesNotAllocate(t *testing.T) {
	o := &oracle{answer: func(_ context.Context, s string) (*authn.Proof, error) { return proofFor(s, time.Time{}), nil }}
	c := authn.NewCached(o, authn.CacheConfig{})
	cred := credential(string(make([]byte, 900)))
	_, _ = c.Authenticate(t.Context(), cred)
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Authenticate(context.Background(), cred) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCachedHit(b *testing.B) {
	o := &oracle{answer: func(_ context.Context, s string) (*authn.Proof, error) { return proofFor(s, time.Time{}), nil }}
	c := authn.NewCached(o, authn.CacheConfig{})
	cred := credential(string(make([]byte, 900)))
	_, _ = c.Authenticate(b.Context(), cred)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Authenticate(b.Context(), cred)
	}
}

// CRASH-07: when a clock that was wrong is set back, nothing that was remembered
// meanwhile lives for longer than it may: neither a proof past MaxTTL, nor a refusal of
// what was not wrong with the credential but with the clock.
func TestCachedWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	right := time.Unix(1_000_000, 0)
	now := right.Add(time.Hour)
	end := right.Add(10 * time.Minute) // of the credential "short"
	o := &oracle{answer: func(_ context.Context, secret string) (*authn.Proof, error) {
		if secret == "short" && !now.Before(end) {
			return nil, authn.Refuse(policy.ReasonExpired, "it has expired")
		}
		return proofFor(secret, time.Time{}), nil
	}}
	c := authn.NewCached(o, authn.CacheConfig{Now: func() time.Time { return now }})
	ask := func(secret string) (proven bool, err error) {
		before := o.calls.Load()
		_, err = c.Authenticate(t.Context(), credential(secret))
		return o.calls.Load() > before, err
	}
	_, _ = ask("long")
	if _, err := ask("short"); err == nil {
		t.Fatal("an hour later it has not expired")
	}
	now = now.Add(-500 * time.Millisecond)
	if proven, err := ask("long"); proven || err != nil {
		t.Error("a clock that is disciplined has everything proven again: ", err)
	}
	now = right
	if proven, err := ask("short"); !proven || err != nil {
		t.Error("a refusal by a wrong clock outlives it: ", err)
	}
	if proven, err := ask("long"); !proven || err != nil {
		t.Error("a proof of the future is used: ", err)
	}
	if proven, err := ask("long"); proven || err != nil {
		t.Error("it is not remembered again: ", err)
	}
}
