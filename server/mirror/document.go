package mirror

import (
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// The way back from what is held in RAM to documents, for the snapshot. They say as
// much as decides, and no more: why something ended, or who issued it, is not held.

func (t *tenant) document() (store.Document, int64) {
	s := t.state.there()
	if s == nil {
		return nil, 0
	}
	b := &s.body
	return &store.Tenant{ID: t.id, Name: b.name, Disabled: ending(b.disabled || b.damaged)}, s.version
}

func ending(is bool) *store.Ending {
	if !is {
		return nil
	}
	return &store.Ending{}
}

func (p *principal) document() (store.Document, int64) {
	s := p.state.there()
	if s == nil {
		return nil, 0
	}
	b := &s.body
	d := &store.Principal{Kind: policy.KindService, Name: b.name, Owner: b.ownerID(), Disabled: ending(b.disabled || b.damaged)}
	d.Tenant, d.ID = store.SplitPrincipalKey(p.key)
	if b.person != nil {
		v := &b.person.value
		d.Kind, d.Metadata = v.Kind, v.Metadata
		d.Roles, d.Scopes, d.Permissions = v.Roles, v.Scopes, v.Permissions
	}
	d.Agent = b.agent.document()
	return d, s.version
}

// endings are the fields of a document that say the same as a life.
func (l *life) endings() (notBefore, expires time.Time, revoked, disabled, rotated *store.Ending) {
	notBefore = instant(l.notBefore)
	revoked, disabled = ending(l.over == policy.ReasonRevoked), ending(l.over == policy.ReasonDisabled)
	switch l.end {
	case policy.ReasonRotated:
		rotated = &store.Ending{At: instant(l.notAfter)}
	case policy.ReasonExpired:
		expires = time.Unix(0, l.notAfter).UTC() // not instant: an end is never left out
	}
	return notBefore, expires, revoked, disabled, rotated
}

func (c *credential) document() (store.Document, int64) {
	s := c.state.there()
	if s == nil {
		return nil, 0
	}
	b := &s.body
	d := &store.Credential{
		ID: c.id, Type: store.APIKey, Name: b.name, Digest: seal.DigestOf(c.sum, c.pepper).String(), CreatedAt: instant(b.created),
	}
	d.Tenant, d.Principal = store.SplitPrincipalKey(c.owner.key)
	d.NotBefore, d.ExpiresAt, d.Revoked, d.Disabled, d.Rotated = b.endings()
	if b.profile != nil {
		p := &b.profile.value
		d.Type, d.Environment, d.Metadata, d.Constraints = p.Type, p.Environment, p.Metadata, p.Constraints
		d.Roles, d.Scopes, d.Permissions = p.Roles, p.Scopes, p.Permissions
		d.Parent, d.Successor = p.Parent, p.Successor
	}
	return d, s.version
}

func (s *session) document() (store.Document, int64) {
	st := s.state.there()
	if st == nil {
		return nil, 0
	}
	b := &st.body
	d := &store.Session{
		ID: s.id, Digest: seal.DigestOf(s.sum, s.pepper).String(),
		AMR: b.amr, ACR: b.acr, AuthTime: instant(b.authenticated), CreatedAt: instant(b.created),
		TouchedAt: instant(s.touched.Load()), Idle: store.Duration(b.idle), Successor: b.successor,
	}
	d.Tenant, d.Principal = store.SplitPrincipalKey(s.owner.key)
	_, d.ExpiresAt, d.Revoked, _, d.Rotated = b.endings()
	return d, st.version
}

func (d *denial) document() (store.Document, int64) { return d.doc, d.version }
