package policy

import (
	"context"
	"time"
)

// LeaveRoom returns a context that ends a fifth before the caller's own deadline,
// at most 50 ms. A gateway that hears "could not find out" in time denies; one
// that hears nothing may be told to let the request through.
func LeaveRoom(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/5, 50*time.Millisecond)))
}
