package bundle_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

// A bundle comes, a newer one replaces it, and an older one does not, unless that is
// allowed. BND-01 BND-02 CACHE-13
func TestRollback(t *testing.T) {
	t.Parallel()
	config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
	w := open(t, config, nil)
	ctx := context.Background()
	for _, step := range []struct {
		offered made
		runs    string
		refused bool
	}{
		{allowing("2"), "2", false},
		{allowing("1"), "2", true},
		{allowing(""), "2", true},
		{allowing("10"), "10", false},
		{allowing("abcdef"), "abcdef", false}, // no order: only different
		{allowing("abcdee").claim("iat", 2000), "abcdee", false},
		{allowing("abcded").claim("iat", 1000), "abcdee", true}, // signed before
		{allowing("abcdec").claim("iat", 3000), "abcdec", false},
	} {
		write(step.offered.signedBy(t, rsaSigner()))
		err := w.Poll(ctx)
		if errors.Is(err, bundle.ErrRollback) != step.refused {
			t.Errorf("%s: %v", step.runs, err)
		}
		failure := bundle.Failure("")
		if step.refused {
			failure = bundle.FailedRollback
		}
		w.expect(err, step.runs, failure, "allow_rollback")
	}
	config.Bundles[0].AllowRollback = true
	w = open(t, config, nil)
	for _, revision := range []string{"2", "1"} {
		write(allowing(revision).signedBy(t, rsaSigner()))
		w.expect(w.Poll(ctx), revision, "", "")
	}
}

// A restart without the server serves the last good bundle, verified again. Z-02 BND-43
func TestPersist(t *testing.T) {
	t.Parallel()
	config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
	config.Persist = strictyaml.Path(filepath.Join(t.TempDir(), "kept"))
	config.MaxAge = time.Hour
	clock := time.Now()
	now := func() time.Time { return clock }
	ctx := context.Background()

	w := open(t, config, now)
	if w.Age(now()) != math.MaxInt64 || !w.Stale(now()) {
		t.Error("a policy that is not there is fresh")
	}
	write(allowing("2").claim("exp", clock.Add(90*time.Minute).Unix()).signedBy(t, rsaSigner()))
	must(t, w.Poll(ctx))
	write(allowing("1").signedBy(t, rsaSigner())) // refused, and not kept
	_ = w.Poll(ctx)
	w.Close()
	must(t, os.Remove(string(config.Bundles[0].File)))

	clock = clock.Add(30 * time.Minute)
	w = open(t, config, now)
	w.expect(nil, "2", "", "")
	if st := w.Status()[0]; !st.FromDisk || st.Waiting || st.Revision != "2" || w.Problem() != nil {
		t.Errorf("%+v, %v", st, w.Problem())
	}
	if age := w.Age(now()); age < 29*time.Minute || age > 31*time.Minute || w.Stale(now()) {
		t.Errorf("age %s", age)
	}
	// The floor is kept too: what is older than what was on disk is refused.
	write(allowing("1").signedBy(t, rsaSigner()))
	w.expect(w.Poll(ctx), "2", bundle.FailedRollback, "")
	// Nobody confirmed it for more than an hour.
	clock = clock.Add(31 * time.Minute)
	if !w.Stale(now()) {
		t.Error("an hour and a minute is not stale")
	}
	write(allowing("3").claim("exp", clock.Add(time.Hour).Unix()).signedBy(t, rsaSigner()))
	w.expect(w.Poll(ctx), "3", "", "")
	if w.Stale(now()) {
		t.Error("stale just after it was confirmed")
	}
	if left := files(t, config, "*.tar.gz"); len(left) != 1 {
		t.Errorf("kept: %v", left)
	}
	w.Close()
	// An expired signature is refused at the start, and then nothing is in force.
	clock = clock.Add(2 * time.Hour)
	w = open(t, config, now)
	w.expect(w.Status()[0].Err, "", bundle.FailedPersist, "expired")
}

// files returns what is kept of the first bundle.
func files(t testing.TB, config bundle.Config, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(string(config.Persist), config.Bundles[0].Name, pattern))
	must(t, err)
	return found
}

// What was changed on disk is refused, and so is a time that no clock can have
// written. BND-04
func TestPersistTampered(t *testing.T) {
	t.Parallel()
	evil := allowing("3").pack(t)
	for name, c := range map[string]struct {
		damage func(t *testing.T, packed, current string)
		says   string
	}{
		"a bit":     {func(t *testing.T, packed, _ string) { raw := mustRead(t, packed); replace(t, packed, flip(raw, 100)) }, "was changed"},
		"cut off":   {func(t *testing.T, packed, _ string) { replace(t, packed, mustRead(t, packed)[:100]) }, "was changed"},
		"gone":      {func(t *testing.T, packed, _ string) { must(t, os.Remove(packed)) }, "no such file"},
		"no JSON":   {func(t *testing.T, _, current string) { replace(t, current, []byte("{")) }, "is damaged"},
		"traversal": {func(t *testing.T, _, current string) { replace(t, current, []byte(`{"digest":"../../../etc/passwd"}`)) }, "is damaged"},
		"unsigned": {func(t *testing.T, packed, current string) {
			digest := digestOf(evil)
			replace(t, filepath.Join(filepath.Dir(packed), digest+".tar.gz"), evil)
			replace(t, current, []byte(`{"digest":"`+digest+`"}`))
		}, "missing .signatures.json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, write := fromFile(t, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
			config.Persist = strictyaml.Path(t.TempDir())
			write(allowing("2").signedBy(t, rsaSigner()))
			w := open(t, config, nil)
			must(t, w.Poll(context.Background()))
			w.Close()
			c.damage(t, files(t, config, "*.tar.gz")[0], files(t, config, "current.json")[0])
			w = open(t, config, nil)
			w.expect(w.Status()[0].Err, "", bundle.FailedPersist, c.says)
			w.expect(w.Poll(context.Background()), "2", "", "") // the server has it
			w.Close()
			w = open(t, config, nil)
			w.expect(nil, "2", "", "") // and so has the disk, again
		})
	}
	t.Run("time to come", func(t *testing.T) {
		t.Parallel()
		config, write := fromFile(t, bundle.Verify{})
		config.Persist = strictyaml.Path(t.TempDir())
		write(allowing("2").pack(t))
		w := open(t, config, nil)
		must(t, w.Poll(context.Background()))
		later := time.Now().Add(24 * time.Hour)
		must(t, os.Chtimes(files(t, config, "current.json")[0], later, later))
		w = open(t, config, nil)
		if age := w.Age(time.Now()); age != math.MaxInt64 {
			t.Errorf("age %s", age)
		}
	})
}

// A disk that does not take the bundle does not keep it from being in force, and is
// tried again.
func TestPersistFails(t *testing.T) {
	t.Parallel()
	config, write := fromFile(t, bundle.Verify{})
	dir := filepath.Join(t.TempDir(), "kept")
	config.Persist = strictyaml.Path(dir)
	must(t, os.WriteFile(dir, nil, 0o600)) // a file where the directory goes
	write(allowing("1").pack(t))
	w := open(t, config, nil)
	w.expect(w.Poll(context.Background()), "1", bundle.FailedPersist, "in force and could not be kept")
	must(t, os.Remove(dir))
	w.expect(w.Poll(context.Background()), "1", "", "")
	if len(files(t, config, "*.tar.gz")) != 1 || w.Problem() != nil {
		t.Errorf("%v", w.Problem())
	}
}

// part is a bundle of several: its own package, and a root for it.
func part(root, revision, text string) made {
	return made{files: map[string]string{
		".manifest":   fmt.Sprintf(`{"revision":%q,"roots":[%q]}`, revision, root),
		"policy.rego": text,
	}}
}

// several is a source of bundles on disk, by name.
func several(t testing.TB, names ...string) (bundle.Config, map[string]func([]byte)) {
	t.Helper()
	dir, write := t.TempDir(), map[string]func([]byte){}
	var config bundle.Config
	for _, name := range names {
		file := filepath.Join(dir, name)
		config.Bundles = append(config.Bundles, bundle.Bundle{Name: name, File: strictyaml.Path(file)})
		write[name] = func(raw []byte) { replace(t, file, raw) }
	}
	return config, write
}

// Several bundles make one policy: nothing is in force before all are there, roots
// that overlap are refused, and bundles that need each other may change in any
// order. REGO-12 FAILOPEN-02
func TestSeveral(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	config, write := several(t, "main", "lists")
	main := func(revision, rule string) []byte {
		return part("postern/authz", revision, fmt.Sprintf("package postern.authz\n\ndecision := {\"allow\": true, \"dynamic_metadata\": {\"r\": %q}} if data.lists.%s(1)\n", revision, rule)).pack(t)
	}
	lists := func(revision, rule string) []byte {
		return part("lists", revision, "package lists\n\n"+rule+"(x) if x == 1\n").pack(t)
	}
	w := open(t, config, nil)
	write["main"](main("1", "f"))
	if err := w.Poll(ctx); err == nil || w.runs() != "" { // lists is not there
		t.Fatalf("in force is %q, %v", w.runs(), err)
	}
	if _, err := w.decide(); !errors.Is(err, rego.ErrNoPolicy) {
		t.Fatal(err)
	}
	write["lists"](lists("1", "f"))
	w.expect(w.Poll(ctx), "1", "", "")
	if r := w.Revision(); !strings.HasPrefix(r, "main=1,lists=1+") {
		t.Errorf("revision %q", r)
	}
	// main 2 needs what only lists 2 has, and the other way round.
	write["main"](main("2", "g"))
	w.expect(w.Poll(ctx), "1", bundle.FailedPolicy, "g")
	write["lists"](lists("2", "g"))
	_ = w.Poll(ctx)
	w.expect(w.Problem(), "2", "", "")
	// Roots that overlap.
	write["lists"](part("postern/authz/lists", "3", "package postern.authz.lists\n").pack(t))
	w.expect(w.Poll(ctx), "2", bundle.FailedRoots, "overlap")
	write["lists"](lists("2", "g"))
	w.expect(w.Poll(ctx), "2", "", "")
	// One that fails alone does not keep the other from moving.
	write["lists"](lists("3", "h"))
	w.expect(w.Poll(ctx), "2", bundle.FailedPolicy, "")
	write["main"](main("3", "g"))
	_ = w.Poll(ctx)
	w.expect(w.Problem(), "3", bundle.FailedPolicy, "")
}

// A reload takes over what did not change, and the Source before it changes nothing
// any more.
func TestInherit(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	config, write := fromFile(t, bundle.Verify{})
	w := open(t, config, nil)
	write(allowing("5").pack(t))
	must(t, w.Poll(ctx))
	next := &world{t: t, engine: &rego.Engine{}}
	s, err := bundle.New(ctx, config, bundle.Deps{Engine: next.engine, Previous: w.Source})
	must(t, err)
	next.Source = s
	next.expect(nil, "5", "", "")
	if st := s.Status()[0]; st.Checked.IsZero() || st.Waiting || st.FromDisk {
		t.Errorf("%+v", st)
	}
	w.Close()
	write(allowing("6").pack(t))
	if err := w.Poll(ctx); err == nil || w.runs() != "5" {
		t.Errorf("a closed source puts %q in force, %v", w.runs(), err)
	}
	write(allowing("4").pack(t))
	next.expect(s.Poll(ctx), "5", bundle.FailedRollback, "")
}

// Each answer is by exactly one revision while bundles change under load, and after
// an activation none is by the one before. REGO-08 CACHE-13 E-02
func TestActivationUnderLoad(t *testing.T) {
	t.Parallel()
	const activations, callers = 50, 4
	config, write := fromFile(t, bundle.Verify{})
	w := open(t, config, nil)
	ctx := context.Background()
	write(allowing("0").pack(t))
	must(t, w.Poll(ctx))
	var asked atomic.Int64
	var newest atomic.Int64
	done := make(chan struct{})
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				atLeast := newest.Load()
				v, _, err := w.engine.Decide(ctx, &policy.Input{Attributes: &policy.Attributes{}, Request: &policy.Request{}})
				if err != nil || !v.Allow {
					t.Errorf("%+v, %v", v, err)
					return
				}
				said, _ := v.Metadata["r"].(string)
				revision, _, _ := strings.Cut(v.Revision, "+")
				var n int64
				if _, err := fmt.Sscan(said, &n); err != nil || revision != said || n < atLeast {
					t.Errorf("revision %s answers %s, and %d was in force", v.Revision, said, atLeast)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := 1; i <= activations; i++ {
		write(allowing(fmt.Sprint(i)).pack(t))
		must(t, w.Poll(ctx))
		newest.Store(int64(i))
	}
	close(done)
	all.Wait()
	if st := w.Status()[0]; st.Activations != activations+1 || w.runs() != fmt.Sprint(activations) {
		t.Errorf("%+v", st)
	}
	t.Logf("%d decisions during %d activations", asked.Load(), activations)
}

// How often a server is asked: between min and max, more often at first when it does
// not answer, at once when it waits in our place, and never without a pause.
func TestPolling(t *testing.T) {
	t.Parallel()
	good := allowing("1").pack(t)
	for name, c := range map[string]struct {
		poll     bundle.Poll
		fake     func(n int, etag string, wait time.Duration) ([]byte, string, bool, error)
		low, top int // calls in ten minutes
	}{
		"as usual": {bundle.Poll{Min: 10 * time.Second, Max: 20 * time.Second}, func(_ int, etag string, _ time.Duration) ([]byte, string, bool, error) {
			if etag == "e" {
				return nil, "e", false, nil
			}
			return good, "e", false, nil
		}, 30, 61},
		"down": {bundle.Poll{Min: time.Minute, Max: time.Minute}, func(int, string, time.Duration) ([]byte, string, bool, error) {
			return nil, "", false, errors.New("down")
		}, 12, 30},
		"refused": {bundle.Poll{Min: time.Minute, Max: time.Minute}, func(int, string, time.Duration) ([]byte, string, bool, error) {
			return []byte("evil"), "e", true, nil
		}, 10, 11},
		"waits": {bundle.Poll{Min: time.Minute, Max: time.Minute, Wait: 30 * time.Second}, func(_ int, etag string, wait time.Duration) ([]byte, string, bool, error) {
			if etag == "e" {
				time.Sleep(wait)
				return nil, "e", true, nil
			}
			return good, "e", true, nil
		}, 20, 22},
		"says that it waits": {bundle.Poll{Min: time.Minute, Max: time.Minute, Wait: 30 * time.Second}, func(int, string, time.Duration) ([]byte, string, bool, error) {
			return good, "", true, nil
		}, 10, 12},
	} {
		synctest.Test(t, func(t *testing.T) {
			config, _ := fromFile(t, bundle.Verify{})
			config.Bundles[0].Poll = c.poll
			config.Bundles[0].Poll.Wait = 0 // a file cannot
			if c.poll.Wait != 0 {
				config.Bundles[0].URL, config.Bundles[0].File, config.Bundles[0].Verify.InsecureSkip = "https://bundles.test/b", "", true
				config.Bundles[0].Poll.Wait = c.poll.Wait
			}
			w := open(t, config, nil)
			calls := 0
			bundle.SetFake(w.Source, func(etag string, wait time.Duration) ([]byte, string, bool, error) {
				calls++
				return c.fake(calls, etag, wait)
			})
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			w.Run(ctx)
			if calls < c.low || calls > c.top {
				t.Errorf("%s: asked %d times in ten minutes, want %d to %d", name, calls, c.low, c.top)
			}
		})
	}
}

// Refresh does not wait for the next poll.
func TestRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config, _ := fromFile(t, bundle.Verify{})
		config.Bundles[0].Poll = bundle.Poll{Min: time.Hour}
		w := open(t, config, nil)
		calls := 0
		bundle.SetFake(w.Source, func(string, time.Duration) ([]byte, string, bool, error) {
			calls++
			return allowing(fmt.Sprint(calls)).pack(t), "", false, nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		synctest.Wait()
		w.Refresh()
		synctest.Wait()
		if w.runs() != "2" {
			t.Errorf("in force is %q", w.runs())
		}
		cancel()
		<-done
	})
}
