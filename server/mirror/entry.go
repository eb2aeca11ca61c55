package mirror

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// The four things that an answer is made of each have a place that stays, with what
// never changes about it, and in it a cell with what does. Who belongs to whom is a
// pointer to the place: a change of a principal counts at once for all that it has,
// and touches none of it.
//
//	credential, session ── principal ── its owner ── …
//	                           └────── tenant

// assurance is the level of a key: a bearer secret.
const assurance = 2

// maxDepth is how long a line of owners, or of parents, can be. Longer ones, which
// are circles, deny.
const maxDepth = 16

const (
	never  = math.MaxInt64
	always = math.MinInt64
)

// tenant is the place of a tenant.
type tenant struct {
	id    string
	state cell[tenantBody]
}

type tenantBody struct {
	name     string
	disabled bool
	damaged  bool
}

// principal is the place of a principal, whether there is one or not.
type principal struct {
	key    string
	world  *world
	tenant *tenant // nil for none
	state  cell[principalBody]
	// used is the writer's: how many places point to this one.
	used int
}

type principalBody struct {
	name     string
	person   *pooled[person]
	owner    *principal // nil for none
	disabled bool
	damaged  bool
}

// credential is the place of a key or token, and implements authn.Sealed.
type credential struct {
	sum    [32]byte
	id     string
	owner  *principal
	state  cell[credentialBody]
	pepper uint16 // 0 if it was imported
	// warned is the last threshold before its end that was reported.
	warned atomic.Uint32
}

type credentialBody struct {
	life
	created int64
	name    string
	profile *pooled[profile]
	proof   atomic.Pointer[built]
}

// session is the place of a session, and implements authn.Sealed.
type session struct {
	sum    [32]byte
	id     string
	owner  *principal
	state  cell[sessionBody]
	pepper uint16
	// touched is when it was used, in Unix nanoseconds, within a tenth of idle.
	touched atomic.Int64
}

type sessionBody struct {
	life
	created, authenticated int64
	idle                   time.Duration
	acr                    string
	amr                    []string
	successor              string
	proof                  atomic.Pointer[built]
}

// built is a proof with the state of the principal that it was built from.
type built struct {
	proof authn.Proof
	from  *state[principalBody]
}

// life is when something counts: in Unix nanoseconds, the second exclusive, with
// the reason from then on. What was revoked or disabled does not count from the
// moment at which that is known, whatever time is written there: clocks differ.
type life struct {
	notBefore, notAfter int64
	end, over           policy.Reason
	// damaged says that the record cannot be read. Then it does not count.
	damaged bool
}

// lost is the life of what cannot be read.
var lost = life{over: policy.ReasonRevoked, damaged: true}

// endAt brings the end forward.
func (l *life) endAt(at int64, reason policy.Reason) {
	if at < l.notAfter {
		l.notAfter, l.end = at, reason
	}
}

// reason says why it does not count at an instant.
func (l *life) reason(now int64) policy.Reason {
	switch {
	case l.over == policy.ReasonRevoked:
		return l.over
	case now >= l.notAfter:
		return l.end
	case l.over != policy.ReasonUnspecified:
		return l.over
	case now < l.notBefore:
		return policy.ReasonNotYetValid
	}
	return policy.ReasonAllowed
}

func nanos(t time.Time, unset int64) int64 {
	switch {
	case t.IsZero():
		return unset
	case t.Before(earliest):
		return always
	case t.After(latest):
		return never
	}
	return t.UnixNano()
}

// earliest and latest bound what nanoseconds since 1970 in 64 bits can say.
var earliest, latest = time.Unix(0, math.MinInt64).UTC(), time.Unix(0, math.MaxInt64).UTC()

// instant is the way back; both ends of time are the zero time.
func instant(ns int64) time.Time {
	if ns == never || ns == always {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

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

func (c *credential) build(b *credentialBody, of *state[principalBody]) *built {
	tenant, id := store.SplitPrincipalKey(c.owner.key)
	person, profile := &of.body.person.value, &b.profile.value
	created, ends := instant(b.created), instant(b.notAfter)
	p := &policy.Principal{
		ID: id, Kind: person.Kind, Tenant: tenant,
		Metadata: merged(profile.Metadata, person.Metadata),
		Method:   policy.MethodAPIKey, Assurance: assurance,
		CredentialID: c.id, Issuer: seal.Issuer,
		IssuedAt: created, ExpiresAt: ends,
	}
	if profile.Type == store.PAT {
		p.Method = policy.MethodPAT
	}
	narrow(p, profile.Type, &profile.rights, &person.rights)
	p.Claims = claims("name", b.name, "environment", profile.Environment, "owner", of.body.ownerID(), "type", string(profile.Type))
	return &built{from: of, proof: authn.Proof{
		Principal: p, Constraints: profile.Constraints, NotAfter: ends, State: policy.StateMirror,
		Subject: authn.Subject{
			TokenID: c.id, Issuer: seal.Issuer, ID: id, Agent: agent(p), Tenant: tenant, IssuedAt: created,
		},
	}}
}

func (b *principalBody) ownerID() string {
	if b.owner == nil {
		return ""
	}
	_, id := store.SplitPrincipalKey(b.owner.key)
	return id
}

func agent(p *policy.Principal) string {
	if p.Kind == policy.KindAgent {
		return p.ID
	}
	return ""
}

// merged is what is noted on a credential and on its principal. Where both say
// something the principal counts: who issues a token to himself must not say more
// than was said of him.
func merged(own, of map[string]any) map[string]any {
	if len(own) == 0 || len(of) == 0 {
		if len(own) == 0 {
			return of
		}
		return own
	}
	all := make(map[string]any, len(own)+len(of))
	for name, v := range own {
		all[name] = v
	}
	for name, v := range of {
		all[name] = v
	}
	return all
}

// claims makes a map of names and values that are not empty.
func claims(pairs ...string) map[string]any {
	var m map[string]any
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if m == nil {
			m = map[string]any{}
		}
		m[pairs[i]] = pairs[i+1]
	}
	return m
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

func (s *session) build(b *sessionBody, of *state[principalBody]) *built {
	tenant, id := store.SplitPrincipalKey(s.owner.key)
	person := &of.body.person.value
	created, ends := instant(b.created), instant(b.notAfter)
	p := &policy.Principal{
		ID: id, Kind: person.Kind, Tenant: tenant,
		Roles: person.Roles, Scopes: person.Scopes, Permissions: person.Permissions, Metadata: person.Metadata,
		Method: policy.MethodSession, Assurance: assuranceOf(b.amr),
		ACR: b.acr, AMR: slices.Clip(b.amr), AuthTime: instant(b.authenticated),
		CredentialID: s.id, Issuer: seal.Issuer,
		IssuedAt: created, ExpiresAt: ends,
	}
	p.Claims = claims("name", of.body.name, "owner", of.body.ownerID())
	return &built{from: of, proof: authn.Proof{
		Principal: p, NotAfter: ends, State: policy.StateMirror,
		Subject: authn.Subject{
			SessionID: s.id, Issuer: seal.Issuer, ID: id, Agent: agent(p), Tenant: tenant, IssuedAt: created,
		},
	}}
}
