package server

import (
	"cmp"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/target"
)

// CredentialRule says where one kind of credential is carried.
type CredentialRule struct {
	// From is the place: header:NAME, header:authorization/SCHEME, or query:NAME,
	// which is only looked at on routes with `insecure_query_credential`. Required.
	From authn.Location `yaml:"from,required"`
	// Use lists what may be found there, in the order in which it is tried:
	// api_key, pat, jwt, or what an issuer's `method` says. A single one needs no
	// brackets. Required.
	Use []policy.Method `yaml:"use,required,scalar"`
}

// Issuer is one issuer of tokens and the way to its keys.
type Issuer struct {
	// Config says who the issuer is and what its tokens mean.
	jwt.Config `yaml:",inline"`
	// Keys says how the issuer's keys are fetched and kept.
	Keys jose.SourceConfig `yaml:"keys"`
}

// SetDefaults implements strictyaml.Defaulter. Those of Keys depend on each other,
// so they are set when the file has been read.
func (s *Issuer) SetDefaults() { s.Config.SetDefaults() }

// keysFile is the file with the issuer's keys; "" if they come from elsewhere.
func (s *Issuer) keysFile() string { return cmp.Or(s.Keys.File, s.JWKSFile) }

// Route says what requests to some place must bring before the policy is asked.
// It never allows anything by itself.
type Route struct {
	// Name names the route in policies, logs and metrics. Required, unique.
	Name string `yaml:"name,required"`
	// Profile is a ready set of demands for a usual kind of client: s2s, web, mobile,
	// microservice, spa, internal, finance or third_party. What the route says itself
	// counts before the profile. Default: none.
	Profile Profile `yaml:"profile"`
	// Hosts are host names without port, or *.example.com for every name below.
	// Default: every host.
	Hosts []policy.HostPattern `yaml:"hosts"`
	// Methods are HTTP methods in capitals. Default: every method.
	Methods []string `yaml:"methods"`
	// Paths are /orders/7, /orders/* for one more segment, or /public/** for
	// everything below. Default: every path.
	Paths []policy.PathPattern `yaml:"paths"`
	// Services are gRPC services, such as shop.v1.Orders: the same as the paths
	// /shop.v1.Orders/*, and added to these.
	Services []string `yaml:"services"`
	// Extensions picks requests of which the gateway's own configuration says all of
	// this (Envoy context_extensions). It counts only from callers with `trust:
	// [context_extensions]`; a request of another caller does not match the route.
	Extensions map[string]string `yaml:"extensions"`
	// Zones are names under `zones`, from one of which the request must come. Default:
	// from anywhere.
	Zones []string `yaml:"zones"`
	// AnyOf lists methods of authentication, one of which must be used: api_key, pat,
	// jwt, oauth, basic, session, app_session, mtls, vault, jwt_svid, workload, or what
	// an issuer's `method` says. Default: every configured one.
	AnyOf []policy.Method `yaml:"any_of"`
	// AllOf lists methods that must all be used, instead of AnyOf.
	AllOf []policy.Method `yaml:"all_of"`
	// Anonymous lets requests without any credential on to the policy. A bad
	// credential is refused all the same. It does not go with `kinds`, `scopes`,
	// `min_assurance`, `max_age` and `tenant`, which such a request could not meet.
	// Default: false.
	Anonymous bool `yaml:"anonymous"`
	// Kinds lists the kinds of principals that are accepted: user, service, agent,
	// device. Default: every kind.
	Kinds []policy.Kind `yaml:"kinds"`
	// Scopes must all be held.
	Scopes []string `yaml:"scopes"`
	// Permission is what the request needs, which the policy decides:
	// input.route.permission.
	Permission string `yaml:"permission"`
	// MinAssurance is the least level of proof: 1 password, 2 key or bearer token,
	// 3 signed token, 4 certificate or second factor. Default: 0, every level.
	MinAssurance int `yaml:"min_assurance"`
	// MaxAge is the longest time since the user authenticated. Default: 0s, any.
	MaxAge time.Duration `yaml:"max_age"`
	// ACR lists authentication contexts, in one of which the user must have been
	// authenticated (RFC 9470). Default: any.
	ACR []string `yaml:"acr"`
	// AMR lists authentication methods, all of which must have been used, such as otp
	// or hwk (RFC 8176). Default: none.
	AMR []string `yaml:"amr"`
	// RequireTLS refuses requests that are not known to have come over TLS, also those
	// without a credential. Default: false; credentials are refused over plaintext all
	// the same.
	RequireTLS bool `yaml:"require_tls"`
	// Tenant owns what the route leads to; principals of others are refused.
	Tenant string `yaml:"tenant"`
	// InstallationWide lets principals that belong to no tenant reach what belongs to one
	// by `tenancy`. Those of a tenant reach their own as everywhere. Danger: such a
	// principal reaches every tenant here. Default: false.
	InstallationWide bool `yaml:"installation_wide"`
	// Reads says in whose words the bodies of requests speak, so that models, tokens and
	// tools are known: openai, anthropic or mcp; or gateway, where the model is only in
	// the path or what a trusted gateway says. A request that cannot be read in one way
	// is refused. Gateways must forward the whole body. Default: nothing is read.
	Reads target.Protocol `yaml:"reads"`
	// Delegated takes requests only in which somebody acts for the principal: a token that
	// names an actor (RFC 8693 section 4.1). Default: false.
	Delegated bool `yaml:"delegated"`
	// Consents are the scopes for which the user must have consented to whoever acts for
	// the user; nobody but a user gets through then. Needs a store. Default: none.
	Consents []string `yaml:"consents"`
	// Approval asks that somebody has approved exactly this request, byte by byte, for
	// one use: "human", any user who is not the requester; or "admin", one with a role of
	// `approvals.admin_roles`. Gateways must forward the whole body. Needs a store.
	// Default: nobody need approve it.
	Approval policy.Approver `yaml:"approval"`
	// Attested are the workloads, one of which must be at the other end of the
	// connection: SPIFFE ids, or the beginnings of some that end in "/". Needs `mtls`.
	// Default: any, or none.
	Attested []string `yaml:"attested"`
	// CacheTTL is how long callers may reuse an allow for the same request
	// (Decision.cache_ttl; Envoy does not), up to 1m: never past the end of the
	// credential, and not where a request is counted, approved, or proven by something
	// for one use. Danger: a revocation, and a new policy, reach them so much later.
	// Default: 0s, not at all.
	CacheTTL time.Duration `yaml:"cache_ttl"`
	// AuditFirst allows nothing that is not on disk in the journal of `audit` before; if
	// that cannot be, the answer is a deny with audit_unavailable. Default: false.
	AuditFirst bool `yaml:"audit_first"`
	// Audience is the name of the service that the route leads to. A token that an issuer
	// made for other routes' services alone is refused here. Default: the installation's
	// `audience`.
	Audience string `yaml:"audience"`
	// ResourceMetadata is the URL of the metadata of the protected resource, which
	// challenges name (RFC 9728). Default: the installation's `resource_metadata`.
	ResourceMetadata string `yaml:"resource_metadata"`
	// InsecurePlaintext accepts credentials over connections without TLS. Danger:
	// everybody on the way can read and use them. Default: false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// InsecureQueryCredential names the query parameter in which a legacy client
	// may send its credential; `credentials` needs a rule for query:NAME. Danger:
	// URLs stand in every access log and browser history.
	InsecureQueryCredential string `yaml:"insecure_query_credential"`
	// Labels are for the policy: input.route.labels.
	Labels map[string]string `yaml:"labels"`
}

// Policy returns the route as the phases know it.
func (r *Route) Policy() policy.Route {
	return policy.Route{
		Name: r.Name, Hosts: r.Hosts, Methods: r.Methods, Paths: slices.Concat(r.Paths, servicePaths(r.Services)), Extensions: r.Extensions,
		Zones: r.Zones, AnyOf: r.AnyOf, AllOf: r.AllOf, Anonymous: r.Anonymous,
		Kinds: r.Kinds, Scopes: r.Scopes, Permission: r.Permission,
		MinAssurance: r.MinAssurance, MaxAge: r.MaxAge, ACR: r.ACR, AMR: r.AMR,
		RequireTLS: r.RequireTLS, Tenant: r.Tenant, InstallationWide: r.InstallationWide, Audience: r.Audience, ResourceMetadata: r.ResourceMetadata,
		InsecurePlaintext: r.InsecurePlaintext, InsecureQueryCredential: r.InsecureQueryCredential, Labels: r.Labels,
		Delegated: r.Delegated, Consents: r.Consents, Approval: r.Approval, Attested: r.Attested, AuditFirst: r.AuditFirst,
		CacheTTL: r.CacheTTL,
	}
}

// servicePaths are the paths of gRPC services: /SERVICE/METHOD. What is no pattern is
// left out; Check has reported it.
func servicePaths(services []string) []policy.PathPattern {
	var paths []policy.PathPattern
	for _, s := range services {
		if p, err := policy.ParsePathPattern("/" + s + "/*"); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// Plaintext says what becomes of credentials that were sent without TLS. They are
// denied with credential_over_plaintext unless a route says otherwise.
type Plaintext struct {
	// Quarantine also disables a good API key that was sent without TLS, on this
	// replica, until a restart or until the key's entry says released_at after it:
	// somebody may have read it. Default: false.
	Quarantine bool `yaml:"quarantine"`
	// InsecureAccept accepts credentials without TLS on every route. Danger:
	// everybody on the way can read and use them. Default: false; true in --dev.
	InsecureAccept bool `yaml:"insecure_accept"`
}

// Upstream is what the service behind the gateway gets to see.
type Upstream struct {
	// Headers are the fields in which it is told who called, and what each says:
	// id, kind, tenant, roles, scopes, permissions, issuer, method, assurance,
	// credential (its id), decision (its id) or reservation (the receipt with which the
	// true use of a budget is settled; in x-postern-reservation if no field has it).
	// Fields of these names that a client sends are removed. A mapping here replaces
	// the default: x-auth-principal: id, x-auth-tenant: tenant, x-auth-roles: roles,
	// x-auth-scopes: scopes, x-auth-issuer: issuer, x-auth-method: method,
	// x-auth-decision: decision.
	Headers map[string]Attribute `yaml:"headers"`
	// IdentityToken tells it by a token that Postern signs, in the place of the caller's
	// credential. Needs `signing`. Default: none.
	IdentityToken *IdentityToken `yaml:"identity_token"`
	// InsecureKeepCredential leaves the caller's credential on the request. Danger:
	// the service, and whatever it logs or calls, can then act as the caller.
	// Default: false, it is removed.
	InsecureKeepCredential bool `yaml:"insecure_keep_credential"`
}

// IdentityToken is a JWT that says who called, for one audience: the route's, or the
// installation's, or else the host of the request. It lives at most five minutes, and
// the service verifies it with the keys at /.well-known/jwks.json of `listen.http`.
type IdentityToken struct {
	// Header is the field that holds it. What the client sent there is removed. Default:
	// authorization.
	Header string `yaml:"header"`
	// Scheme stands before it. Default: Bearer in authorization, nothing elsewhere.
	Scheme string `yaml:"scheme"`
}

// SetDefaults implements strictyaml.Defaulter.
func (t *IdentityToken) SetDefaults() { t.Header = "authorization" }

// reservable reports whether the field can be Postern's alone, in every spelling that some
// server takes for it. In authorization clients send their own.
func (t *IdentityToken) reservable() bool {
	_, err := canonical.New(canonical.Config{IdentityHeaders: []string{t.Header}})
	return t.shared() || err == nil
}

func (t *IdentityToken) shared() bool { return t.Header == "authorization" }

// scheme is what stands before the token, with its space.
func (t *IdentityToken) scheme() string {
	switch {
	case t.Scheme != "":
		return t.Scheme + " "
	case t.shared():
		return "Bearer "
	}
	return ""
}

// Attribute is something about a principal, or about the decision on it, that an
// upstream can be told.
type Attribute string

// The attributes.
const (
	AttributeID          Attribute = "id"
	AttributeKind        Attribute = "kind"
	AttributeTenant      Attribute = "tenant"
	AttributeRoles       Attribute = "roles"
	AttributeScopes      Attribute = "scopes"
	AttributePermissions Attribute = "permissions"
	AttributeIssuer      Attribute = "issuer"
	AttributeMethod      Attribute = "method"
	AttributeAssurance   Attribute = "assurance"
	AttributeCredential  Attribute = "credential"
	AttributeDecision    Attribute = "decision"
	AttributeReservation Attribute = "reservation"
)

// Values implements strictyaml.Enum.
func (Attribute) Values() []string {
	return []string{"id", "kind", "tenant", "roles", "scopes", "permissions", "issuer", "method", "assurance", "credential", "decision", "reservation"}
}
