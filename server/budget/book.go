package budget

import (
	"slices"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// This file is the bookkeeping: pure functions of an account and the time. Whoever
// calls them has the account for itself.
//
// What is on lease and what is reserved follow from the leases alone. Of a lease
//
//	out = max(used, settled)                    what left it
//	granted - returned - out                    is leased
//	out - settled                               is reserved
//
// because a reservation can be settled before the replica that gave it out has said
// that it did. Both what the replica says and what is settled only add up, so that it
// does not matter in what order they arrive.

const (
	// skew is how long after its end a lease is taken to have ended: clocks differ.
	// Nothing is overspent where they differ by more, only counted as lost.
	skew = time.Second
	// coarse is the grid of Account.Due, so that it changes seldom: it is in an index.
	coarse = 5 * time.Second
	// finalFor is how long after its end a lease without reservations stays on the
	// books, so that a replica that was only asleep can still say what it spent.
	finalFor = time.Minute
)

// book is an account that is being worked on.
type book struct {
	*store.Account
	now time.Time
}

// out is what left a lease.
func out(l *store.Lease) int64 { return max(l.Used, l.Settled) }

// held is what a lease still holds of the account: what is out and what is not.
func held(l *store.Lease) int64 { return l.Granted - l.Returned }

// leased is what may be spent of it yet.
func leased(l *store.Lease) int64 { return held(l) - out(l) - l.Lost }

// lease finds a lease, or returns nil.
func (b *book) lease(holder string, seq int64) *store.Lease {
	for i := range b.Leases {
		if l := &b.Leases[i]; l.Seq == seq && l.Holder == holder {
			return l
		}
	}
	return nil
}

// sum brings what follows from the leases up to date.
func (b *book) sum() {
	b.Leased, b.Reserved = 0, 0
	for i := range b.Leases {
		l := &b.Leases[i]
		b.Leased += leased(l)
		b.Reserved += out(l) - l.Settled
	}
}

// room is what can be granted. What was used beyond the limit comes first.
func (b *book) room() int64 {
	return max(0, b.Limit-b.Settled-b.Reserved-b.Leased-b.Overrun)
}

// use counts an amount as used; a negative one as not used after all.
func (b *book) use(n int64) {
	if n < 0 {
		over := min(-n, b.Overrun)
		b.Overrun -= over
		b.shift(max(n+over, -b.Settled)) // what left a rolling window is not there to be taken back
		return
	}
	b.shift(n)
}

// shift changes what is settled, and when.
func (b *book) shift(n int64) {
	b.Settled += n
	switch {
	case b.Rolling == 0 || n == 0:
	case n < 0:
		b.unslot(-n)
	default:
		b.slot(n)
	}
}

func (b *book) slot(n int64) {
	width := b.Rolling / slots
	at := b.now.UnixMicro() / width * width
	if last := len(b.Slots) - 1; last >= 0 && b.Slots[last].At >= at {
		b.Slots[last].Amount += n // the same, or the clock went back
		return
	}
	b.Slots = append(b.Slots, store.Slot{At: at, Amount: n})
}

// unslot takes from the newest slots.
func (b *book) unslot(n int64) {
	for last := len(b.Slots) - 1; last >= 0 && n > 0; last-- {
		take := min(n, b.Slots[last].Amount)
		b.Slots[last].Amount -= take
		n -= take
		if b.Slots[last].Amount == 0 {
			b.Slots = b.Slots[:last]
		}
	}
}

// pass does what the passing of time demands: slots leave a rolling window, leases
// end, reservations expire.
func (b *book) pass() {
	now := b.now.UnixMicro()
	for i := range b.Slots {
		if b.Slots[i].At > now+b.Rolling { // the clock was wrong by far when it began
			b.Slots[i].At = now
		}
	}
	for len(b.Slots) > 0 && b.leaves() <= now {
		b.Settled -= b.Slots[0].Amount
		b.Slots = b.Slots[1:]
	}
	b.Leases = slices.DeleteFunc(b.Leases, func(l store.Lease) bool { return l.Closes <= now && b.expire(&l) })
	for i := range b.Leases {
		l := &b.Leases[i]
		l.Closes = min(l.Closes, now+longest)
		if l.Ends+skew.Microseconds() <= now || l.Ends > now+longest {
			b.lose(l)
		}
	}
}

// longest is longer than any lease can be settled. What ends later was granted by a clock
// that was wrong.
var longest = (maxReserve + maxLease + finalFor + time.Hour).Microseconds()

// leaves is when the first slot leaves the window.
func (b *book) leaves() int64 { return b.Slots[0].At + b.Rolling/slots + b.Rolling }

// lose counts as used what a replica did not say that it has not spent.
func (b *book) lose(l *store.Lease) {
	n := leased(l)
	l.Lost += n
	b.Lost += n
	b.use(n)
}

// find is the other way: the replica was only away for long.
func (b *book) find(l *store.Lease, n int64) {
	n = min(n, l.Lost)
	l.Lost -= n
	b.Lost = max(0, b.Lost-n)
	b.use(-n)
}

// expire closes a lease: what is reserved by it is not settled any more. It is always
// true.
func (b *book) expire(l *store.Lease) bool {
	b.lose(l)
	if n := out(l) - l.Settled; !b.Release {
		b.use(n)
	}
	return true
}

// report takes down what the holder of a lease says of it.
func (b *book) report(l *store.Lease, r *report) {
	b.find(l, l.Lost) // it is known now
	l.Used = min(max(0, r.used), held(l))
	l.Returned = max(l.Returned, min(r.returned, l.Granted-out(l)))
	if b.Final {
		b.use(l.Used - l.Settled)
		l.Settled = l.Used
	}
	b.Overrun = min(max(0, b.Overrun+r.over-l.Over), maxOverrun)
	l.Over = r.over
	l.Ends, l.Closes, l.Done = max(l.Ends, r.ends), max(l.Closes, r.closes), r.done
}

// grant puts an amount into a lease, and counts a part of it as spent.
func (b *book) grant(l *store.Lease, n, spent int64) {
	l.Granted += n
	l.Used += spent
	b.Leased += n - spent
	if b.Final {
		l.Settled += spent
		b.use(spent)
	} else {
		b.Reserved += spent
	}
}

// claim settles a reservation: the amount that it holds of a lease becomes what was
// truly used.
func (b *book) claim(l *store.Lease, amount, use int64) {
	amount = min(amount, held(l)-l.Settled)
	before := out(l)
	l.Settled += amount
	b.find(l, out(l)-before) // it was spent, and is known now
	b.use(use)
}

// balance makes the account what it must be in every committed state.
func (b *book) balance(limit int64) {
	b.Leases = slices.DeleteFunc(b.Leases, func(l store.Lease) bool {
		over := l.Done || l.Ends+skew.Microseconds() <= b.now.UnixMicro()
		return over && held(&l) == l.Settled // all of it is accounted for
	})
	b.sum()
	b.Limit = max(limit, b.Reserved+b.Leased) // where the limit was lowered: until these are settled
	free := b.Limit - b.Settled - b.Reserved - b.Leased
	switch {
	case free < 0:
		b.shift(free)
		b.Overrun = min(b.Overrun-free, maxOverrun)
	case b.Overrun > 0:
		n := min(free, b.Overrun)
		b.Overrun -= n
		b.shift(n)
	}
	b.Lost = min(b.Lost, b.Settled)
	b.Recalled = b.Recalled && b.Leased > 0
	b.Due = b.due()
}

// maxOverrun is where counting stops, so that nothing ever wraps around.
const maxOverrun = 1 << 60

// due is when time demands something next.
func (b *book) due() time.Time {
	var next int64
	soon := func(at int64) {
		if next == 0 || at < next {
			next = at
		}
	}
	for i := range b.Leases {
		l := &b.Leases[i]
		if leased(l) > 0 {
			soon(l.Ends + skew.Microseconds())
		}
		soon(l.Closes)
	}
	if len(b.Slots) > 0 {
		soon(b.leaves())
	}
	if next == 0 {
		return time.Time{}
	}
	grid := coarse.Microseconds()
	return time.UnixMicro((next + grid - 1) / grid * grid).UTC()
}

// others is what all replicas but one have on lease.
func (b *book) others(holder string) (n int64) {
	for i := range b.Leases {
		if l := &b.Leases[i]; l.Holder != holder {
			n += leased(l)
		}
	}
	return n
}

// holders is how many other replicas have something on lease, about: those that have begun
// another one count for more.
func (b *book) holders(holder string) (n int64) {
	for i := range b.Leases {
		if l := &b.Leases[i]; l.Holder != holder && leased(l) > 0 {
			n++
		}
	}
	return n
}

// frees is when some of a rolling window leaves it; zero for never.
func (b *book) frees() time.Time {
	if len(b.Slots) == 0 {
		return time.Time{}
	}
	return time.UnixMicro(b.leaves()).UTC()
}
