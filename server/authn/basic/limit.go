package basic

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/tally"
)

// limiter bounds how often somebody can guess. A try counts before it is known whether
// the password is wrong, so that many at once count like many in a row.
//
//	user and address   tries        the user is locked for that address, and only there
//	address            20 × tries   other users are locked for it
//	user               20 × tries   the user is locked for other addresses
//
// The last two do not hold for a user and an address that have had a right password
// together within a day. So somebody who guesses neither locks a user out everywhere
// nor everybody behind one proxy, and many addresses together do not get far with one
// user. Names that nobody has count as well: being locked out tells nothing.
type limiter struct {
	tries  int
	window time.Duration
	now    func() time.Time
	seed   maphash.Seed // so that nobody can choose names that share a count

	// until is when the last count that has reached its bound is over, in Unix
	// nanoseconds: from then on nobody is locked.
	until atomic.Int64

	mu    sync.Mutex
	wrong tally.Book[uint64]
	right tally.Book[uint64]
}

const (
	// wider is how many times tries an address has for all users, and a user for all
	// addresses.
	wider = 20
	// familiar is how long a user and an address are known to belong together.
	familiar = 24 * time.Hour
)

func newLimiter(tries int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{tries: tries, window: window, now: now, seed: maphash.MakeSeed()}
}

// attempt is who tries to be whom: keyed hashes.
type attempt struct {
	pair, address, user uint64
	known               bool // whether the address is
}

// attempt returns what a try counts under.
func (l *limiter) attempt(from netip.Addr, tenant, name string) attempt {
	from = tally.Client(from)
	type key struct {
		of           byte
		from         netip.Addr
		tenant, name string
	}
	return attempt{
		pair:    maphash.Comparable(l.seed, key{'p', from, tenant, name}),
		address: maphash.Comparable(l.seed, key{of: 'a', from: from}),
		user:    maphash.Comparable(l.seed, key{of: 'u', tenant: tenant, name: name}),
		known:   from.IsValid(),
	}
}

// locked reports whether nothing is to be said about the password, right or wrong: a
// right one that is remembered could otherwise be guessed as fast as it is looked up.
func (l *limiter) locked(from netip.Addr, tenant, name string, now time.Time) bool {
	if now.UnixNano() >= l.until.Load() {
		return false
	}
	a := l.attempt(from, tenant, name)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed(a, now)
}

func (l *limiter) closed(a attempt, now time.Time) bool {
	if l.wrong.Get(a.pair, now).N >= l.tries {
		return true
	}
	if l.right.Get(a.pair, now).N > 0 {
		return false
	}
	return a.known && l.wrong.Get(a.address, now).N >= wider*l.tries || l.wrong.Get(a.user, now).N >= wider*l.tries
}

// try counts a try. It returns what to call with its outcome, or false if there have
// been too many.
func (l *limiter) try(a attempt) (done func(outcome), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.closed(a, now) {
		return nil, false
	}
	counts := []uint64{a.pair}
	if l.right.Get(a.pair, now).N == 0 {
		counts = append(counts, a.user)
		if a.known {
			counts = append(counts, a.address)
		}
	}
	for _, c := range counts {
		if t := add(&l.wrong, c, now, now.Add(l.window)); t.N >= l.tries {
			l.until.Store(max(l.until.Load(), t.Until.UnixNano()))
		}
	}
	return func(o outcome) { l.done(a, counts, o) }, true
}

// outcome is what became of a try.
type outcome uint8

const (
	wrong   outcome = iota // it goes on counting
	right                  // what the user got wrong from the address is forgotten
	unknown                // it did not happen: nobody found out
)

func (l *limiter) done(a attempt, counts []uint64, o outcome) {
	if o == wrong {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range counts {
		l.wrong.Take(c)
	}
	if o == right {
		now := l.now()
		l.wrong.Delete(a.pair)
		l.right.Put(a.pair, tally.Tally{N: 1, Until: now.Add(familiar)}, now)
	}
}

// add counts one more; a count that begins is over at until.
func add(b *tally.Book[uint64], key uint64, now, until time.Time) tally.Tally {
	t := b.Get(key, now)
	if t.N == 0 {
		t.Until = until
	}
	t.N++
	b.Put(key, t, now)
	return t
}
