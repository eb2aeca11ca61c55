package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/registry"
)

// limits are those that were set for some of those who have a budget, in memory. They are
// few, and read again when something in the store has changed.
type limits struct {
	current atomic.Pointer[map[string]int64]
	change  int64 // that they are of; of follow alone
}

// of is the limit for somebody, or 0 for the configuration's. It implements
// budget.Deps.Limit.
func (l *limits) of(name string, who budget.Subject) int64 {
	all := l.current.Load()
	if all == nil || len(*all) == 0 {
		return 0
	}
	return (*all)[registry.LimitKey(name, who.String())]
}

// lookAgain is how often limits are looked at again, if anything has changed at all.
const lookAgain = 500 * time.Millisecond

// every does something again and again until ctx ends.
func every(ctx context.Context, period time.Duration, do func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// readLimits reads them if they may have changed, and keeps what was read before if the store does not answer.
func (p *plane) readLimits(ctx context.Context) {
	number := p.mirror.View().Number
	if p.limits.current.Load() != nil && number == p.limits.change {
		return
	}
	all, err := p.registry.Limits(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.log.Warn("the limits that were set for budgets could not be read; it is tried again", "error", err)
		}
		return
	}
	p.limits.current.Store(&all)
	p.limits.change = number
}
