package mirror

import (
	"context"
	"slices"
	"time"
)

const (
	// keepEnded is how long a session stays known after its end, so that who comes back
	// with it hears that it has expired, and a clock that was wrong for a while does no
	// harm. The store keeps it about as long.
	keepEnded = 7 * day
	// keepDenied is how long a line of the denylist stays after its end, for the same
	// clocks: nothing that it names should live so long.
	keepDenied = day
	// forgetting is how many things are let go of at once; a poll can come in between.
	forgetting = 500
)

// watchAll counts the credentials once a minute, and forgets what has long ended.
func (m *Mirror) watchAll(ctx context.Context) {
	for ctx.Err() == nil {
		now := m.deps.Now()
		m.survey(now)
		m.forget(now)
		sleep(ctx, time.Minute)
	}
}

// forget lets go of sessions and lines of the denylist that ended long ago. Nobody
// else does: the store purges what has expired without a word to those who follow it.
func (m *Mirror) forget(now time.Time) {
	w := m.world.Load()
	sessions, denials := now.Add(-keepEnded).UnixNano(), now.Add(-keepDenied)
	drop(m, w.sessions, func(s *session) bool { return s.endedBefore(sessions) }, w.dropSession)
	drop(m, w.denials, func(d *denial) bool { return d.endedBefore(denials) }, w.dropDenial)
	drop(m, w.approvals, func(a *approval) bool { return a.said.ExpiresAt.Before(denials) }, w.dropApproval)
	drop(m, w.consents, func(c *consent) bool { return c.over(denials) }, w.dropConsent)
}

// drop takes entries away for which a condition holds, some at a time. It is theirs
// to go from the table.
func drop[K comparable, E any](m *Mirror, from *table[K, E], ended func(*E) bool, drop func(*E)) {
	var all []*E
	for e := range from.all() {
		if ended(e) {
			all = append(all, e)
		}
	}
	for some := range slices.Chunk(all, forgetting) {
		m.following.Lock()
		for _, e := range some {
			if from.get(from.key(e)) == e && ended(e) { // nothing has changed since
				drop(e)
			}
		}
		m.following.Unlock()
	}
}

func (s *session) endedBefore(at int64) bool {
	st := s.state.there()
	return st != nil && !st.body.damaged && st.body.notAfter < at
}

func (d *denial) endedBefore(at time.Time) bool {
	return !d.doc.ExpiresAt.IsZero() && d.doc.ExpiresAt.Before(at)
}
