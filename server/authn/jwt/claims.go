package jwt

import (
	"errors"
	"fmt"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// refuse turns what package jose says is wrong with a claim into a Refusal.
func refuse(err error) error {
	if claim := (*jose.ClaimError)(nil); errors.As(err, &claim) {
		return authn.Refuse(claim.Reason, claim.Detail)
	}
	return err
}

// invalid refuses a token for a claim that is missing or malformed.
func invalid(format string, args ...any) error {
	return authn.Refuse(policy.ReasonInvalidClaim, fmt.Sprintf(format, args...))
}

// checkType refuses tokens that were not issued to be shown to an API.
func (i *issuer) checkType(token *jose.Token) error {
	return refuse(jose.CheckAccessToken(token, i.strict))
}

// strictClaims are what RFC 9068 section 2.2 requires besides what always is.
var strictClaims = [...]string{"sub", "client_id", "iat", "jti"}

func (i *issuer) checkRequired(claims jose.Value) error {
	for _, path := range i.required {
		if k := path.Find(claims).Kind(); k == jose.Absent || k == jose.Null {
			return invalid("%s is missing", path)
		}
	}
	if !i.strict {
		return nil
	}
	for _, name := range strictClaims {
		if !claims.Get(name).Exists() {
			return invalid("%s is missing (RFC 9068 section 2.2)", name)
		}
	}
	return nil
}
