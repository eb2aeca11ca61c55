package jwt

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// invalid refuses a token for a claim that is missing or malformed.
func invalid(format string, args ...any) error {
	return authn.Refuse(policy.ReasonInvalidClaim, fmt.Sprintf(format, args...))
}

func wrongType(detail string) error { return authn.Refuse(policy.ReasonWrongTokenType, detail) }

// accessTypes are the values of typ that access tokens have. Media types are
// compared without regard to case, and "application/" may be left out (RFC 7515
// section 4.1.9). The first is not accepted where RFC 9068 is demanded.
var accessTypes = [...]string{"JWT", "at+jwt", "application/at+jwt"}

// checkType refuses tokens that were not issued to be shown to an API.
func (i *issuer) checkType(token *jose.Token) error {
	if err := i.checkTyp(token.Header()); err != nil {
		return err
	}
	claims := token.Claims()
	if claims.Get("events").Exists() {
		return wrongType("a security event or logout token: it has the claim events (RFC 8417 section 2.2)")
	}
	for _, name := range [...]string{"at_hash", "c_hash", "s_hash"} {
		if claims.Get(name).Exists() {
			return wrongType("an ID token: it has the claim " + name)
		}
	}
	if claims.Get("nonce").Exists() && !claims.Get("scope").Exists() && !claims.Get("scp").Exists() {
		return wrongType("an ID token: it has a nonce and no scope")
	}
	for _, name := range [...]string{"type", "typ", "token_type", "token_use"} {
		if use, ok := claims.Get(name).Text(); ok && isOtherUse(use) {
			return wrongType("its claim " + name + " says that it is no access token")
		}
	}
	if claims.Get("cnf").Exists() {
		return authn.Refuse(policy.ReasonBinding, "the token is bound to a key (cnf), whose possession was not proven")
	}
	return nil
}

func (i *issuer) checkTyp(header jose.Value) error {
	if cty, ok := header.Get("cty").Text(); ok && strings.EqualFold(strings.TrimPrefix(cty, "application/"), "jwt") {
		return wrongType("a nested token (cty)")
	}
	typ, ok := header.Get("typ").Text()
	if !ok && !i.strict {
		return nil
	}
	accepted := accessTypes[:]
	if i.strict {
		accepted = accepted[1:]
	}
	if !slices.ContainsFunc(accepted, func(t string) bool { return strings.EqualFold(t, typ) }) {
		return wrongType(fmt.Sprintf("typ %.64q is not that of an access token", typ))
	}
	return nil
}

// otherUses are what issuers write into type, typ, token_type or token_use of
// tokens that are not for APIs, without punctuation and in lower case.
var otherUses = [...]string{"refresh", "refreshtoken", "offline", "id", "idtoken", "logout", "logouttoken"}

func isOtherUse(use string) bool {
	use = strings.NewReplacer("_", "", "-", "", " ", "", "+jwt", "").Replace(strings.ToLower(use))
	return slices.Contains(otherUses[:], use) || strings.Contains(use, "refresh")
}

// lifetime is when a token was issued, when it ends, and when its user logged in.
// issued and authenticated are zero if it does not say.
type lifetime struct {
	issued, expires, authenticated time.Time
	// notAfter is expires and the issuer's clock skew.
	notAfter time.Time
}

// lifetime checks exp, nbf and iat (RFC 7519 section 4.1) and auth_time (RFC 9068
// section 2.2.1) against the clock. A login in the future would look recent for as
// long as the token lives, and so get past every max_age.
func (i *issuer) lifetime(claims jose.Value, now time.Time) (l lifetime, err error) {
	var notBefore time.Time
	if l.expires, err = date(claims, "exp"); err != nil {
		return l, err
	}
	if notBefore, err = date(claims, "nbf"); err != nil {
		return l, err
	}
	if l.issued, err = date(claims, "iat"); err != nil {
		return l, err
	}
	if l.authenticated, err = date(claims, "auth_time"); err != nil {
		return l, err
	}
	if l.authenticated.Unix() <= 0 {
		l.authenticated = time.Time{} // some issuers write 0 for "unknown"
	}
	l.notAfter = l.expires.Add(i.skew)
	horizon := now.Add(i.skew)
	switch {
	case l.expires.IsZero():
		return l, invalid("exp is missing")
	case l.expires.Unix() <= 0 || !l.issued.IsZero() && l.issued.Unix() <= 0:
		return l, invalid("exp and iat must be later than 1970")
	case !now.Before(l.notAfter):
		return l, authn.Refuse(policy.ReasonExpired, "exp is "+l.expires.Format(time.RFC3339))
	case notBefore.After(l.expires) || l.issued.After(l.expires):
		return l, invalid("the token ends before it begins")
	case notBefore.After(horizon):
		return l, authn.Refuse(policy.ReasonNotYetValid, "nbf is "+notBefore.Format(time.RFC3339))
	case l.issued.After(horizon):
		return l, authn.Refuse(policy.ReasonNotYetValid, "iat is "+l.issued.Format(time.RFC3339))
	case l.authenticated.After(horizon):
		return l, invalid("auth_time is %s, in the future", l.authenticated.Format(time.RFC3339))
	case i.maxLifetime > 0 && l.issued.IsZero():
		return l, invalid("iat is missing, which max_lifetime needs")
	case i.maxLifetime > 0 && l.expires.Sub(l.issued) > i.maxLifetime:
		return l, authn.Refuse(policy.ReasonLifetimeExceeded, fmt.Sprintf("the token lives %s, at most %s is accepted", l.expires.Sub(l.issued), i.maxLifetime))
	}
	return l, nil
}

// date returns a NumericDate, or the zero time if the claim is not there. An
// nbf of 0, which some issuers write for "none", is the beginning of 1970.
func date(claims jose.Value, name string) (time.Time, error) {
	v := claims.Get(name)
	if !v.Exists() {
		return time.Time{}, nil
	}
	t, ok := v.NumericDate()
	if !ok {
		return time.Time{}, invalid("%s is no date (RFC 7519 section 2)", name)
	}
	return t, nil
}

// checkAudience demands that the token is meant for one of our names (RFC 7519
// section 4.1.3).
func (i *issuer) checkAudience(aud jose.Value) error {
	found := i.audiences == nil
	switch aud.Kind() {
	case jose.String:
		found = found || slices.ContainsFunc(i.audiences, aud.Is)
	case jose.Array:
		for e := range aud.Elements() {
			if e.Kind() != jose.String {
				return authn.Refuse(policy.ReasonInvalidAudience, "aud holds "+e.Kind().String())
			}
			found = found || slices.ContainsFunc(i.audiences, e.Is)
		}
	case jose.Absent:
	default:
		return authn.Refuse(policy.ReasonInvalidAudience, "aud is "+aud.Kind().String())
	}
	if !found {
		return authn.Refuse(policy.ReasonInvalidAudience, "the token is not meant for this service")
	}
	return nil
}

// strictClaims are what RFC 9068 section 2.2 requires besides what always is.
var strictClaims = [...]string{"sub", "client_id", "iat", "jti"}

func (i *issuer) checkRequired(claims jose.Value) error {
	for _, path := range i.required {
		if k := path.find(claims).Kind(); k == jose.Absent || k == jose.Null {
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
