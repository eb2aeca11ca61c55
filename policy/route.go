package policy

import "time"

// Route says what a request to some place must bring before the policy is
// asked. Its zero value accepts every configured method and demands nothing
// more; it never allows anything by itself.
type Route struct {
	// Name names the route in policies, logs and metrics.
	Name string
	// Hosts, Methods and Paths pick requests; an empty list matches all. GET also
	// picks HEAD, which asks for the same (RFC 9110 section 9.3.2).
	Hosts   []HostPattern
	Methods []string
	Paths   []PathPattern
	// Extensions picks requests of which the enforcement point's own configuration
	// says all of this (Envoy context_extensions).
	Extensions map[string]string
	// Zones are the network zones from one of which the request must come; empty
	// accepts all.
	Zones []string
	// AnyOf lists the methods of authentication that are accepted; empty accepts
	// all. AllOf lists methods that must all be proven. At most one is set.
	AnyOf, AllOf []Method
	// Anonymous lets a request without any credential on to the policy.
	Anonymous bool
	// Kinds lists the principal kinds that are accepted; empty accepts all.
	Kinds []Kind
	// Scopes are required, all of them.
	Scopes []string
	// Permission is what the request needs, as `input.route.permission`.
	Permission string
	// MinAssurance is the least assurance level; 0 accepts any.
	MinAssurance int
	// MaxAge is the longest time since the user authenticated; 0 for any.
	MaxAge time.Duration
	// ACR lists the authentication contexts, one of which the principal must have
	// been authenticated in; AMR the methods, all of which must have been used. Empty
	// asks for none (RFC 9470, RFC 8176).
	ACR, AMR []string
	// RequireTLS refuses a request that is not known to have come over TLS.
	RequireTLS bool
	// Tenant, if set, owns whatever the route leads to: other tenants' principals
	// are refused.
	Tenant string
	// InstallationWide lets principals of no tenant reach what belongs to one.
	InstallationWide bool
	// Audience is the service that the route leads to; empty for the
	// installation's.
	Audience string
	// ResourceMetadata is the URL that challenges name (RFC 9728); empty for none.
	ResourceMetadata string
	// InsecurePlaintext accepts credentials over connections without TLS.
	InsecurePlaintext bool
	// InsecureQueryCredential names the query parameter in which a legacy client
	// may send its credential, and so put it into every access log; empty: none.
	InsecureQueryCredential string
	// Delegated asks for somebody who acts for the principal: a token that names no
	// actor is not enough.
	Delegated bool
	// Consents are the scopes for which the user must have consented to whoever acts for
	// the user; empty asks for none.
	Consents []string
	// Approval says who must have approved exactly this request; empty for nobody.
	Approval Approver
	// Attested are the workloads, one of which must be the peer: SPIFFE ids, or the
	// beginnings of some that end in "/"; empty accepts all.
	Attested []string
	// CacheTTL is how long a caller may reuse an allow for the same request; 0 for not at
	// all.
	CacheTTL time.Duration
	// AuditFirst allows nothing that is not on disk in the audit log.
	AuditFirst bool
	// Labels are for the policy, as `input.route.labels`.
	Labels map[string]string
}

// Approver is who can approve a request.
type Approver string

// Who can approve: anybody who is a user and not the requester, or one of these with a
// role that the configuration names.
const (
	ApproverHuman Approver = "human"
	ApproverAdmin Approver = "admin"
)

// Values lists the values that configuration may use.
func (Approver) Values() []string { return []string{string(ApproverHuman), string(ApproverAdmin)} }

// Match reports whether the route is for the request, of which the enforcement point
// says what extensions hold.
func (r *Route) Match(q *Request, extensions map[string]string) bool {
	if !matchAny(r.Hosts, q.Host) || !r.matchMethod(q.Method) || !matchAny(r.Paths, q.Path) {
		return false
	}
	for name, value := range r.Extensions {
		if got, ok := extensions[name]; !ok || got != value {
			return false
		}
	}
	return true
}

func (r *Route) matchMethod(method string) bool {
	return matchString(r.Methods, method) || method == "HEAD" && matchString(r.Methods, "GET")
}

func matchString(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return len(list) == 0
}

func matchAny[P interface{ Match(string) bool }](patterns []P, s string) bool {
	for _, p := range patterns {
		if p.Match(s) {
			return true
		}
	}
	return len(patterns) == 0
}
