package password

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Pool lets some through at once, has some more wait, and turns the rest away. The
// work is done on the caller's own goroutine.
type Pool struct {
	workers chan struct{}
	// inside counts who works or waits; most is how many that may be.
	inside atomic.Int64
	most   int64
}

// NewPool returns a pool of workers, one at least, with room for some who wait.
func NewPool(workers, queue int) *Pool {
	return &Pool{workers: make(chan struct{}, workers), most: int64(workers) + int64(queue)}
}

// Enter waits for a turn and returns how to end it. Those who wait get theirs in the
// order in which they came. The error is ErrBusy, at once, or that of the context.
func (p *Pool) Enter(ctx context.Context) (leave func(), err error) {
	return p.enter(ctx, nil)
}

// enter first waits for before, which may be nil: who waits for that holds no worker.
func (p *Pool) enter(ctx context.Context, before chan struct{}) (leave func(), err error) {
	if p.inside.Add(1) > p.most {
		p.inside.Add(-1)
		return nil, ErrBusy
	}
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
		p.inside.Add(-1)
	}
	turns := []chan struct{}{p.workers}
	if before != nil {
		turns = []chan struct{}{before, p.workers}
	}
	for _, turn := range turns {
		if err = ctx.Err(); err == nil {
			select {
			case turn <- struct{}{}:
				taken = append(taken, turn)
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		leave()
		return nil, fmt.Errorf("waiting to check a password: %w", err)
	}
	return leave, nil
}

// Load is how many have a turn, and how many wait for one.
func (p *Pool) Load() (running, waiting int) {
	running = len(p.workers)
	return running, max(0, int(p.inside.Load())-running)
}
