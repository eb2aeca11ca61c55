package registry

import (
	"net/netip"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/tally"
)

// lockout counts wrong passwords (B-06): so many in a window, and the name is locked
// until the window is over, which begins anew with every try that counts. Where the
// client's address is known, that holds for the two together, and crowd times as many
// lock the name for all, or anybody could lock a user out by trying for him; but not for
// an address from which the right password came within a day, so that a crowd cannot
// either. Of an IPv6 address the first 64 bits count: a client has all the others. It is in
// memory: a replica that restarts forgets, and each counts for itself. Names that
// nobody has count as well, so that being locked out tells nothing.
//
// It holds whoever asks: the login page, the admin API, HTTP Basic. The login page has a
// limiter of its own in front of it (server/door/login), which counts by the client's
// address as well, and answers before a password is looked at.
type lockout struct {
	tries  int
	window time.Duration

	mu sync.Mutex
	// names are the wrong passwords, and familiar the pairs of a name and an address
	// that have had a right one together.
	names, familiar tally.Book[string]
}

// familiarity is how long a name and an address are known to belong together.
const familiarity = 24 * time.Hour

func newLockout(tries int, window time.Duration) *lockout {
	return &lockout{tries: tries, window: window}
}

// crowd is how many addresses' tries a name has before it is locked for all of them.
const crowd = 20

// lock is a counter in which a try counts, and how many tries it takes. Pair says that it
// is of a name and an address together.
type lock struct {
	name string
	most int
	pair bool
}

// locks are those of a name, the narrower first.
func (l *lockout) locks(tenant, id string, client netip.Addr, now time.Time) []lock {
	name := digestOf(tenant, id)
	if !client.IsValid() {
		return []lock{{name, l.tries, false}}
	}
	pair := lock{digestOf(tenant, id, tally.Client(client).String()), l.tries, true}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.familiar.Get(pair.name, now).N > 0 {
		return []lock{pair}
	}
	return []lock{pair, {name, crowd * l.tries, false}}
}

// try counts a try before it is known whether it is a wrong one, so that many at
// once count like many in a row. It returns false if one of the locks is shut, and
// counts in none then.
func (l *lockout) try(locks []lock, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range locks {
		if l.names.Get(k.name, now).N >= k.most {
			return false
		}
	}
	for _, k := range locks {
		l.names.Put(k.name, tally.Tally{N: l.names.Get(k.name, now).N + 1, Until: now.Add(l.window)}, now)
	}
	return true
}

// giveBack takes back a try that came to nothing.
func (l *lockout) giveBack(locks []lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range locks {
		l.names.Take(k.name)
	}
}

// clear forgets the failures behind the narrower lock, and takes the try back from the
// other: the password was right.
func (l *lockout) clear(locks []lock, now time.Time) {
	l.giveBack(locks[1:])
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names.Delete(locks[0].name)
	if locks[0].pair {
		l.familiar.Put(locks[0].name, tally.Tally{N: 1, Until: now.Add(familiarity)}, now)
	}
}
