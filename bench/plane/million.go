package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	mrand "math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/sqlite"
)

// million measures with each of the numbers of keys in a file of SQLite.
func million(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	for text := range strings.SplitSeq(s.keys, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1000 {
			return fmt.Errorf("-keys: %q is not a number of at least 1000", text)
		}
		c := &crowd{n: n, name: fmt.Sprintf("%d keys", n), file: l.path(fmt.Sprintf("keys-%d.db", n))}
		if err := c.run(ctx, l, out); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// crowd is a store with many keys.
type crowd struct {
	n          int
	name, file string
	// good are some of its keys.
	good []string
}

func (c *crowd) run(ctx context.Context, l *lab, out *rig.Report) error {
	defer func() {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(c.file + suffix)
		}
	}()
	begin := time.Now()
	if err := c.fill(ctx, l); err != nil {
		return err
	}
	log.Printf("  %s written in %v", c.name, time.Since(begin).Round(time.Millisecond))
	if err := c.inProcess(ctx, l, out); err != nil {
		return err
	}
	if err := c.restart(ctx, l, out); err != nil {
		return err
	}
	runtime.GC() // our own memory should not be in the server's way
	r, err := l.newReplica(fmt.Sprintf("{ driver: sqlite, path: %q }", c.file))
	if err != nil {
		return err
	}
	defer r.kill()
	if err := c.start(ctx, r, out); err != nil {
		return err
	}
	return c.flood(ctx, r, out)
}

const (
	// bulk is how many records one transaction writes.
	bulk = 20_000
	// keysEach is how many keys a principal has, perTenant how many principals a
	// tenant.
	keysEach, perTenant = 10, 100
	// known is how many of the keys are used.
	known = 1000
)

// fill writes the store.
func (c *crowd) fill(ctx context.Context, l *lab) error {
	s, err := sqlite.Open(ctx, c.file, sqlite.Options{})
	if err != nil {
		return err
	}
	w := &bulkWriter{ctx: ctx, store: s}
	now := time.Now()
	for i := range c.n {
		tenant, principal := fmt.Sprintf("tenant-%05d", i/keysEach/perTenant), fmt.Sprintf("service-%07d", i/keysEach)
		if i%(keysEach*perTenant) == 0 {
			w.put(&store.Tenant{ID: tenant, CreatedAt: now, UpdatedAt: now})
		}
		if i%keysEach == 0 {
			w.put(&store.Principal{Tenant: tenant, ID: principal, Kind: policy.KindService, Roles: []string{"reader"}, CreatedAt: now, UpdatedAt: now})
		}
		m, err := seal.Mint(rand.Reader, seal.Spec{}, l.peppers)
		if err != nil {
			return err
		}
		if i%(c.n/known) == 0 {
			c.good = append(c.good, m.Secret.Reveal())
		}
		w.put(&store.Credential{
			ID: m.ID, Type: store.APIKey, Tenant: tenant, Principal: principal, Name: fmt.Sprintf("key %d", i),
			Digest: m.Digest.String(), Roles: []string{"reader"}, CreatedAt: now, UpdatedAt: now,
			ExpiresAt: now.Add(90 * 24 * time.Hour), IssuedBy: "bench/plane",
		})
	}
	w.flush()
	return errors.Join(w.err, s.Close())
}

// bulkWriter writes documents in big transactions. Its first error stays.
type bulkWriter struct {
	ctx   context.Context
	store store.Store
	docs  []store.Document
	err   error
}

func (w *bulkWriter) put(d store.Document) {
	if w.docs = append(w.docs, d); len(w.docs) == bulk {
		w.flush()
	}
}

func (w *bulkWriter) flush() {
	if w.err == nil {
		_, w.err = w.store.Update(w.ctx, func(tx store.Tx) error {
			for _, d := range w.docs {
				if err := store.Put(tx, d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.docs = w.docs[:0]
}

// counted counts the calls that read from a store.
type counted struct {
	store.Store
	reads atomic.Int64
}

func (s *counted) View(ctx context.Context, fn func(store.Reader) error) error {
	s.reads.Add(1)
	return s.Store.View(ctx, fn)
}

func (s *counted) Changes(ctx context.Context, after int64, limit int) (store.Batch, error) {
	s.reads.Add(1)
	return s.Store.Changes(ctx, after, limit)
}

// unknownKeys is the promised number of unknown keys.
const unknownKeys = 1_000_000

// inProcess verifies good and unknown keys without a wire, on a mirror that does not
// poll: whatever is read then, the keys have caused.
func (c *crowd) inProcess(ctx context.Context, l *lab, out *rig.Report) error {
	file, err := sqlite.Open(ctx, c.file, sqlite.Options{})
	if err != nil {
		return err
	}
	defer file.Close()
	s := &counted{Store: file}
	m := mirror.New(mirror.Config{}, s, mirror.Deps{Peppers: l.peppers})
	if err := m.Load(ctx); err != nil {
		return err
	}
	keys, err := apikey.New(apikey.Config{Pepper: l.pepper}, apikey.Deps{Indexes: []authn.Index{m.Credentials()}})
	if err != nil {
		return err
	}
	good := make([]authn.Credential, len(c.good))
	for i, k := range c.good {
		good[i] = credential(k)
	}
	verify := func() (perKey time.Duration, allocs float64, refused int) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const n = 200_000
		begin := time.Now()
		for i := range n {
			if _, err := keys.Authenticate(ctx, &good[i%len(good)]); err != nil {
				refused++
			}
		}
		took := time.Since(begin)
		runtime.ReadMemStats(&after)
		return took / n, float64(after.Mallocs-before.Mallocs) / n, refused
	}
	verify() // builds the proofs
	alone, allocs, refused := verify()
	out.Add(rig.Row{
		Part: "million", What: c.name + ": verify in process",
		Figure: fmt.Sprintf("%d ns, %.2f allocations", alone.Nanoseconds(), allocs),
		Wanted: "2 µs, 0 allocations", Verdict: rig.Goal(alone < 2*time.Microsecond && allocs < .01),
	})
	reads, accepted, took, err := unknown(ctx, keys, s)
	if err != nil {
		return err
	}
	after, _, refusedAfter := verify()
	out.Add(rig.Row{
		Part: "million", What: fmt.Sprintf("%s: %d unknown keys in process", c.name, unknownKeys),
		Figure: fmt.Sprintf("%d store reads, %d accepted, %d good keys refused", reads, accepted, refused+refusedAfter),
		Wanted: "none", Verdict: rig.Promise(reads == 0 && accepted == 0 && refused+refusedAfter == 0),
		Remark: fmt.Sprintf("%d ns each; good keys %d ns before, %d after", took.Nanoseconds(), alone.Nanoseconds(), after.Nanoseconds()),
	})
	return nil
}

// unknown tries well-formed keys that nobody issued, each once.
func unknown(ctx context.Context, keys *apikey.Authenticator, s *counted) (reads int64, accepted int, perKey time.Duration, err error) {
	const batch = 10_000
	before := s.reads.Load()
	for done := 0; done < unknownKeys; done += batch {
		made := make([]authn.Credential, batch)
		for i := range made {
			made[i] = credential(stranger())
		}
		begin := time.Now()
		for i := range made {
			if _, err := keys.Authenticate(ctx, &made[i]); err == nil {
				accepted++
			}
		}
		perKey += time.Since(begin)
	}
	return s.reads.Load() - before, accepted, perKey / unknownKeys, ctx.Err()
}

func credential(key string) authn.Credential {
	return authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(key)}
}

// stranger is a key in the right form, with a right checksum, that nobody issued.
func stranger() string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := []byte("pst_key_")
	for i := range seal.IDLen + 1 + seal.SecretLen {
		if i == seal.IDLen {
			b = append(b, '_')
			continue
		}
		b = append(b, digits[mrand.IntN(len(digits))])
	}
	return string(seal.AppendChecksum(b, string(b)))
}

// start measures the time to the first answer, and the memory when idle.
func (c *crowd) start(ctx context.Context, r *replica, out *rig.Report) error {
	var took times
	for i := range 3 {
		if i > 0 {
			r.stop()
		}
		if err := r.start(ctx); err != nil {
			return err
		}
		a := r.ask(ctx, question(c.good[0]))
		if !a.allowed {
			return fmt.Errorf("the first answer is %v (%w)\n%s", a.reason, a.err, r.Said())
		}
		took = append(took, time.Since(r.Started))
	}
	c.started("start to first answer", took.sorted().at(.5), "", out)
	time.Sleep(2 * time.Second) // let the runtime give back what starting needed
	idle, err := r.memory("VmRSS")
	if err != nil {
		return err
	}
	most, err := r.memory("VmHWM")
	if err != nil {
		return err
	}
	program, err := r.memory("RssFile")
	if err != nil {
		return err
	}
	line := rig.Row{
		Part: "million", What: c.name + ": idle memory", Figure: fmt.Sprintf("%.0f MiB", idle),
		Remark: fmt.Sprintf("%.0f MiB of it are pages of the program's file; %.0f MiB at most, while starting", program, most),
	}
	if c.n <= 100_000 {
		line.Wanted, line.Verdict = "100 MiB", rig.Goal(idle <= 100)
	}
	out.Add(line)
	return nil
}

// started adds a time that a start took.
func (c *crowd) started(how string, took time.Duration, remark string, out *rig.Report) {
	line := rig.Row{Part: "million", What: c.name + ": " + how, Figure: fmt.Sprintf("%.2f s", took.Seconds()), Remark: remark}
	switch {
	case c.n <= 100_000:
		line.Wanted, line.Verdict = "1 s", rig.Goal(took <= time.Second)
	case c.n <= 1_000_000:
		line.Wanted, line.Verdict = "5 s", rig.Goal(took <= 5*time.Second)
	}
	out.Add(line)
}

// down is a store that does not answer.
type down struct{ store.Store }

func (down) Changes(context.Context, int64, int) (store.Batch, error) {
	return store.Batch{}, errors.New("the store is down")
}

// restart measures, in process, how long a replica needs to start from its snapshot
// while the store is down.
func (c *crowd) restart(ctx context.Context, l *lab, out *rig.Report) error {
	file, err := sqlite.Open(ctx, c.file, sqlite.Options{})
	if err != nil {
		return err
	}
	defer file.Close()
	cfg := mirror.Config{Mode: mirror.Available, Snapshot: c.file + ".snapshot"}
	defer os.Remove(cfg.Snapshot)
	m := mirror.New(cfg, file, mirror.Deps{Peppers: l.peppers})
	if err := m.Load(ctx); err != nil {
		return err
	}
	ended, end := context.WithCancel(ctx)
	end()
	if err := m.Run(ended); err != nil { // which writes the snapshot as its last act
		return err
	}
	status := m.Status()
	runtime.GC()
	begin := time.Now()
	m = mirror.New(cfg, down{file}, mirror.Deps{Peppers: l.peppers})
	if err := m.Load(ctx); err != nil {
		return err
	}
	took := time.Since(begin)
	if n := m.Status().Credentials; n != c.n {
		return fmt.Errorf("the snapshot holds %d credentials", n)
	}
	c.started("load from the snapshot, in process", took, fmt.Sprintf("%d MiB", status.SnapshotBytes>>20), out)
	return nil
}

const (
	// floodTime is how long the server is flooded, by flooders at a time.
	floodTime = 10 * time.Second
	flooders  = 4
)

// flood asks about one good key after the other while others ask as fast as they
// can: first also about good keys, then about unknown ones. What the second does to
// the first caller, beyond the work, shows in the difference.
func (c *crowd) flood(ctx context.Context, r *replica, out *rig.Report) error {
	control, err := c.under(ctx, r, floodTime/2, func() *posternv1.CheckRequest { return question(c.good[mrand.IntN(len(c.good))]) })
	if err != nil {
		return err
	}
	attack, err := c.under(ctx, r, floodTime, func() *posternv1.CheckRequest { return question(stranger()) })
	if err != nil {
		return err
	}
	// A poll every 200 ms, one after each hint of a writer, of which there is none but
	// the counters of use, and one for the ends.
	most := int(attack.took/(200*time.Millisecond)) + 2
	out.Add(rig.Row{
		Part: "million", What: fmt.Sprintf("%s: %d unknown keys in %.0f s over the wire", c.name, attack.flooded, attack.took.Seconds()),
		Figure: fmt.Sprintf("%d polls of the store, %d accepted", attack.polls, attack.accepted),
		Wanted: fmt.Sprintf("at most %d polls, none accepted", most), Verdict: rig.Promise(attack.polls <= most && attack.accepted == 0 && attack.flooded > 1000),
		Remark: fmt.Sprintf("with good keys instead: %d in %.0f s, %d polls", control.flooded, control.took.Seconds(), control.polls),
	})
	out.Add(rig.Row{
		Part: "million", What: c.name + ": good keys meanwhile",
		Figure: fmt.Sprintf("%d of %d denied, %s", attack.denied, len(attack.latencies), attack.latencies.micros()),
		Wanted: "none denied", Verdict: rig.Promise(attack.denied == 0 && len(attack.latencies) > 0),
		Remark: fmt.Sprintf("with good keys instead: %d denied, %s; decision cache hits %.2f%%, then %.2f%%", control.denied, control.latencies.micros(), control.hits, attack.hits),
	})
	return nil
}

// flooding is what was seen under a flood.
type flooding struct {
	took              time.Duration
	latencies         times // of the one caller with good keys
	denied            int
	flooded, accepted int64
	polls             int
	hits              float64 // of the decision cache, percent
}

func (c *crowd) under(ctx context.Context, r *replica, d time.Duration, next func() *posternv1.CheckRequest) (f flooding, err error) {
	before, err := r.scrape()
	if err != nil {
		return f, err
	}
	begin := time.Now()
	until := begin.Add(d)
	var flooded, accepted atomic.Int64
	var all sync.WaitGroup
	for range flooders {
		all.Go(func() {
			for time.Now().Before(until) && ctx.Err() == nil {
				if r.ask(ctx, next()).allowed {
					accepted.Add(1)
				}
				flooded.Add(1)
			}
		})
	}
	for i := 0; time.Now().Before(until) && ctx.Err() == nil; i++ {
		a := r.ask(ctx, question(c.good[i%len(c.good)]))
		if !a.allowed {
			f.denied++
		}
		f.latencies = append(f.latencies, a.received.Sub(a.sent))
		time.Sleep(time.Millisecond)
	}
	all.Wait()
	f.took = time.Since(begin)
	after, err := r.scrape()
	if err != nil {
		return f, err
	}
	grown := func(name string) float64 { return after[name] - before[name] }
	f.flooded, f.accepted, f.polls = flooded.Load(), accepted.Load(), int(grown("postern_store_polls_total"))
	if looked := grown("postern_decision_cache_total"); looked > 0 {
		f.hits = 100 * grown(`postern_decision_cache_total{result="hit"}`) / looked
	}
	return f, ctx.Err()
}
