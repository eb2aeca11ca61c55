package login

import (
	"container/list"
	"hash/maphash"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// limiter counts tries that have not (yet) succeeded, by name and address, and by
// address alone. It knows nothing of users: a name that does not exist is locked like
// one that does. A try counts before it is made, so that many at once do not all get
// through.
//
// Windows are fixed and of one length, so the counters end in the order in which they
// began, and the oldest are at the front. When there is no more room, the oldest go
// early; the lockout of the registry (registry.lockout), which counts by name alone and
// holds for all who verify passwords, then still holds.
type limiter struct {
	now    func() time.Time
	window time.Duration
	tries  int
	room   int
	seed   maphash.Seed // so that nobody can choose names that share a counter

	mu    sync.Mutex
	count map[uint64]*list.Element // of *tries
	order *list.List               // by beginning
}

// tries are those that one counter holds.
type tries struct {
	key   uint64
	n     int
	began time.Time
}

const (
	// addressFactor is how many names' tries one address has.
	addressFactor = 20
	// counters is how many counters are kept: about 5 MB.
	counters = 1 << 16
)

func newLimiter(tries int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{
		now: now, window: window, tries: tries, room: counters, seed: maphash.MakeSeed(),
		count: map[uint64]*list.Element{}, order: list.New(),
	}
}

// counter is one that a try counts in, and how many tries it takes.
type counter struct {
	key  uint64
	most int
}

// try counts a try. It returns how long to wait if there have been too many, and
// otherwise what to call when the try has an outcome.
func (l *limiter) try(client netip.Addr, tenant, name string) (wait time.Duration, done func(outcome)) {
	all := []counter{{l.key("name", client, tenant, strings.ToLower(name)), l.tries}}
	if client.IsValid() {
		all = append(all, counter{l.key("address", client), l.tries * addressFactor})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.forget(now)
	for _, c := range all {
		if t := l.get(c.key); t != nil && t.n >= c.most {
			wait = max(wait, t.began.Add(l.window).Sub(now))
		}
	}
	if wait > 0 {
		return wait, nil
	}
	for _, c := range all {
		l.add(c.key, now)
	}
	return 0, func(o outcome) { l.done(o, all) }
}

// outcome is what became of a try.
type outcome uint8

const (
	failed  outcome = iota // it goes on counting
	passed                 // the name starts anew; for the address it did not happen
	unknown                // it did not happen: nobody found out
)

func (l *limiter) done(o outcome, all []counter) {
	if o == failed {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range all {
		switch t := l.get(c.key); {
		case t == nil:
		case i == 0 && o == passed, t.n == 1:
			l.drop(l.count[c.key])
		default:
			t.n--
		}
	}
}

func (l *limiter) get(key uint64) *tries {
	if e := l.count[key]; e != nil {
		return e.Value.(*tries)
	}
	return nil
}

func (l *limiter) add(key uint64, now time.Time) {
	if c := l.get(key); c != nil {
		c.n++
		return
	}
	if len(l.count) >= l.room {
		l.drop(l.order.Front())
	}
	l.count[key] = l.order.PushBack(&tries{key: key, n: 1, began: now})
}

// forget drops what is older than the window.
func (l *limiter) forget(now time.Time) {
	for e := l.order.Front(); e != nil && !now.Before(e.Value.(*tries).began.Add(l.window)); e = l.order.Front() {
		l.drop(e)
	}
}

func (l *limiter) drop(e *list.Element) {
	delete(l.count, e.Value.(*tries).key)
	l.order.Remove(e)
}

// key is a keyed hash of the parts, each with its length before it. An IPv6 client
// has a whole /64 to choose addresses from, so that is what counts.
func (l *limiter) key(kind string, client netip.Addr, parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	if client.Is6() {
		if p, err := client.Prefix(64); err == nil {
			client = p.Addr()
		}
	}
	for _, part := range append([]string{kind, client.String()}, parts...) {
		_, _ = h.WriteString(strconv.Itoa(len(part)))
		_ = h.WriteByte(':')
		_, _ = h.WriteString(part)
	}
	return h.Sum64()
}
