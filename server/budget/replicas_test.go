package budget_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
	"github.com/postern-auth/postern/server/store/pgtest"
	"github.com/postern-auth/postern/server/store/postgres"
	"github.com/postern-auth/postern/server/store/sqlite"
)

// wire is a replica's way to the ledger, which can be cut: before the ledger hears, or
// after, so that only the answer is lost.
type wire struct {
	store.Ledger
	cut, mute atomic.Bool
}

var errCut = errors.New("the wire is cut")

func (w *wire) Post(ctx context.Context, about store.About, fn func(*store.Sheet) error) error {
	if w.cut.Load() {
		return errCut
	}
	err := w.Ledger.Post(ctx, about, fn)
	if err == nil && w.mute.Load() {
		return fmt.Errorf("%w: %w", store.ErrUncertain, errCut)
	}
	return err
}

func (w *wire) Recalled(ctx context.Context, limit int) ([]string, error) {
	if w.cut.Load() {
		return nil, errCut
	}
	return w.Ledger.Recalled(ctx, limit)
}

func (w *wire) Due(ctx context.Context, before time.Time, limit int) ([]string, error) {
	if w.cut.Load() {
		return nil, errCut
	}
	return w.Ledger.Due(ctx, before, limit)
}

// replica is one that can be killed.
type replica struct {
	*budget.Budgets
	wire *wire
}

func (l *lab) replica(cfg budget.Config) *replica {
	w := &wire{Ledger: l.ledger}
	b, err := budget.New(cfg, budget.Deps{Ledger: w, Peppers: peppers(l)})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { b.Close(context.Background()) })
	return &replica{b, w}
}

// kill ends a replica as SIGKILL does: the ledger hears nothing of it.
func (r *replica) kill() {
	r.wire.cut.Store(true)
	_ = r.Close(context.Background())
}

// BUDGET-02: what a replica that dies had on lease counts as used, and no more than one
// hundredth of the limit.
func TestDeadReplica(t *testing.T) {
	cfg := config(tokens("b", 100_000))
	bubble(t, 1, cfg, func(l *lab) {
		dead := l.replica(cfg)
		for range 50 {
			if s := l.spend(dead.Budgets, agent("x"), 10); s.Reason != policy.ReasonAllowed {
				l.Fatalf("%+v", s)
			}
		}
		time.Sleep(500 * time.Millisecond)
		before := l.only()
		if before.Leased == 0 || before.Leased+before.Reserved > 500+1000 {
			l.Fatalf("%+v", before)
		}
		dead.kill()
		if s := l.spend(l.all[0], agent("x"), 99_400); s.Reason != policy.ReasonBudgetExhausted {
			l.Fatalf("%+v", s)
		}
		time.Sleep(12 * time.Second) // the lease ends
		after := l.only()
		if after.Leased != 0 || after.Lost != before.Leased || after.Settled != after.Lost || after.Reserved != before.Reserved {
			l.Fatalf("%+v, was %+v", after, before)
		}
		time.Sleep(15 * time.Minute) // reservations expire
		if got := l.only(); got.Settled != before.Leased+before.Reserved || got.Reserved != 0 {
			l.Fatalf("%+v", got)
		}
	})
}

// A replica that was stopped for long, and is taken for dead, takes nothing from anybody
// when it goes on: what it says then is true again.
func TestStoppedReplica(t *testing.T) {
	cfg := config(tokens("b", 100_000))
	bubble(t, 1, cfg, func(l *lab) {
		r := l.replica(cfg)
		for range 20 {
			l.spend(r.Budgets, agent("x"), 10)
		}
		r.wire.cut.Store(true)
		time.Sleep(12 * time.Second)
		l.spend(l.all[0], agent("x"), 10)
		if got := l.only(); got.Lost == 0 {
			l.Fatalf("%+v", got)
		}
		r.wire.cut.Store(false)
		time.Sleep(5 * time.Second)
		if got := l.only(); got.Lost != 0 || got.Settled != 0 || got.Reserved != 210 || got.Leased != 0 {
			l.Fatalf("%+v", got)
		}
	})
}

// Reservations that nobody settles count as used, or not at all where that is asked for.
func TestExpiry(t *testing.T) {
	for _, release := range []bool{false, true} {
		t.Run(fmt.Sprint(release), func(t *testing.T) {
			b, want := tokens("b", 1000), int64(400)
			if release {
				b.OnExpiry, want = budget.ExpiryRelease, 0
			}
			bubble(t, 1, config(b), func(l *lab) {
				s := l.spend(l.all[0], agent("x"), 400)
				time.Sleep(9 * time.Minute)
				if got := l.only(); got.Reserved != 400 {
					l.Fatalf("%+v", got)
				}
				time.Sleep(3 * time.Minute)
				if got := l.only(); got.Reserved != 0 || got.Settled != want {
					l.Fatalf("%+v", got)
				}
				if _, err := l.all[0].Settle(l.Context(), s.Reservation, nil, true); !errors.Is(err, budget.ErrExpired) {
					l.Fatal(err)
				}
			})
		})
	}
}

// While the store is away a replica spends what it has, until that ends; then it says that
// it does not know, which is not that there is nothing left.
func TestStoreAway(t *testing.T) {
	soft := budget.Budget{Name: "soft", Limit: 100_000, Mode: budget.ModeSoft}
	cfg := config(budget.Budget{Name: "hard", Limit: 100_000}, soft)
	bubble(t, 0, cfg, func(l *lab) {
		r := l.replica(cfg)
		l.all = append(l.all, r.Budgets)
		ask := func() policy.Spent { return r.Spend(l.Context(), charge(agent("x"), time.Now(), nil)) }
		for range 200 {
			if s := ask(); s.Reason != policy.ReasonAllowed {
				l.Fatalf("%+v", s)
			}
			time.Sleep(time.Millisecond)
		}
		r.wire.cut.Store(true)
		if s := ask(); s.Reason != policy.ReasonAllowed || s.State != policy.StateMirror {
			l.Fatalf("%+v", s)
		}
		time.Sleep(15 * time.Second)
		if s := ask(); s.Reason != policy.ReasonUnavailable {
			l.Fatalf("%+v", s)
		}
		if err := r.Swap(config(soft)); err != nil {
			l.Fatal(err)
		}
		if s := ask(); s.Reason != policy.ReasonAllowed {
			l.Fatalf("%+v", s)
		}
		r.wire.cut.Store(false)
		time.Sleep(10 * time.Second)
		for _, b := range []struct {
			name string
			used int64
		}{{"hard", 201}, {"soft", 202}} {
			found, err := r.List(l.Context(), budget.Query{Budget: b.name})
			if err != nil || len(found) != 1 || found[0].Settled != b.used || found[0].Leased != 0 || found[0].Lost != 0 {
				l.Errorf("%+v, %v", found, err)
			}
		}
	})
}

// A replica that is short gets what others have on lease and do not use, well before it
// would refuse.
func TestRecall(t *testing.T) {
	cfg := config(budget.Budget{Name: "b", Limit: 10_000})
	bubble(t, 3, cfg, func(l *lab) {
		won := 0
		for i := range 30_000 { // one after the other, on one replica after the other
			if s := l.all[i%3].Spend(l.Context(), charge(agent("x"), time.Now(), nil)); s.Reason == policy.ReasonAllowed {
				won++
			} else if s.Reason != policy.ReasonBudgetExhausted {
				l.Fatalf("%+v", s)
			} else if won != 10_000 {
				l.Fatalf("refused after %d: %+v %+v", won, s, l.only())
			}
			if won == 10_000 {
				break
			}
		}
	})
}

// A-02, BUDGET-04: of two that want the last of it exactly one gets it, 10,000 times; under
// two budgets, and from leases that others hold.
func TestLastToken(t *testing.T) {
	races := 10_000
	if testing.Short() {
		races = 500
	}
	tenant, key := tokens("tenant", budget.MaxAmount, budget.PerTenant), tokens("key", 100, budget.PerKey)
	bubble(t, 2, config(tenant, key), func(l *lab) {
		for n := range races {
			p := agent(fmt.Sprint("a", n))
			p.TokenBudget = 100
			if n%2 == 0 { // the rest has been used
				if s := l.spend(l.all[n/2%2], p, 99); s.Reason != policy.ReasonAllowed {
					l.Fatalf("%+v", s)
				}
			}
			amount := int64(1 + n%2*99)
			var won, lost atomic.Int64
			var both sync.WaitGroup
			for _, b := range l.all {
				both.Go(func() {
					switch s := l.spend(b, p, amount); s.Reason {
					case policy.ReasonAllowed:
						won.Add(1)
					case policy.ReasonBudgetExhausted:
						lost.Add(1)
					}
				})
			}
			both.Wait()
			if won.Load() != 1 || lost.Load() != 1 {
				l.Fatalf("race %d: %d won, %d lost", n, won.Load(), lost.Load())
			}
		}
	})
}

// Two requests that need the last of two budgets each, of which one replica has the one
// on lease and the other the other: one of them gets both.
func TestLastOfTwo(t *testing.T) {
	day := func(name string) budget.Budget {
		return budget.Budget{Name: name, Limit: 1000, Per: []budget.Per{budget.PerTenant}}
	}
	bubble(t, 2, config(day("a"), day("b")), func(l *lab) {
		for n := range 200 {
			p := agent("x")
			p.Tenant = fmt.Sprint("t", n)
			ask := func(b *budget.Budgets, cost int64) policy.Reason {
				return b.Spend(l.Context(), charge(p, time.Now(), map[string]int64{"requests": cost})).Reason
			}
			if got := ask(l.all[n%2], 999); got != policy.ReasonAllowed {
				l.Fatal(got)
			}
			var won atomic.Int64
			var both sync.WaitGroup
			for _, b := range l.all {
				both.Go(func() {
					if ask(b, 1) == policy.ReasonAllowed {
						won.Add(1)
					}
				})
			}
			both.Wait()
			if won.Load() != 1 {
				l.Fatalf("race %d: %d won", n, won.Load())
			}
		}
	})
}

// A lost answer is neither a gain nor, in the end, a loss.
func TestLostAnswers(t *testing.T) {
	cfg := config(tokens("b", 10_000))
	bubble(t, 0, cfg, func(l *lab) {
		r := l.replica(cfg)
		l.all = append(l.all, r.Budgets)
		reserved := int64(0)
		for n := range 300 {
			r.wire.mute.Store(n%3 == 1)
			switch s := l.spend(r.Budgets, agent("x"), 20); s.Reason {
			case policy.ReasonAllowed:
				reserved += 20
			case policy.ReasonUnavailable:
			default:
				l.Fatalf("%+v", s)
			}
			time.Sleep(time.Duration(n%7) * 40 * time.Millisecond)
		}
		r.wire.mute.Store(false)
		time.Sleep(5 * time.Second)
		if got := l.only(); got.Reserved != reserved || got.Leased != 0 || got.Settled != 0 {
			l.Fatalf("reserved %d: %+v", reserved, got)
		}
	})
}

// engines are what the model is held against. The one in memory runs in a bubble with a
// clock of its own.
func engines(t *testing.T) map[string]func(t *testing.T) store.Ledger {
	return map[string]func(t *testing.T) store.Ledger{
		"sqlite": func(t *testing.T) store.Ledger {
			s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "s"), sqlite.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
		"postgres": func(t *testing.T) store.Ledger {
			s, err := postgres.Open(t.Context(), pgtest.Database(t), postgres.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
	}
}

// BUDGET-04, A-02: over real engines, several replicas at once, one of which dies.
func TestEngines(t *testing.T) {
	t.Parallel()
	for name, open := range engines(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const limit = 3000
			cfg := config(tokens("tenant", limit, budget.PerTenant), budget.Budget{Name: "all", Limit: budget.MaxAmount})
			cfg.Ledger.Wait = 10 * time.Second // the machine may be slow
			l := &lab{T: t, ledger: open(t)}
			var replicas []*replica
			for range 4 {
				replicas = append(replicas, l.replica(cfg))
			}
			var won, settled, other atomic.Int64
			var all sync.WaitGroup
			for i, r := range replicas {
				for g := range 4 {
					all.Go(func() {
						for n := range 80 {
							s := l.spend(r.Budgets, agent(fmt.Sprint(g)), 5)
							if s.Reason == policy.ReasonAllowed {
								won.Add(5)
							} else if s.Reason != policy.ReasonBudgetExhausted {
								other.Add(1)
								return
							} else {
								return
							}
							if n%4 != 0 {
								continue
							}
							use := map[string]int64{"tokens": 5}
							if _, err := replicas[(i+n)%4].Settle(t.Context(), s.Reservation, use, true); err != nil {
								other.Add(1)
							}
							settled.Add(5)
						}
					})
				}
			}
			all.Wait()
			if won.Load() != limit || other.Load() != 0 {
				t.Errorf("%d won, %d other", won.Load(), other.Load())
			}
			for _, r := range replicas {
				if err := r.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			found, err := replicas[0].List(t.Context(), budget.Query{Budget: "tenant"})
			if err != nil || len(found) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			if got := found[0]; got.Settled != settled.Load() || got.Reserved != won.Load()-settled.Load() || got.Leased != 0 || got.Lost != 0 {
				t.Errorf("%+v; %d won, %d settled", got, won.Load(), settled.Load())
			}
		})
	}
}

// deal is a reservation in the model.
type deal struct {
	by     *replica
	spent  policy.Spent
	amount int64
}

// A-03, BUDGET-02, BUDGET-08: whatever replicas do, in whatever order, with answers lost,
// replicas killed and clocks going on: what was allowed is accounted for, and never more
// than the limit.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Int64Range(1, 3000).Draw(rt, "limit")
		window := rapid.SampledFrom([]budget.Window{budget.Lifetime, budget.Lifetime, budget.Day, budget.Rolling(time.Hour)}).Draw(rt, "window")
		b := tokens("b", limit)
		b.Window = window
		cfg := config(b, budget.Budget{Name: "c", Limit: budget.MaxAmount})
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 60).Draw(rt, "steps")
		var fault error
		synctest.Test(t, func(t *testing.T) {
			m := &model{lab: &lab{T: t, ledger: memory.New(time.Now)}, cfg: cfg}
			m.run(window, limit, steps)
			fault = m.fault
		})
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}

// step is something that happens.
type step struct {
	what    string
	replica int
	amount  int64
	pick    int
	wait    time.Duration
}

func drawStep(t *rapid.T) step {
	return step{
		what: rapid.SampledFrom([]string{
			"spend", "spend", "spend", "spend", "burst", "undo", "settle", "settle", "wait", "wait", "kill", "stop", "mute", "close", "lower",
		}).Draw(t, "what"),
		replica: rapid.IntRange(0, 2).Draw(t, "replica"),
		amount:  rapid.Int64Range(1, 200).Draw(t, "amount"),
		pick:    rapid.IntRange(0, 1000).Draw(t, "pick"),
		wait: rapid.SampledFrom([]time.Duration{
			time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 12 * time.Second, 5 * time.Minute, 30 * time.Minute,
		}).Draw(t, "wait"),
	}
}

type model struct {
	*lab
	fault    error // the first
	cfg      budget.Config
	replicas []*replica
	deals    []deal
	killed   bool
	lowered  bool
	allowed  int64 // not undone
	used     int64 // what was allowed, with true uses for what was settled
}

func (m *model) failf(format string, args ...any) {
	if m.fault == nil {
		m.fault = fmt.Errorf(format, args...)
	}
}

func (m *model) run(window budget.Window, limit int64, steps []step) {
	for range 3 {
		m.replicas = append(m.replicas, m.replica(m.cfg))
	}
	m.all = []*budget.Budgets{m.replicas[0].Budgets}
	for _, s := range steps {
		m.step(s)
		m.check(limit)
	}
	for _, r := range m.replicas {
		r.wire.cut.Store(false)
		r.wire.mute.Store(false)
	}
	time.Sleep(4 * time.Second) // everything on lease comes back
	m.check(limit)
	if window != budget.Lifetime {
		return
	}
	for _, a := range m.accounts() {
		total := a.Settled + a.Reserved + a.Overrun + a.Leased // the leases of the dead have not ended
		if !m.killed && a.Leased > 0 {
			m.failf("not given back: %+v", a)
		}
		if total < m.used || !m.killed && total != m.used {
			m.failf("used %d: %+v", m.used, a)
		}
	}
}

func (m *model) step(s step) {
	r := m.replicas[s.replica]
	switch s.what {
	case "spend":
		m.spend(r, s.amount)
	case "burst":
		for range 10 {
			m.spend(r, 1+s.amount/10)
		}
	case "wait":
		for _, r := range m.replicas { // who hears nothing for that long is as good as dead
			m.killed = m.killed || r.wire.mute.Load() && s.wait > time.Second
		}
		time.Sleep(s.wait)
	case "kill":
		r.kill()
		m.killed = true
		m.replicas[s.replica] = m.replica(m.cfg)
	case "close":
		_ = r.Close(context.Background())
		if r.wire.mute.Load() || r.wire.cut.Load() {
			m.killed = true // it may not have come through
		}
		m.replicas[s.replica] = m.replica(m.cfg)
	case "stop":
		r.wire.cut.Store(!r.wire.cut.Load())
		m.killed = m.killed || r.wire.cut.Load() // who is away for too long is taken for dead
	case "mute":
		r.wire.mute.Store(!r.wire.mute.Load())
	case "lower":
		m.lowered = true
		m.cfg.Budgets = append([]budget.Budget(nil), m.cfg.Budgets...)
		m.cfg.Budgets[0].Limit = max(1, m.cfg.Budgets[0].Limit/2)
		for _, r := range m.replicas {
			_ = r.Swap(m.cfg)
		}
	default:
		m.later(r, s)
	}
}

func (m *model) spend(r *replica, amount int64) {
	c := charge(agent("x"), time.Now(), map[string]int64{"tokens": amount})
	switch s := r.Spend(m.Context(), c); s.Reason {
	case policy.ReasonAllowed:
		m.deals = append(m.deals, deal{r, s, amount})
		m.allowed += amount
		m.used += amount
	case policy.ReasonBudgetExhausted, policy.ReasonUnavailable:
	default:
		m.failf("%+v", s)
	}
}

// later undoes or settles what was spent before. Who undoes does so at once in truth; here
// it is the same replica and a lease that may have ended.
func (m *model) later(r *replica, s step) {
	if len(m.deals) == 0 {
		return
	}
	i := s.pick % len(m.deals)
	d := m.deals[i]
	m.deals = append(m.deals[:i], m.deals[i+1:]...)
	if s.what == "undo" {
		d.by.Undo(&d.spent)
		d.by.Undo(&d.spent) // twice is once
		m.used -= d.amount
		m.killed = true // where it comes late, it stays counted
		return
	}
	use := s.amount % (d.amount + 10)
	switch _, err := r.Settle(m.Context(), d.spent.Reservation, map[string]int64{"tokens": use}, true); {
	case err == nil:
		m.used += use - d.amount
	case errors.Is(err, budget.ErrExpired):
	case errors.Is(err, store.ErrUncertain):
		if _, err := m.replicas[(s.replica+1)%3].Settle(m.Context(), d.spent.Reservation, map[string]int64{"tokens": use}, true); err == nil {
			m.used += use - d.amount
		} else {
			m.used += min(0, use-d.amount)
			m.killed = true
		}
	case errors.Is(err, errCut):
	default:
		m.failf("%w", err)
	}
}

func (m *model) accounts() []budget.State {
	found, err := m.all[0].List(context.Background(), budget.Query{Budget: "b"})
	if err != nil {
		m.failf("%w", err)
	}
	return found
}

func (m *model) check(limit int64) {
	if report, err := m.ledger.(store.Store).Check(context.Background()); err != nil || len(report.Faults) > 0 {
		m.failf("%v, %w", report.Faults, err)
	}
	for _, a := range m.accounts() {
		if a.Settled < 0 || a.Reserved < 0 || a.Leased < 0 || a.Lost < 0 || a.Overrun < 0 ||
			a.Settled+a.Reserved+a.Leased > a.Limit || a.Limit > limit {
			m.failf("%+v", a)
		}
	}
}
