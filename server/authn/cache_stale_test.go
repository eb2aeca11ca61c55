package authn_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

var errDown = fmt.Errorf("asking the issuer: %w", authn.ErrUnreachable)

// E-06: while the issuer is down, a proof whose time in memory is over is believed for
// as long as the configuration says, marked as stale; without stale_for not at all.
func TestCachedStaleIfError(t *testing.T) {
	t.Parallel()
	for _, staleFor := range []time.Duration{0, 10 * time.Second} {
		now := time.Unix(1000, 0)
		proof := &authn.Proof{
			Principal:   &policy.Principal{ID: "a"},
			Constraints: &policy.Constraints{RequireTLS: true},
			Subject:     authn.Subject{ID: "a"},
			Origins:     []authn.Subject{{ID: "b"}},
			Confirm:     authn.Confirmation{Key: "k"},
			Audiences:   []string{"a"},
			Peer:        &policy.Peer{ID: "p"},
			State:       policy.StateStore,
		}
		var err error
		o := &oracle{answer: func(context.Context, string) (*authn.Proof, error) {
			if err != nil {
				return nil, err
			}
			return proof, nil
		}}
		c := authn.NewCached(o, authn.CacheConfig{MaxTTL: time.Minute, StaleFor: staleFor, Now: func() time.Time { return now }})
		ask := func() (*authn.Proof, error) { return c.Authenticate(t.Context(), credential("a")) }
		if _, err := ask(); err != nil {
			t.Fatal(err)
		}
		if again, _ := ask(); again.State != policy.StateMirror || again.Principal != proof.Principal || again.NotAfter != proof.NotAfter {
			t.Errorf("from memory: %+v", again)
		}
		err = errDown
		now = now.Add(time.Minute)
		stale, got := ask()
		if staleFor == 0 {
			if stale != nil || !errors.Is(got, authn.ErrUnreachable) {
				t.Errorf("strict: %v, %v", stale, got)
			}
			continue
		}
		if got != nil {
			t.Fatal(got)
		}
		if stale == proof || proof.State != policy.StateStore {
			t.Error("the proof itself was changed, which others hold")
		}
		want := reflect.ValueOf(proof).Elem()
		for i := range want.NumField() {
			switch name := want.Type().Field(i).Name; name {
			case "State", "NotAfter", "Rendered", "enrolment":
			default:
				if want.Field(i).IsZero() {
					t.Errorf("the test sets no %s", name)
				}
				if have := reflect.ValueOf(stale).Elem().Field(i); !reflect.DeepEqual(want.Field(i).Interface(), have.Interface()) {
					t.Errorf("%s is %v, want %v", name, have, want.Field(i))
				}
			}
		}
		if stale.State != policy.StateStale || !stale.NotAfter.Equal(now.Add(staleFor)) {
			t.Errorf("state %q until %v", stale.State, stale.NotAfter)
		}
		if s := c.Stats(); s.Stale != 1 {
			t.Errorf("%+v", s)
		}
		now = now.Add(staleFor)
		if p, got := ask(); p != nil || !errors.Is(got, authn.ErrUnreachable) {
			t.Errorf("after its time: %v, %v", p, got)
		}
	}
}

// E-06: whatever happens in whatever order, a stale proof is given only if the last
// thing that was known of the credential was good, nobody could be asked, and neither
// its own time, nor that of staleness, nor the grounds of the proof are over.
func TestCachedStaleness(t *testing.T) {
	t.Parallel()
	refusal := authn.Refuse(policy.ReasonRevoked, "")
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		seconds := func(name string, least, most int) time.Duration {
			return time.Duration(rapid.IntRange(least, most).Draw(t, name)) * time.Second
		}
		ttl, staleFor, negative := seconds("ttl", 1, 60), seconds("stale", 0, 60), seconds("negative", 1, 10)
		var answer func() (*authn.Proof, error)
		o := &oracle{answer: func(ctx context.Context, _ string) (*authn.Proof, error) {
			if ctx.Err() != nil {
				return nil, ctx.Err() // would have to wait
			}
			return answer()
		}}
		c := authn.NewCached(o, authn.CacheConfig{MaxTTL: ttl, NegativeTTL: negative, StaleFor: staleFor, Now: func() time.Time { return now }})

		// What the model knows: the last proof, when and in which epoch it was had, and
		// whether something else was heard since.
		var last *authn.Proof
		var had time.Time
		var epoch uint64
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(seconds("wait", 0, 40))
			if rapid.IntRange(0, 9).Draw(t, "rekey") == 0 {
				o.epoch.Add(1)
			}
			kind := rapid.SampledFrom([]string{"good", "refusal", "not mine", "down", "down", "down", "fault"}).Draw(t, "answer")
			var given *authn.Proof
			asked := false
			answer = func() (*authn.Proof, error) {
				asked = true
				switch kind {
				case "good":
					given = proofFor("a", time.Time{})
					if rapid.Bool().Draw(t, "ends") {
						given.NotAfter = now.Add(seconds("life", 1, 100))
					}
					return given, nil
				case "refusal":
					return nil, refusal
				case "not mine":
					return nil, authn.ErrNotMine
				case "down":
					return nil, errDown
				}
				return nil, errors.New("an answer that makes no sense")
			}
			proof, err := c.Authenticate(context.Background(), credential("a"))
			if !asked {
				if proof != nil && proof.State == policy.StateStale {
					t.Fatal("a stale proof came from memory without asking")
				}
				continue
			}
			wantStale := kind == "down" && last != nil && epoch == o.epoch.Load() &&
				now.Before(had.Add(ttl+staleFor)) && (last.NotAfter.IsZero() || now.Before(last.NotAfter))
			if gotStale := proof != nil && proof.State == policy.StateStale; gotStale != wantStale {
				t.Fatalf("stale %v, want %v, after %s", gotStale, wantStale, kind)
			}
			switch {
			case wantStale:
				if proof.Principal != last.Principal || !now.Before(proof.NotAfter) || proof.NotAfter.After(had.Add(ttl+staleFor)) {
					t.Fatalf("a stale proof until %v", proof.NotAfter)
				}
			case kind == "good":
				last, had, epoch = given, now, o.epoch.Load()
			case kind == "refusal" || kind == "not mine":
				last = nil
			case err == nil:
				t.Fatalf("%s made a proof", kind)
			}
		}
	})
}

// CACHE-16: five hundred callers with one cold credential; the first leaves at once,
// and the others get the answer of one look-up.
func TestCachedFirstCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		o := &oracle{answer: func(ctx context.Context, s string) (*authn.Proof, error) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			asked++
			select {
			case <-time.After(100 * time.Millisecond):
				return proofFor(s, time.Time{}), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		c := authn.NewCached(o, authn.CacheConfig{})
		first, leave := context.WithCancel(t.Context())
		results := make(chan error, 500)
		go func() {
			_, err := c.Authenticate(first, credential("cold"))
			results <- err
		}()
		synctest.Wait()
		for range 499 {
			go func() {
				p, err := c.Authenticate(t.Context(), credential("cold"))
				if err == nil && p.Principal.ID != "cold" {
					err = errors.New("another's proof")
				}
				results <- err
			}()
		}
		synctest.Wait()
		leave()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("who left hears %v", err)
		}
		for range 499 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}
