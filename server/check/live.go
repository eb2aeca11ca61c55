package check

import (
	"context"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// Live is the Checker in force. A request loads it once, so a swap never shows
// half of itself. The zero Live denies everything.
type Live struct {
	current atomic.Pointer[Checker]
}

// Swap puts the next Checker in force.
func (l *Live) Swap(next *Checker) { l.current.Store(next) }

// Check decides on one request.
func (l *Live) Check(ctx context.Context, a *policy.Attributes) policy.Decision {
	if c := l.current.Load(); c != nil {
		return c.Check(ctx, a)
	}
	return notReady()
}

// Authenticate proves a credential without asking any policy.
func (l *Live) Authenticate(ctx context.Context, a *policy.Attributes) policy.Decision {
	if c := l.current.Load(); c != nil {
		return c.Authenticate(ctx, a)
	}
	return notReady()
}

// Identify proves a credential and returns what it brings along.
func (l *Live) Identify(ctx context.Context, a *policy.Attributes) (policy.Decision, Identity) {
	if c := l.current.Load(); c != nil {
		return c.Identify(ctx, a)
	}
	return notReady(), Identity{}
}

func notReady() policy.Decision {
	r := policy.ReasonNoPolicy
	return policy.Decision{Reason: r, Status: r.Status(), Message: r.Message()}
}
