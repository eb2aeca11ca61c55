package mirror

import (
	"hash/maphash"
	"iter"
	"sync/atomic"
)

// table finds entries by a key. One goroutine writes, any number read: a look-up
// takes no lock and allocates nothing.
//
// It is open addressing with linear probing over atomic pointers. An entry that
// goes leaves a mark, so that those behind it are still found; new entries take the
// places of marks. When three quarters of the slots are taken, the next table is
// built aside and swapped in. Whoever reads the old one meanwhile sees what was
// there a moment ago.
//
// The hash has a seed of its own, so that nobody outside can aim at one place.
type table[K comparable, E any] struct {
	key  func(*E) K
	hash func(maphash.Seed, K) uint64
	seed maphash.Seed
	// mark stands where an entry was taken away.
	mark  *E
	slots atomic.Pointer[[]atomic.Pointer[E]]
	// live counts the entries, and taken, which is the writer's, entries and marks.
	live  atomic.Int64
	taken int
}

const minSlots = 8

func newTable[K comparable, E any](key func(*E) K, hash func(maphash.Seed, K) uint64) *table[K, E] {
	t := &table[K, E]{key: key, hash: hash, seed: maphash.MakeSeed(), mark: new(E)}
	slots := make([]atomic.Pointer[E], minSlots)
	t.slots.Store(&slots)
	return t
}

func hashText(seed maphash.Seed, s string) uint64   { return maphash.String(seed, s) }
func hashSum(seed maphash.Seed, s [32]byte) uint64  { return maphash.Bytes(seed, s[:]) }
func (t *table[K, E]) len() int                     { return int(t.live.Load()) }
func (t *table[K, E]) start(k K, slots int) (i int) { return int(t.hash(t.seed, k) & uint64(slots-1)) }

// get returns the entry with the key, or nil.
func (t *table[K, E]) get(k K) *E {
	slots := *t.slots.Load()
	for i := t.start(k, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		e := slots[i].Load()
		if e == nil {
			return nil
		}
		if e != t.mark && t.key(e) == k {
			return e
		}
	}
}

// put adds an entry, or puts it in the place of the one with the same key.
func (t *table[K, E]) put(e *E) {
	slots := *t.slots.Load()
	if 4*(t.taken+1) > 3*len(slots) {
		slots = t.grow()
	}
	k := t.key(e)
	var free *atomic.Pointer[E]
	for i := t.start(k, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		old := slots[i].Load()
		switch {
		case old == t.mark:
			if free == nil {
				free = &slots[i]
			}
			continue
		case old == nil:
			if free == nil {
				free = &slots[i]
				t.taken++
			}
			free.Store(e)
			t.live.Add(1)
			return
		case t.key(old) == k:
			slots[i].Store(e)
			return
		}
	}
}

// remove takes the entry with the key away; there may be none.
func (t *table[K, E]) remove(k K) {
	slots := *t.slots.Load()
	for i := t.start(k, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		e := slots[i].Load()
		if e == nil {
			return
		}
		if e != t.mark && t.key(e) == k {
			slots[i].Store(t.mark)
			t.live.Add(-1)
			return
		}
	}
}

// grow swaps in a table without marks that is at most half full.
func (t *table[K, E]) grow() []atomic.Pointer[E] {
	n := minSlots
	for 2*(t.len()+1) > n {
		n *= 2
	}
	next := make([]atomic.Pointer[E], n)
	for e := range t.all() {
		i := t.start(t.key(e), n)
		for next[i].Load() != nil {
			i = (i + 1) & (n - 1)
		}
		next[i].Store(e)
	}
	t.taken = t.len()
	t.slots.Store(&next)
	return next
}

// all lists the entries. What is added or taken away meanwhile may be among them or
// not.
func (t *table[K, E]) all() iter.Seq[*E] {
	return func(yield func(*E) bool) {
		slots := *t.slots.Load()
		for i := range slots {
			if e := slots[i].Load(); e != nil && e != t.mark && !yield(e) {
				return
			}
		}
	}
}
