package audit

import (
	"context"
	"sync/atomic"
)

// queueLength is how many items may wait for a queue's goroutine.
const queueLength = 4096

// queue hands items to one goroutine, or a few. Whoever puts one in never waits: what
// does not fit is dropped and counted.
type queue[T any] struct {
	items   chan T
	closing atomic.Bool
	end     chan struct{} // closed when nothing more is to come
	ended   chan struct{} // closed when everything is dealt with
	running atomic.Int64  // goroutines
	dropped atomic.Uint64
}

// newQueue starts the goroutine, which calls handle for each item, in order.
func newQueue[T any](handle func(T)) *queue[T] { return newQueueOf(1, handle) }

// newQueueOf starts as many goroutines; several keep no order.
func newQueueOf[T any](workers int, handle func(T)) *queue[T] {
	q := &queue[T]{items: make(chan T, queueLength), end: make(chan struct{}), ended: make(chan struct{})}
	q.running.Store(int64(workers))
	for range workers {
		go q.run(handle)
	}
	return q
}

func (q *queue[T]) run(handle func(T)) {
	defer func() {
		if q.running.Add(-1) == 0 {
			close(q.ended)
		}
	}()
	for {
		select {
		case item := <-q.items:
			handle(item)
		case <-q.end:
			q.drain(handle)
			return
		}
	}
}

func (q *queue[T]) drain(handle func(T)) {
	for {
		select {
		case item := <-q.items:
			handle(item)
		default:
			return
		}
	}
}

func (q *queue[T]) put(item T) {
	if !q.offer(item) {
		q.dropped.Add(1)
	}
}

// isFull says that the next item would be lost, if nothing happens in between.
func (q *queue[T]) isFull() bool { return len(q.items) == cap(q.items) }

// offer is put for somebody who counts himself.
func (q *queue[T]) offer(item T) bool {
	select {
	case q.items <- item:
		return true
	default:
		return false
	}
}

// close waits until what is queued is dealt with, or gives up with ctx. It may be
// called once; whoever puts in items looks at closing first.
func (q *queue[T]) close(ctx context.Context) error {
	q.closing.Store(true)
	close(q.end)
	select {
	case <-q.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
