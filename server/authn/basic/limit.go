package basic

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
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
	wrong book
	right book
}

const (
	// wider is how many times tries an address has for all users, and a user for all
	// addresses.
	wider = 20
	// familiar is how long a user and an address are known to belong together.
	familiar = 24 * time.Hour
	// maxTallies bounds each book, at about 5 MB.
	maxTallies = 1 << 16
)

func newLimiter(tries int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{
		tries: tries, window: window, now: now, seed: maphash.MakeSeed(),
		wrong: book{tallies: map[uint64]tally{}}, right: book{tallies: map[uint64]tally{}},
	}
}

// attempt is who tries to be whom: keyed hashes.
type attempt struct {
	pair, address, user uint64
	known               bool // whether the address is
}

// attempt returns what a try counts under. An IPv6 client has a whole /64 to choose
// addresses from, so that is what counts.
func (l *limiter) attempt(from netip.Addr, tenant, name string) attempt {
	from = from.Unmap().WithZone("")
	if from.Is6() {
		if p, err := from.Prefix(64); err == nil {
			from = p.Addr()
		}
	}
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
	if l.wrong.count(a.pair, now) >= l.tries {
		return true
	}
	if l.right.count(a.pair, now) > 0 {
		return false
	}
	return a.known && l.wrong.count(a.address, now) >= wider*l.tries || l.wrong.count(a.user, now) >= wider*l.tries
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
	if l.right.count(a.pair, now) == 0 {
		counts = append(counts, a.user)
		if a.known {
			counts = append(counts, a.address)
		}
	}
	for _, c := range counts {
		if t := l.wrong.add(c, 1, now, now.Add(l.window)); t.n >= l.tries {
			l.until.Store(max(l.until.Load(), t.until.UnixNano()))
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
	now := l.now()
	for _, c := range counts {
		l.wrong.add(c, -1, now, now)
	}
	if o == right {
		delete(l.wrong.tallies, a.pair)
		delete(l.right.tallies, a.pair) // its time begins anew
		l.right.add(a.pair, 1, now, now.Add(familiar))
	}
}

// book counts under keys, each for some time.
type book struct {
	tallies map[uint64]tally
	swept   time.Time
}

type tally struct {
	n     int
	until time.Time
}

func (b *book) count(key uint64, now time.Time) int {
	if t, ok := b.tallies[key]; ok && now.Before(t.until) {
		return t.n
	}
	return 0
}

// add adds to a count; one that begins ends at until. A count of nothing goes.
func (b *book) add(key uint64, n int, now, until time.Time) tally {
	t, there := b.tallies[key]
	if !there || !now.Before(t.until) {
		t = tally{until: until}
	}
	if t.n += n; t.n <= 0 {
		delete(b.tallies, key)
		return t
	}
	if !there {
		b.makeRoom(now)
	}
	b.tallies[key] = t
	return t
}

// makeRoom forgets what is over, which it looks for at most once a second, and else one
// of a few that is over first. To make it forget a count early takes as many tries.
func (b *book) makeRoom(now time.Time) {
	if len(b.tallies) < maxTallies {
		return
	}
	if now.Sub(b.swept) >= time.Second {
		b.swept = now
		for key, t := range b.tallies {
			if !now.Before(t.until) {
				delete(b.tallies, key)
			}
		}
	}
	if len(b.tallies) < maxTallies {
		return
	}
	victim, looked := uint64(0), 0
	for key, t := range b.tallies {
		if looked == 0 || t.until.Before(b.tallies[victim].until) {
			victim = key
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(b.tallies, victim)
}
