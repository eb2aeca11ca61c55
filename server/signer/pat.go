package signer

import (
	"time"

	"github.com/postern-auth/postern/policy"
)

// TypePAT is the typ of personal access tokens.
const TypePAT = "pat+jwt"

// PAT is what a personal access token says. What it may do stands in its record and not
// in it, so that it can change, and end, without the token.
type PAT struct {
	// ID is the id of the credential, the claim jti.
	ID string
	// Subject is the user, Tenant the user's tenant, Environment where it is meant to be
	// used; the last two may be empty.
	Subject, Tenant, Environment string
	IssuedAt, ExpiresAt          time.Time
}

// PAT returns a personal access token (P-13). Its audience is Postern itself, whose name
// is the issuer's: an upstream that holds a token against its own name refuses it. Nil
// returns none.
func (s *Signer) PAT(t PAT) policy.Secret {
	if s == nil {
		return policy.Secret{}
	}
	end := t.ExpiresAt
	if whole := end.Truncate(time.Second); whole.Before(end) {
		end = whole.Add(time.Second) // the record ends it in time
	}
	o := newObject(128 + 2*len(s.issuer) + len(t.Subject) + len(t.Tenant))
	o.text("iss", s.issuer)
	o.text("sub", t.Subject)
	o.text("aud", s.issuer)
	o.time("iat", t.IssuedAt)
	o.time("exp", end)
	o.text("jti", t.ID)
	o.text("tenant", t.Tenant)
	o.text("env", t.Environment)
	return policy.NewSecret(s.Sign(TypePAT, o.end()))
}
