package registry

import (
	"context"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// RotateRequest asks for a successor of a credential.
type RotateRequest struct {
	ID, Etag string
	// Grace is how long the old one stays good.
	Grace time.Duration
	// TTL is how long the successor lives; 0: as long as the old one was made to, and
	// no longer than its tenant allows now.
	TTL time.Duration
}

// RotateResult hands over a successor.
type RotateResult struct {
	Issued
	Predecessor Credential
}

// RotateCredential issues a successor with the same rights (K-07, K-12). The actor
// gets a secret with these rights, so it must be able to grant them. What fell with
// the old one falls with the successor from then on.
func (r *Registry) RotateCredential(ctx context.Context, call Call, req RotateRequest) (*RotateResult, Change, error) {
	var done *RotateResult
	change, err := r.change(ctx, call, action{"credential.rotate", withheld}, req, func(o *operation) error {
		old, err := o.credential(req.ID, req.Etag)
		if err != nil {
			return err
		}
		secret, next, err := o.rotate(old, req)
		if err != nil {
			return err
		}
		done = &RotateResult{Issued: Issued{o.view(next), secret}, Predecessor: o.view(old)}
		return nil
	}, nil)
	if err != nil {
		return nil, change, err
	}
	if call.ValidateOnly {
		withhold(&done.Issued)
		done.Predecessor.Successor = ""
	}
	return done, change, nil
}

func (o *operation) rotate(old *store.Credential, req RotateRequest) (secret policy.Secret, next *store.Credential, err error) {
	if err := mustBe(old, o.now, Active, Pending); err != nil {
		return secret, nil, err
	}
	p, rules, err := o.receiver(old.Tenant, old.Principal)
	if err != nil {
		return secret, nil, err
	}
	var f faults
	if req.Grace < 0 || req.Grace > o.cfg.MaxGrace {
		f.field("grace_period", "is between 0 and %s", span(o.cfg.MaxGrace))
	}
	f.byItself(o.actor, old, req)
	next = f.successor(old, req.TTL, time.Duration(rules.MaxTTL), o.now)
	next.IssuedBy = seal.Scrub(o.actor.Name())
	f.grants(o.actor, reach{}, reachOf(old, p))
	f.within(o.actor, old.Constraints)
	if err := f.err(); err != nil {
		return secret, nil, err
	}
	if secret, err = o.secret(next); err != nil {
		return secret, nil, err
	}
	children, err := o.children(old)
	if err != nil {
		return secret, nil, err
	}
	for _, child := range children {
		if child.Parent == old.ID {
			child.Parent, child.UpdatedAt = next.ID, o.now
			if err := o.put(child, "the id"); err != nil {
				return secret, nil, err
			}
		}
	}
	old.Rotated = &store.Ending{At: o.now.Add(req.Grace), By: next.IssuedBy}
	old.Successor, old.UpdatedAt = next.ID, o.now
	o.made = next.ID
	o.detail("successor", next.ID)
	o.detail("grace", req.Grace.String())
	if err := o.put(next, "the id"); err != nil {
		return secret, nil, err
	}
	return secret, next, o.put(old, "the id")
}

// byItself holds a credential that rotates itself to what Actor.Itself says.
func (f *faults) byItself(a *Actor, old *store.Credential, req RotateRequest) {
	if !a.Itself {
		return
	}
	if req.Grace > 0 {
		f.add(PermissionDenied, "grace_period", "a token that rotates itself ends at once; log in to let both be good for a while")
	}
	if !old.ExpiresAt.IsZero() && req.TTL > old.ExpiresAt.Sub(old.CreatedAt) {
		f.add(PermissionDenied, "ttl", "a token that rotates itself lives no longer than it was made to; log in for a longer one")
	}
}

// successor is a copy of a credential but for its id, its digest and its times
// (K-12). The times are those of the old one, as long after now as they were after
// it was made.
func (f *faults) successor(old *store.Credential, ttl, longest time.Duration, now time.Time) *store.Credential {
	next := *old
	next.CreatedAt, next.UpdatedAt, next.Low = now, now, false
	if !next.NotBefore.After(now) {
		next.NotBefore = time.Time{}
	}
	shift := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return earlier(now.Add(t.Sub(old.CreatedAt)), now.Add(longest))
	}
	next.MaxExpiresAt = shift(old.MaxExpiresAt)
	next.ExpiresAt = shift(old.ExpiresAt)
	next.Period = min(next.Period, store.Duration(longest))
	if ttl != 0 {
		next.ExpiresAt = time.Time{}
	}
	f.life(&next, ttl, longest, now)
	return &next
}

// RenewCredential moves the end of a credential by its period, up to the end that it
// was given at most, and no further than its tenant allows now (P-11).
func (r *Registry) RenewCredential(ctx context.Context, call Call, id string) (*Credential, Change, error) {
	return r.onCredential(ctx, call, "credential.renew", id, id, "", func(o *operation, c *store.Credential) error {
		if err := mustBe(c, o.now, Active); err != nil {
			return err
		}
		rules, err := o.rules(c.Tenant)
		if err != nil {
			return err
		}
		if c.Period == 0 {
			return fail(WrongState, "", "the credential has no renew_period: rotate it instead")
		}
		most := earlier(c.MaxExpiresAt, c.CreatedAt.Add(time.Duration(rules.MaxTTL)))
		if !c.ExpiresAt.Before(most) {
			return fail(MaxTTLExceeded, "", "the credential cannot be renewed beyond %s: rotate it instead", most.Format(time.RFC3339)).
				with("max_expire_time", most.Format(time.RFC3339))
		}
		c.ExpiresAt = earlier(c.ExpiresAt.Add(time.Duration(c.Period)), most)
		c.UpdatedAt = o.now
		o.detail("expires_at", c.ExpiresAt.Format(time.RFC3339))
		return o.put(c, "the id")
	})
}
