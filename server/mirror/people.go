package mirror

import (
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// People is the index of users, for those who come with a name and a password. The
// mirror does not have the hashes of passwords; it has the version of each record, from
// which it is seen that a password was changed.
func (m *Mirror) People() authn.People { return people{m} }

type people struct{ m *Mirror }

// Person implements authn.People. Names are those of the records, letter by letter.
func (ix people) Person(tenant, name string) authn.Person {
	key := store.PrincipalKey(tenant, name)
	if t, id := store.SplitPrincipalKey(key); t != tenant || id != name {
		return nil // a tenant with a slash would be another's
	}
	p := ix.m.world.Load().principals.get(key)
	if p == nil {
		return nil
	}
	if s, _ := p.look(); s == nil || !s.body.damaged && s.body.person.value.Kind != policy.KindUser {
		return nil
	}
	return p
}

// look returns the state of a principal at one moment, nil if there is none, and what
// keeps it from counting then.
func (p *principal) look() (s *state[principalBody], err error) {
	for {
		head := p.world.head.Load()
		s = p.state.at(head)
		_, err = p.alive(head)
		if p.world.head.Load() == head {
			return s, err
		}
	}
}

// Version implements authn.Person.
func (p *principal) Version() authn.Version {
	v := authn.Version{Epoch: p.world.epoch}
	if s, _ := p.look(); s != nil {
		v.Change = s.version
	}
	return v
}

// Alive implements authn.Person.
func (p *principal) Alive() error {
	_, err := p.look()
	return err
}

// Open implements authn.Person.
func (p *principal) Open() (*policy.Principal, authn.Version, error) {
	s, err := p.look()
	if err != nil {
		return nil, authn.Version{}, err
	}
	tenant, id := store.SplitPrincipalKey(p.key)
	of := &s.body.person.value
	if of.Kind != policy.KindUser {
		return nil, authn.Version{}, refuse(policy.ReasonDisabled, "principal", p.key, "is no user any more")
	}
	return &policy.Principal{
		ID: id, Kind: of.Kind, Tenant: tenant,
		Roles: of.Roles, Scopes: of.Scopes, Permissions: of.Permissions, Metadata: of.Metadata,
		Issuer: seal.Issuer, Claims: s.body.claims("name", s.body.name),
	}, authn.Version{Epoch: p.world.epoch, Change: s.version}, nil
}
