package mirror

import "sync/atomic"

// cell holds what is known of one thing, and while a change is being applied also
// what was known before.
type cell[B any] struct{ latest atomic.Pointer[state[B]] }

// state is what is known of a thing since a change. It does not change but for the
// way back, which is cut when nobody needs it any more.
type state[B any] struct {
	// version is the change; negative if it took the thing away. A field of its own for
	// that would make a million credentials 16 MB larger.
	version int64
	before  atomic.Pointer[state[B]]
	body    B
}

// goneSince is the state of a thing that a change took away.
func goneSince[B any](version int64) *state[B] { return &state[B]{version: -version} }

func (s *state[B]) gone() bool { return s.version < 0 }

// since is the change that wrote the state.
func (s *state[B]) since() int64 { return max(s.version, -s.version) }

// at returns the state that counts for who has seen all changes up to head, or nil
// if there is none. It is only right if head is still the last change that was
// published when all has been read: see world.head.
func (c *cell[B]) at(head int64) *state[B] {
	s := c.latest.Load()
	for s != nil && s.since() > head {
		s = s.before.Load()
	}
	if s == nil || s.gone() {
		return nil
	}
	return s
}

// lastAt is the change that wrote the state, or its end, that counts for who has seen all
// changes up to head; 0 if there was none.
func (c *cell[B]) lastAt(head int64) int64 {
	s := c.latest.Load()
	for s != nil && s.since() > head {
		s = s.before.Load()
	}
	if s == nil {
		return 0
	}
	return s.since()
}

// there returns the state that was written last, or nil if nothing is there.
func (c *cell[B]) there() *state[B] {
	if s := c.latest.Load(); s != nil && !s.gone() {
		return s
	}
	return nil
}
