package registry

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// SessionSpec is what can be said of a session.
type SessionSpec struct {
	Tenant, Principal string
	// AMR and ACR say how the user authenticated, AuthTime when; zero for now.
	AMR      []string
	ACR      string
	AuthTime time.Time
	// Idle and ExpiresAt are at most what the tenant allows, and that if zero.
	Idle      time.Duration
	ExpiresAt time.Time
	Metadata  map[string]string
}

// NewSession is a session that was just made.
type NewSession struct {
	*store.Session
	// Secret is the value of the cookie. Zero if the call was only to validate.
	Secret policy.Secret
}

// RotateSessionRequest asks for a new id and secret for a session.
type RotateSessionRequest struct {
	ID string
	// AMR is how the user authenticated meanwhile, which makes AuthTime now; ACR the
	// new class, the old one if empty.
	AMR []string
	ACR string
}

// SessionQuery says which sessions to list. Fields that are set must all match.
type SessionQuery struct {
	Page
	Tenant, Principal string
}

// What a session may say of a login.
const (
	maxAMR    = 16
	maxAMRLen = 64
	maxACR    = 256
)

// CreateSession starts a session of a user for whom the actor vouches. Its id and
// secret are always new (S-03). Nobody vouches for who has a role of Postern's own
// API that they could not grant.
func (r *Registry) CreateSession(ctx context.Context, call Call, spec SessionSpec) (*NewSession, Change, error) {
	return r.startSession(ctx, call, "session.create", func(o *operation) (*NewSession, error) {
		p, rules, err := o.receiver(spec.Tenant, spec.Principal)
		if err != nil {
			return nil, err
		}
		if err := o.vouch(p); err != nil {
			return nil, err
		}
		o.detail("by", "vouching")
		return o.session(p, rules, spec)
	})
}

// vouch fails if the actor would gain rights in Postern's own API by being the user.
// Other rights it may pass on: that is what vouching is.
func (o *operation) vouch(p *store.Principal) error {
	lack := rightsOf(p).beyond(func(list, right string) bool {
		own := list == "roles" && o.actor.whoGrants(right) != nil || list == "permissions" && isOwn(right)
		return !own || o.actor.can(list, right)
	})
	var f faults
	for _, l := range lack.lists() {
		f.exceeds("principal_id", *l.items, "nobody vouches for who is stronger; let the user log in with a password")
	}
	return f.err()
}

// startSession runs an operation that makes a session.
func (r *Registry) startSession(ctx context.Context, call Call, name string, do func(*operation) (*NewSession, error)) (*NewSession, Change, error) {
	var s *NewSession
	change, err := r.change(ctx, call, action{name, never}, nil, func(o *operation) (err error) {
		s, err = do(o)
		return err
	}, nil)
	if err != nil {
		return nil, change, err
	}
	if call.ValidateOnly {
		s.Secret, s.ID, s.Digest = policy.Secret{}, "", ""
	}
	return s, change, nil
}

// session makes a session of a user.
func (o *operation) session(p *store.Principal, rules store.Rules, spec SessionSpec) (*NewSession, error) {
	var f faults
	if p.Kind != policy.KindUser {
		f.field("principal_id", "is a %s; sessions are for users", p.Kind)
	}
	f.login(spec.AMR, spec.ACR)
	f.labels("metadata", spec.Metadata)
	idle, longest := time.Duration(rules.SessionIdle), time.Duration(rules.SessionMax)
	s := &store.Session{
		Tenant: p.Tenant, Principal: p.ID, AMR: distinct(spec.AMR), ACR: spec.ACR,
		AuthTime: store.Micro(spec.AuthTime), TouchedAt: o.now, CreatedAt: o.now,
		Idle: store.Duration(spec.Idle), ExpiresAt: store.Micro(spec.ExpiresAt), Metadata: spec.Metadata,
	}
	otherwise(&s.AuthTime, o.now)
	otherwise(&s.Idle, rules.SessionIdle)
	otherwise(&s.ExpiresAt, o.now.Add(longest))
	switch {
	case s.AuthTime.After(o.now.Add(time.Minute)):
		f.field("auth_time", "is in the future")
	case s.Idle < store.Duration(time.Second) || s.Idle > rules.SessionIdle:
		f.field("idle_timeout", "is between 1s and %s", span(idle))
	case !s.ExpiresAt.After(o.now):
		f.field("expire_time", "is in the past")
	case s.ExpiresAt.After(o.now.Add(longest)):
		f.tooLong("expire_time", longest)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := o.makeRoom(p.Key()); err != nil {
		return nil, err
	}
	return o.newSession(s)
}

// maxSwept is how many sessions that are over go when another one begins.
const maxSwept = 100

// makeRoom ends the sessions of a user that were not used for the longest time, if
// there are as many as are allowed (S-11). Those that are over go as well, so that what
// a login has to look through does not grow.
func (o *operation) makeRoom(owner string) error {
	var living []*store.Session
	var gone []string
	err := each[store.Session](o.tx, store.Query{Owner: owner}, func(s *store.Session) error {
		switch {
		case over(s, o.now) && len(gone) < maxSwept:
			gone = append(gone, s.ID)
		case !over(s, o.now) && s.Rotated == nil:
			living = append(living, s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if many := len(living) - o.cfg.MaxSessions + 1; many > 0 {
		slices.SortStableFunc(living, func(a, b *store.Session) int { return a.TouchedAt.Compare(b.TouchedAt) })
		for _, s := range living[:many] {
			gone = append(gone, s.ID)
		}
		o.detail("ended", strconv.Itoa(many))
	}
	for _, id := range gone {
		if err := o.tx.Delete(store.KindSession, id); err != nil {
			return err
		}
	}
	return nil
}

// login checks how somebody authenticated.
func (f *faults) login(amr []string, acr string) {
	if len(amr) > maxAMR {
		f.field("amr", "has %d items; at most %d are allowed", len(amr), maxAMR)
	}
	for _, m := range amr {
		if m == "" || len(m) > maxAMRLen || !printable(m) || holdsSecret(m) {
			f.field("amr", "has names of 1 to %d printable characters (RFC 8176)", maxAMRLen)
			break
		}
	}
	f.text("acr", acr, maxACR)
}

// newSession gives a session its id and secret, and writes it.
func (o *operation) newSession(s *store.Session) (*NewSession, error) {
	m, err := o.mint(seal.KindSession, "", store.KindSession)
	if err != nil {
		return nil, err
	}
	s.ID, s.Digest = m.ID, m.Digest.String()
	o.target(store.KindSession, s.ID, s.Tenant)
	o.detail("principal", s.Principal)
	return &NewSession{s, m.Secret}, o.put(s, "the id")
}

// over reports whether a session has ended.
func over(s *store.Session, now time.Time) bool {
	return s.Revoked != nil || !now.Before(s.ExpiresAt) || !now.Before(s.TouchedAt.Add(time.Duration(s.Idle))) ||
		s.Rotated != nil && !now.Before(s.Rotated.At)
}

// readSession reads a living session that the actor sees.
func (r *Registry) readSession(from store.Reader, a *Actor, id string) (*store.Session, error) {
	s, err := visible[store.Session](from, a, "session", id, seal.IsID(id), func(s *store.Session) string { return s.Tenant })
	if err == nil && over(s, r.now()) {
		return nil, notFound("session")
	}
	return s, err
}

// GetSession returns a living session.
func (r *Registry) GetSession(ctx context.Context, actor Actor, id string) (*store.Session, error) {
	var s *store.Session
	err := r.store.View(ctx, func(from store.Reader) (err error) {
		s, err = r.readSession(from, &actor, id)
		return err
	})
	if err != nil {
		return nil, asError(err)
	}
	return s, nil
}

// ListSessions lists living sessions in the order of their ids.
func (r *Registry) ListSessions(ctx context.Context, actor Actor, q SessionQuery) ([]*store.Session, string, error) {
	var f faults
	owner := f.owner("principal_id", q.Tenant, q.Principal)
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	if err := f.err(); err != nil {
		return nil, "", err
	}
	c, err := r.cursor(q.Page, []string{"sessions", tenant, owner})
	if err != nil {
		return nil, "", err
	}
	now := r.now()
	return list(ctx, r, store.Query{Tenant: tenant, Owner: owner}, c, func(s *store.Session) bool { return !over(s, now) })
}

// RotateSession gives a session a new id and secret. The old one ends within
// SessionOverlap; the time at which the session ends at the latest stays (S-06).
func (r *Registry) RotateSession(ctx context.Context, call Call, req RotateSessionRequest) (*NewSession, Change, error) {
	return r.startSession(ctx, call, "session.rotate", func(o *operation) (*NewSession, error) {
		old, err := r.readSession(o.tx, o.actor, req.ID)
		if err != nil {
			return nil, err
		}
		o.target(store.KindSession, old.ID, old.Tenant)
		if old.Rotated != nil {
			return nil, fail(WrongState, "", "the session was rotated already")
		}
		p, _, err := o.receiver(old.Tenant, old.Principal)
		if err != nil {
			return nil, err
		}
		if o.actor.Credential != old.ID { // a session that rotates itself gains nothing
			if err := o.vouch(p); err != nil {
				return nil, err
			}
		}
		var f faults
		f.login(req.AMR, req.ACR)
		next := *old
		next.AMR = distinct(append(slices.Clone(old.AMR), req.AMR...))
		if len(next.AMR) > maxAMR {
			f.field("amr", "is more than %d with what the session knows", maxAMR)
		}
		if err := f.err(); err != nil {
			return nil, err
		}
		if len(req.AMR) > 0 {
			next.AuthTime = o.now
		}
		if req.ACR != "" {
			next.ACR = req.ACR
		}
		next.TouchedAt, next.CreatedAt = o.now, o.now
		created, err := o.newSession(&next)
		if err != nil {
			return nil, err
		}
		old.Rotated = &store.Ending{At: o.now.Add(o.cfg.SessionOverlap), By: seal.Scrub(o.actor.Name())}
		old.Successor = next.ID
		o.detail("predecessor", old.ID)
		return created, o.put(old, "the id")
	})
}

// DeleteSession ends a session, with what it was rotated from or to: who logs out
// with a cookie that was replaced a moment ago has logged out.
func (r *Registry) DeleteSession(ctx context.Context, call Call, id string) (Change, error) {
	_, change, err := r.delete(ctx, call, "session.delete", id, func(o *operation) (int, error) {
		s, err := visible[store.Session](o.tx, o.actor, "session", id, seal.IsID(id), func(s *store.Session) string { return s.Tenant })
		if err != nil {
			return 0, err
		}
		next, before := map[string]string{}, map[string]string{} // by rotation
		err = each[store.Session](o.tx, store.Query{Owner: store.PrincipalKey(s.Tenant, s.Principal)}, func(s *store.Session) error {
			next[s.ID] = s.Successor
			if s.Successor != "" {
				before[s.Successor] = s.ID
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		line := []string{s.ID}
		for _, way := range []map[string]string{next, before} {
			for id := way[s.ID]; len(line) < len(next); id = way[id] {
				if _, there := next[id]; !there {
					break
				}
				line = append(line, id)
			}
		}
		for _, id := range line {
			if err := o.tx.Delete(store.KindSession, id); err != nil {
				return 0, err
			}
		}
		o.target(store.KindSession, s.ID, s.Tenant)
		o.detail("principal", s.Principal)
		return len(line), nil
	})
	return change, err
}

// DeleteSessionsOf ends all sessions of a user and returns how many.
func (r *Registry) DeleteSessionsOf(ctx context.Context, call Call, tenant, principal string) (int, Change, error) {
	return r.delete(ctx, call, "session.delete_all", []string{tenant, principal}, func(o *operation) (n int, err error) {
		p, err := o.principal(tenant, principal, "")
		if err != nil {
			return 0, err
		}
		err = o.remove(store.Query{Kind: store.KindSession, Owner: p.Key()}, &n)
		return n, err
	})
}
