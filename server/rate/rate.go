// Package rate limits how often something may be asked: so many requests in so long a
// time, counted for each principal, credential, tenant, client address or route, or for
// the whole installation.
//
// # The algorithm
//
// It is GCRA, the generic cell rate algorithm (ITU-T I.371): of each key one instant is
// kept, its theoretical arrival time, TAT, the time at which everything that it has asked
// would have arrived if it had kept to its rate exactly. A request costs one emission
// interval, the window divided by the limit. It is let through if it leaves the TAT no
// further in the future than the tolerance, burst times the interval:
//
//	tat = max(tat, now) + interval          if that is not after now + tolerance
//
// So no key ever gets more than burst + t ÷ interval requests in any time t, there is no
// window at whose edge twice as many get through, and what is kept is 24 bytes. A key
// whose TAT has passed is as if it had never been seen, and is forgotten.
//
// The time is the monotonic one, so that nobody gains or loses by a clock that is set.
// Where there is none, a clock that goes back costs a key its burst at most.
//
// # Bounded memory
//
// A rate holds at most Config.MaxKeys keys, as 64-bit hashes under a secret seed, in
// shards with a lock each, held for one look into a map. A full shard forgets what is as
// if it had never been seen, and nothing else: no flood of other keys makes a counter
// start anew. A key for which there is no room shares one counter with all such keys of
// its shard, and when it gets its own, that goes on where the shared one is. A flood of
// new keys thus slows down new keys, and nobody else.
//
// # Replicas
//
// Counters are in the memory of one replica. Behind a load balancer with n replicas a
// key can get up to n times its rate. What must hold over all of them is a budget
// (package server/budget).
package rate

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Limits are all rates of a configuration. They are safe for concurrent use.
type Limits struct {
	epoch time.Time // instants are counted from here
	seed  maphash.Seed
	rates []*limit
}

// limit is one rate.
type limit struct {
	cfg    Config
	detail string
	// interval is what a request costs, tolerance how far ahead a key may be.
	interval, tolerance int64
	room                int // keys that a shard holds at most
	shards              [shards]shard
}

const shards = 64

// shard holds a part of the keys of a rate.
type shard struct {
	mu   sync.Mutex
	keys map[uint64]counter
	// grow is how many keys there may be before the shard is looked through, and quiet
	// until when that is not worth doing again.
	grow  int
	quiet int64
	// shared counts for keys that there is no room for.
	shared counter

	allowed, limited, crowded uint64

	_ [32]byte // so that two locks are in no one cache line
}

// counter is the state of a key.
type counter struct {
	tat int64
	// before is the TAT before the last request, at its instant: what Undo goes back to,
	// as long as nobody has asked since.
	before, at int64
}

// never is before all instants.
const never = -1 << 63

// Deps are what Limits are given.
type Deps struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Previous are the limits that these take the place of: a rate that has not changed
	// goes on with its counters. May be nil.
	Previous *Limits
}

// New returns limits. The rates must have passed Config.Check.
func New(rates []Config, deps Deps) *Limits {
	l := &Limits{}
	if prev := deps.Previous; prev != nil {
		l.epoch, l.seed = prev.epoch, prev.seed
	} else {
		if deps.Now == nil {
			deps.Now = time.Now
		}
		l.epoch, l.seed = deps.Now(), maphash.MakeSeed()
	}
	for _, cfg := range rates {
		cfg = cfg.withDefaults()
		next := deps.Previous.find(cfg)
		if next == nil {
			next = newLimit(cfg)
		}
		l.rates = append(l.rates, next)
	}
	return l
}

// find returns the rate that is the same.
func (l *Limits) find(cfg Config) *limit {
	if l == nil {
		return nil
	}
	i := slices.IndexFunc(l.rates, func(r *limit) bool { return r.cfg.equal(cfg) })
	if i < 0 {
		return nil
	}
	return l.rates[i]
}

func newLimit(cfg Config) *limit {
	r := &limit{cfg: cfg, detail: "the rate " + cfg.Name, interval: cfg.interval(), room: max(1, cfg.MaxKeys/shards)}
	r.tolerance = r.interval * cfg.Burst
	for i := range r.shards {
		s := &r.shards[i]
		s.keys, s.grow = map[uint64]counter{}, min(16, r.room)
		s.shared = counter{tat: never, at: never}
	}
	return r
}

// Take counts a request against every rate that it falls under, or against none. What is
// left of each is appended to states, or only what is left of the one that refused.
func (l *Limits) Take(c *policy.Charge, states []policy.BudgetState) policy.Spent {
	now := l.instant(c.Now)
	kept := len(states)
	for i, r := range l.rates {
		if !r.cfg.matches(c) {
			continue
		}
		left, retry := r.take(l.key(r, c), now)
		states = append(states, left)
		if retry > 0 {
			l.undo(c, now, i)
			return policy.Spent{
				Reason: policy.ReasonRateLimited, Detail: r.detail, State: policy.StateMirror,
				Budgets: append(states[:kept], left), RetryAfter: retry,
			}
		}
	}
	return policy.Spent{Reason: policy.ReasonAllowed, Budgets: states, State: policy.StateMirror}
}

// Undo takes a request back that was counted, with the same charge. If somebody has asked
// under the same key since, it stays counted: what it was in the way of is over, and it
// must not be given out twice.
func (l *Limits) Undo(c *policy.Charge) { l.undo(c, l.instant(c.Now), len(l.rates)) }

// instant counts from the epoch, in nanoseconds. A century either way leaves room for sums.
func (l *Limits) instant(t time.Time) int64 {
	const century = 100 * 365 * 24 * time.Hour
	return int64(min(max(t.Sub(l.epoch), -century), century))
}

func (l *Limits) undo(c *policy.Charge, now int64, n int) {
	for _, r := range l.rates[:n] {
		if r.cfg.matches(c) {
			r.undo(l.key(r, c), now)
		}
	}
}

func (r *limit) shard(key uint64) *shard { return &r.shards[key>>58] }

// take counts one request at an instant. A retry of more than 0 says that it was refused,
// and when another one would not be.
func (r *limit) take(key uint64, now int64) (left policy.BudgetState, retry time.Duration) {
	s := r.shard(key)
	s.mu.Lock()
	c, own := s.counter(key, now, r.room)
	tat := min(max(c.tat, now), now+r.tolerance) // the second is for a clock that was set back
	if ahead := tat + r.interval - now; ahead > r.tolerance {
		s.limited++
		retry = time.Duration(ahead - r.tolerance)
		c.tat = min(c.tat, tat)
	} else {
		s.allowed++
		c = counter{tat: tat + r.interval, before: tat, at: now}
		tat = c.tat
		if !own {
			s.crowded++
		}
	}
	if own {
		s.keys[key] = c
	} else {
		s.shared = c
	}
	s.mu.Unlock()
	return policy.BudgetState{
		Name: r.cfg.Name, Unit: Unit, Limit: r.cfg.Limit, Remaining: (r.tolerance - (tat - now)) / r.interval,
		Window: r.cfg.Every, Reset: time.Duration(tat - now),
	}, retry
}

// counter returns the counter of a key, which is its own or the one that it shares.
func (s *shard) counter(key uint64, now int64, room int) (c counter, own bool) {
	if c, own = s.keys[key]; own {
		return c, true
	}
	if len(s.keys) >= s.grow {
		s.makeRoom(now, room)
	}
	if len(s.keys) >= room {
		return s.shared, false
	}
	return counter{tat: max(now, s.shared.tat)}, true // it may have been counted there
}

// pause is how long a full shard is not looked through again.
const pause = int64(10 * time.Millisecond)

// makeRoom forgets the keys that are as if they had never been seen. Below its bound the
// shard may then grow to twice what is left, so that looking costs little for each key.
func (s *shard) makeRoom(now int64, room int) {
	if now < s.quiet {
		return
	}
	first := now + int64(time.Hour)
	for key, c := range s.keys {
		if c.tat <= now {
			delete(s.keys, key)
		} else {
			first = min(first, c.tat)
		}
	}
	s.grow = min(max(2*len(s.keys), 16), room)
	if len(s.keys) >= room {
		s.quiet = max(first, now+pause)
	}
}

func (r *limit) undo(key uint64, now int64) {
	s := r.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, own := s.keys[key]; own {
		if c.at == now {
			s.keys[key] = counter{tat: c.before, at: never}
		}
	} else if s.shared.at == now {
		s.shared = counter{tat: s.shared.before, at: never}
	}
}

// key is who or what a rate counts of a charge. Parts cannot run into each other: each is
// hashed with its length.
func (l *Limits) key(r *limit, c *policy.Charge) uint64 {
	p := c.Principal
	switch r.cfg.Per {
	case PerCredential:
		if id := cmp.Or(p.BudgetID, p.CredentialID); id != "" {
			return l.hash(p.Issuer, p.Tenant, id)
		}
		return l.principal(c)
	case PerTenant:
		return l.hash(p.Tenant, "", "")
	case PerClient:
		return l.client(c)
	case PerRoute:
		return l.hash(c.Route.Name, "", "")
	case PerInstallation:
		return l.hash("", "", "")
	}
	return l.principal(c)
}

// principal tells apart those who are nobody by where they come from.
func (l *Limits) principal(c *policy.Charge) uint64 {
	if p := c.Principal; p.Kind != policy.KindAnonymous {
		return l.hash(p.Tenant, p.Issuer, p.ID)
	}
	return l.client(c)
}

func (l *Limits) client(c *policy.Charge) uint64 {
	return maphash.Comparable(l.seed, network(c.Request.ClientIP))
}

// whose is who or what is counted.
type whose struct{ a, b, c string }

func (l *Limits) hash(a, b, c string) uint64 { return maphash.Comparable(l.seed, whose{a, b, c}) }

// network is what one client has for sure: an address of IPv4, but 64 bits of one of IPv6,
// because whoever has one has all of its network (RFC 6177).
func network(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if !ip.Is6() {
		return ip
	}
	b := ip.As16()
	clear(b[8:])
	return netip.AddrFrom16(b)
}

// Status is what became of one rate.
type Status struct {
	// Name is the rate's.
	Name string
	// Allowed and Limited count requests since the rate was made.
	Allowed, Limited uint64
	// Crowded are those of Allowed for whose keys there was no room.
	Crowded uint64
	// Keys is how many are held, at most MaxKeys.
	Keys int
}

// Status returns what became of each rate, in the order of the configuration.
func (l *Limits) Status() []Status {
	all := make([]Status, len(l.rates))
	for i, r := range l.rates {
		all[i].Name = r.cfg.Name
		for j := range r.shards {
			s := &r.shards[j]
			s.mu.Lock()
			all[i].Allowed += s.allowed
			all[i].Limited += s.limited
			all[i].Crowded += s.crowded
			all[i].Keys += len(s.keys)
			s.mu.Unlock()
		}
	}
	return all
}

// Len is how many rates there are.
func (l *Limits) Len() int {
	if l == nil {
		return 0
	}
	return len(l.rates)
}
