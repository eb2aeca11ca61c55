package budget_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/store/memory"
)

// BenchmarkSpend is a reservation from a lease in hand: of requests, which need no
// receipt, of tokens, and under four budgets.
func BenchmarkSpend(b *testing.B) {
	huge := func(name string, unit budget.Unit, per ...budget.Per) budget.Budget {
		return budget.Budget{Name: name, Unit: unit, Limit: budget.MaxAmount, Per: per, Window: budget.Month}
	}
	for name, cfg := range map[string]budget.Config{
		"none":     {},
		"requests": config(huge("a", budget.UnitRequests, budget.PerTenant)),
		"tokens":   config(huge("a", budget.UnitTokens, budget.PerTenant)),
		"four": config(huge("a", budget.UnitTokens, budget.PerTenant), huge("b", budget.UnitTokens, budget.PerAgent),
			huge("c", budget.UnitTokens, budget.PerKey), huge("d", budget.UnitTokens, budget.PerToken)),
	} {
		b.Run(name, func(b *testing.B) { benchmarkSpend(b, cfg) })
	}
}

func benchmarkSpend(b *testing.B, cfg budget.Config) {
	all, err := budget.New(cfg, budget.Deps{Ledger: memory.New(time.Now), Peppers: peppers(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer all.Close(b.Context())
	p := agent("x")
	c := charge(p, time.Now(), map[string]int64{"tokens": 100})
	for range 10 { // so that more than enough is on lease
		if s := all.Spend(b.Context(), c); s.Reason != policy.ReasonAllowed {
			b.Fatal(s.Detail)
		}
	}
	asked := 0
	b.ReportAllocs()
	for b.Loop() {
		c.Now = time.Now()
		s := all.Spend(b.Context(), c)
		if s.Reason != policy.ReasonAllowed {
			b.Fatal(s.Detail)
		}
		if s.State == policy.StateStore {
			asked++
		}
	}
	b.ReportMetric(float64(asked)/float64(b.N), "asked/op")
	_ = fmt.Sprint()
}
