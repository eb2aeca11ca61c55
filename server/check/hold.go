package check

import (
	"cmp"
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// hold checks what no policy can switch off, for every proof.
func (c *Checker) hold(x *exchange) bool {
	return c.fresh(x) && c.chained(x) && c.transport(x) && c.crossSite(x) && c.limits(x) && c.demands(x) && c.aim(x) && c.agree(x)
}

// fresh refuses what has expired or was revoked since it was proven.
func (c *Checker) fresh(x *exchange) bool {
	x.decision.Phase = policy.PhaseHold
	if !c.sees(x) {
		return false
	}
	for _, p := range x.proofs {
		if !c.counts(x, p) {
			return false
		}
	}
	return x.peer == nil || c.counts(x, x.peer)
}

// counts refuses a proof that is over or revoked.
func (c *Checker) counts(x *exchange, p *authn.Proof) bool {
	if !p.NotAfter.IsZero() && !x.now.Before(p.NotAfter) {
		return x.deny(policy.ReasonExpired, "expired since it was proven")
	}
	if c.cfg.Revocations == nil || p == anonymous {
		return true
	}
	if reason, revoked := c.revoked(p); revoked {
		return x.deny(reason, "on the denylist")
	}
	return true
}

// sees refuses where this replica cannot rely on what it knows any more.
func (c *Checker) sees(x *exchange) bool {
	switch c.freshness(x) {
	case Fresh:
		return true
	case Stale:
		x.decision.State = x.decision.State.Max(policy.StateStale)
		return true
	}
	return x.deny(policy.ReasonUnavailable, behind)
}

// revoked looks for the credential on the denylist, for everybody who acts by it, and
// for the credentials that it came from, whoever issued them: a revoked agent cannot go on
// in somebody else's name, and a revoked token not as another one.
func (c *Checker) revoked(p *authn.Proof) (policy.Reason, bool) {
	reason, revoked := c.cfg.Revocations.Revoked(&p.Subject)
	for i := 0; i < len(p.Principal.Actors) && !revoked; i++ {
		id := p.Principal.Actors[i].ID
		actor := authn.Subject{
			Issuer: p.Subject.Issuer, ID: id, Agent: id,
			Tenant:   p.Subject.Tenant, // or the lines of a tenant would not reach its own tokens
			IssuedAt: p.Subject.IssuedAt,
		}
		reason, revoked = c.cfg.Revocations.Revoked(&actor)
	}
	for i := 0; i < len(p.Origins) && !revoked; i++ {
		reason, revoked = c.cfg.Revocations.Revoked(&p.Origins[i])
	}
	return reason, revoked
}

// transport refuses a credential that went over a connection without TLS: by
// now it may be somebody else's as well.
func (c *Checker) transport(x *exchange) bool {
	if !x.request.Plaintext || len(x.creds) == 0 || c.cfg.InsecurePlaintext || x.route.InsecurePlaintext {
		return true
	}
	if c.cfg.Quarantine != nil {
		for _, p := range x.proofs {
			c.cfg.Quarantine(p.Principal)
		}
	}
	return x.deny(policy.ReasonPlaintext, "the client's connection is not TLS")
}

// limits holds the request against the credentials' own constraints.
func (c *Checker) limits(x *exchange) bool {
	use := policy.Use{
		Request: &x.request, Action: x.attributes.Action, Now: x.now,
		Audience: cmp.Or(x.route.Audience, c.cfg.Audience), Peer: x.decision.Peer,
	}
	for _, p := range x.proofs {
		if reason := p.Constraints.Check(use); reason != policy.ReasonAllowed {
			return x.deny(reason, "a constraint of the credential "+p.Principal.CredentialID)
		}
		if !c.meant(p.Audiences, use.Audience) {
			return x.deny(policy.ReasonInvalidAudience, "the token is for another service than the route leads to")
		}
	}
	return true
}

// meant reports whether a token for these services, of those that an issuer knows by name,
// is for the one that a route leads to: for that one, or for one of our names that no route
// has for its own service. An issuer that makes tokens for several services means one by
// each (RFC 8707).
func (c *Checker) meant(audiences []string, service string) bool {
	return service == "" || len(audiences) == 0 || slices.Contains(audiences, service) || !c.areServices(audiences)
}

// originsOf is what a denylist may name of whatever comes from a proof. Those who act by
// one of Postern's are there with their own credentials. Those who act by an issuer's need
// not be: no token comes of it, as nobody says that they are agents (registry's chain).
func originsOf(p *authn.Proof) []authn.Subject {
	return append([]authn.Subject{p.Subject}, p.Origins...)
}

// limitsOf is what a proof may be used for where no route says what is asked for: its
// constraints, and if its issuer has made it for some routes' own services, these alone.
func (c *Checker) limitsOf(p *authn.Proof) *policy.Constraints {
	if len(p.Audiences) == 0 || !c.areServices(p.Audiences) {
		return p.Constraints
	}
	var limits policy.Constraints
	if p.Constraints != nil {
		limits = *p.Constraints
	}
	services := slices.Clone(p.Audiences)
	if own := limits.Audiences; len(own) > 0 {
		services = slices.DeleteFunc(services, func(name string) bool { return !slices.Contains(own, name) })
	}
	if limits.Audiences = services; len(services) == 0 { // no name would be no limit
		limits.Audiences = []string{nowhere}
	}
	return &limits
}

// nowhere is the name of no service: names are printable.
const nowhere = "\x00"

// areServices reports whether all names are those of some routes' own services.
func (c *Checker) areServices(names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !c.isService(name) })
}

// isService reports whether a name is that of some routes' own service.
func (c *Checker) isService(name string) bool {
	for i := range c.routes {
		if c.routes[i].Audience == name && name != c.cfg.Audience {
			return true
		}
	}
	return false
}

// demands holds the request and its principal against what the route asks for.
func (c *Checker) demands(x *exchange) bool {
	r := x.route
	switch {
	case r.RequireTLS && (x.request.Plaintext || x.request.Scheme != "https"):
		return x.deny(policy.ReasonPlaintext, "the route asks for TLS")
	case len(r.Zones) > 0 && !x.inZones(r.Zones):
		return x.deny(policy.ReasonNetwork, "the route does not take requests from there")
	case x.proofs[0] == anonymous:
		return true // what the route asks of others does not apply
	}
	return c.demandsOf(x, x.decision.Principal)
}

func (c *Checker) demandsOf(x *exchange, p *policy.Principal) bool {
	r := x.route
	switch {
	case len(r.Kinds) > 0 && !slices.Contains(r.Kinds, p.Kind):
		return x.deny(policy.ReasonPrincipalKind, "the route does not take a "+string(p.Kind))
	case !c.ownTenant(x):
		return x.deny(policy.ReasonTenant, "what is asked for belongs to another tenant")
	case c.assurance(x) < r.MinAssurance:
		return x.deny(policy.ReasonAssurance, "the proof is weaker than the route asks for")
	case r.MaxAge > 0 && (p.AuthTime.IsZero() || x.now.Sub(p.AuthTime).Abs() > r.MaxAge):
		return x.deny(policy.ReasonStepUp, "the user authenticated too long ago, or nobody knows when")
	case len(r.ACR) > 0 && !slices.Contains(r.ACR, p.ACR):
		return x.deny(policy.ReasonStepUp, "the user was authenticated in another context than the route asks for")
	case slices.ContainsFunc(r.AMR, func(m string) bool { return !slices.Contains(p.AMR, m) }):
		return x.deny(policy.ReasonStepUp, "the user was authenticated without a method that the route asks for")
	}
	for _, scope := range r.Scopes {
		if !slices.Contains(p.Scopes, scope) {
			x.decision.MissingScopes = append(x.decision.MissingScopes, scope)
		}
	}
	if len(x.decision.MissingScopes) > 0 {
		return x.deny(policy.ReasonScope, "the route asks for scopes that the credential lacks")
	}
	return true
}

// ownTenant holds the tenants that the route and the caller name against each other
// and against those of the principals. No policy can lift this.
func (c *Checker) ownTenant(x *exchange) bool {
	for _, owner := range [...]string{x.route.Tenant, x.attributes.Tenant} {
		if owner == "" {
			continue
		}
		for _, p := range x.proofs {
			if p.Principal.Tenant != owner {
				return false
			}
		}
	}
	return true
}

// assurance is the level of the strongest proof.
func (c *Checker) assurance(x *exchange) int {
	level := 0
	for _, p := range x.proofs {
		level = max(level, p.Principal.Assurance)
	}
	return level
}
