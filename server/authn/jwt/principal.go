package jwt

import (
	"cmp"
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// proof makes the principal of a token that was proven.
func (i *issuer) proof(claims jose.Value, key *jose.Key, life jose.Lifetime) (*authn.Proof, error) {
	certificate, confirmed, err := jose.ReadConfirmation(claims.Get("cnf"))
	if err != nil {
		return nil, refuse(err)
	}
	who, err := i.claims.Read(claims)
	p := who.Principal
	switch {
	case err != nil:
		return nil, refuse(err)
	case p.ID == "":
		return nil, invalid("%s is missing, which says who the caller is", i.claims.ID)
	case len(i.clients) > 0 && !slices.Contains(i.clients, who.Client):
		return nil, invalid("the client is not one of those that are accepted")
	}
	p.Kind = cmp.Or(i.kind, p.Kind)
	p.Claims = jose.PassClaims(claims, i.pass)
	p.Method, p.Assurance, p.Issuer = i.method, authn.Assurance(i.assurance, p.AMR), i.url
	p.AuthTime, p.IssuedAt, p.ExpiresAt = life.Authenticated, life.Issued, life.Expires
	subject := authn.SubjectOf(p)
	subject.SessionID, subject.KeyID, subject.Client = who.Session, key.ID, who.Client
	return &authn.Proof{
		Principal:   p,
		Constraints: i.constraints,
		NotAfter:    life.NotAfter,
		Confirm:     authn.Confirmation{Certificate: certificate, Key: confirmed},
		State:       policy.StateNone,
		Subject:     subject,
		Audiences:   i.rules.Named(claims.Get("aud")),
	}, nil
}
