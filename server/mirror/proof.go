package mirror

import (
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// assurance is the level of a key and of a session: a bearer secret.
const assurance = 2

// built is a proof with the state of the principal that it was built from.
type built struct {
	proof authn.Proof
	from  *state[principalBody]
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
	p.Claims = of.body.claims("name", b.name, "environment", profile.Environment, "type", string(profile.Type))
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

func (s *session) build(b *sessionBody, of *state[principalBody]) *built {
	tenant, id := store.SplitPrincipalKey(s.owner.key)
	person := &of.body.person.value
	created, ends := instant(b.created), instant(b.notAfter)
	p := &policy.Principal{
		ID: id, Kind: person.Kind, Tenant: tenant,
		Roles: person.Roles, Scopes: person.Scopes, Permissions: person.Permissions, Metadata: person.Metadata,
		Method: policy.MethodSession, Assurance: authn.Assurance(assurance, b.amr),
		ACR: b.acr, AMR: slices.Clip(b.amr), AuthTime: instant(b.authenticated),
		CredentialID: s.id, Issuer: seal.Issuer,
		IssuedAt: created, ExpiresAt: ends,
	}
	p.Claims = of.body.claims("name", of.body.name)
	return &built{from: of, proof: authn.Proof{
		Principal: p, NotAfter: ends, State: policy.StateMirror,
		Subject: authn.Subject{
			SessionID: s.id, Issuer: seal.Issuer, ID: id, Agent: agent(p), Tenant: tenant, IssuedAt: created,
		},
	}}
}
