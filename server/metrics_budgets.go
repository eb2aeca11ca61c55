package server

import (
	"maps"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/budget"
)

// charges count what became of requests, by budget. The names are those of the
// configuration and never those of a request, so there are few. A name that goes and
// comes back goes on.
type charges struct {
	byBudget atomic.Pointer[map[string]*chargeCount]
}

type chargeCount struct{ charged, refused atomic.Uint64 }

// set says which budgets there are.
func (c *charges) set(cfg *Budgeting) {
	next := map[string]*chargeCount{}
	if old := c.byBudget.Load(); old != nil {
		next = maps.Clone(*old)
	}
	add := func(name string) {
		if next[name] == nil {
			next[name] = &chargeCount{}
		}
	}
	add(budget.ClaimName)
	for i := range cfg.Budgets {
		add(cfg.Budgets[i].Name)
	}
	c.byBudget.Store(&next)
}

// Record implements audit.Recorder.
func (c *charges) Record(r *audit.Record) {
	d := &r.Decision
	if len(d.Budgets) == 0 {
		return
	}
	all := *c.byBudget.Load()
	for i := range d.Budgets {
		switch n := all[d.Budgets[i].Name]; {
		case n == nil: // a rate
		case d.Allowed:
			n.charged.Add(1)
		case d.Reason == policy.ReasonBudgetExhausted:
			n.refused.Add(1)
		}
	}
}
