package jose

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/server/vectortest"
)

const jwksURL = "https://issuer.test/keys"

// issuer stands for the network: it answers every request as told, and counts.
type issuer struct {
	mu     sync.Mutex
	answer func(*http.Request) (*http.Response, error)
	urls   []string
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.urls = append(i.urls, r.URL.String())
	answer := i.answer
	i.mu.Unlock()
	return answer(r)
}

// will sets the answer from now on.
func (i *issuer) will(answer func(*http.Request) (*http.Response, error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *issuer) requests() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.urls)
}

// publish answers with a key set, and with header fields "name", "value" …
func publish(body string, header ...string) func(*http.Request) (*http.Response, error) {
	return status(http.StatusOK, body, header...)
}

func status(code int, body string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Add(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}, nil
	}
}

// hang answers nothing until the fetch is given up.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func reset(*http.Request) (*http.Response, error) { return nil, errors.New("connection reset by peer") }

// after answers late.
func after(d time.Duration, answer func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		time.Sleep(d)
		return answer(r)
	}
}

// source is a Source of jwksURL that the issuer answers; it ends with the test.
func source(t *testing.T, i *issuer, cfg SourceConfig, opts ...SourceOption) *Source {
	t.Helper()
	if cfg.URL == "" && cfg.File == "" && cfg.Issuer == "" {
		cfg.URL = jwksURL
	}
	steady := func(s *Source) { s.jitter = func() float64 { return 0 } }
	s, err := NewSource(cfg, append([]SourceOption{WithTransport(i), steady}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustFind(t *testing.T, keys Keys, kid string) *Key {
	t.Helper()
	got := found(t, keys, kid, "EdDSA")
	if len(got) != 1 {
		t.Fatalf("kid %q: %d keys", kid, len(got))
	}
	return got[0]
}

func mustNotKnow(t *testing.T, keys Keys, kid string) {
	t.Helper()
	if got := found(t, keys, kid, "EdDSA"); len(got) > 0 {
		t.Fatalf("kid %q is known", kid)
	}
}

func mustFail(t *testing.T, keys Keys, kid string) {
	t.Helper()
	if got, err := keys.Find(t.Context(), kid, "EdDSA"); err == nil || len(got) > 0 {
		t.Fatalf("kid %q: %d keys and no error", kid, len(got))
	}
}

// M-04: for a known kid there is no I/O and no allocation.
func TestKnownKeyNeedsNoIO(t *testing.T) {
	i := &issuer{answer: publish(setOf(edKey("k", 1)))}
	s := source(t, i, SourceConfig{})
	mustFind(t, s, "k")
	ctx, before := t.Context(), i.requests()
	n := testing.AllocsPerRun(100_000, func() {
		if keys, err := s.Find(ctx, "k", "EdDSA"); len(keys) != 1 || err != nil || s.Epoch() == 0 {
			t.Fatal(keys, err)
		}
	})
	if fetches := i.requests() - before; fetches != 0 || n != 0 {
		t.Errorf("%d fetches and %v allocations a call", fetches, n)
	}
}

// JWKS-21: a set that became empty is no reason to be without keys.
func TestEmptySet(t *testing.T) {
	t.Parallel()
	for _, empty := range []string{`{"keys":[]}`, `{}`, ``, setOf(edKey("k1", 1).with("use", "enc"))} {
		t.Run("JWKS-21", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: publish(setOf(edKey("k1", 1)))}
				var last atomic.Pointer[Event]
				s := source(t, i, SourceConfig{KeepStale: time.Hour}, OnFetch(func(e Event) { last.Store(&e) }))
				mustFind(t, s, "k1")
				i.will(publish(empty))
				time.Sleep(59 * time.Minute)
				mustFind(t, s, "k1")
				synctest.Wait()
				if e := last.Load(); e.Err == nil || e.Changed || e.Keys != 1 {
					t.Errorf("no alarm: %+v", e)
				}
				time.Sleep(2 * time.Minute)
				mustFail(t, s, "k1")
				if s.Status().Usable {
					t.Error("still usable")
				}
			})
		})
	}
}

// JWKS-22, E-06, M-03: whatever way an issuer is down, its known keys work up to
// keep_stale, then its tokens cannot be decided; other issuers do not notice, and
// as soon as it is back it is as before.
func TestIssuerDown(t *testing.T) {
	t.Parallel()
	ways := map[string]func(*http.Request) (*http.Response, error){
		"500":       status(500, "oops"),
		"timeout":   hang,
		"reset":     reset,
		"HTML":      publish("<html>", "Content-Type", "text/html; charset=utf-8"),
		"truncated": publish(setOf(edKey("k1", 1))[:40]),
		"204":       status(204, ""),
		"302":       status(302, "", "Location", "http://169.254.169.254/"),
		"too large": publish(setOf(edKey("k1", 1)) + strings.Repeat(" ", MaxDocumentBytes)),
		"panic":     func(*http.Request) (*http.Response, error) { panic("a bug") },
	}
	for name, down := range ways {
		t.Run("JWKS-22/"+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: publish(setOf(edKey("k1", 1)))}
				s := source(t, i, SourceConfig{KeepStale: time.Hour})
				other := source(t, &issuer{answer: publish(setOf(edKey("o", 2)))}, SourceConfig{URL: "https://other.test/keys"})
				mustFind(t, s, "k1")
				epoch := s.Epoch()
				i.will(down)
				for range 59 {
					time.Sleep(time.Minute)
					mustFind(t, s, "k1")
					mustFind(t, other, "o")
				}
				if st := s.Status(); !st.Usable || st.Err == nil || s.Epoch() != epoch {
					t.Errorf("%+v", st)
				}
				// A key that the issuer may have published since: nobody knows.
				mustFail(t, s, "k2")
				time.Sleep(2 * time.Minute)
				mustFail(t, s, "k1")
				mustFail(t, s, "")
				mustFind(t, other, "o")
				tooOld := s.Epoch()
				if st := s.Status(); st.Usable || st.Err == nil || tooOld <= epoch {
					t.Errorf("%+v, epoch %d after %d", st, tooOld, epoch)
				}
				i.will(publish(setOf(edKey("k1", 1))))
				time.Sleep(40 * time.Second)
				mustFind(t, s, "k1")
				if s.Epoch() <= tooOld {
					t.Error("the epoch went back")
				}
			})
		})
	}
}

// E-06: with keep_stale equal to refresh, the first failure counts.
func TestStrict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: publish(setOf(edKey("k", 1)))}
		s := source(t, i, SourceConfig{Refresh: 10 * time.Minute, KeepStale: 10 * time.Minute})
		for range 100 { // while the issuer is well, nothing is missed
			time.Sleep(time.Minute)
			mustFind(t, s, "k")
		}
		i.will(reset)
		time.Sleep(10 * time.Minute)
		mustFail(t, s, "k")
	})
}

// O-01: an issuer that is down at the start is found as soon as it is up, and
// asked ever more slowly until then.
func TestDownAtTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: reset}
		s := source(t, i, SourceConfig{}, WithClock(nil))
		mustFail(t, s, "k")
		if st := s.Status(); s.Epoch() != 0 || st.Usable || st.Keys != 0 || !st.Fetched.IsZero() {
			t.Errorf("%+v", st)
		}
		time.Sleep(3*time.Second + time.Millisecond)
		if n := i.requests(); n != 3 { // at 0, 1 and 3 s
			t.Errorf("%d fetches in 3 s", n)
		}
		time.Sleep(10 * time.Minute)
		if n := i.requests(); n < 15 || n > 30 { // every cooldown
			t.Errorf("%d fetches in 10 minutes", n)
		}
		i.will(publish(setOf(edKey("k", 1))))
		time.Sleep(31 * time.Second)
		mustFind(t, s, "k")
	})
}

// JWKS-26: tokens with random kids cause one fetch per cooldown, and are refused.
func TestStampede(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-26", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := &issuer{answer: after(20*time.Millisecond, publish(setOf(edKey("k", 1))))}
			s := source(t, i, SourceConfig{Cooldown: 10 * time.Second})
			mustFind(t, s, "k")
			slow := 0
			for n := range 30_000 { // in one minute
				start := time.Now()
				mustNotKnow(t, s, fmt.Sprintf("random-%d", n))
				if time.Since(start) > 5*time.Millisecond {
					slow++
				}
				mustFind(t, s, "k")
				time.Sleep(2 * time.Millisecond)
			}
			if i.requests() > 7 || slow > 7 {
				t.Errorf("%d fetches, %d slow refusals", i.requests(), slow)
			}
		})
	})
}

// E-05: a thousand callers who need one key wait for one fetch, and one who
// leaves takes nobody along.
func TestOneFetchForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: publish(setOf(edKey("k1", 1)))}
		s := source(t, i, SourceConfig{})
		mustFind(t, s, "k1")
		time.Sleep(time.Minute)
		before := i.requests()
		i.will(after(time.Second, publish(setOf(edKey("k1", 1), edKey("k2", 2)))))

		impatient, leave := context.WithCancel(t.Context())
		var left, right atomic.Int32
		var all sync.WaitGroup
		for n := range 1000 {
			all.Go(func() {
				ctx := t.Context()
				if n%10 == 0 {
					ctx = impatient
				}
				keys, err := s.Find(ctx, "k2", "EdDSA")
				switch {
				case len(keys) == 1 && err == nil:
					right.Add(1)
				case errors.Is(err, context.Canceled):
					left.Add(1)
				}
			})
		}
		synctest.Wait()
		leave()
		all.Wait()
		if i.requests()-before != 1 || left.Load() != 100 || right.Load() != 900 {
			t.Errorf("%d fetches, %d right, %d left", i.requests()-before, right.Load(), left.Load())
		}
	})
}

// A crowd that waits for an issuer that hangs is bounded, and known keys are
// found all the while.
func TestWaitersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: publish(setOf(edKey("k", 1)))}
		s := source(t, i, SourceConfig{})
		mustFind(t, s, "k")
		time.Sleep(time.Minute)
		i.will(hang)
		var refused atomic.Int32
		var all sync.WaitGroup
		for n := range maxWaiters + 100 {
			all.Go(func() {
				if _, err := s.Find(t.Context(), fmt.Sprint(n), "EdDSA"); errors.Is(err, errBusy) {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if refused.Load() != 100 {
			t.Errorf("%d of 100 refused", refused.Load())
		}
		mustFind(t, s, "k")
		all.Wait()
		if s.waiting.Load() != 0 {
			t.Error("still waiting:", s.waiting.Load())
		}
	})
}

// JWKS-27: an issuer that never answers holds up nobody but those who ask for it,
// and these no longer than they want to wait.
func TestHangingIssuer(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-27", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow := source(t, &issuer{answer: hang}, SourceConfig{URL: "https://slow.test/keys"})
			var others []*Source
			for n := range 99 {
				others = append(others, source(t, &issuer{answer: publish(setOf(edKey("k", byte(n+1))))}, SourceConfig{URL: fmt.Sprintf("https://i%d.test/keys", n)}))
			}
			start := time.Now()
			for range 10 {
				for _, s := range others {
					mustFind(t, s, "k")
				}
			}
			if time.Since(start) != 0 {
				t.Errorf("the others took %s", time.Since(start))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := slow.Find(ctx, "k", "EdDSA"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
				t.Errorf("%v after %s", err, time.Since(start))
			}
		})
	})
}

// JWKS-28, O-01: keys are rotated as RFC 7517 means it, the new one published
// before it signs, and with a token every 10 ms not one is refused; the old key
// is refused at the latest one refresh after it was withdrawn.
func TestRotation(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"published ahead": time.Minute, "at once": 0} {
		t.Run("JWKS-28/"+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: publish(setOf(edKey("k1", 1)))}
				s := source(t, i, SourceConfig{})
				signed := func(kid string, d time.Duration) {
					for range d / (10 * time.Millisecond) {
						mustFind(t, s, kid)
						time.Sleep(10 * time.Millisecond)
					}
				}
				signed("k1", time.Minute)
				i.will(after(50*time.Millisecond, publish(setOf(edKey("k1", 1), edKey("k2", 2)))))
				signed("k1", ahead)
				before := i.requests()
				signed("k2", time.Minute)
				if n := i.requests() - before; n != 1 {
					t.Errorf("%d fetches for the new key", n)
				}
				i.will(publish(setOf(edKey("k2", 2))))
				signed("k2", 15*time.Minute)
				mustNotKnow(t, s, "k1")
			})
		})
	}
}

// JWKS-29: a kid that is used for a new key means the new key from the next
// refresh on, and whoever remembers what the old one proved can tell.
func TestReusedKid(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-29", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := &issuer{answer: publish(setOf(edKey("k", 1), edKey("other", 9)))}
			var changes atomic.Int32
			s := source(t, i, SourceConfig{}, OnFetch(func(e Event) {
				if e.Changed {
					changes.Add(1)
				}
			}))
			old, epoch := mustFind(t, s, "k"), s.Epoch()
			time.Sleep(16 * time.Minute)
			if s.Epoch() != epoch || changes.Load() != 1 {
				t.Fatal("an unchanged set has a new epoch")
			}
			i.will(publish(setOf(edKey("other", 9), edKey("k", 2))))
			time.Sleep(15 * time.Minute)
			if key := mustFind(t, s, "k"); key.Public.(ed25519.PublicKey).Equal(old.Public.(ed25519.PublicKey)) {
				t.Error("still the old key")
			}
			if s.Epoch() <= epoch || changes.Load() != 2 {
				t.Error("the epoch tells nothing", s.Epoch(), changes.Load())
			}
		})
	})
}

// JWKS-30: what the issuer says of caching counts within the configured bounds.
func TestCacheControl(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header []string
		want   time.Duration
	}{
		{nil, 15 * time.Minute},
		{[]string{"Cache-Control", "max-age=0"}, time.Minute},
		{[]string{"Cache-Control", "max-age=315360000"}, 15 * time.Minute},
		{[]string{"Cache-Control", "max-age=99999999999999999999999"}, 15 * time.Minute},
		{[]string{"Cache-Control", "max-age=300"}, 5 * time.Minute},
		{[]string{"Cache-Control", `public, Max-Age="300"`}, 5 * time.Minute},
		{[]string{"Cache-Control", "max-age=300", "Age", "120"}, 3 * time.Minute},
		{[]string{"Cache-Control", "max-age=300", "Age", "9999"}, time.Minute},
		{[]string{"Cache-Control", "max-age=600", "Cache-Control", "max-age=300"}, 5 * time.Minute},
		{[]string{"Cache-Control", "no-store"}, time.Minute},
		{[]string{"Cache-Control", "no-cache, max-age=600"}, time.Minute},
		{[]string{"Cache-Control", "max-age=-1"}, 15 * time.Minute},
		{[]string{"Cache-Control", "max-age=soon,,=,x"}, 15 * time.Minute},
		{[]string{"Age", "120"}, 15 * time.Minute},
	} {
		t.Run("JWKS-30", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: publish(setOf(edKey("k", 1)), c.header...)}
				s := source(t, i, SourceConfig{})
				mustFind(t, s, "k")
				if got := s.Status().Next.Sub(time.Now()); got != c.want {
					t.Errorf("%v: next fetch in %s, want %s", c.header, got, c.want)
				}
				time.Sleep(c.want - time.Second)
				if n := i.requests(); n != 1 {
					t.Errorf("%v: %d fetches too early", c.header, n-1)
				}
				time.Sleep(2 * time.Second)
				if n := i.requests(); n != 2 {
					t.Errorf("%v: %d fetches in time", c.header, n-1)
				}
			})
		})
	}
}

// Chance takes off up to a tenth and never goes below min_refresh.
func TestJitter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		chance float64
		maxAge time.Duration
		want   time.Duration
	}{{0, -1, 15 * time.Minute}, {0.5, -1, 15*time.Minute - 45*time.Second}, {0.9, 0, time.Minute}, {0.9, time.Minute, time.Minute}} {
		now := time.Now()
		s := &Source{cfg: SourceConfig{}.withDefaults(), now: func() time.Time { return now }, jitter: func() float64 { return c.chance }}
		if got := s.nextFetch(&state{}, c.maxAge).Sub(now); got != c.want {
			t.Errorf("%v: %s", c, got)
		}
	}
}

// JWKS-31: two issuers with one URL share nothing: each has what it fetched
// itself, and the failure of one is its own.
func TestKeysBelongToTheIssuer(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-31", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := &issuer{answer: publish(setOf(edKey("k", 1)))}
			a := source(t, network, SourceConfig{Issuer: "https://a.test", URL: jwksURL})
			mustFind(t, a, "k")
			network.will(reset)
			b := source(t, network, SourceConfig{Issuer: "https://b.test", URL: jwksURL})
			mustFail(t, b, "k")
			network.will(publish(setOf(edKey("k", 2))))
			if err := b.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if mustFind(t, a, "k").Thumbprint() == mustFind(t, b, "k").Thumbprint() || a.Epoch() == b.Epoch() {
				t.Error("they share keys")
			}
			if a.Status().Source != "https://a.test" || b.Status().Source != "https://b.test" {
				t.Error("they share a name")
			}
		})
	})
}

// JWKS-32: nothing that a token or a key says leads to a connection.
func TestNoConnectionFromContents(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-32", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			trap := "https://attacker.test/"
			i := &issuer{answer: publish(setOf(edKey("k", 1).with("x5u", trap, "jku", trap, "x5c", []string{trap}), edKey(trap, 2)))}
			s := source(t, i, SourceConfig{})
			mustFind(t, s, trap)
			for _, kid := range []string{trap + "jwks.json", "../../etc/passwd", "k' OR 1=1", "http://169.254.169.254/", strings.Repeat("k", 1<<16)} {
				time.Sleep(time.Minute)
				mustNotKnow(t, s, kid)
			}
			if slices.ContainsFunc(i.urls, func(u string) bool { return u != jwksURL }) {
				t.Error(i.urls)
			}
		})
	})
}

// J-10: replicas that fetch by themselves agree, whichever order the issuer lists
// its keys in.
func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b, c := edKey("a", 1), edKey("b", 2), jwkOf("c", &testKeys().rsa.PublicKey)
		var prints []string
		for _, order := range [][]object{{a, b, c}, {c, a, b}, {b, c, a}} {
			s := source(t, &issuer{answer: publish(setOf(order...))}, SourceConfig{})
			prints = append(prints, fmt.Sprint(mustFind(t, s, "a").Thumbprint(), mustFind(t, s, "b").Thumbprint(), found(t, s, "c", "PS384")[0].Thumbprint(), len(found(t, s, "", "EdDSA"))))
		}
		if prints[0] != prints[1] || prints[1] != prints[2] {
			t.Error(prints)
		}
	})
}

// Where no key can be used, the error says why the first cannot, and shows none of it.
func TestSourceSaysWhyNoKey(t *testing.T) {
	t.Parallel()
	secret := jwkOf("s", make([]byte, 32))
	short := object{"kty": "RSA", "kid": "k", "n": strings.Repeat("x", 170) + "w", "e": "AQAB"}
	encryption := object{"kty": "RSA", "kid": "e", "use": "enc", "n": strings.Repeat("x", 342), "e": "AQAB"}
	for _, tt := range []struct{ body, want string }{
		{`{"keys":[]}`, "the key set holds no key that can be used"},
		{setOf(short), `no key that can be used: key "k" (number 1) is not used: its modulus has 1024 bits`},
		{setOf(encryption), `no key that can be used: key "e" (number 1) is not used: `},
		{setOf(short, encryption, secret), `, and others`},
		{setOf(secret), `key "s" (number 1) is not used: `},
	} {
		name := filepath.Join(t.TempDir(), "keys.json")
		if err := os.WriteFile(name, []byte(tt.body), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := NewSource(SourceConfig{File: name})
		if err == nil || !errors.Is(err, errNoKeys) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "xxxx") || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%.60s: %v, want %q", tt.body, err, tt.want)
		}
	}
}

// A file is read at the start and when told to. One that went bad leaves the
// last good keys, for as long as it takes.
func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewSource(SourceConfig{File: path}); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a file that is not there:", err)
	}
	for _, bad := range []string{"", "{", `{"keys":[]}`, setOf(jwkOf("s", make([]byte, 32))), strings.Repeat(" ", MaxDocumentBytes+1)} {
		write(bad)
		if s, err := NewSource(SourceConfig{File: path}); err == nil {
			t.Fatalf("%.20q: accepted", bad)
		} else if s != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	write(setOf(edKey("k1", 1)))
	now := time.Now()
	s := source(t, nil, SourceConfig{File: path}, WithClock(func() time.Time { return now }))
	mustFind(t, s, "k1")
	mustNotKnow(t, s, "k2")
	epoch := s.Epoch()

	write(`{"keys":[{"kty":`)
	if err := s.Reload(t.Context()); err == nil {
		t.Error("a bad file was accepted")
	}
	now = now.Add(1000 * time.Hour)
	mustFind(t, s, "k1")
	if s.Epoch() != epoch || s.Status().Err == nil || !s.Status().Usable {
		t.Errorf("%+v", s.Status())
	}
	mustFail(t, s, "k2") // it may be in the file that cannot be read

	write(setOf(edKey("k2", 2)))
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustFind(t, s, "k2")
	mustNotKnow(t, s, "k1")
	if s.Epoch() == epoch || s.Status().Err != nil {
		t.Errorf("%+v", s.Status())
	}
}

// Reload fetches after it was called, not before: one that runs already may have
// read the old keys.
func TestReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old := publish(setOf(edKey("old", 1)))
		i := &issuer{answer: after(time.Second, old)}
		s := source(t, i, SourceConfig{})
		synctest.Wait() // the first fetch is under way, and will bring the old keys
		i.will(publish(setOf(edKey("new", 2))))
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := s.Reload(t.Context()); err != nil {
					t.Error(err)
				}
				mustFind(t, s, "new")
			})
		}
		all.Wait()
		i.will(hang)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Reload(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if err := s.Reload(t.Context()); err == nil {
			t.Error("an issuer that hangs was reloaded")
		}
		mustFind(t, s, "new")
	})
}

// A new configuration does not lose the keys that the old one had: the issuer
// may be down just then. E-06.
func TestInherit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: publish(setOf(edKey("k", 1)))}
		old := source(t, i, SourceConfig{Issuer: "https://a.test", URL: jwksURL})
		mustFind(t, old, "k")
		epoch := old.Epoch()
		i.will(hang)
		same := source(t, i, SourceConfig{Issuer: "https://a.test", URL: jwksURL, KeepStale: time.Hour}, Inherit(old))
		_ = old.Close()
		mustFind(t, same, "k")
		if same.Epoch() != epoch {
			t.Error("what was proven is lost")
		}
		for _, cfg := range []SourceConfig{
			{Issuer: "https://b.test", URL: jwksURL},
			{Issuer: "https://a.test", URL: jwksURL + "2"},
			{Issuer: "https://a.test"},
			{Issuer: "https://a.test", URL: jwksURL, InsecureAllowHTTP: true},
		} {
			mustFail(t, source(t, i, cfg, Inherit(old)), "k")
		}
		mustFail(t, source(t, i, SourceConfig{Issuer: "https://a.test", URL: jwksURL}, Inherit(nil)), "k")
		time.Sleep(time.Hour)
		mustFail(t, same, "k") // as old as they are, by the new rule
	})
}

// Close ends what runs, lets those who wait go, and may come twice. The bubble
// fails if a goroutine is left.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: publish(setOf(edKey("k", 1)))}
		s, err := NewSource(SourceConfig{URL: jwksURL}, WithTransport(i))
		if err != nil {
			t.Fatal(err)
		}
		mustFind(t, s, "k")
		time.Sleep(time.Minute)
		i.will(hang)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { mustNotKnow(t, s, "k2") })
			all.Go(func() {
				if err := s.Reload(t.Context()); !errors.Is(err, errClosed) {
					t.Error(err)
				}
			})
			all.Go(func() { time.Sleep(time.Second); _ = s.Close() })
		}
		all.Wait()
		mustFind(t, s, "k")
		if err := s.Reload(t.Context()); !errors.Is(err, errClosed) {
			t.Error(err)
		}
		time.Sleep(25 * time.Hour)
		mustFail(t, s, "k")
	})
}

// All mistakes of a configuration are told at once.
func TestSourceConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  SourceConfig
		want []string
	}{
		{SourceConfig{}, []string{"no issuer"}},
		{SourceConfig{URL: jwksURL, File: "x", Refresh: -1, Cooldown: time.Millisecond, Timeout: time.Hour, KeepStale: -time.Hour}, []string{"exclude", "refresh is -1ns", "cooldown is 1ms", "timeout is 1h", "keep_stale is -1h", "leave it out"}},
		{SourceConfig{URL: jwksURL, Refresh: time.Hour, KeepStale: time.Minute}, []string{"keep_stale is 1m"}},
		{SourceConfig{URL: jwksURL, Refresh: time.Hour, MinRefresh: 2 * time.Hour}, []string{"less than min_refresh"}},
		{SourceConfig{URL: "http://issuer.test/keys"}, []string{"insecure_allow_http"}},
		{SourceConfig{URL: "ftp://issuer.test/keys"}, []string{"not an https URL"}},
		{SourceConfig{URL: "file:///etc/passwd"}, []string{"not an https URL"}},
		{SourceConfig{URL: "issuer.test/keys"}, []string{"not an https URL"}},
		{SourceConfig{URL: "https:///keys"}, []string{"no host"}},
		{SourceConfig{URL: "https:keys"}, []string{"no host"}},
		{SourceConfig{URL: "https://user:hunter2@issuer.test/"}, []string{"user name or password"}},
		{SourceConfig{URL: "https://issuer.test/#"}, []string{"fragment"}},
		{SourceConfig{URL: "https://issuer.test:0/"}, []string{"port"}},
		{SourceConfig{URL: "https://issuer.test:70000/"}, []string{"port"}},
		{SourceConfig{URL: "https://10.1.2.3/keys"}, []string{"insecure_allow_private_addresses"}},
		{SourceConfig{URL: "https://[::1]/keys"}, []string{"insecure_allow_private_addresses"}},
		{SourceConfig{URL: "https://169.254.169.254/keys", InsecureAllowPrivateAddresses: true}, []string{"never a place to ask"}},
		{SourceConfig{URL: "https://\x7f/hunter2"}, []string{"not a URL"}},
		{SourceConfig{Issuer: "a name"}, []string{"cannot be discovered"}},
		{SourceConfig{Issuer: "https://issuer.test/?a=b"}, []string{"query"}},
		{SourceConfig{Issuer: "https://issuer.test/?"}, []string{"query"}},
		{SourceConfig{Issuer: "https://issuer.test", CAFile: "does not exist"}, []string{"ca_file"}},
		{SourceConfig{Issuer: "https://issuer.test", CAFile: "source_test.go"}, []string{"ca_file"}},
	} {
		s, err := NewSource(c.cfg)
		if err == nil {
			_ = s.Close()
			t.Errorf("%+v: accepted", c.cfg)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%+v: %v, want %q", c.cfg, err, want)
			}
		}
	}
}

// What goes wrong is told without what a URL's query may hold.
func TestErrorsHideTheQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := source(t, &issuer{answer: reset}, SourceConfig{URL: "https://issuer.test/keys?api_key=hunter2"})
		_, err := s.Find(t.Context(), "k", "EdDSA")
		if err == nil || strings.Contains(err.Error()+s.Status().Source, "hunter2") {
			t.Error(err)
		}
	})
}

// The scenarios for keys and fetching that are shared between projects all have
// a test of that name here.
func TestScenariosAreCovered(t *testing.T) {
	t.Parallel()
	var here []byte
	for _, name := range []string{"jwk_test.go", "keyset_test.go", "source_test.go", "fetch_test.go", "discovery_test.go"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		here = append(here, data...)
	}
	for _, s := range vectortest.Lines[struct{ ID string }](t, "scenarios/scenarios.jsonl") {
		if strings.HasPrefix(s.ID, "JWKS-") && !strings.Contains(string(here), `"`+s.ID) {
			t.Errorf("%s has no test", s.ID)
		}
	}
}
