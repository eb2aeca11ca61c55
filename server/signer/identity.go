package signer

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-auth/postern/policy"
)

// TypeIdentity is the typ of identity tokens. Libraries that verify JWTs take it
// without being told; at+jwt would be wrong, as these are no access tokens of RFC 9068.
const TypeIdentity = "JWT"

// Why no identity token can be made.
var (
	// ErrNobody says that there is no principal, or an anonymous one.
	ErrNobody = errors.New("there is nobody to vouch for")
	// ErrNoAudience says that the token would be good everywhere.
	ErrNoAudience = errors.New("an identity token needs an audience")
	// ErrEnded says that the credential ends within this second. It counts as expired.
	ErrEnded = errors.New("the credential has ended")
	// ErrTooLarge says that the principal does not fit into a header field.
	ErrTooLarge = errors.New("the principal is too large for a header field")
	// ErrNotConfigured says that there are no signing keys.
	ErrNotConfigured = errors.New("there are no signing keys")
)

const (
	// MaxTokenBytes is the longest identity token. Servers refuse longer fields.
	MaxTokenBytes = 8 << 10
	// maxActors keeps the nesting within what strict readers of JSON take.
	maxActors = 14
	jtiBytes  = 16
)

// Identity returns a token that tells the audience who called (G-02), and when it ends:
// after the configured life, and not after notAfter or the credential's own end; zero
// times do not bound it. Times are cut to seconds. It may be used for all requests of
// the principal to the audience until it ends. An error says why there is none: then
// the request must not go on as if it had one.
//
// Its claims, of which those that are empty are missing:
//
//	iss, aud, iat, exp, jti    RFC 7519; jti is new for each token
//	sub                        the principal's id, unique within origin and tenant
//	origin                     who vouches for it: "postern", or an issuer's URL
//	tenant, kind               "user", "service", "agent", "device"
//	method, credential         how it was proven, and by which credential, by its id
//	roles, scopes, permissions lists
//	scope                      the scopes as one text
//	amr, acr, auth_time        RFC 8176, RFC 9470
//	act                        who acts for it, with kind (RFC 8693 section 4.1)
func (s *Signer) Identity(p *policy.Principal, audience string, now, notAfter time.Time) (token string, expires time.Time, err error) {
	switch {
	case s == nil:
		return "", time.Time{}, ErrNotConfigured
	case p == nil || p.ID == "" || p.Kind == "" || p.Kind == policy.KindAnonymous:
		return "", time.Time{}, ErrNobody
	case audience == "":
		return "", time.Time{}, ErrNoAudience
	case len(p.Actors) > maxActors:
		return "", time.Time{}, ErrTooLarge
	}
	expires = now.Add(s.ttl)
	for _, end := range [...]time.Time{notAfter, p.ExpiresAt} {
		if !end.IsZero() && end.Before(expires) {
			expires = end
		}
	}
	now, expires = now.UTC().Truncate(time.Second), expires.UTC().Truncate(time.Second)
	if !expires.After(now) {
		return "", time.Time{}, ErrEnded
	}
	jti, err := s.newID()
	if err != nil {
		return "", time.Time{}, err
	}
	o := newObject(sizeOf(p) + len(s.issuer) + len(audience))
	o.text("iss", s.issuer)
	o.text("sub", p.ID)
	o.text("aud", audience)
	o.time("iat", now)
	o.time("exp", expires)
	o.text("jti", string(jti[:]))
	o.text("origin", p.Issuer)
	o.text("tenant", p.Tenant)
	o.text("kind", string(p.Kind))
	o.text("method", string(p.Method))
	o.text("credential", p.CredentialID)
	o.list("roles", p.Roles)
	o.list("scopes", p.Scopes)
	o.scope(p.Scopes)
	o.list("permissions", p.Permissions)
	o.list("amr", p.AMR)
	o.text("acr", p.ACR)
	o.time("auth_time", p.AuthTime)
	o.actors(p.Actors)
	if token = s.Sign(TypeIdentity, o.end()); len(token) > MaxTokenBytes {
		return "", time.Time{}, ErrTooLarge
	}
	return token, expires, nil
}

// newID makes the id of a token: 128 bits, in base64url.
func (s *Signer) newID() (id [22]byte, err error) {
	var raw [jtiBytes]byte
	if _, err := io.ReadFull(s.random, raw[:]); err != nil {
		return id, fmt.Errorf("no token was made: random source: %w", err)
	}
	b64.Encode(id[:], raw[:])
	return id, nil
}

// sizeOf is about how long the claims of a principal are, so that they are written into
// one piece of memory.
func sizeOf(p *policy.Principal) int {
	n := 384 + len(p.ID) + len(p.Issuer) + len(p.Tenant) + len(p.CredentialID) + len(p.ACR) + 64*len(p.Actors)
	for _, list := range [...][]string{p.Roles, p.Scopes, p.Scopes, p.Permissions, p.AMR} {
		for _, item := range list {
			n += len(item) + len(`"",`)
		}
	}
	return n
}
