package rego

import (
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// field is one name of the input document: an object with fields, or a leaf with
// a getter. The table below is the only place that knows the document. What the
// policy is shown and what the cache compares are both derived from it.
type field struct {
	name string
	// get returns a leaf's value.
	get func(*view, *policy.Input) value
	// has reports whether an object is there; nil means always.
	has func(*policy.Input) bool
	// fields are the object's fields.
	fields []field
}

// view is what the configuration says about reading a request.
type view struct {
	// hidden are the header fields that policies do not see; nil if they see all.
	hidden map[string]bool
	// secret are those whose values must not stand in a cache key as they are.
	secret map[string]bool
	// maxValue is the longest string that a policy is handed.
	maxValue int
	// rpcs are the calls of which bodies can be read; nil if there are none.
	rpcs *rpcs
}

// credentialHeaders carry credentials in the schemes that Postern knows.
var credentialHeaders = []string{"authorization", "proxy-authorization", "cookie", "x-api-key", "x-vault-token"}

func newView(c Config) view {
	secret := nameSet(credentialHeaders...)
	for _, name := range c.CredentialHeaders {
		secret[strings.ToLower(name)] = true
	}
	v := view{secret: secret, maxValue: c.MaxValue}
	if !c.InsecureExposeCredentials {
		v.hidden = secret
	}
	return v
}

// document is the input document.
//
// The first part is what the OPA-Envoy plugin shows, under its names; as there,
// a field that is not set is absent. It is raw, as the gateway saw it, except
// parsed_path, which has one reading. The second part is Postern's own; there,
// lists and strings are always present, so that policies can compare them.
var document = field{fields: []field{
	{name: "attributes", fields: []field{
		{name: "source", fields: endpoint(func(a *policy.Attributes) *policy.Endpoint { return &a.Source })},
		{name: "destination", fields: endpoint(func(a *policy.Attributes) *policy.Endpoint { return &a.Destination })},
		{name: "request", fields: []field{
			{name: "time", has: func(in *policy.Input) bool { return !in.Attributes.Time.IsZero() }, fields: []field{
				{name: "seconds", get: func(_ *view, in *policy.Input) value { return number(in.Attributes.Time.Unix()) }},
				{name: "nanos", get: func(_ *view, in *policy.Input) value { return number(int64(in.Attributes.Time.Nanosecond())) }},
			}},
			{name: "http", fields: []field{
				{name: "id", get: raw(func(a *policy.Attributes) string { return a.RequestID })},
				{name: "method", get: raw(func(a *policy.Attributes) string { return a.Method })},
				{name: "headers", get: func(_ *view, in *policy.Input) value { return specially((*headers)(in)) }},
				{name: "path", get: func(_ *view, in *policy.Input) value { return textIfAny(withoutCredential(in, in.Attributes.Path)) }},
				{name: "host", get: raw(func(a *policy.Attributes) string { return a.Host })},
				{name: "scheme", get: raw(func(a *policy.Attributes) string { return a.Scheme })},
				{name: "protocol", get: raw(func(a *policy.Attributes) string { return a.Protocol })},
				{name: "query", get: func(_ *view, in *policy.Input) value { return textIfAny(rawQuery(in)) }},
				{name: "size", get: func(_ *view, in *policy.Input) value { return numberIfAny(in.Attributes.Size) }},
				{name: "body", get: func(_ *view, in *policy.Input) value { return specially((*rawBody)(in.Attributes)) }},
			}},
		}},
		{name: "contextExtensions", get: func(_ *view, in *policy.Input) value { return mapIfAny(in.Attributes.Extensions) }},
		{name: "metadataContext", has: func(in *policy.Input) bool { return len(in.Attributes.Metadata) > 0 }, fields: []field{
			{name: "filterMetadata", get: func(_ *view, in *policy.Input) value { return tree(in.Attributes.Metadata) }},
		}},
	}},
	{name: "parsed_path", get: func(_ *view, in *policy.Input) value { return specially((*segments)(in.Request)) }},
	{name: "parsed_query", get: func(_ *view, in *policy.Input) value { return specially((*query)(in)) }},
	{name: "parsed_body", get: func(_ *view, in *policy.Input) value { return specially((*body)(in.Attributes)) }},
	{name: "truncated_body", get: func(_ *view, in *policy.Input) value { return boolean(isTruncated(in.Attributes)) }},
	{name: "source_principal", get: raw(func(a *policy.Attributes) string { return a.Source.Principal })},
	{name: "version", fields: []field{
		{name: "ext_authz", get: constant("v3")},
		{name: "encoding", get: constant("protojson")},
	}},

	{name: "request", fields: []field{
		{name: "method", get: request(func(q *policy.Request) string { return q.Method })},
		{name: "scheme", get: request(func(q *policy.Request) string { return q.Scheme })},
		{name: "host", get: request(func(q *policy.Request) string { return q.Host })},
		{name: "port", get: func(_ *view, in *policy.Input) value { return number(int64(in.Request.Port)) }},
		{name: "path", get: request(func(q *policy.Request) string { return q.Path })},
		{name: "folded", get: request(func(q *policy.Request) string { return q.Folded })},
		{name: "segments", get: func(_ *view, in *policy.Input) value { return specially((*segments)(in.Request)) }},
		{name: "query", get: func(_ *view, in *policy.Input) value { return text(withoutCredential(in, in.Request.Query)) }},
		{name: "client_ip", get: func(_ *view, in *policy.Input) value { return address(in.Request.ClientIP) }},
		{name: "plaintext", get: func(_ *view, in *policy.Input) value { return boolean(in.Request.Plaintext) }},
		{name: "zones", get: func(_ *view, in *policy.Input) value { return list(in.Request.Zones) }},
		{name: "grpc", has: isRPC, fields: rpc},
	}},
	{name: "principal", has: func(in *policy.Input) bool { return in.Principal != nil }, fields: []field{
		{name: "id", get: principal(func(p *policy.Principal) string { return p.ID })},
		{name: "kind", get: principal(func(p *policy.Principal) string { return string(p.Kind) })},
		{name: "tenant", get: principal(func(p *policy.Principal) string { return p.Tenant })},
		{name: "roles", get: func(_ *view, in *policy.Input) value { return list(in.Principal.Roles) }},
		{name: "scopes", get: func(_ *view, in *policy.Input) value { return list(in.Principal.Scopes) }},
		{name: "permissions", get: func(_ *view, in *policy.Input) value { return list(in.Principal.Permissions) }},
		{name: "narrowed", has: func(in *policy.Input) bool { return in.Principal.Narrowed != nil }, fields: []field{
			{name: "permissions", get: func(_ *view, in *policy.Input) value { return list(in.Principal.Narrowed.Permissions) }},
			{name: "user_roles", get: func(_ *view, in *policy.Input) value { return list(in.Principal.Narrowed.UserRoles) }},
			{name: "user_permissions", get: func(_ *view, in *policy.Input) value { return list(in.Principal.Narrowed.UserPermissions) }},
		}},
		{name: "claims", get: func(_ *view, in *policy.Input) value { return tree(in.Principal.Claims) }},
		{name: "metadata", get: func(_ *view, in *policy.Input) value { return tree(in.Principal.Metadata) }},
		{name: "method", get: principal(func(p *policy.Principal) string { return string(p.Method) })},
		{name: "assurance", get: func(_ *view, in *policy.Input) value { return number(int64(in.Principal.Assurance)) }},
		{name: "acr", get: principal(func(p *policy.Principal) string { return p.ACR })},
		{name: "amr", get: func(_ *view, in *policy.Input) value { return list(in.Principal.AMR) }},
		{name: "auth_time", get: func(_ *view, in *policy.Input) value { return seconds(in.Principal.AuthTime) }},
		{name: "actors", get: func(_ *view, in *policy.Input) value { return specially((*actors)(in.Principal)) }},
		{name: "credential_id", get: principal(func(p *policy.Principal) string { return p.CredentialID })},
		{name: "token_budget", get: func(_ *view, in *policy.Input) value { return numberIfAny(in.Principal.TokenBudget) }},
		{name: "issuer", get: principal(func(p *policy.Principal) string { return p.Issuer })},
		{name: "issued_at", get: func(_ *view, in *policy.Input) value { return seconds(in.Principal.IssuedAt) }},
		{name: "expires_at", get: func(_ *view, in *policy.Input) value { return seconds(in.Principal.ExpiresAt) }},
	}},
	{name: "peer", has: func(in *policy.Input) bool { return in.Peer != nil }, fields: []field{
		{name: "id", get: func(_ *view, in *policy.Input) value { return text(in.Peer.ID) }},
		{name: "trust_domain", get: func(_ *view, in *policy.Input) value { return text(in.Peer.TrustDomain) }},
		{name: "fingerprint", get: func(_ *view, in *policy.Input) value { return text(in.Peer.Fingerprint) }},
	}},
	{name: "route", has: func(in *policy.Input) bool { return in.Route != nil }, fields: []field{
		{name: "name", get: func(_ *view, in *policy.Input) value { return text(in.Route.Name) }},
		{name: "tenant", get: func(_ *view, in *policy.Input) value { return text(in.Route.Tenant) }},
		{name: "scopes", get: func(_ *view, in *policy.Input) value { return list(in.Route.Scopes) }},
		{name: "permission", get: func(_ *view, in *policy.Input) value { return text(in.Route.Permission) }},
		{name: "labels", get: func(_ *view, in *policy.Input) value { return tree(in.Route.Labels) }},
	}},
	{name: "target", fields: []field{
		{name: "tenant", get: func(_ *view, in *policy.Input) value { return text(targetTenant(in)) }},
		{name: "http", has: func(in *policy.Input) bool { return in.Attributes.Action == nil }, fields: []field{
			{name: "method", get: request(func(q *policy.Request) string { return q.Method })},
			{name: "scheme", get: request(func(q *policy.Request) string { return q.Scheme })},
			{name: "host", get: request(func(q *policy.Request) string { return q.Host })},
			{name: "path", get: request(func(q *policy.Request) string { return q.Path })},
			{name: "folded", get: request(func(q *policy.Request) string { return q.Folded })},
		}},
		{name: "grpc", has: isRPC, fields: rpc},
		{name: "action", has: func(in *policy.Input) bool { return in.Attributes.Action != nil }, fields: []field{
			{name: "action", get: action(func(a *policy.Action) string { return a.Name })},
			{name: "resource_type", get: action(func(a *policy.Action) string { return a.ResourceType })},
			{name: "resource_id", get: action(func(a *policy.Action) string { return a.ResourceID })},
			{name: "properties", get: func(_ *view, in *policy.Input) value { return tree(in.Attributes.Action.Properties) }},
		}},
		{name: "protocol", get: target(func(t *policy.Target) string { return t.Protocol })},
		{name: "model", get: target(func(t *policy.Target) string { return t.Model })},
		{name: "tier", get: target(func(t *policy.Target) string { return t.Tier })},
		{name: "max_tokens", get: targetCount(func(t *policy.Target) int64 { return t.MaxTokens })},
		{name: "prompt_tokens", get: targetCount(func(t *policy.Target) int64 { return t.PromptTokens })},
		{name: "category", get: target(func(t *policy.Target) string { return t.Category })},
		{name: "method", get: target(func(t *policy.Target) string { return t.Method })},
		{name: "tools", get: func(_ *view, in *policy.Input) value {
			if in.Target == nil {
				return value{}
			}
			return specially((*tools)(in.Target))
		}},
		{name: "resources", get: func(_ *view, in *policy.Input) value {
			if in.Target == nil {
				return value{}
			}
			return specially((*resources)(in.Target))
		}},
	}},
	{name: "agreement", has: func(in *policy.Input) bool { return in.Agreement != nil }, fields: []field{
		{name: "consent", get: func(_ *view, in *policy.Input) value { return textIfAny(in.Agreement.Consent) }},
		{name: "scopes", get: func(_ *view, in *policy.Input) value { return list(in.Agreement.Scopes) }},
		{name: "approval", has: func(in *policy.Input) bool { return in.Agreement.Approval != nil }, fields: []field{
			{name: "id", get: approval(func(a *policy.Approval) string { return a.ID })},
			{name: "approver", get: approval(func(a *policy.Approval) string { return a.Approver })},
			{name: "kind", get: approval(func(a *policy.Approval) string { return string(a.Kind) })},
			{name: "roles", get: func(_ *view, in *policy.Input) value { return list(in.Agreement.Approval.Roles) }},
			{name: "action", get: approval(func(a *policy.Approval) string { return a.Action })},
			{name: "expires_at", get: func(_ *view, in *policy.Input) value { return seconds(in.Agreement.Approval.ExpiresAt) }},
		}},
	}},
	{name: "context", get: func(_ *view, in *policy.Input) value { return tree(in.Attributes.Context) }},
}}

func endpoint(of func(*policy.Attributes) *policy.Endpoint) []field {
	known := func(in *policy.Input) bool { return of(in.Attributes).Address.IsValid() }
	return []field{
		{name: "address", has: known, fields: []field{
			{name: "socketAddress", fields: []field{
				{name: "address", get: func(_ *view, in *policy.Input) value { return address(of(in.Attributes).Address.Addr()) }},
				{name: "portValue", get: func(_ *view, in *policy.Input) value { return numberIfAny(int64(of(in.Attributes).Address.Port())) }},
			}},
		}},
		{name: "principal", get: raw(func(a *policy.Attributes) string { return of(a).Principal })},
		{name: "certificate", get: raw(func(a *policy.Attributes) string { return of(a).Certificate })},
		{name: "service", get: raw(func(a *policy.Attributes) string { return of(a).Service })},
		{name: "labels", get: func(_ *view, in *policy.Input) value { return mapIfAny(of(in.Attributes).Labels) }},
	}
}

var rpc = []field{
	{name: "service", get: request(func(q *policy.Request) string { return q.Service })},
	{name: "method", get: request(func(q *policy.Request) string { return q.RPC })},
}

func isRPC(in *policy.Input) bool { return in.Attributes.Action == nil && in.Request.Service != "" }

func targetTenant(in *policy.Input) string {
	if in.Route != nil && in.Route.Tenant != "" {
		return in.Route.Tenant // configured here; what the caller says may only agree
	}
	return in.Attributes.Tenant
}

type getter = func(*view, *policy.Input) value

func raw(get func(*policy.Attributes) string) getter {
	return func(_ *view, in *policy.Input) value { return textIfAny(get(in.Attributes)) }
}

func request(get func(*policy.Request) string) getter {
	return func(_ *view, in *policy.Input) value { return text(get(in.Request)) }
}

func principal(get func(*policy.Principal) string) getter {
	return func(_ *view, in *policy.Input) value { return text(get(in.Principal)) }
}

func action(get func(*policy.Action) string) getter {
	return func(_ *view, in *policy.Input) value { return text(get(in.Attributes.Action)) }
}

// target reads what a request would do. What it does not say is absent, and not "": a
// rule that compares it has no answer then, also one that says "is not".
func target(get func(*policy.Target) string) getter {
	return func(_ *view, in *policy.Input) value {
		if in.Target == nil {
			return value{}
		}
		return textIfAny(get(in.Target))
	}
}

// targetCount does the same for numbers, of which -1 says that nobody knows: as a number
// it would be under every limit.
func targetCount(get func(*policy.Target) int64) getter {
	return func(_ *view, in *policy.Input) value {
		if in.Target == nil || get(in.Target) < 0 {
			return value{}
		}
		return number(get(in.Target))
	}
}

func approval(get func(*policy.Approval) string) getter {
	return func(_ *view, in *policy.Input) value { return text(get(in.Agreement.Approval)) }
}

func constant(s string) getter {
	return func(*view, *policy.Input) value { return text(s) }
}

func seconds(t time.Time) value {
	if t.IsZero() {
		return value{}
	}
	return number(t.Unix())
}

func rawQuery(in *policy.Input) string {
	_, query, _ := strings.Cut(in.Attributes.Path, "?")
	return withoutCredential(in, query)
}

// withoutCredential cuts the query parameter in which a legacy route lets its
// clients send a credential out of a path or a query: a policy has no use for
// it, and no secret may stand in a cache key.
func withoutCredential(in *policy.Input, target string) string {
	if in.Route == nil || in.Route.InsecureQueryCredential == "" {
		return target
	}
	path, query, found := strings.Cut(target, "?")
	if !found {
		path, query = "", target
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(pair, "="); unescaped(name) != in.Route.InsecureQueryCredential {
			kept = append(kept, pair)
		}
	}
	query = strings.Join(kept, "&")
	if !found {
		return query
	}
	return path + "?" + query
}
