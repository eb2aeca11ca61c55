package apikey

import (
	"hash/maphash"
	"iter"
	"maps"
	"sync/atomic"
	"time"
)

// quarantine is which keys are held, and since when, wherever they are kept. While
// none is, a request pays one load for it; it takes no lock, and a change copies
// one shard.
type quarantine struct {
	seed   maphash.Seed
	count  atomic.Int64
	shards [256]atomic.Pointer[map[string]time.Time]
}

func newQuarantine() *quarantine { return &quarantine{seed: maphash.MakeSeed()} }

func (q *quarantine) shard(id string) *atomic.Pointer[map[string]time.Time] {
	return &q.shards[maphash.String(q.seed, id)%uint64(len(q.shards))]
}

func (q *quarantine) holds(id string) bool {
	if q.count.Load() == 0 {
		return false
	}
	m := q.shard(id).Load()
	if m == nil {
		return false
	}
	_, held := (*m)[id]
	return held
}

// hold and release are called by one goroutine at a time.
func (q *quarantine) hold(id string, since time.Time) {
	q.change(id, func(m map[string]time.Time) { m[id] = since })
}

func (q *quarantine) release(id string) {
	q.change(id, func(m map[string]time.Time) { delete(m, id) })
}

func (q *quarantine) change(id string, by func(map[string]time.Time)) {
	next, shard := map[string]time.Time{}, q.shard(id)
	if m := shard.Load(); m != nil {
		next = maps.Clone(*m)
	}
	before := len(next)
	by(next)
	// Up before the key is in, down after it is out: nobody looks past it.
	if len(next) > before {
		q.count.Add(1)
	}
	shard.Store(&next)
	if len(next) < before {
		q.count.Add(-1)
	}
}

// all lists what is held.
func (q *quarantine) all() iter.Seq2[string, time.Time] {
	return func(yield func(string, time.Time) bool) {
		for i := range q.shards {
			m := q.shards[i].Load()
			if m == nil {
				continue
			}
			for id, since := range *m {
				if !yield(id, since) {
					return
				}
			}
		}
	}
}
