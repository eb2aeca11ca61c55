package registry

import (
	"net/netip"
	"sync"
	"time"
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
	names, familiar book
}

// book holds counts, each for some time.
type book struct {
	counts map[string]*failures
	// swept is when all of them were looked through last.
	swept time.Time
}

type failures struct {
	n     int
	until time.Time
}

// familiarity is how long a name and an address are known to belong together.
const familiarity = 24 * time.Hour

// maxNames bounds a book, at about 200 bytes a name.
const maxNames = 1 << 16

func newLockout(tries int, window time.Duration) *lockout {
	return &lockout{tries: tries, window: window, names: book{counts: map[string]*failures{}}, familiar: book{counts: map[string]*failures{}}}
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
	client = client.Unmap().WithZone("")
	if client.Is6() {
		if p, err := client.Prefix(64); err == nil {
			client = p.Addr()
		}
	}
	pair := lock{digestOf(tenant, id, client.String()), l.tries, true}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.familiar.counts[pair.name]; f != nil && now.Before(f.until) {
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
		if f := l.names.counts[k.name]; f != nil && now.Before(f.until) && f.n >= k.most {
			return false
		}
	}
	for _, k := range locks {
		l.names.add(k.name, now, now.Add(l.window))
	}
	return true
}

// add counts one more, which is there until some time.
func (b *book) add(name string, now, until time.Time) {
	f := b.counts[name]
	if f == nil || !now.Before(f.until) {
		b.makeRoom(now)
		f = &failures{}
		b.counts[name] = f
	}
	f.n++
	f.until = until
}

// makeRoom forgets names so that one more has room: first those whose time is over,
// which are looked for at most once a second, then one of a few that is over first.
// Nobody is locked out because others fill the list; to be forgotten early, a name
// needs tens of thousands of others, a hash each.
func (b *book) makeRoom(now time.Time) {
	if len(b.counts) < maxNames {
		return
	}
	if now.Sub(b.swept) >= time.Second {
		b.swept = now
		for name, f := range b.counts {
			if !now.Before(f.until) {
				delete(b.counts, name)
			}
		}
	}
	if len(b.counts) < maxNames {
		return
	}
	victim, looked := "", 0
	for name, f := range b.counts {
		if victim == "" || f.until.Before(b.counts[victim].until) {
			victim = name
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(b.counts, victim)
}

// giveBack takes back a try that came to nothing.
func (l *lockout) giveBack(locks []lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range locks {
		if f := l.names.counts[k.name]; f != nil && f.n > 0 {
			f.n--
		}
	}
}

// clear forgets the failures behind the narrower lock, and takes the try back from the
// other: the password was right.
func (l *lockout) clear(locks []lock, now time.Time) {
	l.giveBack(locks[1:])
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.names.counts, locks[0].name)
	if locks[0].pair {
		l.familiar.add(locks[0].name, now, now.Add(familiarity))
	}
}
