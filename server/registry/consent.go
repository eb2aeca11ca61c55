package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// A consent is a user's yes to whoever acts for the user, for scopes. There is one for
// each user and actor: to give it anew replaces its scopes, and makes one good again
// that was withdrawn. The audit log has all that was.
//
// Whatever the policy of the admin API says, nobody gives one through somebody who acts
// for him, and no agent gives any: they would consent to themselves. Who gives it for
// another says what shows that the user wanted it.

// ConsentSpec says who consents to what.
type ConsentSpec struct {
	// Tenant, Issuer and User name the user as tokens do: their tenant, who vouches for
	// them ("postern" for our own, and if it is empty), and their id.
	Tenant, Issuer, User string
	// Actor is the id of the agent or client, as tokens name it.
	Actor  string
	Scopes []string
	// ExpiresAt is when it is over; zero for when it is withdrawn.
	ExpiresAt time.Time
	// Evidence is what shows that the user wanted it, where another gives it: at most 256
	// bytes.
	Evidence string
}

// maxScopes is how many scopes one consent has at most.
const maxScopes = 64

// GrantConsent gives a consent, or gives it anew.
func (r *Registry) GrantConsent(ctx context.Context, call Call, spec ConsentSpec) (*store.Consent, Change, error) {
	return r.onConsent(ctx, call, "consent.grant", spec, func(o *operation) (*store.Consent, error) {
		next, err := o.consentOf(spec)
		if err != nil {
			return nil, err
		}
		rec, err := o.tx.ByDigest(next.Columns().Digest)
		switch {
		case err == nil:
			next.ID = rec.ID
		case !errors.Is(err, store.ErrNotFound):
			return nil, err
		default:
			if err := o.roomForConsent(next); err != nil {
				return nil, err
			}
			if next.ID, err = o.newID(store.KindConsent); err != nil {
				return nil, err
			}
		}
		o.noteConsent(next)
		o.entry.Reason = next.Evidence
		return next, o.put(next, "the id")
	})
}

// consentOf checks a spec and makes the record of it.
func (o *operation) consentOf(s ConsentSpec) (*store.Consent, error) {
	var f faults
	otherwise(&s.Issuer, seal.Issuer)
	if err := o.ownTenant(&f, s.Tenant); err != nil {
		return nil, err
	}
	if len(o.actor.Actors) > 0 || o.actor.Kind == policy.KindAgent {
		return nil, deny("", "who acts for others, or for itself, does not consent to it for them")
	}
	for _, t := range []struct{ field, text string }{{"principal_id", s.User}, {"issuer", s.Issuer}, {"actor_id", s.Actor}} {
		if t.text == "" {
			f.field(t.field, "is required")
		}
		f.text(t.field, t.text, maxClaim)
	}
	if s.User == s.Actor && s.User != "" {
		f.field("actor_id", "is the user: who acts for himself needs no consent")
	}
	if len(s.Scopes) == 0 || len(s.Scopes) > maxScopes {
		f.field("scopes", "are 1 to %d", maxScopes)
	}
	for _, scope := range s.Scopes {
		if why := rightFault("scopes", scope); why != "" {
			f.field("scopes", "%s", why)
		} else if strings.Contains(scope, "*") {
			f.field("scopes", "%s is a wildcard: list what the user agrees to", scope)
		}
	}
	s.Evidence = seal.Scrub(s.Evidence)
	f.text("evidence", s.Evidence, maxReason)
	itself := o.actor.Tenant == s.Tenant && o.actor.ID == nameOf(s.Issuer, s.User)
	if !itself && s.Evidence == "" {
		f.field("evidence", "is required where another than the user gives the consent: say what shows that the user wanted it")
	}
	if itself && o.actor.Kind != policy.KindUser {
		f.field("principal_id", "is a %s; consents are of users", o.actor.Kind)
	}
	ends := store.Micro(s.ExpiresAt)
	if !ends.IsZero() && !ends.After(o.now) {
		f.field("expire_time", "is in the past")
	}
	return &store.Consent{
		Tenant: s.Tenant, User: s.User, Issuer: s.Issuer, Actor: s.Actor, Scopes: distinct(s.Scopes),
		GivenAt: o.now, By: seal.Scrub(o.actor.Name()), Evidence: s.Evidence, ExpiresAt: ends,
	}, f.err()
}

// maxConsents is how many agents and clients one of our users may have consented to:
// every replica holds all of it in memory.
const maxConsents = 500

func (o *operation) roomForConsent(c *store.Consent) error {
	owner, n := c.Columns().Owner, 0
	if owner == "" {
		return nil
	}
	err := each[store.Consent](o.tx, store.Query{Owner: owner}, func(*store.Consent) error { n++; return nil })
	if err == nil && n >= maxConsents {
		return fail(QuotaExceeded, "", "the user has consented to %d agents and clients, which is all that is allowed", n)
	}
	return err
}

// noteConsent says in the audit log whose it is, and to whom.
func (o *operation) noteConsent(c *store.Consent) {
	o.target(store.KindConsent, c.ID, c.Tenant)
	o.detail("user", nameOf(c.Issuer, c.User))
	o.detail("actor", c.Actor)
	o.detail("scopes", strings.Join(c.Scopes, " "))
}

// WithdrawConsent ends a consent. One that was withdrawn stays as it is.
func (r *Registry) WithdrawConsent(ctx context.Context, call Call, req DecideApprovalRequest) (*store.Consent, Change, error) {
	return r.onConsent(ctx, call, "consent.withdraw", req, func(o *operation) (*store.Consent, error) {
		c, err := o.consent(req.ID)
		if err != nil {
			return nil, err
		}
		reason := req.Reason
		if err := o.because(&reason); err != nil || c.Withdrawn != nil {
			return c, err
		}
		c.Withdrawn = o.ending(reason)
		return c, o.put(c, "the id")
	})
}

// consent reads a consent that the actor sees.
func (o *operation) consent(id string) (*store.Consent, error) {
	c, err := readConsent(o.tx, o.actor, id)
	if err != nil {
		o.tried(store.KindConsent, id, err)
		return nil, err
	}
	o.noteConsent(c)
	return c, nil
}

func readConsent(from store.Reader, a *Actor, id string) (*store.Consent, error) {
	return visible[store.Consent](from, a, "consent", id, seal.IsID(id), func(c *store.Consent) string { return c.Tenant })
}

// onConsent runs an operation that makes or changes one consent and returns it.
func (r *Registry) onConsent(ctx context.Context, call Call, name string, req any, do func(*operation) (*store.Consent, error)) (*store.Consent, Change, error) {
	return onOne(ctx, r, call, name, req, func(c *store.Consent) string { return c.ID }, do, (*operation).consent)
}

// GetConsent returns a consent.
func (r *Registry) GetConsent(ctx context.Context, actor Actor, id string) (*store.Consent, error) {
	return getOne(ctx, r, &actor, id, readConsent)
}

// ConsentQuery says which consents to list. Fields that are set must all match.
type ConsentQuery struct {
	Page
	Tenant, Issuer, User, Actor string
}

// ListConsents lists consents in the order of their ids, those that were withdrawn or
// have expired among them.
func (r *Registry) ListConsents(ctx context.Context, actor Actor, q ConsentQuery) ([]*store.Consent, string, error) {
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	q.Tenant = tenant
	page := q.Page
	q.Page = Page{}
	c, err := r.cursor(page, q)
	if err != nil {
		return nil, "", err
	}
	return list(ctx, r, store.Query{Tenant: tenant}, c, func(c *store.Consent) bool {
		return (q.User == "" || c.User == q.User) && (q.Issuer == "" || c.Issuer == q.Issuer) && (q.Actor == "" || c.Actor == q.Actor)
	})
}

// removeAgreements removes what principals that are to be deleted have asked for and
// agreed to, and what was agreed to of them: who gets their id next gets none of it.
func (o *operation) removeAgreements(tenant string, keys []string) error {
	for _, key := range keys {
		for _, kind := range []store.Kind{store.KindApproval, store.KindConsent} {
			if err := o.remove(store.Query{Kind: kind, Owner: key}, new(int)); err != nil {
				return err
			}
		}
	}
	var gone []string
	err := each[store.Consent](o.tx, store.Query{Tenant: tenant}, func(c *store.Consent) error {
		if slices.Contains(keys, store.PrincipalKey(c.Tenant, c.Actor)) {
			gone = append(gone, c.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		if err := o.tx.Delete(store.KindConsent, id); err != nil {
			return err
		}
	}
	return nil
}
