// Package policy names every concept of Postern. It holds words, not work: the
// other packages read and fill these types, and whoever has read this package
// can read any of them.
//
// One question runs through seven phases (package server/check conducts them):
//
//	door       wire message        → Attributes        what the gateway saw
//	canonical  Attributes          → Request           the one reading of it
//	authn      Attributes          → Principal, Peer   who is calling
//	check      Constraints, Route  → may this credential do this here?
//	rego       Input               → Verdict           may they, says the policy
//	check      Verdict             → Decision          the answer, with its Reason
//	door       Decision            → wire message
//
// Everything here is a plain value of the standard library. A zero value never
// allows anything: the zero Decision, Verdict and Reason are denies.
package policy

import (
	"crypto/x509"
	"net/netip"
	"time"
)

// Attributes is a request as the enforcement point saw it: raw, unread and
// untrusted. Doors fill it, canonical reads it.
type Attributes struct {
	// Door names the wire protocol that brought the request: "grpc" or
	// "extauthz".
	Door string
	// Caller names the enforcement point that asked, as the configuration's
	// `callers` know it. Empty where nobody is listed.
	Caller string
	// RequestID is the id under which the caller logs the request. Untrusted.
	RequestID string
	// Time is when the enforcement point saw the request; zero if it did not say.
	Time time.Time

	// Method is the HTTP method as sent; case matters (RFC 9110 section 9.1).
	Method string
	// Scheme is "http" or "https" as the client used it; empty if unknown.
	Scheme string
	// Host is the authority with its port, as sent.
	Host string
	// Path is the request target: path and query, before any decoding.
	Path string
	// Protocol is the HTTP version, for example "HTTP/2"; for logs only.
	Protocol string
	// Proxyless says that a gRPC client or server may ask for itself, without a
	// gateway (gRFC A92): the message knows neither host nor scheme.
	Proxyless bool
	// Headers are the header fields in the order of arrival, duplicates kept.
	Headers Headers
	// Body is what the gateway forwarded of the body; nil if nothing.
	Body []byte
	// BodyTruncated says that Body is not the whole body.
	BodyTruncated bool
	// Size is the length of the whole body in bytes; -1 if unknown.
	Size int64

	// Source and Destination are the ends of the connection at the gateway.
	Source, Destination Endpoint
	// Extensions are what the enforcement point's own configuration says of the
	// route (Envoy context_extensions).
	Extensions map[string]string
	// Metadata is dynamic metadata of earlier filters, by filter name, as JSON
	// values. Read by policies only, never by Postern.
	Metadata map[string]any

	// Connection is the certificate chain with which the caller of Postern itself
	// connected, leaf first, as the handshake verified it; nil if it showed none.
	Connection []*x509.Certificate
	// Presented is a credential that the caller of Postern hands over apart from
	// the headers (CheckRequest.credential).
	Presented *Presented
	// Asserted is who the caller says that its client is, without proof; nil if it does
	// not say. It counts only where the caller is trusted to say so.
	Asserted *Asserted
	// Tenant owns what the request is for, as the caller says; empty if it does
	// not say.
	Tenant string
	// Cost is what the caller says that the request costs, by unit; nil if it does not
	// say. No amount is negative.
	Cost map[string]int64
	// Action is set when the question is not about an HTTP request but about an
	// action in an application's own words.
	Action *Action
	// Context holds further facts for the policy, as JSON values.
	Context map[string]any
	// ChangesQuery says that the door can change the query of the request that goes
	// upstream. Where it cannot, a verdict that wants that (Verdict.SetQuery, RemoveQuery)
	// is no allow.
	ChangesQuery bool
}

// Presented is a credential handed over apart from the headers, in the terms
// of the extraction rules: what it is, not yet what it proves.
type Presented struct {
	// Use is the kind as the caller names it: "api_key", "bearer" and so on.
	Use string
	// Secret is the credential's text.
	Secret Secret
	// Of is whose it has to be, as the caller says; zero if it does not say. A credential
	// of anybody else is refused.
	Of Owner
}

// Owner is somebody by name.
type Owner struct {
	ID   string
	Kind Kind
}

// Asserted is an identity that an enforcement point has established by itself (OpenID
// AuthZEN subject).
type Asserted struct {
	ID     string
	Kind   Kind
	Tenant string
	// Properties are facts about it, as JSON values.
	Properties map[string]any
}

// Endpoint is one end of a connection as the gateway saw it.
type Endpoint struct {
	// Address is zero when the gateway gave none that is an IP address.
	Address netip.AddrPort
	// Principal is the identity that the gateway verified for the connection
	// (Envoy source.principal), and Certificate the URL-encoded PEM of its
	// certificate. Both count only where the caller is trusted to say so.
	Principal, Certificate string
	// Service and Labels describe the workload.
	Service string
	Labels  map[string]string
}

// Action is something to be done to a resource, in the application's words.
type Action struct {
	// Name is the action, for example "orders.refund".
	Name string
	// ResourceType and ResourceID name the thing acted on.
	ResourceType, ResourceID string
	// Properties are facts about the resource, as JSON values.
	Properties map[string]any
}

// Request is the one canonical reading of an Attributes. Whatever decides looks
// at this and never at the raw text, so that policy, cache and constraints
// cannot read a request in two ways.
type Request struct {
	// Method is the method, a token of RFC 9110, unchanged.
	Method string
	// Scheme is "http", "https" or empty.
	Scheme string
	// Host is the lower-case host without port or trailing dot; Port is 0 if
	// none was given or it is the scheme's own.
	Host string
	Port uint16
	// Path starts with "/", is decoded exactly once, holds no dot segments, no
	// empty segments but a last one, no control characters.
	Path string
	// Folded is Path as the most forgiving server reads it: without regard to
	// letter case, look-alike characters and parameters. Rules that deny must hold
	// for Path or Folded; rules that allow look at Path alone.
	Folded string
	// Segments are the parts of Path between the slashes.
	Segments []string
	// Query is the raw query without "?".
	Query string
	// Service and RPC are the two halves of a gRPC path; empty for others.
	Service, RPC string
	// ClientIP is the client's address after trusted hops, unmapped and without
	// zone; invalid when it cannot be known.
	ClientIP netip.Addr
	// Plaintext says that the client's connection is known not to be TLS.
	Plaintext bool
	// Zones are the names of the network zones that the request comes from.
	Zones []string
}

// Kind is what sort of caller a principal is. Its zero value is nobody.
type Kind string

// The kinds of principals.
const (
	KindUser      Kind = "user"
	KindService   Kind = "service"
	KindAgent     Kind = "agent"
	KindDevice    Kind = "device"
	KindAnonymous Kind = "anonymous"
)

// Method is how a caller proved who it is: the name under which configuration
// and routes know an authenticator. It is open, so that a new kind of credential
// needs no change here.
type Method string

// The methods that Postern ships or names in routes.
const (
	MethodAnonymous  Method = "anonymous"
	MethodAPIKey     Method = "api_key"
	MethodPAT        Method = "pat"
	MethodBasic      Method = "basic"
	MethodJWT        Method = "jwt"
	MethodOAuth      Method = "oauth"       // an opaque token, by introspection
	MethodSession    Method = "session"     // of the store
	MethodAppSession Method = "app_session" // of another application
	MethodMTLS       Method = "mtls"
	MethodVault      Method = "vault"
	MethodSVID       Method = "jwt_svid"
	MethodWorkload   Method = "workload" // a JWT that the workload signed itself
	MethodAsserted   Method = "asserted" // a name that a trusted caller has proven itself
	MethodAgent      Method = "agent"    // a token of Postern's for an agent, or one that the agent signed itself
)

// Principal is a proven identity. It is immutable once an authenticator has
// returned it; many requests share one value.
type Principal struct {
	// ID is stable and unique within the tenant and issuer.
	ID   string
	Kind Kind
	// Tenant is the tenant it belongs to; empty means none.
	Tenant string
	// Roles, Scopes and Permissions are what the credential says it holds, in
	// the order it said so. What they mean is the policy's business.
	Roles, Scopes, Permissions []string
	// Narrowed is set for a token that has a part of its user's rights: a personal
	// access token that lists permissions. Nil for all others.
	Narrowed *Narrowed
	// Claims are the token's claims that the configuration lets through, and
	// Metadata what the credential's owner noted on it; both as JSON values.
	Claims, Metadata map[string]any
	// Method is how it was proven.
	Method Method
	// Assurance is the level of that proof: 1 password, 2 key or bearer token,
	// 3 signed token, 4 certificate or second factor.
	Assurance int
	// ACR, AMR and AuthTime are the authentication context (RFC 9470 section 2,
	// RFC 8176); zero if the issuer did not say.
	ACR      string
	AMR      []string
	AuthTime time.Time
	// Actors are those who act for the principal, outermost first (RFC 8693
	// section 4.1).
	Actors []Actor
	// CredentialID names the credential in logs: key id or jti, never the secret.
	CredentialID string
	// TokenBudget is the most model tokens that may be spent by this credential in its
	// whole life; 0 for no limit of its own.
	TokenBudget int64
	// BudgetID is the CredentialID of the credential that it came from by exchanges, first of
	// all: budgets and rates of single credentials count it together with that. Empty for
	// one that did not come from another.
	BudgetID string
	// Budgets are those of the credentials that it came from by exchanges, and that have
	// more than its own: what is spent by it is spent of them as well.
	Budgets []SharedBudget
	// Via are the ids of the credentials and sessions in Postern's store that it came from,
	// and with which it falls.
	Via []string
	// BoundTo is the SHA-256 in lower-case hex of the certificate to which a token is
	// bound, and BoundToKey the thumbprint of the key (RFC 7638); empty for none.
	BoundTo, BoundToKey string
	// Issuer is who vouches for it: an issuer URL or "postern".
	Issuer string
	// IssuedAt and ExpiresAt bound the credential's life; zero if unbounded.
	IssuedAt, ExpiresAt time.Time
}

// SharedBudget is the budget of a credential from which others came.
type SharedBudget struct {
	// ID is its CredentialID, and Limit its TokenBudget.
	ID    string
	Limit int64
	// ExpiresAt is when it ends.
	ExpiresAt time.Time
}

// Narrowed is a part of a user's rights. Which permissions the user's roles stand for
// is the policy's business, so it gets both sides: the token has a permission of
// Permissions that the user has as well. Principal.Roles and Principal.Permissions
// hold no more than what is common to both by name, so that a policy that has never
// heard of this grants too little rather than too much.
type Narrowed struct {
	// Permissions are those that the token lists.
	Permissions []string
	// UserRoles and UserPermissions are what its user has at the moment.
	UserRoles, UserPermissions []string
}

// Actor is one link of a delegation chain.
type Actor struct {
	ID   string
	Kind Kind
}

// Peer is the workload at the other end of the TLS connection, proven apart
// from the principal.
type Peer struct {
	// ID is the SPIFFE id or subject alternative name.
	ID string
	// TrustDomain is the SPIFFE trust domain that vouches for it; empty for an
	// identity of another kind.
	TrustDomain string
	// Fingerprint is the SHA-256 of the certificate in lower-case hex; empty if the
	// gateway did not say.
	Fingerprint string
}

// Input is everything that a policy may read about one request. All pointers
// but Peer, Target and Agreement are set. It is only valid during the evaluation.
type Input struct {
	Attributes *Attributes
	Request    *Request
	Principal  *Principal
	Peer       *Peer
	Route      *Route
	// Target is what the request would do; nil if nothing was read.
	Target *Target
	// Agreement is what people have agreed to; nil if nobody was asked.
	Agreement *Agreement
}

// Verdict is what the policy said. It is immutable and shared by all requests
// that the decision cache answers with it.
type Verdict struct {
	// Allow is the answer.
	Allow bool
	// Reason refines a deny: ReasonPolicyDenied unless the policy names another.
	Reason Reason
	// Message is safe to show to the caller; empty for the reason's own.
	Message string
	// Status overrides the HTTP status of a deny; 0 for the reason's own.
	Status int
	// Body overrides the body of a deny.
	Body string
	// UpstreamHeaders are set on the request to the upstream (allow),
	// RemoveHeaders taken from it, ClientHeaders added to the response.
	UpstreamHeaders, ClientHeaders []Header
	RemoveHeaders                  []string
	// SetQuery and RemoveQuery change the query of the upstream request, as far as the door
	// can (Attributes.ChangesQuery).
	SetQuery    []Header
	RemoveQuery []string
	// MissingScopes and MissingPermissions are all that a deny lacked.
	MissingScopes, MissingPermissions []string
	// Metadata is dynamic metadata for the gateway, as JSON values.
	Metadata map[string]any
	// Obligations are what the enforcement point must do besides.
	Obligations []Obligation
	// Rule, File and Line say which rule decided a deny; for logs and explain,
	// never for the caller. File is empty if unknown.
	Rule, File string
	Line       int
	// Grounds are those of a deny, for explain only; nil if they are not known.
	Grounds *Grounds
	// Revision is the revision of the policy that said so.
	Revision string
}

// Grounds say what a policy denied by: what it could read of the request, and which of
// its expressions had no answer. They hold no secret, and are bounded in size.
type Grounds struct {
	// Reads are the places of the input; MoreReads is how many were left out.
	Reads     []Reading
	MoreReads int
	// Failed are the expressions, the one that decided first; MoreFailed is how many were
	// left out.
	Failed     []Failure
	MoreFailed int
}

// Reading is one place of a policy's input.
type Reading struct {
	// Path is the place as a policy writes it: input.principal.roles.
	Path string
	// Value is what stood there as JSON, cut after 200 bytes; the type if only that
	// counts. It is empty if the place was Absent, or Masked: what a body or a query
	// holds, and what is named like a secret.
	Value          string
	Absent, Masked bool
}

// Failure is an expression of a policy that had no answer.
type Failure struct {
	// Rule is the one that it belongs to, File and Line where it stands.
	Rule, File string
	Line       int
	// Expression is its first line as the policy has it.
	Expression string
}

// Obligation is something that the enforcement point must do.
type Obligation struct {
	Type       string
	Parameters map[string]any
}

// State says how much state a decision needed, for the metric of that name.
type State string

// The states, from the least to the most.
const (
	StateNone   State = "none"   // decided from the credential and configuration alone
	StateMirror State = "mirror" // read an index in RAM
	StateStale  State = "stale"  // the same, which was behind its store
	StateStore  State = "store"  // waited for a store or an issuer
)

// Max returns the one of the two that needed more state. A State of no known name
// counts as none.
func (s State) Max(other State) State {
	if other.rank() > s.rank() {
		return other
	}
	return s
}

func (s State) rank() int {
	switch s {
	case StateMirror:
		return 1
	case StateStale:
		return 2
	case StateStore:
		return 3
	}
	return 0
}

// Phase is a stage on the way to a decision.
type Phase uint8

// The phases, in order.
const (
	PhaseRead   Phase = iota // one reading of the request
	PhaseFind                // which credentials does it carry
	PhaseProve               // whose are they
	PhaseHold                // may they be used for this at all
	PhaseDecide              // what does the policy say
	PhaseSpend               // is there budget left
	PhaseRecord              // all passed
)

var phases = [...]string{"read", "find", "prove", "hold", "decide", "spend", "record"}

// String returns the name of the phase.
func (p Phase) String() string {
	if int(p) >= len(phases) {
		return "unknown"
	}
	return phases[p]
}

// Decision is an answer and the grounds for it. The zero Decision is a deny.
type Decision struct {
	// Allowed is set only by a Checker that went through every phase.
	Allowed bool
	Reason  Reason
	// Phase is the one that ended the check.
	Phase Phase
	// ID names the decision in logs and for `postern explain`.
	ID string
	// Message is safe to show to the caller.
	Message string
	// Status is the HTTP status that a gateway should answer; 200 if allowed.
	Status int
	// Principal is who called; nil when authentication failed. Peer is the
	// workload that connected; nil if none was proven.
	Principal *Principal
	Peer      *Peer
	// Route is the route that matched; nil before routing.
	Route *Route
	// Verdict is what the policy said; nil if it was not asked.
	Verdict *Verdict
	// Upstream are header fields to set on the upstream request, replacing what
	// the client sent; Client are header fields for the caller's response.
	Upstream, Client []Header
	// RemoveQuery are query parameters to strip from the upstream request.
	RemoveQuery []string
	// Remove are header fields to strip from the upstream request.
	Remove []string
	// MissingScopes and MissingPermissions are all that a deny lacked.
	MissingScopes, MissingPermissions []string
	// Challenges are the WWW-Authenticate values of a 401 or 403.
	Challenges []string
	// Revision is the policy revision in force, also when it was not asked.
	Revision string
	// State is how much state the decision needed.
	State State
	// Cached says that the verdict came from the decision cache.
	Cached bool
	// CacheTTL is how long the caller may reuse the decision; 0 is not at all.
	CacheTTL time.Duration
	// RetryAfter says when to try again on a 429 or 503; 0 if unknown.
	RetryAfter time.Duration
	// Budgets are what is left of the budgets and rates that it was charged to, and
	// Reservation the receipt with which its true use is settled; empty for none.
	Budgets     []BudgetState
	Reservation string
	// Approval is the id of the approval that was used up by it; empty for none.
	Approval string
	// Proposal is what somebody has to approve first, on ReasonApproval; nil otherwise, and
	// where it cannot be put into words exactly.
	Proposal *Proposed
	// Detail says exactly what went wrong, for the decision log only: it may
	// help an attacker, and must not hold a secret.
	Detail string
}
