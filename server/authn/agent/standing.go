package agent

import (
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
)

// standing is a proof with the records that it rests on. It is kept in the slot of the
// proof of what the token says, which no Checker ever sees.
type standing struct {
	// subject is nil where that is no agent; actors are all of the chain.
	subject *authn.Agent
	actors  []*authn.Agent
	// person is the user of Postern's own for whom they act; nil for none.
	person  authn.Person
	version authn.Version
	proof   *authn.Proof
}

// standing returns the proof that a token is at the moment: it holds what its records
// still allow. It allocates nothing while they are the same.
func (a *Authenticator) standing(proven *authn.Proof) (*authn.Proof, error) {
	if err := a.fallen(proven.Principal.Via); err != nil {
		return nil, err
	}
	if slot := proven.Rendered.Load(); slot != nil {
		if s, ok := (*slot).(*standing); ok && a.same(s, proven.Principal) {
			return s.proof, nil
		}
	}
	s, err := a.stand(proven)
	if err != nil {
		return nil, err
	}
	var slot any = s
	proven.Rendered.Store(&slot)
	return s.proof, nil
}

// fallen refuses a token with one of the credentials that it came from and that are kept
// here. What the denylist says of them, and of all others, the Checker finds out by the
// proof's Origins.
func (a *Authenticator) fallen(via []string) error {
	for _, id := range via {
		if !seal.IsID(id) {
			continue
		}
		if a.parents == nil {
			return authn.Refuse(policy.ReasonRevoked, "nobody keeps the credential that it came from")
		}
		if reason := a.parents.Ended(id); reason != policy.ReasonAllowed {
			return authn.Refuse(reason, "it came from the credential "+id+", which was ended")
		}
	}
	return nil
}

// same reports whether the records are those that a standing was made of.
func (a *Authenticator) same(s *standing, p *policy.Principal) bool {
	if s.subject != nil && !unchanged(s.subject, a.agents.Agent(p.Tenant, p.ID)) {
		return false
	}
	for i := range p.Actors {
		if !unchanged(s.actors[i], a.agents.Agent(p.Tenant, p.Actors[i].ID)) {
			return false
		}
	}
	if s.person == nil {
		return true
	}
	now := a.people.Person(p.Tenant, p.ID)
	return now != nil && now.Alive() == nil && now.Version() == s.version
}

func unchanged(was, is *authn.Agent) bool {
	return is != nil && is.Version == was.Version && is.Ended == was.Ended
}

// stand holds what a token says against the records.
func (a *Authenticator) stand(proven *authn.Proof) (*standing, error) {
	s, p := &standing{}, *proven.Principal
	var err error
	switch {
	case p.Kind == policy.KindAgent:
		err = a.ofSubject(s, &p)
	case p.Kind == policy.KindUser && p.Issuer == seal.Issuer:
		err = a.ofUser(s, &p)
	}
	if err != nil {
		return nil, err
	}
	for _, actor := range p.Actors {
		record := a.agents.Agent(p.Tenant, actor.ID)
		if record == nil {
			return nil, widened("an agent that acts is not registered in the tenant of whom it acts for")
		}
		if err := inForce(record); err != nil {
			return nil, err
		}
		roles, scopes := a.allowed(record)
		if !within(p.Scopes, scopes) {
			return nil, widened("the token has a scope that an agent which acts by it may not have")
		}
		p.Roles = only(p.Roles, func(r string) bool { return slices.Contains(roles, r) })
		p.Permissions = only(p.Permissions, func(right string) bool { return covered(right, record.Principal.Permissions) })
		s.actors = append(s.actors, record)
	}
	s.proof = &authn.Proof{
		Principal: &p, Constraints: proven.Constraints, NotAfter: proven.NotAfter, State: proven.State,
		Subject: proven.Subject, Origins: proven.Origins, Confirm: proven.Confirm, Audiences: proven.Audiences,
	}
	return s, nil
}

// ofSubject leaves the agent that a token is of what it may have.
func (a *Authenticator) ofSubject(s *standing, p *policy.Principal) error {
	record := a.agents.Agent(p.Tenant, p.ID)
	if record == nil {
		return authn.Refuse(policy.ReasonCredentialUnknown, "no agent of that name is registered in the tenant")
	}
	if err := inForce(record); err != nil {
		return err
	}
	roles, scopes := a.allowed(record)
	p.Roles = only(p.Roles, func(r string) bool { return slices.Contains(roles, r) })
	p.Scopes = only(p.Scopes, func(sc string) bool { return covered(sc, scopes) })
	p.Claims, p.Metadata = record.Principal.Claims, record.Principal.Metadata
	s.subject = record
	return nil
}

// ofUser leaves a token by which somebody acts for a user what the user still has.
func (a *Authenticator) ofUser(s *standing, p *policy.Principal) error {
	if a.people == nil {
		return authn.Refuse(policy.ReasonCredentialUnknown, "there are no users here")
	}
	person := a.people.Person(p.Tenant, p.ID)
	if person == nil {
		return authn.Refuse(policy.ReasonCredentialUnknown, "there is no such user in the tenant")
	}
	now, version, err := person.Open()
	if err != nil {
		return err
	}
	p.Roles = only(p.Roles, func(r string) bool { return slices.Contains(now.Roles, r) })
	p.Scopes = only(p.Scopes, func(sc string) bool { return covered(sc, now.Scopes) })
	p.Claims, p.Metadata = now.Claims, now.Metadata
	s.person, s.version = person, version
	return nil
}

// inForce refuses an agent that was ended.
func inForce(record *authn.Agent) error {
	switch record.Ended {
	case policy.ReasonAllowed:
		return nil
	case policy.ReasonUnspecified:
		return authn.Refuse(policy.ReasonDisabled, "nothing says that the agent is in force")
	}
	return authn.Refuse(record.Ended, "the agent "+record.Principal.ID+", an owner of it or its tenant was ended")
}

// allowed are the roles and scopes that an agent may have. See the package comment.
func (a *Authenticator) allowed(record *authn.Agent) (roles, scopes []string) {
	return a.cfg.Allowed(record.Principal.Roles, record.Principal.Scopes, record.Roles)
}

// Allowed are the roles and scopes that an agent may have: those of its principal, and
// those of which it may get tokens with what they stand for.
func (c *Config) Allowed(roles, scopes, tokenRoles []string) (allRoles, allScopes []string) {
	allRoles, allScopes = slices.Clone(roles), slices.Clone(scopes)
	for _, role := range tokenRoles {
		if c.Roles[role] != nil && !slices.Contains(allRoles, role) {
			allRoles = append(allRoles, role)
		}
	}
	for _, s := range c.ScopesOf(tokenRoles) {
		if !slices.Contains(allScopes, s) {
			allScopes = append(allScopes, s)
		}
	}
	return allRoles, allScopes
}

// within reports whether each scope is covered.
func within(scopes, held []string) bool {
	return !slices.ContainsFunc(scopes, func(s string) bool { return !covered(s, held) })
}

// covered reports whether a scope is held, by name or by one that ends in "*".
func covered(scope string, held []string) bool {
	return slices.ContainsFunc(held, func(h string) bool {
		prefix, star := strings.CutSuffix(h, "*")
		return h == scope || star && strings.HasPrefix(scope, prefix)
	})
}

// only returns the items that are kept, in a list of their own if there are others.
func only(items []string, keep func(string) bool) []string {
	if !slices.ContainsFunc(items, func(s string) bool { return !keep(s) }) {
		return items
	}
	return slices.DeleteFunc(slices.Clone(items), func(s string) bool { return !keep(s) })
}
