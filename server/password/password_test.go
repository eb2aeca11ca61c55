package password_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/strictyaml"
)

func hasher(t testing.TB, cfg password.Config, deps password.Deps) *password.Hasher {
	t.Helper()
	h, err := password.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func cheap(t testing.TB, cfg password.Config, deps password.Deps) *password.Hasher {
	t.Helper()
	h := hasher(t, cfg, deps)
	h.Cheap(nil)
	return h
}

func hash(t testing.TB, h *password.Hasher, text string) string {
	t.Helper()
	phc, err := h.Hash(t.Context(), policy.NewSecret(text))
	if err != nil {
		t.Fatal(err)
	}
	return phc
}

func fits(t testing.TB, h *password.Hasher, phc, text string) bool {
	t.Helper()
	ok, err := h.Verify(t.Context(), phc, policy.NewSecret(text))
	if err != nil {
		t.Fatalf("%s: %v", phc, err)
	}
	return ok
}

// peppers are versions and their keys, the first being current.
type peppers []uint16

func (p peppers) Current() uint16 { return p[0] }

func (p peppers) Derive(version uint16, purpose string) (key [32]byte, ok bool) {
	for _, v := range p {
		if v == version {
			copy(key[:], fmt.Sprintf("%d %s", version, purpose))
			return key, true
		}
	}
	return key, false
}

// B-06: what is kept is Argon2id with 19 MiB, 2 passes and 1 lane (OWASP), salted,
// and fits its password only.
func TestHash(t *testing.T) {
	t.Parallel()
	h := hasher(t, password.Config{}, password.Deps{})
	phc := hash(t, h, "correct horse")
	if !regexp.MustCompile(`^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$`).MatchString(phc) {
		t.Fatal(phc)
	}
	if !fits(t, h, phc, "correct horse") || fits(t, h, phc, "correct horsf") || fits(t, h, phc, "") || fits(t, h, phc, "Correct horse") {
		t.Error("it fits the wrong ones")
	}
	if hash(t, h, "correct horse") == phc {
		t.Error("no salt")
	}
	if h.NeedsRehash(phc) {
		t.Error("a new hash is old already")
	}
}

// B-06: a pepper makes another hash, its version stands in it, and an old one goes
// on until the next login.
func TestPepper(t *testing.T) {
	t.Parallel()
	before := cheap(t, password.Config{}, password.Deps{})
	first := cheap(t, password.Config{}, password.Deps{Peppers: peppers{1}})
	second := cheap(t, password.Config{}, password.Deps{Peppers: peppers{2, 1}})
	gone := cheap(t, password.Config{}, password.Deps{Peppers: peppers{3}})
	plain, one, two := hash(t, before, "pw"), hash(t, first, "pw"), hash(t, second, "pw")
	if !strings.Contains(one, ",p=1,keyid=djE$") || !strings.Contains(two, ",p=1,keyid=djI$") {
		t.Errorf("%s %s", one, two)
	}
	for _, c := range []struct {
		h      *password.Hasher
		phc    string
		rehash bool
	}{{before, plain, false}, {first, plain, true}, {first, one, false}, {second, one, true}, {second, two, false}} {
		if !fits(t, c.h, c.phc, "pw") || fits(t, c.h, c.phc, "pW") || c.h.NeedsRehash(c.phc) != c.rehash {
			t.Errorf("%s: wrong, or rehash is not %v", c.phc, c.rehash)
		}
	}
	without := strings.Replace(one, ",keyid=djE", "", 1)
	if fits(t, first, without, "pw") {
		t.Error("the pepper makes no difference")
	}
	for _, h := range []*password.Hasher{before, gone} {
		if ok, err := h.Verify(t.Context(), one, policy.NewSecret("pw")); ok || !errors.Is(err, password.ErrPepper) {
			t.Errorf("without its pepper: %v, %v", ok, err)
		}
	}
}

// B-07: hashes of other programs are verified, and replaced at the next login. These
// come from crypt(3) of libxcrypt, which htpasswd -B uses, and from Python's
// hashlib.pbkdf2_hmac; the dots are how passlib writes them.
var imported = []string{
	"$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
	"$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
	"$2a$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
	"$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$vqJqygf2tor+2oXl6lWino6yb6bhsvOKyvQv/Gi94uE",
	"$pbkdf2-sha256$i=1000$c29tZXNhbHQ$vqJqygf2tor+2oXl6lWino6yb6bhsvOKyvQv/Gi94uE",
	"$pbkdf2-sha256$1000$c29tZXNhbHQ$vqJqygf2tor.2oXl6lWino6yb6bhsvOKyvQv/Gi94uE",
	"$pbkdf2-sha512$i=1000$c29tZXNhbHQ$V9x3u38jtrOvOxGwDp/5VE6f8lcU1xTSkY+Hz6lqaDtRLf/HKv9a8FfzcQC8zhGsFYKHhffaDTD4Hp7K6UjkJA",
	"$pbkdf2-sha512$1000$c29tZXNhbHQ$V9x3u38jtrOvOxGwDp/5VE6f8lcU1xTSkY.Hz6lqaDtRLf/HKv9a8FfzcQC8zhGsFYKHhffaDTD4Hp7K6UjkJA",
}

func TestImported(t *testing.T) {
	t.Parallel()
	h := hasher(t, password.Config{}, password.Deps{Peppers: peppers{1}})
	for _, phc := range imported {
		if err := password.Check(phc); err != nil {
			t.Errorf("%.24s…: %v", phc, err)
			continue
		}
		if !h.NeedsRehash(phc) {
			t.Errorf("%.24s… would stay", phc)
		}
		for text, want := range map[string]bool{"secret": true, "secreu": false, "secre": false, "secret\x00secret": false, "secret\x00": false} {
			if fits(t, h, phc, text) != want {
				t.Errorf("%.24s… and %q: not %v", phc, text, want)
			}
		}
	}
}

// What is no hash, or too much work, is refused before any work is done, with a
// reason that does not repeat it.
func TestRefused(t *testing.T) {
	t.Parallel()
	const sum = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, phc := range []string{
		"hunter2-plain", "$", "$$", "$argon2id", "$argon2d$v=19$m=65536,t=2,p=1$" + sum, "$argon2id$v=16$m=65536,t=2,p=1$" + sum,
		"$argon2id$m=65536,t=2,p=1$" + sum, "$argon2id$v=19$m=65536,t=2$" + sum, "$argon2id$v=19$t=2,m=65536,p=1$" + sum,
		"$argon2id$v=19$m=65536,t=2,p=1,$" + sum, "$argon2id$v=19$m=65536,t=2,p=1,x=1$" + sum, "$argon2id$v=19$m=065536,t=2,p=1$" + sum,
		"$argon2id$v=19$m=+65536,t=2,p=1$" + sum, "$argon2id$v=19$m=65536,t=0,p=1$" + sum, "$argon2id$v=19$m=65536,t=2,p=0$" + sum,
		"$argon2id$v=19$m=7,t=2,p=1$" + sum, "$argon2id$v=19$m=4194304,t=1,p=1$" + sum, "$argon2id$v=19$m=65536,t=9,p=1$" + sum,
		"$argon2id$v=19$m=65536,t=4294967295,p=1$" + sum, "$argon2id$v=19$m=99999999999,t=1,p=1$" + sum, "$argon2id$v=19$m=65536,t=2,p=17$" + sum,
		"$argon2id$v=19$m=65536,t=2,p=257$" + sum, "$argon2id$v=19$m=65536,t=2,p=1,keyid=$" + sum, "$argon2id$v=19$m=65536,t=2,p=1,keyid=djA$" + sum,
		"$argon2id$v=19$m=65536,t=2,p=1,keyid=MQ$" + sum, "$argon2id$v=19$m=65536,t=2,p=1,keyid=djY1NTM2$" + sum, "$argon2i$v=19$m=65536,t=2,p=1,keyid=djE$" + sum,
		"$argon2id$v=19$m=65536,t=2,p=1$" + sum + "$x", "$argon2id$v=19$m=65536,t=2,p=1$" + sum + "\n", "$argon2id$v=19$m=65536,t=2,p=1$" + sum + "=",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXM$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXP",
		"$2a$04$abc", "$2x$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "$2$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
		"$2b$03$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "$2b$16$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
		"$2b$+5$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0\x00",
		"$pbkdf2-sha256$i=0$" + sum, "$pbkdf2-sha256$i=2000001$" + sum, "$pbkdf2-sha256$i=1000,l=31$" + sum, "$pbkdf2-sha256$i=1000,$" + sum,
		"$pbkdf2-sha256$$" + sum, "$pbkdf2-sha256$i=1000,l=32,x=1$" + sum, "$pbkdf2$i=1000$" + sum, "$pbkdf2-sha1$i=1000$" + sum,
		"{SHA}nU4eI71bcnBGqeO0t9tXvY1u5oQ=", "$apr1$abcdefgh$0123456789abcdefghijkl", "$argon2id$v=19$m=65536,t=2,p=1$" + sum + strings.Repeat("A", 512),
	} {
		err := password.Check(phc)
		if !errors.Is(err, password.ErrHash) {
			t.Errorf("%.60q: %v", phc, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "CTFh") {
			t.Errorf("the error repeats the hash: %v", err)
		}
	}
}

// B-06: unknown user, disabled user, user without password, wrong password and
// damaged hash all cost one hash. Counted, not timed.
func TestNobodyCostsTheSame(t *testing.T) {
	t.Parallel()
	h := cheap(t, password.Config{}, password.Deps{Peppers: peppers{1}})
	phc := hash(t, h, "right")
	wrong := policy.NewSecret("wrong")
	for name, ask := range map[string]func() (bool, error){
		"wrong":       func() (bool, error) { return h.Verify(t.Context(), phc, wrong) },
		"right":       func() (bool, error) { return h.Verify(t.Context(), phc, policy.NewSecret("right")) },
		"no password": func() (bool, error) { return h.Verify(t.Context(), "", wrong) },
		"damaged":     func() (bool, error) { return h.Verify(t.Context(), phc[:40], wrong) },
		"unknown":     func() (bool, error) { return false, h.VerifyNobody(t.Context(), wrong) },
	} {
		before := h.Computed()
		ok, err := ask()
		if ok != (name == "right") || (err != nil) != (name == "damaged") || err != nil && !errors.Is(err, password.ErrHash) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
		if n := h.Computed() - before; n != 1 {
			t.Errorf("%s: %d hashes", name, n)
		}
	}
}

// B-06: of 1,000 logins at once, no more are computed than there are workers, no
// more wait than the queue holds, and the rest hears at once that it is busy.
func TestThousandLogins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const workers, queue, logins = 3, 7, 1000
		h := hasher(t, password.Config{Workers: workers, Queue: queue}, password.Deps{})
		var running, most, busy, no atomic.Int64
		h.Cheap(func() {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(30 * time.Millisecond) // in the bubble: no time passes outside
			running.Add(-1)
		})
		var group sync.WaitGroup
		for range logins {
			group.Go(func() {
				switch ok, err := h.Verify(t.Context(), "", policy.NewSecret("guess")); {
				case errors.Is(err, password.ErrBusy):
					busy.Add(1)
				case err == nil && !ok:
					no.Add(1)
				default:
					t.Errorf("%v, %v", ok, err)
				}
			})
		}
		synctest.Wait()
		if running, waiting := h.Load(); running != workers || waiting != queue {
			t.Errorf("%d run and %d wait", running, waiting)
		}
		group.Wait()
		if most.Load() != workers || no.Load() != workers+queue || busy.Load() != logins-workers-queue {
			t.Errorf("%d at once, %d answered, %d busy", most.Load(), no.Load(), busy.Load())
		}
		if running, waiting := h.Load(); running != 0 || waiting != 0 {
			t.Errorf("afterwards %d run and %d wait", running, waiting)
		}
	})
}

// Hashes that need more memory than ours are computed one at a time, and do not keep
// ours from being computed.
func TestHeavyHashes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hasher(t, password.Config{Workers: 2, Queue: 10}, password.Deps{})
		h.Cheap(func() { time.Sleep(time.Second) })
		const heavy = "$argon2id$v=19$m=262144,t=2,p=1$c29tZXNhbHQ$eP4eyR+zqlZX1y5xCFTkw9m5GYx0L5YWwvCFvtlbLow"
		start := time.Now()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() { fits(t, h, heavy, "x") })
		}
		synctest.Wait()
		fits(t, h, "", "x")
		if took := time.Since(start); took != time.Second {
			t.Errorf("one of ours waited for the heavy ones: %v", took)
		}
		group.Wait()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("three heavy ones took %v", took)
		}
	})
}

// Who gives up waiting gets an error that is no answer, and leaves no trace.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hasher(t, password.Config{Workers: 1, Queue: 1}, password.Deps{})
		release := make(chan struct{})
		h.Cheap(func() { <-release })
		go func() { _ = h.VerifyNobody(t.Context(), policy.NewSecret("x")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ok, err := h.Verify(ctx, "", policy.NewSecret("x")); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v", ok, err)
		}
		if ok, err := h.Verify(ctx, "", policy.NewSecret("x")); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that is over: %v, %v", ok, err)
		}
		close(release)
		synctest.Wait()
		if running, waiting := h.Load(); running != 0 || waiting != 0 {
			t.Errorf("%d run and %d wait", running, waiting)
		}
	})
}

func TestLength(t *testing.T) {
	t.Parallel()
	h := cheap(t, password.Config{}, password.Deps{})
	for n, good := range map[int]bool{0: false, 1: true, password.MaxLen: true, password.MaxLen + 1: false} {
		text := strings.Repeat("p", n)
		phc, err := h.Hash(t.Context(), policy.NewSecret(text))
		if good != (err == nil) || !good && !errors.Is(err, password.ErrLength) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if good && !fits(t, h, phc, text) {
			t.Errorf("%d bytes do not fit", n)
		}
		if !good && fits(t, h, hash(t, h, "p"), text) {
			t.Errorf("%d bytes fit", n)
		}
	}
}

func TestNoRandom(t *testing.T) {
	t.Parallel()
	h := cheap(t, password.Config{}, password.Deps{})
	h.SetRandom(iotest.ErrReader(errors.New("broken")))
	if phc, err := h.Hash(t.Context(), policy.NewSecret("pw")); phc != "" || err == nil {
		t.Errorf("%q, %v", phc, err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  password.Config
		want string // "" is good
	}{
		{password.Config{}, ""},
		{password.Config{Memory: 46 * strictyaml.MiB, Passes: 1}, ""},
		{password.Config{Memory: 12 * strictyaml.MiB, Passes: 3}, ""},
		{password.Config{Memory: 9 * strictyaml.MiB, Passes: 4}, ""},
		{password.Config{Memory: 7 * strictyaml.MiB, Passes: 5}, ""},
		{password.Config{Memory: 19 * strictyaml.MiB, Passes: 1}, "passes: 1 are too few for 19MiB; use"},
		{password.Config{Memory: strictyaml.MiB, Passes: 16}, "memory: is not from 7MiB to 256MiB"},
		{password.Config{Memory: strictyaml.GiB}, "memory: "},
		{password.Config{Memory: -1}, "memory: "},
		{password.Config{Passes: 17}, "passes: is more than 10"},
		{password.Config{Workers: -1}, "workers: "},
		{password.Config{Queue: -1}, "queue: "},
	} {
		_, err := password.New(c.cfg, password.Deps{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

// Nothing prints a hash, not even the one that nothing fits.
func TestNotPrinted(t *testing.T) {
	t.Parallel()
	h := cheap(t, password.Config{}, password.Deps{})
	if text := fmt.Sprintf("%v %+v %#v", h, h, h); strings.Contains(text, "sum") || len(text) > 100 {
		t.Error(text)
	}
}

func BenchmarkHash(b *testing.B) {
	h := hasher(b, password.Config{}, password.Deps{})
	for b.Loop() {
		if err := h.VerifyNobody(context.Background(), policy.NewSecret("guess")); err != nil {
			b.Fatal(err)
		}
	}
}
