package mirror

import (
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// Parents is the index of credentials and sessions from which tokens came.
func (m *Mirror) Parents() authn.Parents { return parents{m} }

type parents struct{ m *Mirror }

// Ended implements authn.Parents. What is not there was deleted, or this replica has not
// heard of it: that is no reason to believe in it.
func (ix parents) Ended(id string) policy.Reason {
	w := ix.m.world.Load()
	for {
		head := w.head.Load()
		reason := w.ended(id, head)
		if w.head.Load() == head {
			return reason
		}
	}
}

func (w *world) ended(id string, head int64) policy.Reason {
	if c := w.credentials.get(id); c != nil {
		if s := c.state.at(head); s != nil && !s.body.damaged {
			return c.owner.ended(s.body.over, head)
		}
	}
	if s := w.sessions.get(id); s != nil {
		if st := s.state.at(head); st != nil && !st.body.damaged {
			return s.owner.ended(st.body.over, head)
		}
	}
	return policy.ReasonRevoked
}

// ended says whether a credential of a principal was turned off, or the principal was.
func (p *principal) ended(over policy.Reason, head int64) policy.Reason {
	if over == policy.ReasonRevoked || over == policy.ReasonDisabled {
		return over
	}
	if _, err := p.alive(head); err != nil {
		return policy.ReasonDisabled
	}
	return policy.ReasonAllowed
}
