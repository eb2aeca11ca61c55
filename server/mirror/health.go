package mirror

import (
	"slices"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// Status is the state of the mirror, for readiness and metrics.
type Status struct {
	// State is how fresh it is, View what it has seen, and Age how old that is.
	State Freshness
	View  View
	Age   time.Duration

	// Tenants to Consents are how many records of each kind it holds. Principals and
	// Tenants count those too that are only named by others. Agents are among the
	// principals.
	Tenants, Principals, Agents, Credentials, Sessions, Denials, Approvals, Consents int
	// Imported are the credentials that were made elsewhere.
	Imported int

	// Polls and Failures count polls since the start, Loads how often everything was
	// read; LoadTook is how long that took the last time.
	Polls, Failures, Loads uint64
	LoadTook               time.Duration
	// Err says why the last poll failed, ErrAt since when they do; nil if it did not.
	Err   error
	ErrAt time.Time

	// Damaged is how many records cannot be read, and DamagedRecords some of them with
	// what is wrong. What they name is denied.
	Damaged        int
	DamagedRecords []string

	// Keys says how old the credentials are and when they end. It is counted once a
	// minute.
	Keys Keys

	// UsageDropped and TouchesDropped count what could not be noted because there was
	// too much of it.
	UsageDropped, TouchesDropped uint64

	// SnapshotAt is when the last snapshot was written, SnapshotBytes its size, and
	// SnapshotErr why that failed the last time.
	SnapshotAt    time.Time
	SnapshotBytes int64
	SnapshotErr   error
}

// Keys counts the credentials that are in force.
type Keys struct {
	Active int
	// Oldest is the age of the oldest, and OlderThan how many are older than each of
	// KeyAges.
	Oldest    time.Duration
	OlderThan [len(KeyAges)]int
	// Ending is how many end within each of KeyEnds.
	Ending [len(KeyEnds)]int
	// Unverifiable are those whose pepper is not in force: they are denied.
	Unverifiable int
}

const day = 24 * time.Hour

// KeyAges and KeyEnds are the thresholds of Keys.
var (
	KeyAges = [...]time.Duration{30 * day, 90 * day, 180 * day, 365 * day}
	KeyEnds = [...]time.Duration{1 * day, 7 * day, 14 * day}
)

// Status returns the state now.
func (m *Mirror) Status() Status {
	now, w, v := m.deps.Now(), m.world.Load(), *m.View()
	s := Status{
		View: v, State: v.State(now),
		Tenants: w.tenants.len(), Principals: w.principals.len(), Agents: w.agents.len(), Credentials: w.credentials.len(),
		Imported: w.foreign.len(), Sessions: w.sessions.len(), Denials: w.denials.len(), Approvals: w.approvals.len(), Consents: w.consents.len(),
		UsageDropped: m.usage.dropped.Load(), TouchesDropped: m.health.touchesDropped.Load(),
	}
	if v.Epoch != "" {
		s.Age = v.Age(now)
	}
	m.health.report(&s)
	m.snapshots.report(&s)
	return s
}

// health is how following the store goes.
type health struct {
	mu                     sync.Mutex
	polls, failures, loads uint64
	took                   time.Duration
	err                    error
	since                  time.Time
	slow                   int // calls in a row that timed out
	damage                 map[place]error
	keys                   Keys
	touchesDropped         counter64
}

// place names a record.
type place struct {
	kind store.Kind
	id   string
}

// failed notes a failure, and reports whether it is the first in a row.
func (h *health) failed(now time.Time, err error) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.polls++
	h.failures++
	first = h.err == nil
	if first {
		h.since = now
	}
	h.err = err
	return first
}

func (h *health) recovered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.polls++
	h.err, h.since = nil, time.Time{}
}

func (h *health) loaded(took time.Duration) {
	h.recovered()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loads++
	h.took = took
}

func (h *health) timedOut() { h.add(1) }
func (h *health) answered() { h.add(-h.timeouts()) }
func (h *health) timeouts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.slow
}

func (h *health) add(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow += n
}

func (h *health) forgetDamage() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.damage = nil
}

// noteDamage remembers a record that cannot be read, or forgets that it could not.
func (m *Mirror) noteDamage(d *decoded) {
	h := &m.health
	if d.err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.damage) > 0 {
			delete(h.damage, place{d.kind, d.id})
		}
		return
	}
	m.deps.Logger.Error("a record cannot be read; what it names is denied", "kind", string(d.kind), "id", d.id, "version", d.version, "error", d.err)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.damage == nil {
		h.damage = map[place]error{}
	}
	h.damage[place{d.kind, d.id}] = d.err
}

func (h *health) report(s *Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Polls, s.Failures, s.Loads, s.LoadTook, s.Err, s.ErrAt = h.polls, h.failures, h.loads, h.took, h.err, h.since
	s.Keys, s.Damaged = h.keys, len(h.damage)
	for at, err := range h.damage {
		s.DamagedRecords = append(s.DamagedRecords, store.Corrupt(at.kind, at.id, err).Error())
	}
	slices.Sort(s.DamagedRecords)
	s.DamagedRecords = s.DamagedRecords[:min(len(s.DamagedRecords), 10)]
}

// survey counts the credentials by age and end, and tells of those that end soon.
func (m *Mirror) survey(now time.Time) {
	var k Keys
	w := m.world.Load()
	head, ns := w.head.Load(), now.UnixNano()
	for c := range w.credentials.all() {
		s := c.state.at(head)
		if s == nil || s.body.reason(ns) != policy.ReasonAllowed {
			continue
		}
		b := &s.body
		k.Active++
		if c.pepper != 0 && !m.deps.Peppers.Has(c.pepper) {
			k.Unverifiable++
		}
		if b.created != always {
			age := time.Duration(ns - b.created)
			k.Oldest = max(k.Oldest, age)
			for i, limit := range KeyAges {
				if age > limit {
					k.OlderThan[i]++
				}
			}
		}
		m.warn(c, b, time.Duration(b.notAfter-ns), &k)
	}
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	m.health.keys = k
}

// warn counts a credential that ends soon, and tells of each threshold once.
func (m *Mirror) warn(c *credential, b *credentialBody, left time.Duration, k *Keys) {
	if b.notAfter == never || b.end != policy.ReasonExpired || left > KeyEnds[len(KeyEnds)-1] {
		c.warned.Store(0)
		return
	}
	passed := uint32(0)
	for i := len(KeyEnds) - 1; i >= 0; i-- {
		if left <= KeyEnds[i] {
			k.Ending[i]++
			passed = uint32(KeyEnds[i] / day)
		}
	}
	before := c.warned.Swap(passed)
	if m.deps.Ending == nil || before != 0 && before <= passed {
		return
	}
	tenant, id := store.SplitPrincipalKey(c.owner.key)
	m.deps.Ending(Ending{
		Credential: c.id, Tenant: tenant, Principal: id, Name: b.name,
		At: instant(b.notAfter), Days: int(passed),
	})
}
