package registry

import (
	"sync"
	"time"
)

// lockout counts wrong passwords (B-06): so many in a window, and the name is locked
// until the window is over, which begins anew with every try that counts. It is in
// memory: a replica that restarts forgets, and each counts for itself. Names that
// nobody has count as well, so that being locked out tells nothing.
type lockout struct {
	tries  int
	window time.Duration

	mu    sync.Mutex
	names map[string]*failures
	// swept is when all of them were looked through last.
	swept time.Time
}

type failures struct {
	n     int
	until time.Time
}

// maxNames bounds memory, at about 200 bytes a name.
const maxNames = 1 << 16

func newLockout(tries int, window time.Duration) *lockout {
	return &lockout{tries: tries, window: window, names: map[string]*failures{}}
}

// try counts a try before it is known whether it is a wrong one, so that many at
// once count like many in a row. It returns false if the name is locked out.
func (l *lockout) try(name string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.names[name]
	if f == nil || !now.Before(f.until) {
		l.makeRoom(now)
		f = &failures{}
		l.names[name] = f
	}
	if f.n >= l.tries {
		return false
	}
	f.n++
	f.until = now.Add(l.window)
	return true
}

// makeRoom forgets names so that one more has room: first those whose time is over,
// which are looked for at most once a second, then one of a few that is over first.
// Nobody is locked out because others fill the list; to be forgotten early, a name
// needs tens of thousands of others, a hash each.
func (l *lockout) makeRoom(now time.Time) {
	if len(l.names) < maxNames {
		return
	}
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for name, f := range l.names {
			if !now.Before(f.until) {
				delete(l.names, name)
			}
		}
	}
	if len(l.names) < maxNames {
		return
	}
	victim, looked := "", 0
	for name, f := range l.names {
		if victim == "" || f.until.Before(l.names[victim].until) {
			victim = name
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(l.names, victim)
}

// giveBack takes back a try that came to nothing.
func (l *lockout) giveBack(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.names[name]; f != nil && f.n > 0 {
		f.n--
	}
}

// clear forgets the failures of a name: its password was right.
func (l *lockout) clear(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.names, name)
}
