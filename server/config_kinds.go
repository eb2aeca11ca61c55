package server

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/agent"
	"github.com/postern-auth/postern/server/authn/appsession"
	"github.com/postern-auth/postern/server/authn/basic"
	"github.com/postern-auth/postern/server/authn/dpop"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/workload"
	"github.com/postern-auth/postern/server/seal"
)

// Kinds are the kinds of credentials besides API keys, sessions and the JWTs of
// issuers.
type Kinds struct {
	// Introspection are issuers whose opaque tokens they are asked about (RFC 7662).
	Introspection []introspect.Config `yaml:"introspection"`
	// MTLS says whose client certificates are believed.
	MTLS *mtls.Config `yaml:"mtls"`
	// DPoP accepts tokens that are bound to a key, with proofs that the client holds it
	// (RFC 9449). Without it such tokens are refused.
	DPoP *dpop.Config `yaml:"dpop"`
	// Basic accepts user names and passwords with each request (RFC 7617).
	Basic *basic.Config `yaml:"basic"`
	// Workloads accepts JWTs that workloads sign themselves, and SPIFFE JWT-SVIDs.
	Workloads *workload.Config `yaml:"workloads"`
	// Agents accepts the tokens of agents that are registered in the store: those that
	// Postern issues, and those that they sign themselves.
	Agents *agent.Config `yaml:"agents"`
	// Vault are Vaults or OpenBaos whose tokens are accepted.
	Vault []vault.Config `yaml:"vault"`
	// AppSessions are applications that keep their sessions in Redis or Valkey.
	AppSessions []appsession.Config `yaml:"app_sessions"`
}

// methods are those that the kinds provide, each once.
func (k *Kinds) methods() []policy.Method {
	var all []policy.Method
	add := func(m policy.Method) {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	if k.MTLS != nil {
		add(policy.MethodMTLS)
	}
	if k.Basic != nil {
		add(policy.MethodBasic)
	}
	if k.Workloads != nil {
		for _, m := range workloadMethods(k.Workloads) {
			add(m)
		}
	}
	if k.Agents != nil {
		add(policy.MethodAgent)
	}
	for i := range k.Vault {
		add(k.Vault[i].Method)
	}
	for i := range k.AppSessions {
		add(k.AppSessions[i].Method)
	}
	return all
}

// workloadMethods are the methods of which there is somebody.
func workloadMethods(c *workload.Config) []policy.Method {
	var all []policy.Method
	if len(c.TrustDomains) > 0 {
		all = append(all, policy.MethodSVID)
	}
	if len(c.Clients) > 0 {
		all = append(all, policy.MethodWorkload)
	}
	return all
}

// checkKinds holds the kinds against each other and against the rest.
func (c *Config) checkKinds(report report) {
	if c.Basic != nil {
		c.checkZoneNames(report, "basic.zones", c.Basic.Zones)
	}
	if a, b, found := vault.Overlap(c.Vault); found {
		report(fmt.Sprintf("vault[%d]", b), fmt.Sprintf("takes tokens that vault[%d] takes too", a), "tell them apart by prefixes or namespace_ids: each token is shown to one Vault only")
	}
	for i := range c.Introspection {
		for j := range i {
			if c.Introspection[i].Overlaps(&c.Introspection[j]) {
				report(fmt.Sprintf("introspection[%d]", i), fmt.Sprintf("takes tokens that introspection[%d] takes too", j), "tell them apart by prefixes: each token is shown to one issuer only")
			}
		}
		for j := range c.Issuers {
			if c.Introspection[i].AcceptJWTs && c.Introspection[i].Issuer == c.Issuers[j].URL {
				report(fmt.Sprintf("introspection[%d].accept_jwts", i), fmt.Sprintf("issuers[%d] verifies the same JWTs", j), "keep one of them")
			}
		}
	}
	if c.Workloads != nil {
		for i := range c.Workloads.Clients {
			if id := c.Workloads.Clients[i].ID; slices.ContainsFunc(c.Issuers, func(s Issuer) bool { return s.URL == id }) {
				report(fmt.Sprintf("workloads.clients[%d].id", i), fmt.Sprintf("%s is an issuer too", id), "nobody could say whose tokens these are: give one of them another name")
			}
		}
	}
	c.checkAgents(report)
	c.checkAppSessions(report)
	c.checkVouching(report)
	c.checkMethodNames(report)
	c.checkUsed(report)
}

// ownMethods are the methods that mean one way of proving somebody, wherever routes,
// zones and policies ask for them. Nothing else may go by their names.
var ownMethods = []policy.Method{
	policy.MethodAPIKey, policy.MethodPAT, policy.MethodSession, policy.MethodMTLS, policy.MethodBasic,
	policy.MethodSVID, policy.MethodWorkload, policy.MethodAgent, policy.MethodAsserted, policy.MethodAnonymous,
}

func (c *Config) checkMethodNames(report report) {
	check := func(path string, m policy.Method) {
		if slices.Contains(ownMethods, m) {
			report(path+".method", fmt.Sprintf("%s is another way of proving somebody: a route that asks for it would take these too", m), "choose another name")
		}
	}
	for i := range c.Issuers {
		check(fmt.Sprintf("issuers[%d]", i), c.Issuers[i].method())
	}
	for i := range c.Introspection {
		check(fmt.Sprintf("introspection[%d]", i), c.Introspection[i].Method)
	}
	for i := range c.Vault {
		check(fmt.Sprintf("vault[%d]", i), c.Vault[i].Method)
	}
	for i := range c.AppSessions {
		check(fmt.Sprintf("app_sessions[%d]", i), c.AppSessions[i].Method)
	}
}

// checkVouching refuses names of issuers that would make two of them one: Postern's own,
// under which stand its principals, its denylist and the admin API, the one of the htpasswd
// file, and, for those whose word is not to count in the admin API, the ones whose does.
func (c *Config) checkVouching(report report) {
	vouch := func(path, name string, believable bool) {
		switch {
		case name == seal.Issuer, c.Signing.Issuer != "" && name == c.Signing.Issuer:
			report(path, fmt.Sprintf("%s is Postern itself: whoever this vouches for would be taken for its own", name), "choose another name")
		case name == basic.Issuer:
			report(path, fmt.Sprintf("%s is who vouches for the users of basic.htpasswd_file", name), "choose another name")
		case !believable && c.AdminAPI.believes(name):
			report(path, fmt.Sprintf("%s is one of admin_api.issuers, which is not meant by this", name), "choose another name")
		}
	}
	for i := range c.Issuers {
		if c.Issuers[i].URL != c.Signing.Issuer { // or it was reported
			vouch(fmt.Sprintf("issuers[%d].url", i), c.Issuers[i].URL, true)
		}
	}
	for i := range c.Introspection {
		vouch(fmt.Sprintf("introspection[%d].issuer", i), c.Introspection[i].Issuer, true)
	}
	if c.MTLS != nil {
		for i := range c.MTLS.Bundles {
			vouch(fmt.Sprintf("mtls.bundles[%d].name", i), c.MTLS.Bundles[i].Name, true)
		}
	}
	if c.Workloads != nil {
		for i := range c.Workloads.Clients {
			vouch(fmt.Sprintf("workloads.clients[%d].id", i), c.Workloads.Clients[i].ID, false)
		}
	}
	for i := range c.Vault {
		vouch(fmt.Sprintf("vault[%d].address", i), c.Vault[i].Address, false)
	}
	for i := range c.AppSessions {
		s, field := &c.AppSessions[i], "name"
		if s.Issuer != "" {
			field = "issuer"
		}
		vouch(fmt.Sprintf("app_sessions[%d].%s", i, field), cmp.Or(s.Issuer, s.Name), false)
	}
}

// checkAgents holds the section against the keys and the store that it needs.
func (c *Config) checkAgents(report report) {
	if c.Agents == nil {
		return
	}
	c.Agents.Check(c.Signing.Issuer, func(path, message, suggestion string) { report("agents."+path, message, suggestion) })
	if c.Upstream.IdentityToken != nil {
		for i, name := range c.Agents.Audiences {
			if name == c.Audience || slices.ContainsFunc(c.Routes, func(r Route) bool { return r.Audience == name }) {
				report(fmt.Sprintf("agents.audiences[%d]", i), fmt.Sprintf("%s is an audience of identity tokens: a service that looks at no more than that would take a token of an agent for Postern's word on who called", name),
					"choose another name, or leave it out for signing.issuer")
			}
		}
	}
	if c.Store.Driver == DriverNone {
		report("agents", "needs a store, in which agents are registered", "set store.driver")
	}
}

// checkAppSessions refuses applications that share a method: each cookie would be
// looked for in all of them.
func (c *Config) checkAppSessions(report report) {
	for i := range c.AppSessions {
		for j := range i {
			if c.AppSessions[i].Method == c.AppSessions[j].Method {
				report(fmt.Sprintf("app_sessions[%d].method", i), fmt.Sprintf("app_sessions[%d] has the method %s too", j, c.AppSessions[i].Method), "give it a method of its own")
			}
		}
	}
}

// checkUsed refuses kinds whose credentials no rule looks for.
func (c *Config) checkUsed(report report) {
	need := func(path string, m policy.Method, from string) {
		if !c.uses(m) {
			report(path, fmt.Sprintf("no rule in credentials uses %s, so none of its credentials gets in", m), fmt.Sprintf("add {from: %s, use: %s}", from, m))
		}
	}
	for i := range c.Introspection {
		need(fmt.Sprintf("introspection[%d]", i), c.Introspection[i].Method, "header:authorization/bearer")
	}
	if c.Basic != nil {
		need("basic", policy.MethodBasic, "header:authorization/basic")
	}
	if c.Workloads != nil {
		for _, m := range workloadMethods(c.Workloads) {
			need("workloads", m, "header:authorization/bearer")
		}
	}
	if c.Agents != nil {
		need("agents", policy.MethodAgent, "header:authorization/bearer")
	}
	for i := range c.Vault {
		need(fmt.Sprintf("vault[%d]", i), c.Vault[i].Method, "header:x-vault-token")
	}
	for i := range c.AppSessions {
		need(fmt.Sprintf("app_sessions[%d]", i), c.AppSessions[i].Method, "cookie:NAME")
	}
	dpop := slices.ContainsFunc(c.Credentials, func(r CredentialRule) bool { return r.From.Scheme() == "dpop" })
	switch {
	case c.DPoP != nil && !dpop:
		report("dpop", "no rule in credentials reads the scheme DPoP", "add {from: header:authorization/dpop, use: jwt}")
	case c.DPoP == nil && dpop:
		report("credentials", "nothing verifies the proofs of the scheme DPoP", "add an empty section: dpop: {}")
	}
}
