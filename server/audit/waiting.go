package audit

import (
	"sync"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// maxWaitingBytes bounds the requests that wait in one place; queueLength bounds their
// number.
const maxWaitingBytes = 32 << 20

// waiting is where decisions wait, with the request that they answer, for somebody who
// deals with them off the path of requests.
type waiting struct {
	queue *queue[*entry]
	held  atomic.Int64 // bytes of requests
	lost  atomic.Uint64
}

// entry is a decision that waits, with the parts of the request that a check reuses.
type entry struct {
	record     Record
	attributes policy.Attributes
	request    policy.Request
	input      policy.Input
	trace      Trace
	zones      []string
	weight     int64
}

var entries = sync.Pool{New: func() any { return new(entry) }}

// newWaiting starts as many goroutines, which call handle for each entry. The entry is
// reused when handle returns.
func newWaiting(workers int, handle func(*entry)) *waiting {
	w := &waiting{}
	w.queue = newQueueOf(workers, func(e *entry) {
		defer w.release(e)
		handle(e)
	})
	return w
}

// take copies what the check will reuse and holds on to the rest, whose weight is
// bounded. What does not fit is lost, and counted.
func (w *waiting) take(r *Record) {
	if r.Input == nil || w.queue.closing.Load() {
		return
	}
	weight := weigh(r.Input.Attributes)
	if w.held.Add(weight) > maxWaitingBytes || w.queue.isFull() {
		w.held.Add(-weight)
		w.lost.Add(1)
		return
	}
	e := entries.Get().(*entry)
	e.record, e.attributes, e.request, e.weight = *r, *r.Input.Attributes, *r.Input.Request, weight
	e.zones = append(e.zones[:0], r.Input.Request.Zones...)
	e.request.Zones, e.request.Segments = e.zones, nil // segments are read from the path
	e.input = *r.Input
	e.input.Attributes, e.input.Request, e.record.Input = &e.attributes, &e.request, nil
	if r.Trace != nil {
		e.trace = *r.Trace
		e.record.Trace = &e.trace
	}
	if !w.queue.offer(e) {
		w.lost.Add(1)
		w.release(e)
	}
}

func (w *waiting) release(e *entry) {
	w.held.Add(-e.weight)
	*e = entry{zones: e.zones}
	entries.Put(e)
}

// weigh is about the memory that an entry holds on to.
func weigh(a *policy.Attributes) int64 {
	n := 2048 + len(a.Body) + len(a.Path)
	for i := range a.Headers {
		n += 32 + len(a.Headers[i].Value)
	}
	for name, value := range a.Extensions {
		n += 64 + len(name) + len(value)
	}
	n += weighTree(a.Metadata) + weighTree(a.Context)
	if a.Action != nil {
		n += weighTree(a.Action.Properties)
	}
	return int64(n)
}

// weighTree is about the memory of JSON values.
func weighTree(v any) int {
	n := 16
	switch v := v.(type) {
	case string:
		n += len(v)
	case []any:
		for _, e := range v {
			n += weighTree(e)
		}
	case map[string]any:
		for name, m := range v {
			n += 32 + len(name) + weighTree(m)
		}
	}
	return n
}
