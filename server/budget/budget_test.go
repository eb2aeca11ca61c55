package budget_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// agent is a principal of tenant acme.
func agent(id string) *policy.Principal {
	return &policy.Principal{ID: id, Kind: policy.KindAgent, Tenant: "acme", Issuer: "postern", CredentialID: "jti-" + id, Method: "agent"}
}

// charge is a request of a principal that costs something.
func charge(p *policy.Principal, now time.Time, cost map[string]int64) *policy.Charge {
	return &policy.Charge{Principal: p, Route: &policy.Route{Name: "r"}, Request: &policy.Request{}, Cost: cost, Now: now}
}

// lab is some replicas over one ledger, in a bubble of synctest.
type lab struct {
	*testing.T
	ledger store.Ledger
	all    []*budget.Budgets
}

func peppers(t testing.TB) *seal.Peppers {
	ps, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("0123456789abcdef0123456789abcdef")}})
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func newLab(t *testing.T, ledger store.Ledger, replicas int, cfg budget.Config) *lab {
	l := &lab{T: t, ledger: ledger}
	for range replicas {
		l.add(cfg)
	}
	return l
}

func (l *lab) add(cfg budget.Config) *budget.Budgets {
	cfg.Check(func(path, message, _ string) { l.Fatalf("%s: %s", path, message) })
	b, err := budget.New(cfg, budget.Deps{Ledger: l.ledger, Peppers: peppers(l)})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { b.Close(context.Background()) })
	l.all = append(l.all, b)
	return b
}

// only is the only account that there is.
func (l *lab) only() budget.State {
	l.Helper()
	found, err := l.all[0].List(l.Context(), budget.Query{})
	if err != nil || len(found) != 1 {
		l.Fatalf("%+v, %v", found, err)
	}
	return found[0]
}

func (l *lab) spend(b *budget.Budgets, p *policy.Principal, cost int64) policy.Spent {
	return b.Spend(l.Context(), charge(p, time.Now(), map[string]int64{"tokens": cost}))
}

func tokens(name string, limit int64, per ...budget.Per) budget.Budget {
	return budget.Budget{Name: name, Unit: budget.UnitTokens, Limit: limit, Per: per}
}

func config(all ...budget.Budget) budget.Config { return budget.Config{Budgets: all} }

// bubble runs a test in a bubble with a store in memory.
func bubble(t *testing.T, replicas int, cfg budget.Config, test func(l *lab)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(time.Now)
		test(newLab(t, s, replicas, cfg))
	})
}

// what is reserved is settled by what was used, on any replica, once.
func TestReserveAndSettle(t *testing.T) {
	bubble(t, 2, config(tokens("b", 1000)), func(l *lab) {
		a, b := l.all[0], l.all[1]
		s := l.spend(a, agent("x"), 600)
		if s.Reason != policy.ReasonAllowed || s.Reservation == "" || len(s.Budgets) != 1 {
			t.Fatalf("%+v", s)
		}
		if got := s.Budgets[0]; got.Name != "b" || got.Limit != 1000 || got.Remaining != 400 {
			t.Fatalf("%+v", got)
		}
		if s := l.spend(b, agent("x"), 600); s.Reason != policy.ReasonBudgetExhausted || s.Reservation != "" {
			t.Fatalf("%+v", s)
		}
		result, err := b.Settle(l.Context(), s.Reservation, map[string]int64{"tokens": 250}, true)
		if err != nil || result.Repeated || result.Budgets[0].Remaining != 750 {
			t.Fatalf("%+v, %v", result, err)
		}
		result, err = a.Settle(l.Context(), s.Reservation, map[string]int64{"tokens": 250}, true)
		if err != nil || !result.Repeated {
			t.Fatalf("%+v, %v", result, err)
		}
		if _, err = a.Settle(l.Context(), s.Reservation, map[string]int64{"tokens": 251}, true); !errors.Is(err, budget.ErrSettled) {
			t.Fatal(err)
		}
		if s := l.spend(b, agent("x"), 600); s.Reason != policy.ReasonAllowed {
			t.Fatalf("%+v", s)
		}
		if got := l.only(); got.Settled != 250 || got.Reserved != 600 || got.Leased != 0 || got.Remaining() != 150 {
			t.Fatalf("%+v", got)
		}
	})
}

// BUDGET-01, BUDGET-04: of many at once on several replicas exactly as many win as there
// is budget for.
func TestExactlyTheLimit(t *testing.T) {
	for _, c := range []struct{ replicas, limit, each int }{{1, 100, 1000}, {2, 10_000, 10_000}, {3, 10_000, 5000}, {8, 333, 100}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			bubble(t, c.replicas, config(budget.Budget{Name: "b", Limit: int64(c.limit)}), func(l *lab) {
				var won, lost, other atomic.Int64
				var all sync.WaitGroup
				for _, b := range l.all {
					for g := range 20 {
						all.Go(func() {
							for range c.each / 20 {
								switch s := b.Spend(l.Context(), charge(agent(fmt.Sprint(g)), time.Now(), nil)); s.Reason {
								case policy.ReasonAllowed:
									won.Add(1)
								case policy.ReasonBudgetExhausted:
									lost.Add(1)
								default:
									other.Add(1)
								}
							}
						})
					}
				}
				all.Wait()
				if int(won.Load()) != c.limit || other.Load() != 0 {
					t.Errorf("%d won, %d lost, %d other", won.Load(), lost.Load(), other.Load())
				}
				time.Sleep(5 * time.Second)
				if got := l.only(); got.Settled != int64(c.limit) || got.Leased != 0 || got.Reserved != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// shift moves a clock.
type shift struct{ atomic.Int64 }

func (s *shift) now() time.Time { return time.Now().Add(time.Duration(s.Load())) }

// skewed is a ledger that is used with such a clock.
type skewed struct {
	store.Ledger
	*shift
}
