// Package authn proves who is calling.
//
// Extraction finds the credentials of a request in the places that the
// configuration lists, and only there. A Chain asks one authenticator after
// another, in the order of a slice, until one says that the credential is its
// own. Each answers in one of four ways, and the difference is the whole point:
//
//	a Proof           mine, and good           the principal
//	ErrNotMine        not mine                 the next authenticator
//	a *Refusal        mine, and bad            stop: 401
//	any other error   could not find out       stop: 503
//
// A credential that nobody owns is refused. Nothing is tried twice, and no error
// makes the chain go on.
package authn

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Credential is what a caller presents, not yet proven.
type Credential struct {
	// Uses are the authenticators that may own it, in the order to ask them, as
	// the extraction rule lists them.
	Uses []policy.Method
	// Secret is its text, without scheme or cookie name: of Basic, the password.
	Secret policy.Secret
	// Client is the address that the request comes from; invalid if it is not known. It
	// proves nothing, and bounds how often somebody may guess.
	Client netip.Addr
	// User is the user-id that came with a password; empty for all others.
	User string
	// Scheme is the lower-case scheme of the authorization header that it came with,
	// for example "bearer" or "dpop"; empty if it came elsewhere.
	Scheme string
	// From says where it was found, for example "header:authorization/bearer".
	From string
	// Header is the lower-case field to strip from the upstream request; empty
	// if the credential did not come in a header.
	Header string
	// Query is the query parameter to strip; empty if it did not come in one.
	Query string
	// Cookie is the cookie to strip; empty if it did not come in one. A browser sends
	// cookies whoever made it send the request, so the Checker asks for more before
	// it lets one change anything.
	Cookie string
}

// Authenticator proves one kind of credential.
//
// Authenticate returns ErrNotMine if the credential is recognizably of another
// kind, a *Refusal if it is of this kind and bad, and any other error if the
// truth could not be found out. The Proof and everything in it is shared between
// requests and must not change. With a context that is over, an implementation
// answers from RAM, or returns an error at once. Implementations are safe for
// concurrent use, and do not log, cache or print the secret.
type Authenticator interface {
	Authenticate(ctx context.Context, c *Credential) (*Proof, error)
}

// Proof is what an authenticator found: the principal, and how far it holds.
type Proof struct {
	Principal *policy.Principal
	// Constraints are the credential's own limits; nil for none.
	Constraints *policy.Constraints
	// NotAfter is the instant from which the proof no longer counts, leeway
	// included; zero for never. Whoever holds a Proof checks it against the clock
	// at each use.
	NotAfter time.Time
	// Subject identifies what a denylist may revoke.
	Subject Subject
	// Origins are the Subjects of the credentials that it came from, and with which it
	// falls; nil for one that did not come from others.
	Origins []Subject
	// Confirm is what the caller must show besides, because the credential is bound to
	// it. The Checker asks for it; a proof with an empty one may be used by whoever
	// holds the credential.
	Confirm Confirmation
	// Audiences are the names of ours for which an issuer has made the token; nil if it
	// does not say. The Checker holds them against the routes that have names of their own.
	Audiences []string
	// Peer is the workload at the other end of the connection, of a proof by
	// certificate; nil for all others.
	Peer *policy.Peer
	// State is how much state the proof needed.
	State policy.State

	// Rendered is a slot for what the Checker derives from the proof once and
	// uses on every request, such as identity headers. Only the Checker reads it,
	// and it checks that the value is its own.
	Rendered atomic.Pointer[any]

	enrolment atomic.Pointer[enrolment]
}

// Confirmation binds a credential to a key (RFC 7800). Every field that is set must
// be met.
type Confirmation struct {
	// Certificate is the SHA-256 of the client certificate in lower-case hex (RFC 8705
	// section 3.1, x5t#S256).
	Certificate string
	// Key is the JWK thumbprint of the key that signs DPoP proofs (RFC 9449 section 6.1,
	// jkt).
	Key string
}

// Possession is what a request shows to prove that its sender holds a key
// (RFC 9449): what a DPoP proof is held against.
type Possession struct {
	// Proof is the DPoP field, of which a request has exactly one.
	Proof string
	// Method, Scheme, Host, Port and Path are those of the request as the client sent
	// it; Path is raw, without the query. Port is 0 for the scheme's own.
	Method, Scheme, Host string
	Port                 uint16
	Path                 string
	// Token is the access token, and Key the thumbprint of the key that it is bound to
	// (Confirmation.Key).
	Token policy.Secret
	Key   string
}

// Subject is how a denylist names a credential. Empty fields name nothing.
type Subject struct {
	// TokenID is the jti or the key id; SessionID the sid.
	TokenID, SessionID string
	// KeyID is the kid that signed it.
	KeyID string
	// Fingerprint is the SHA-256 of a certificate in lower-case hex.
	Fingerprint string
	// Issuer, ID, Client, Agent and Tenant are revoked for all credentials issued
	// before some time. Agent is the id of the agent that it belongs to, or that
	// acts by it.
	Issuer, ID, Client, Agent, Tenant string
	// IssuedAt is that time; zero counts as issued before everything.
	IssuedAt time.Time
}

// SubjectOf returns what a denylist may revoke of a principal that a token has named:
// the token, who it is of, and the agent that it belongs to. What else the token says,
// its session, client and signing key, is for the kind to add.
func SubjectOf(p *policy.Principal) Subject {
	s := Subject{TokenID: p.CredentialID, Issuer: p.Issuer, ID: p.ID, Tenant: p.Tenant, IssuedAt: p.IssuedAt}
	if p.Kind == policy.KindAgent {
		s.Agent = p.ID
	}
	return s
}

// ErrNotMine says that a credential is recognizably of another kind.
var ErrNotMine = errors.New("not a credential of this kind")

// ErrUnreachable says that who knows the truth could not be asked: a fault of the
// network, or of the other side (5xx). Cached may then use an answer that it had
// before; other errors are no reason to.
var ErrUnreachable = errors.New("it could not be asked")

// Refusal says that a credential is of the authenticator's kind and bad. Its reason is
// one that has the status 401.
type Refusal = policy.Refusal

// Refuse returns a Refusal.
func Refuse(reason policy.Reason, detail string) *Refusal {
	return &Refusal{Reason: reason, Detail: detail}
}
