package mirror

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/store"
)

type counter64 = atomic.Uint64

const (
	// maxCounters bounds the counters of use, one for each credential and route.
	maxCounters = 1 << 20
	// idleFlushes is after how many flushes without any use a counter goes.
	idleFlushes = 20
	// maxUsages is how many counters are added to the store at once.
	maxUsages = 1000
)

// usage counts what credentials are used for. A use finds its counter in a table
// without locks and adds to it; only the first use on a route in a while makes a
// counter, under a lock. The flusher takes what was counted and adds it to the
// store.
type usage struct {
	counters *table[use, counter]
	dropped  counter64

	making sync.Mutex // makes and removes counters

	flushing sync.Mutex // what follows
	since    time.Time
	// leaving are counters that are out of the table, to be read once more: somebody
	// may just have found them.
	leaving []*counter
}

// use is what a counter counts.
type use struct{ credential, route string }

type counter struct {
	use
	tenant, principal string
	allowed, denied   atomic.Int64
	last              atomic.Int64 // Unix nanoseconds
	idle              int          // the flusher's
}

func newUsage() *usage {
	return &usage{counters: newTable(func(c *counter) use { return c.use }, func(seed maphash.Seed, u use) uint64 {
		return maphash.String(seed, u.credential) ^ 31*maphash.String(seed, u.route)
	})}
}

// Used counts a decision about a credential of the mirror, by its id and the name
// of the route. Others are not counted. It takes no lock and allocates nothing but
// for the first use on a route in some minutes.
func (m *Mirror) Used(credential, route string, allowed bool, now time.Time) {
	c := m.usage.counters.get(use{credential, route})
	if c == nil {
		if c = m.counter(use{credential, route}); c == nil {
			return
		}
	}
	if !allowed {
		c.denied.Add(1)
		return
	}
	c.allowed.Add(1)
	if at := now.UnixNano(); at > c.last.Load() {
		c.last.Store(at)
	}
}

// counter makes a counter, or returns nil if there is no such credential, or no
// room.
func (m *Mirror) counter(of use) *counter {
	c := m.world.Load().credentials.get(of.credential)
	if c == nil {
		return nil
	}
	u := m.usage
	u.making.Lock()
	defer u.making.Unlock()
	if known := u.counters.get(of); known != nil {
		return known
	}
	if u.counters.len() >= maxCounters {
		u.dropped.Add(1)
		return nil
	}
	fresh := &counter{use: use{c.id, of.route}}
	fresh.tenant, fresh.principal = store.SplitPrincipalKey(c.owner.key)
	u.counters.put(fresh)
	return fresh
}

// Flush adds what was counted to the store. What the store does not take is counted
// again the next time; if it had taken it after all, it counts twice.
func (m *Mirror) Flush(ctx context.Context) error {
	if m.store == nil {
		return nil
	}
	u := m.usage
	u.flushing.Lock()
	defer u.flushing.Unlock()
	now := m.deps.Now()
	if u.since.IsZero() {
		u.since = now
	}
	all := u.take(u.since.UTC().Format(time.DateOnly))
	for i := 0; i < len(all); i += maxUsages {
		chunk := make([]store.Usage, 0, maxUsages)
		for _, t := range all[i:min(i+maxUsages, len(all))] {
			chunk = append(chunk, t.usage)
		}
		if err := m.store.AddUsage(ctx, chunk); err != nil {
			for _, t := range all[i:] {
				t.counter.allowed.Add(t.usage.Allowed)
				t.counter.denied.Add(t.usage.Denied)
			}
			return err
		}
	}
	u.since = now
	return nil
}

type taken struct {
	counter *counter
	usage   store.Usage
}

// take empties the counters, and removes those that have been empty for long.
func (u *usage) take(day string) (all []taken) {
	empty := func(c *counter) bool {
		t := taken{c, store.Usage{
			Credential: c.credential, Tenant: c.tenant, Principal: c.principal, Day: day, Route: c.route,
			Allowed: c.allowed.Swap(0), Denied: c.denied.Swap(0),
		}}
		if t.usage.Allowed+t.usage.Denied == 0 {
			return true
		}
		if at := c.last.Load(); t.usage.Allowed > 0 && at > 0 {
			t.usage.LastUsedAt = time.Unix(0, at).UTC()
		}
		all = append(all, t)
		return false
	}
	for _, c := range u.leaving {
		empty(c)
	}
	u.leaving = u.leaving[:0]
	for c := range u.counters.all() {
		if !empty(c) {
			c.idle = 0
		} else if c.idle++; c.idle > idleFlushes {
			u.leaving = append(u.leaving, c)
		}
	}
	u.making.Lock()
	defer u.making.Unlock()
	for _, c := range u.leaving {
		u.counters.remove(c.use)
	}
	return all
}

// flushAll flushes from time to time, and at midnight: what was counted belongs to
// the day.
func (m *Mirror) flushAll(ctx context.Context) {
	m.usage.flushing.Lock()
	m.usage.since = m.deps.Now()
	m.usage.flushing.Unlock()
	for {
		now := m.deps.Now()
		midnight := now.UTC().Truncate(day).Add(day)
		sleep(ctx, min(m.cfg.Flush, max(midnight.Sub(now), time.Millisecond)))
		if ctx.Err() != nil {
			return
		}
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := m.Flush(call)
		cancel()
		if err != nil && ctx.Err() == nil {
			m.deps.Logger.Warn("the counters of use were not written, and will be again", "error", err)
		}
	}
}
