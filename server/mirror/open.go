package mirror

import (
	"fmt"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/store"
)

// maxDepth is how long a line of owners, or of parents, can be. Longer ones, which
// are circles, deny.
const maxDepth = 16

// Seal implements authn.Sealed.
func (c *credential) Seal() (*[32]byte, uint16) { return &c.sum, c.pepper }

// Open implements authn.Sealed.
func (c *credential) Open(now time.Time) (*authn.Proof, error) {
	return settled(c.owner.world, func(head int64) (*authn.Proof, error) { return c.open(head, now.UnixNano()) })
}

// settled reads at the last change that was published, and again if another was
// published meanwhile. So an answer is made of whole changes only.
func settled(w *world, open func(head int64) (*authn.Proof, error)) (*authn.Proof, error) {
	for {
		head := w.head.Load()
		proof, err := open(head)
		if w.head.Load() == head {
			return proof, err
		}
	}
}

func (c *credential) open(head, now int64) (*authn.Proof, error) {
	s := c.state.at(head)
	if s == nil {
		return nil, refuse(policy.ReasonCredentialUnknown, "credential", c.id, "was deleted")
	}
	b := &s.body
	if b.damaged {
		return nil, errDamaged("credential", c.id)
	}
	if reason := b.reason(now); reason != policy.ReasonAllowed {
		return nil, refuse(reason, "credential", c.id, "is "+reason.String())
	}
	if parent := b.profile.value.Parent; parent != "" {
		if reason := c.owner.world.parent(parent, head, now); reason != policy.ReasonAllowed {
			return nil, refuse(reason, "credential", c.id, "falls with its parent "+parent)
		}
	}
	p, err := c.owner.alive(head)
	if err != nil {
		return nil, err
	}
	if known := b.proof.Load(); known != nil && known.from == p {
		return &known.proof, nil
	}
	fresh := c.build(b, p)
	b.proof.Store(fresh)
	return &fresh.proof, nil
}

// parent says why what falls with a credential has fallen. One that was rotated is
// succeeded by the next.
func (w *world) parent(id string, head, now int64) policy.Reason {
	for range maxDepth {
		var s *state[credentialBody]
		if c := w.credentials.get(id); c != nil {
			s = c.state.at(head)
		}
		if s == nil || s.body.damaged {
			return policy.ReasonRevoked
		}
		switch reason := s.body.reason(now); reason {
		case policy.ReasonAllowed, policy.ReasonNotYetValid:
			if id = s.body.profile.value.Parent; id == "" {
				return policy.ReasonAllowed
			}
		case policy.ReasonRotated:
			if id = s.body.profile.value.Successor; id == "" {
				return policy.ReasonRevoked
			}
		default:
			return reason
		}
	}
	return policy.ReasonRevoked
}

// alive returns the state of the principal, unless it, one of its owners or its
// tenant is off.
func (p *principal) alive(head int64) (*state[principalBody], error) {
	if t := p.tenant; t != nil {
		s := t.state.at(head)
		switch {
		case s == nil:
			return nil, refuse(policy.ReasonDisabled, "tenant", t.id, "does not exist")
		case s.body.damaged:
			return nil, errDamaged("tenant", t.id)
		case s.body.disabled:
			return nil, refuse(policy.ReasonDisabled, "tenant", t.id, "is disabled")
		}
	}
	var own *state[principalBody]
	next := p
	for range maxDepth + 1 {
		s := next.state.at(head)
		switch {
		case s == nil:
			return nil, refuse(policy.ReasonDisabled, "principal", next.key, "does not exist")
		case s.body.damaged:
			return nil, errDamaged("principal", next.key)
		case s.body.agent.decommissioned():
			return nil, refuse(policy.ReasonRevoked, "principal", next.key, "was decommissioned")
		case s.body.disabled:
			return nil, refuse(policy.ReasonDisabled, "principal", next.key, "is disabled")
		}
		if own == nil {
			own = s
		}
		if next = s.body.owner; next == nil {
			return own, nil
		}
	}
	return nil, refuse(policy.ReasonDisabled, "principal", p.key, fmt.Sprintf("has more than %d owners above it, or they go in a circle", maxDepth))
}

func refuse(reason policy.Reason, what, id, why string) error {
	return authn.Refuse(reason, "the secret is proven, but "+what+" "+id+" "+why)
}

// errDamaged says that it could not be found out what a record says.
func errDamaged(what, id string) error {
	return fmt.Errorf("%w: %s %s cannot be read", store.ErrCorrupt, what, id)
}

// Seal implements authn.Sealed.
func (s *session) Seal() (*[32]byte, uint16) { return &s.sum, s.pepper }

// Open implements authn.Sealed. It also notes that the session is in use.
func (s *session) Open(now time.Time) (*authn.Proof, error) {
	return settled(s.owner.world, func(head int64) (*authn.Proof, error) { return s.open(head, now.UnixNano()) })
}

func (s *session) open(head, now int64) (*authn.Proof, error) {
	st := s.state.at(head)
	if st == nil {
		return nil, refuse(policy.ReasonCredentialUnknown, "session", s.id, "was deleted")
	}
	b := &st.body
	if b.damaged {
		return nil, errDamaged("session", s.id)
	}
	if reason := b.reason(now); reason != policy.ReasonAllowed {
		return nil, refuse(reason, "session", s.id, "is "+reason.String())
	}
	idle := now - s.touched.Load()
	if idle >= int64(b.idle) {
		return nil, refuse(policy.ReasonExpired, "session", s.id, "was not used for "+b.idle.String())
	}
	p, err := s.owner.alive(head)
	if err != nil {
		return nil, err
	}
	if idle > int64(b.idle)/touches {
		s.owner.world.mirror.touch(s, now)
	}
	if known := b.proof.Load(); known != nil && known.from == p {
		return &known.proof, nil
	}
	fresh := s.build(b, p)
	b.proof.Store(fresh)
	return &fresh.proof, nil
}
