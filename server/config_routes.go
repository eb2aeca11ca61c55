package server

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/strictyaml"
)

func (c *Config) checkRoutes(report report) {
	names, reader := map[string]bool{}, c.reader()
	for i := range c.Routes {
		r, path := &c.Routes[i], fmt.Sprintf("routes[%d]", i)
		checkName(report, path+".name", r.Name, names)
		checkReached(report, c.Routes[:i], r, path)
		c.checkProfile(report, path, r)
		c.checkZoneNames(report, path+".zones", r.Zones)
		c.checkRouteMethods(report, r, path)
		checkRouteMatch(report, r, path)
		reader.check(report, path, r.Hosts, r.Methods, r.Paths)
		checkRouteDemands(report, r, path)
		if q := r.InsecureQueryCredential; q != "" && !c.readsQuery(q) {
			report(path+".insecure_query_credential", fmt.Sprintf("no rule says what is found in query:%s", q),
				fmt.Sprintf("add {from: query:%s, use: api_key} to credentials", q))
		}
	}
}

// checkReached refuses a route behind one that takes all of its requests. Of these
// it would demand nothing, whatever stands there.
func checkReached(report report, before []Route, r *Route, path string) {
	own := r.Policy()
	for i := range before {
		if b := before[i].Policy(); b.Covers(&own) {
			report(path, "is never reached", fmt.Sprintf("move it before the route %q, which takes every request that it would, or remove it", before[i].Name))
			return
		}
	}
}

func (c *Config) readsQuery(name string) bool {
	return slices.ContainsFunc(c.Credentials, func(r CredentialRule) bool { return r.From.String() == "query:"+name })
}

func (c *Config) checkRouteMethods(report report, r *Route, path string) {
	if len(r.AnyOf) > 0 && len(r.AllOf) > 0 {
		report(path+".all_of", "any_of and all_of cannot both be set", "keep one of them")
	}
	if r.Anonymous && len(r.AllOf) > 0 {
		report(path+".anonymous", "anonymous and all_of contradict each other", "remove one of them")
	}
	checkAnonymous(report, r, path)
	c.checkMethods(report, path+".any_of", r.AnyOf)
	c.checkMethods(report, path+".all_of", r.AllOf)
}

// checkAnonymous refuses demands that a caller escapes by leaving the credential
// out: whoever reads the route would believe that they hold.
func checkAnonymous(report report, r *Route, path string) {
	if !r.Anonymous {
		return
	}
	for _, demand := range []struct {
		field string
		set   bool
	}{
		{"kinds", len(r.Kinds) > 0},
		{"scopes", len(r.Scopes) > 0},
		{"min_assurance", r.MinAssurance != 0},
		{"max_age", r.MaxAge != 0},
		{"acr", len(r.ACR) > 0},
		{"amr", len(r.AMR) > 0},
		{"tenant", r.Tenant != ""},
	} {
		if demand.set {
			report(path+"."+demand.field, fmt.Sprintf("anonymous and %s contradict each other: a caller who leaves the credential out does not meet it and gets on all the same", demand.field),
				"remove one of them, or let the policy decide who may")
		}
	}
}

var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}

func checkRouteMatch(report report, r *Route, path string) {
	for i, m := range r.Methods {
		at := fmt.Sprintf("%s.methods[%d]", path, i)
		switch {
		case !isToken(m):
			report(at, fmt.Sprintf("%q is not an HTTP method", m), strictyaml.Suggest(m, httpMethods))
		case slices.Contains(httpMethods, strings.ToUpper(m)) && m != strings.ToUpper(m):
			report(at, fmt.Sprintf("methods are case-sensitive: %q is not %s, and refused where it makes a difference", m, strings.ToUpper(m)), "write "+strings.ToUpper(m))
		}
	}
	checkNoRepeats(report, path+".methods", r.Methods)
	checkNoRepeats(report, path+".hosts", r.Hosts)
	for i, p := range r.Paths {
		if slices.ContainsFunc(r.Paths[:i], func(o policy.PathPattern) bool { return o.String() == p.String() }) {
			report(fmt.Sprintf("%s.paths[%d]", path, i), fmt.Sprintf("%q is listed twice", p), "")
		}
	}
}

var principalKinds = []policy.Kind{policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice}

func checkRouteDemands(report report, r *Route, path string) {
	for i, k := range r.Kinds {
		if k == policy.KindAnonymous {
			report(fmt.Sprintf("%s.kinds[%d]", path, i), "nobody who brings a credential is anonymous", "write anonymous: true on the route instead of kinds")
		} else if !slices.Contains(principalKinds, k) {
			names := []string{}
			for _, known := range principalKinds {
				names = append(names, string(known))
			}
			report(fmt.Sprintf("%s.kinds[%d]", path, i), fmt.Sprintf("%q is not a kind of principal: use %s", k, strings.Join(names, ", ")),
				strictyaml.Suggest(string(k), names))
		}
	}
	checkNoRepeats(report, path+".kinds", r.Kinds)
	for i, s := range r.Scopes {
		if !isScope(s) {
			report(fmt.Sprintf("%s.scopes[%d]", path, i), fmt.Sprintf("%q is not a scope", s), "write one scope an item, without spaces and quotes")
		}
	}
	checkNoRepeats(report, path+".scopes", r.Scopes)
	for _, list := range []struct {
		field string
		names []string
	}{{"acr", r.ACR}, {"amr", r.AMR}} {
		for i, name := range list.names {
			if !isScope(name) {
				report(fmt.Sprintf("%s.%s[%d]", path, list.field, i), fmt.Sprintf("%q cannot stand in a challenge", name), "write one name an item, without spaces and quotes")
			}
		}
		checkNoRepeats(report, path+"."+list.field, list.names)
	}
	for i, s := range r.Services {
		if _, err := policy.ParsePathPattern("/" + s + "/*"); err != nil || s == "" || strings.ContainsAny(s, "/*") {
			report(fmt.Sprintf("%s.services[%d]", path, i), fmt.Sprintf("%q is not a gRPC service", s), "write its full name, as in shop.v1.Orders")
		}
	}
	checkNoRepeats(report, path+".services", r.Services)
	checkMetadataURL(report, path+".resource_metadata", r.ResourceMetadata)
	if r.CacheTTL < 0 || r.CacheTTL > time.Minute {
		report(path+".cache_ttl", fmt.Sprintf("is %s; 0s to 1m are accepted", r.CacheTTL), "what is revoked would be allowed for so long")
	}
	if r.MinAssurance < 0 || r.MinAssurance > 4 {
		report(path+".min_assurance", fmt.Sprintf("%d is not a level of assurance: use 0 to 4", r.MinAssurance), "")
	}
}

// checkMetadataURL refuses what is no URL that a client could fetch (RFC 9728 section
// 3: https).
func checkMetadataURL(report report, path, text string) {
	if text == "" {
		return
	}
	if u, err := url.Parse(text); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || !isScope(text) {
		report(path, fmt.Sprintf("%q is not a URL that clients can read", text), "write it as https://api.example.com/.well-known/oauth-protected-resource")
	}
}

// patternReader finds patterns that no request ever fits, by reading a request that
// is made to fit. A nil one finds nothing.
type patternReader struct{ *canonical.Reader }

// reader returns a reader that reads as the server will; nil if the section that
// says how is wrong itself.
func (c *Config) reader() *patternReader {
	r, err := canonical.New(canonical.Config{Paths: c.Request.Paths, Limits: c.Request.Limits})
	if err != nil {
		return nil
	}
	return &patternReader{r}
}

// check reports the patterns that are in vain. A demand on a place that is spelled
// as no request is would never be made, and the place stays open.
func (p *patternReader) check(report report, path string, hosts []policy.HostPattern, methods []string, paths []policy.PathPattern) {
	if p == nil {
		return
	}
	for i, h := range hosts {
		if sample := hostSample(h); sample != "" {
			q, err := p.read(sample, "GET", "/")
			vain(report, fmt.Sprintf("%s.hosts[%d]", path, i), "host", h.String(), sample, q.Host, err,
				"write the name as it stands in a URL, without port and trailing dot, other letters as punycode")
		}
	}
	for i, m := range methods {
		if isToken(m) { // or else it was reported
			q, err := p.read("x", m, "/")
			vain(report, fmt.Sprintf("%s.methods[%d]", path, i), "method", m, m, q.Method, err, "remove it")
		}
	}
	for i, t := range paths {
		if sample := pathSample(t); sample != "" {
			q, err := p.read("x", "GET", escape(sample))
			vain(report, fmt.Sprintf("%s.paths[%d]", path, i), "path", t.String(), sample, q.Path, err,
				"write it decoded, with no space or dot at the end of a segment and no space at its start")
		}
	}
}

func (p *patternReader) read(host, method, path string) (policy.Request, error) {
	var q policy.Request
	err := p.Read(&policy.Attributes{Method: method, Scheme: "https", Host: host, Path: path}, &q)
	return q, err
}

// vain reports a pattern whose sample is refused or read as something else.
func vain(report report, path, what, pattern, sample, got string, err error, suggestion string) {
	var refusal *canonical.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Reason == policy.ReasonRequestTooLarge:
		report(path, fmt.Sprintf("no request that is served has the %s %q: %s", what, pattern, refusal.Detail), "raise request.limits")
	case errors.As(err, &refusal):
		report(path, fmt.Sprintf("no request that is served has the %s %q: %s", what, pattern, strings.TrimPrefix(refusal.Detail, what+": ")), suggestion)
	case got != sample && sample == pattern:
		report(path, fmt.Sprintf("no request has the %s %q, which is read as another", what, pattern), fmt.Sprintf("write %q", got))
	case got != sample:
		report(path, fmt.Sprintf("no request has the %s %q, which is read as another", what, pattern), suggestion)
	}
}

// hostSample returns a host that fits the pattern, pathSample a decoded path; empty
// if the pattern is, because it was wrong.
func hostSample(h policy.HostPattern) string {
	if domain, ok := strings.CutPrefix(h.String(), "*"); ok {
		return "x" + domain
	}
	return h.String()
}

func pathSample(p policy.PathPattern) string {
	segments := strings.Split(p.String(), "/")
	for i, s := range segments {
		if s == "*" || s == "**" {
			segments[i] = "x"
		}
	}
	return strings.Join(segments, "/")
}

// escape writes a decoded path as a client sends it (RFC 3986 section 2.1).
func escape(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
