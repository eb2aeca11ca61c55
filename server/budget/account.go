package budget

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// account is what this replica knows and has of an account. Requests read and take; all
// else is the clerk's.
type account struct {
	rule    *rule // as it was when the account came up; its name, unit, window and per are for ever
	subject Subject
	hash    uint64
	next    *account // another one with the same hash

	key        [16]byte
	name       string // the key as text
	begin, end time.Time
	began      int64 // the same in Unix nanoseconds; 0 for none

	// cur is the lease that requests take from. It is never nil.
	cur atomic.Pointer[tranche]
	// limit is the limit of this account, room what the ledger had left at the last
	// contact.
	limit, room atomic.Int64
	// used is when somebody took last, in Unix nanoseconds, about.
	used atomic.Int64
	// dry is until when it is known that there is nothing, where that does not matter.
	dry atomic.Int64
	// frees is when some of a rolling window leaves it, in Unix nanoseconds.
	frees atomic.Int64
	// nudged says that the clerk has been told to refill.
	nudged atomic.Bool

	// expires is when the account can be forgotten; zero for never.
	expires time.Time

	// The clerk's own.
	old       []*tranche // leases from which nobody takes any more
	contacted time.Time  // when the ledger was asked last
	took      int64      // what had been taken in all by then
	rate      float64    // how much is taken in a second
	wanted    int64      // what was to be fetched ahead the last time
	spare     int64      // the number of its next lease
	retired   bool       // nobody finds it any more
	doubtful  bool       // the ledger may have granted what nobody here knows of
}

// tranche is a lease in the hands of this replica.
type tranche struct {
	seq int64
	// free is what can be taken, low below what more is fetched, ends until when it can
	// be taken, in Unix nanoseconds.
	free, low, ends atomic.Int64
	// over is what was taken beyond the budget, where that is allowed.
	over atomic.Int64

	// The clerk's own, as the ledger has them or will.
	granted, returned, closes int64
	born                      time.Time
	done                      bool
	told                      report // what the ledger knows
}

// report is what a replica tells the ledger of a lease. All of it is a state, not a
// change, so that telling it twice does no harm.
type report struct {
	seq, used, returned, over int64
	ends, closes              int64 // Unix microseconds
	done                      bool
}

// take takes an amount if the lease has it, and says how much that leaves.
func (t *tranche) take(n, now int64) (left int64, ok bool) {
	if now >= t.ends.Load() {
		return 0, false
	}
	for {
		free := t.free.Load()
		if free < n {
			return free, false
		}
		if t.free.CompareAndSwap(free, free-n) {
			return free - n, true
		}
	}
}

// spent is what was taken of it, if nothing is being granted.
func (t *tranche) spent() int64 { return t.granted - t.returned - t.free.Load() }

// drain takes what is free, to be given back, and says how much that is.
func (t *tranche) drain() int64 {
	n := t.free.Swap(0)
	t.returned += n
	return n
}

// report is the state of the lease.
func (t *tranche) report() report {
	return report{
		seq: t.seq, used: t.spent(), returned: t.returned, over: t.over.Load(),
		ends: t.ends.Load() / 1000, closes: t.closes, done: t.done,
	}
}

// news reports whether the ledger does not know all of it.
func (t *tranche) news() bool {
	r := t.report()
	return r.used != t.told.used || r.returned != t.told.returned || r.over != t.told.over || r.done != t.told.done && t.granted > 0
}

// touch notes that somebody took. It seldom writes, so that it costs the others nothing.
func (a *account) touch(now int64) {
	if now-a.used.Load() > int64(10*time.Millisecond) {
		a.used.Store(now)
	}
}

// each calls fn for all leases, the current one last.
func (a *account) each(fn func(*tranche)) {
	for _, t := range a.old {
		fn(t)
	}
	fn(a.cur.Load())
}

// total is what was taken in all.
func (a *account) total() (n int64) {
	a.each(func(t *tranche) { n += t.spent() })
	return n
}

// accounts are all accounts that this replica uses, to be found without a lock: each part
// is a map that is copied to be changed, which happens when an account comes up or is
// idle, and then the ledger is asked anyway.
type accounts struct {
	seed  maphash.Seed
	parts [accountParts]struct {
		mu  sync.Mutex // for those who change it
		all atomic.Pointer[map[uint64]*account]
	}
}

const accountParts = 256

func (m *accounts) hash(r *rule, begin int64, s *Subject) uint64 {
	return maphash.Comparable(m.seed, *s) ^ r.mix ^ uint64(begin)
}

func (a *account) is(r *rule, begin int64, s *Subject) bool {
	return a.began == begin && a.rule.identity == r.identity && a.subject == *s
}

func (m *accounts) find(hash uint64, r *rule, begin int64, s *Subject) *account {
	all := m.parts[hash%accountParts].all.Load()
	if all == nil {
		return nil
	}
	for a := (*all)[hash]; a != nil; a = a.next {
		if a.is(r, begin, s) {
			return a
		}
	}
	return nil
}

// add puts an account in, unless somebody was quicker: then it returns that one.
func (m *accounts) add(a *account) (*account, bool) {
	part := &m.parts[a.hash%accountParts]
	part.mu.Lock()
	defer part.mu.Unlock()
	if other := m.find(a.hash, a.rule, a.began, &a.subject); other != nil {
		return other, false
	}
	old := part.all.Load()
	grown := map[uint64]*account{}
	if old != nil {
		grown = make(map[uint64]*account, len(*old)+1)
		for hash, b := range *old {
			grown[hash] = b
		}
	}
	a.next = grown[a.hash]
	grown[a.hash] = a
	part.all.Store(&grown)
	return a, true
}

// remove takes an account out. Those with the same hash go with it: they come up again.
func (m *accounts) remove(a *account) {
	part := &m.parts[a.hash%accountParts]
	part.mu.Lock()
	defer part.mu.Unlock()
	old := part.all.Load()
	if old == nil {
		return
	}
	shrunk := make(map[uint64]*account, len(*old))
	for hash, b := range *old {
		if hash != a.hash {
			shrunk[hash] = b
		}
	}
	part.all.Store(&shrunk)
}

// state is the account as reports show it.
func stateOf(a *store.Account) State {
	return State{
		Key: a.Key, Budget: a.Budget, Unit: Unit(a.Unit), Subject: a.Subject, Tenant: a.Tenant, Begin: a.Begin, End: a.End,
		Limit: a.Limit, Settled: a.Settled, Reserved: a.Reserved, Leased: a.Leased, Overrun: a.Overrun, Lost: a.Lost,
		UpdatedAt: a.UpdatedAt,
	}
}
