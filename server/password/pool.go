package password

import (
	"context"
	"fmt"
	"sync/atomic"
)

// pool lets some through at once, has some more wait, and turns the rest away. The
// work is done on the caller's own goroutine.
type pool struct {
	workers chan struct{}
	// heavy is for the hashes from elsewhere that need more memory than ours: one at
	// a time. It is taken first, so that who waits for it holds no worker.
	heavy chan struct{}
	// inside counts who works or waits; most is how many that may be.
	inside *atomic.Int64
	most   int64
}

func newPool(workers, queue int) pool {
	return pool{
		workers: make(chan struct{}, workers), heavy: make(chan struct{}, 1),
		inside: new(atomic.Int64), most: int64(workers) + int64(queue),
	}
}

// enter waits for a turn and returns how to end it.
func (p *pool) enter(ctx context.Context, heavy bool) (leave func(), err error) {
	if p.inside.Add(1) > p.most {
		p.inside.Add(-1)
		return nil, ErrBusy
	}
	if err := ctx.Err(); err != nil {
		p.inside.Add(-1)
		return nil, fmt.Errorf("checking a password: %w", err)
	}
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
		p.inside.Add(-1)
	}
	turns := []chan struct{}{p.workers}
	if heavy {
		turns = []chan struct{}{p.heavy, p.workers}
	}
	for _, turn := range turns {
		select {
		case turn <- struct{}{}:
			taken = append(taken, turn)
		case <-ctx.Done():
			leave()
			return nil, fmt.Errorf("waiting to check a password: %w", ctx.Err())
		}
	}
	return leave, nil
}

func (p *pool) load() (running, waiting int) {
	running = len(p.workers)
	return running, max(0, int(p.inside.Load())-running)
}
