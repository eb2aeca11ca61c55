package rego

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// admission says how many evaluations may run at once, and who waits for one of them.
//
// Who cannot have a place in time is told so at once, rather than when the time is
// over: that costs nothing, and a caller that hears "overloaded" soon can go elsewhere
// or slow down. So it is known how long a place is held, and with it and the number of
// those who wait already, how long the next one would have to. Under any overload the
// queue is as long as the places can serve in the time that there is; it keeps them
// busy, and all others are refused on arrival.
//
// How long is a moving median. A mean would do for policies, but a machine that stops a
// process for 50 ms now and then would make it a thousand times what an evaluation
// takes, and those who came meanwhile would be refused though they could be served at
// once. The first in the queue is never refused, so the median is always measured anew,
// whatever it was.
type admission struct {
	taken   chan struct{}
	waiting atomic.Int64
	most    int64        // that may wait
	held    atomic.Int64 // the median, in nanoseconds; 0 until there is one
}

const (
	// manyWaiting is no bound: those who wait at the entrance hold next to nothing.
	manyWaiting = math.MaxInt64
	// waitingPerSlot bounds how many slow evaluations wait for their place, and so
	// what they hold in the meantime.
	waitingPerSlot = 64
	// heldStep is the part of itself by which each evaluation moves the median.
	heldStep = 16
)

func newAdmission(n, most int) *admission {
	return &admission{taken: make(chan struct{}, n), most: int64(most)}
}

// enter waits for a place for so long, or not at all if that would be in vain. What is
// expected is no more than a guess, so the time has to be twice as long.
func (a *admission) enter(ctx context.Context, patience time.Duration) bool {
	select {
	case a.taken <- struct{}{}:
		return true
	default:
	}
	ahead := a.waiting.Add(1) - 1
	defer a.waiting.Add(-1)
	if ahead >= a.most || a.expected(ahead) > patience/2 {
		return false
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a.taken <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// expected is how long it takes until so many others have got their places.
func (a *admission) expected(ahead int64) time.Duration {
	return time.Duration(float64(ahead) * float64(a.held.Load()) / float64(cap(a.taken)))
}

// leave gives a place back that was taken at an instant. Two that leave at once may
// count as one.
func (a *admission) leave(entered time.Time) {
	held, median := int64(time.Since(entered)), a.held.Load()
	switch {
	case median == 0:
		a.held.Store(held)
	case held > median:
		a.held.Store(median + median/heldStep + 1)
	default:
		a.held.Store(median - median/heldStep)
	}
	<-a.taken
}
