package server

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Zone is a network by name. A request comes from it if its address is one of `cidrs`,
// or if the workload that connected, as its certificate proves, is of one of
// `trust_domains`. What a client says of itself counts for neither.
type Zone struct {
	// CIDRs are networks, for example 10.0.0.0/8. The address is that of the client, as
	// `request.client` finds it.
	CIDRs []netip.Prefix `yaml:"cidrs"`
	// TrustDomains are SPIFFE trust domains, for example prod.example.com. Needs `mtls`.
	TrustDomains []string `yaml:"trust_domains"`
}

// zones are the zones in the order of their names.
func zones(configured map[string]Zone) []check.Zone {
	var all []check.Zone
	for _, name := range slices.Sorted(maps.Keys(configured)) {
		z := configured[name]
		all = append(all, check.Zone{Name: name, CIDRs: z.CIDRs, TrustDomains: z.TrustDomains})
	}
	return all
}

func (c *Config) checkZones(report report) {
	names := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(c.Zones)) {
		at, z := "zones."+name, c.Zones[name]
		checkName(report, at, name, names)
		if len(z.CIDRs) == 0 && len(z.TrustDomains) == 0 {
			report(at, "nothing says what belongs to the zone", "add cidrs or trust_domains")
		}
		for i, d := range z.TrustDomains {
			if !isHost(d) {
				report(fmt.Sprintf("%s.trust_domains[%d]", at, i), fmt.Sprintf("%q is not a trust domain", d), "write the name alone, as in prod.example.com")
			}
		}
		checkNoRepeats(report, at+".cidrs", z.CIDRs)
		checkNoRepeats(report, at+".trust_domains", z.TrustDomains)
	}
}

// checkZoneNames refuses names of zones that do not exist: nothing would ever come
// from there.
func (c *Config) checkZoneNames(report report, path string, zones []string) {
	for i, z := range zones {
		if _, ok := c.Zones[z]; !ok {
			report(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("there is no zone %q", z), strictyaml.Suggest(z, slices.Sorted(maps.Keys(c.Zones))))
		}
	}
	checkNoRepeats(report, path, zones)
}

// Profile is a ready set of demands on a route.
type Profile string

// The profiles.
const (
	ProfileS2S          Profile = "s2s"
	ProfileWeb          Profile = "web"
	ProfileMobile       Profile = "mobile"
	ProfileMicroservice Profile = "microservice"
	ProfileSPA          Profile = "spa"
	ProfileInternal     Profile = "internal"
	ProfileFinance      Profile = "finance"
	ProfileThirdParty   Profile = "third_party"
)

// Values implements strictyaml.Enum.
func (Profile) Values() []string {
	return []string{"s2s", "web", "mobile", "microservice", "spa", "internal", "finance", "third_party"}
}

// profiles say what each stands for. Methods that the configuration does not provide
// are left out; `tokens` stands for all that issuers provide.
var profiles = map[Profile]struct {
	anyOf, allOf []policy.Method
	kinds        []policy.Kind
	assurance    int
	plaintext    bool // TLS is not asked for
	zoned        bool // the route must name its zones
}{
	// Services of different owners: what they sign or what a third party vouches for.
	ProfileS2S: {anyOf: []policy.Method{policy.MethodMTLS, policy.MethodSVID, policy.MethodWorkload, tokens}, kinds: machines, assurance: 3},
	// Pages of a server, in a browser: the cookie of a session.
	ProfileWeb: {anyOf: []policy.Method{policy.MethodSession, policy.MethodAppSession}, kinds: people, assurance: 2},
	// Apps on a user's device: tokens of an issuer.
	ProfileMobile: {anyOf: []policy.Method{tokens}, kinds: people, assurance: 3},
	// Services of one mesh: the mesh says who they are.
	ProfileMicroservice: {anyOf: []policy.Method{policy.MethodMTLS, policy.MethodSVID}, kinds: machines, assurance: 3},
	// Pages that call from the browser: a session's cookie, or tokens of an issuer.
	ProfileSPA: {anyOf: []policy.Method{policy.MethodSession, policy.MethodAppSession, tokens}, kinds: people, assurance: 2},
	// Whoever is inside: any method, from the route's zones only.
	ProfileInternal: {plaintext: true, zoned: true},
	// Money: a token of an issuer and the client's certificate, both.
	ProfileFinance: {allOf: []policy.Method{tokens, policy.MethodMTLS}, assurance: 4},
	// Other people's programs: keys and tokens that their owners can take back.
	ProfileThirdParty: {anyOf: []policy.Method{policy.MethodAPIKey, policy.MethodPAT, tokens}, assurance: 2},
}

// tokens stands for the methods of all issuers.
const tokens policy.Method = "*"

var (
	people   = []policy.Kind{policy.KindUser}
	machines = []policy.Kind{policy.KindService, policy.KindAgent, policy.KindDevice}
)

// route returns the route with what its profile says where it says nothing itself.
func (c *Config) route(r *Route) *Route {
	p, ok := profiles[r.Profile]
	if !ok {
		return r
	}
	full := *r
	if len(r.AnyOf) == 0 && len(r.AllOf) == 0 {
		full.AnyOf, full.AllOf = c.methodsOf(p.anyOf, true), c.methodsOf(p.allOf, false)
	}
	if len(r.Kinds) == 0 {
		full.Kinds = p.kinds
	}
	if r.MinAssurance == 0 {
		full.MinAssurance = p.assurance
	}
	full.RequireTLS = r.RequireTLS || !p.plaintext
	return &full
}

// methodsOf are those of a profile's methods that the configuration provides; for
// tokens, all methods of issuers, or else the first.
func (c *Config) methodsOf(wanted []policy.Method, all bool) []policy.Method {
	var methods []policy.Method
	provided := c.provided()
	for _, m := range wanted {
		switch issued := c.tokenMethods(); {
		case m != tokens && slices.Contains(provided, m):
			methods = append(methods, m)
		case m == tokens && all:
			methods = append(methods, issued...)
		case m == tokens && len(issued) > 0:
			methods = append(methods, issued[0])
		}
	}
	return methods
}

// checkProfile refuses a profile that the configuration has not what it takes for.
func (c *Config) checkProfile(report report, path string, r *Route) {
	p, ok := profiles[r.Profile]
	if !ok {
		return
	}
	full := c.route(r)
	switch {
	case len(p.anyOf) > 0 && len(full.AnyOf)+len(full.AllOf) == 0, len(p.allOf) > 0 && len(full.AnyOf) == 0 && len(full.AllOf) < len(p.allOf):
		report(path+".profile", fmt.Sprintf("%s needs methods of authentication that nothing provides", r.Profile), "configure issuers, mtls or sessions as docs/routes.md says, or list methods on the route")
	case p.zoned && len(r.Zones) == 0:
		report(path+".profile", fmt.Sprintf("%s takes requests from inside, and nothing says what that is", r.Profile), "list zones on the route")
	case r.Anonymous && r.Profile != ProfileInternal:
		report(path+".anonymous", fmt.Sprintf("anonymous and the profile %s contradict each other", r.Profile), "remove one of them")
	}
}
