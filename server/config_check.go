package server

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// report takes one complaint: path is relative to the configuration, and the
// suggestion may be empty.
type report = func(path, message, suggestion string)

// Check implements strictyaml.Checker: it holds the sections against each other.
// Nothing here looks at files or the network, so that a configuration can be
// checked on another machine.
func (c *Config) Check(report func(path, message, suggestion string)) {
	if c.Version != 1 {
		report("version", fmt.Sprintf("%d is not a version of the format", c.Version), "write 1")
	}
	c.checkListen(report)
	c.checkCallers(report)
	c.checkCredentials(report)
	c.checkIssuers(report)
	c.checkKinds(report)
	c.checkSpending(report)
	c.checkZones(report)
	c.checkRoutes(report)
	c.checkTargets(report)
	c.checkAgreements(report)
	c.checkUpstream(report)
	c.checkPolicy(report)
	c.checkStore(report)
	c.checkRanges(report)
	checkMetadataURL(report, "resource_metadata", c.ResourceMetadata)
	if !isRealm(c.Realm) {
		report("realm", "must be 1 to 128 printable ASCII characters without quotes and backslashes", "")
	}
}

// checkListen holds the listeners against each other and against who may ask.
func (c *Config) checkListen(report report) {
	if c.Listen.GRPC.Network() == "" {
		report("listen.grpc", "cannot be off", "leave it out for 127.0.0.1:9191")
	}
	c.checkGuards(report, c.Listen, c.TLS)
	if !c.Listen.HTTP.Local() && c.TLS == nil {
		report("listen.http", fmt.Sprintf("%s can be reached from other machines, and passwords would go there in plaintext", c.Listen.HTTP), "set `tls`, or listen on 127.0.0.1")
	}
	if c.Listen.Admin.Network() != "" && c.Listen.Admin.Target() == c.Listen.GRPC.Target() && c.Listen.Admin.tcp.Port() != 0 {
		report("listen.admin", "is the same as listen.grpc", "give it a port of its own")
	}
}

// guards returns what is wrong if listeners that run already get this
// configuration's callers. A reload takes over callers at once but leaves listeners
// and TLS as they are, so that a configuration that is safe for its own listeners
// can still open those of its predecessor to strangers.
func (c *Config) guards(listen Listen, tls *TLS) error {
	var all []error
	c.checkGuards(func(path, message, suggestion string) {
		all = append(all, fmt.Errorf("%s: %s; %s", path, message, suggestion))
	}, listen, tls)
	return errors.Join(all...)
}

// checkGuards refuses listeners that strangers reach where nothing says who may
// ask, and tokens that strangers could read. TLS by itself tells callers who
// Postern is, not the other way round.
func (c *Config) checkGuards(report report, listen Listen, tls *TLS) {
	for _, l := range []struct {
		path string
		at   Address
	}{{"listen.grpc", listen.GRPC}, {"listen.admin", listen.Admin}, {"listen.gateway", listen.Gateway}} {
		if !l.at.Local() && len(c.Callers) == 0 && !tls.verifiesClients() {
			report(l.path, fmt.Sprintf("%s can be reached from other machines, and nothing says who may ask", l.at),
				"add `callers` or `tls.client_ca`, or listen on 127.0.0.1")
		}
	}
	if tls != nil || listen.GRPC.Local() && listen.Admin.Local() && listen.Gateway.Local() {
		return
	}
	for i := range c.Callers {
		if caller := &c.Callers[i]; !caller.Token.IsZero() && len(caller.CIDRs) == 0 {
			report(fmt.Sprintf("callers[%d].token", i), "others could read the token on its way", "set `tls`, or say with cidrs from where it may come")
		}
	}
}

// minToken is the shortest token of a caller: 96 bits if it is base64.
const minToken = 16

func (c *Config) checkCallers(report report) {
	names := map[string]bool{}
	for i := range c.Callers {
		caller := &c.Callers[i]
		at := func(field string) string { return fmt.Sprintf("callers[%d].%s", i, field) }
		checkName(report, at("name"), caller.Name, names)
		for _, f := range []struct{ field, value string }{{"spiffe", caller.SPIFFE}, {"dns", caller.DNS}} {
			if f.value != "" && !c.TLS.verifiesClients() {
				report(at(f.field), "no client shows a certificate", "set tls.client_ca")
			}
		}
		if caller.SPIFFE != "" && !isSPIFFE(caller.SPIFFE) {
			report(at("spiffe"), fmt.Sprintf("%q is not a SPIFFE ID", caller.SPIFFE), "write it as spiffe://prod.example.com/ns/edge/sa/envoy")
		}
		if caller.DNS != "" && !isHost(caller.DNS) {
			report(at("dns"), fmt.Sprintf("%q is not a DNS name", caller.DNS), "write it as envoy.example.com")
		}
		if n := len(caller.Token.Reveal()); n > 0 && n < minToken {
			report(at("token"), fmt.Sprintf("the token is shorter than %d characters", minToken), "make one with `openssl rand -hex 32`")
		}
		if caller.SPIFFE == "" && caller.DNS == "" && len(caller.CIDRs) == 0 && caller.Token.IsZero() {
			report(fmt.Sprintf("callers[%d]", i), "nothing says how the caller is recognized", "add spiffe, dns, cidrs or token")
		}
		checkNoRepeats(report, at("trust"), caller.Trust)
		if own := slices.Index(caller.Trust, TrustOwnCertificate); own >= 0 {
			for _, forwards := range []Trust{TrustSourcePrincipal, TrustXFCC, TrustClientCert} {
				if slices.Contains(caller.Trust, forwards) {
					report(fmt.Sprintf("%s[%d]", at("trust"), own), fmt.Sprintf("the caller asks for itself, and by %s for others: a client that shows no certificate would be taken for the caller", forwards),
						"make two callers of it, each with a certificate or token of its own")
				}
			}
		}
	}
}

// provided returns the methods of authentication that the configuration provides.
func (c *Config) provided() []policy.Method {
	var all []policy.Method
	if c.APIKeys.File != "" || c.Store.Driver != DriverNone {
		all = append(all, policy.MethodAPIKey, policy.MethodPAT)
	}
	if c.hasSessions() {
		all = append(all, policy.MethodSession)
	}
	if slices.ContainsFunc(c.Callers, func(c Caller) bool { return slices.Contains(c.Trust, TrustSubject) }) {
		all = append(all, policy.MethodAsserted)
	}
	all = append(all, c.tokenMethods()...)
	return append(all, c.methods()...)
}

// tokenMethods are the names under which routes know the tokens of issuers, each once.
func (c *Config) tokenMethods() []policy.Method {
	var all []policy.Method
	add := func(m policy.Method) {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	for i := range c.Issuers {
		add(c.Issuers[i].method())
	}
	for i := range c.Introspection {
		add(c.Introspection[i].Method)
	}
	return all
}

// methodSections says which section provides each method.
var methodSections = []struct {
	method  policy.Method
	section string
}{{policy.MethodAPIKey, "store"}, {policy.MethodPAT, "store"}, {policy.MethodJWT, "issuers"}, {policy.MethodSession, "store and api_keys.pepper"}}

// checkMethods refuses methods of authentication that do not exist, and those
// that exist and that nobody provides: such a route would never let anyone in.
func (c *Config) checkMethods(report report, path string, methods []policy.Method) {
	provided := c.provided()
	for i, m := range methods {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch section := sectionOf(m); {
		case slices.Contains(provided, m):
		case m == policy.MethodAnonymous:
			report(at, "anonymous is not a method of authentication", "write anonymous: true on the route")
		case section != "":
			report(at, fmt.Sprintf("nothing provides the method %q", m), fmt.Sprintf("configure %s, or remove it here", section))
		default:
			known := knownMethods(provided)
			report(at, fmt.Sprintf("%q is not a method of authentication: use %s", m, strings.Join(known, ", ")), strictyaml.Suggest(string(m), known))
		}
	}
	checkNoRepeats(report, path, methods)
}

func sectionOf(m policy.Method) string {
	for _, s := range methodSections {
		if s.method == m {
			return s.section
		}
	}
	return ""
}

// knownMethods are the methods that Postern ships, and those that the
// configuration names itself.
func knownMethods(provided []policy.Method) []string {
	var known []string
	for _, s := range methodSections {
		known = append(known, string(s.method))
	}
	for _, m := range provided {
		if !slices.Contains(known, string(m)) {
			known = append(known, string(m))
		}
	}
	return known
}

// method is the name under which routes know the issuer's tokens.
func (s *Issuer) method() policy.Method { return cmp.Or(s.Method, policy.MethodJWT) }

func (c *Config) checkIssuers(report report) {
	reader := c.reader()
	for i := range c.Issuers {
		if l := c.Issuers[i].Constraints; l != nil {
			reader.check(report, fmt.Sprintf("issuers[%d].constraints", i), l.Hosts, l.Methods, l.Paths)
		}
		if c.Issuers[i].URL == c.Signing.Issuer && c.Signing.Issuer != "" {
			report(fmt.Sprintf("issuers[%d].url", i), "is signing.issuer, Postern itself", "its tokens are known without an entry: remove it, or choose another name for one of them")
		}
		for j := range i {
			if c.Issuers[j].URL == c.Issuers[i].URL {
				report(fmt.Sprintf("issuers[%d].url", i), fmt.Sprintf("%s is configured already, issuers[%d]", c.Issuers[i].URL, j), "a token has one issuer: put all of it in one entry")
			}
		}
		method := c.Issuers[i].method()
		if !c.uses(method) {
			report(fmt.Sprintf("issuers[%d]", i), fmt.Sprintf("no rule in credentials uses %s, so none of its tokens gets in", method),
				fmt.Sprintf("list %s under use in a rule such as header:authorization/bearer", method))
		}
	}
}

// uses reports whether a rule looks for credentials of the method.
func (c *Config) uses(m policy.Method) bool {
	return slices.ContainsFunc(c.Credentials, func(r CredentialRule) bool { return slices.Contains(r.Use, m) })
}

func (c *Config) checkCredentials(report report) {
	seen := map[string]int{}
	written := !slices.EqualFunc(c.Credentials, defaultCredentials(), func(a, b CredentialRule) bool {
		return a.From == b.From && slices.Equal(a.Use, b.Use)
	})
	for i, r := range c.Credentials {
		from, at := r.From.String(), fmt.Sprintf("credentials[%d]", i)
		if r.From.Cookie() == "" {
			from = strings.ToLower(from) // names of cookies are case-sensitive, all others are not
		}
		if first, again := seen[from]; again {
			report(at+".from", fmt.Sprintf("%s has a rule already, credentials[%d]", r.From, first), "list all methods in one rule")
		}
		seen[from] = i
		if slices.Contains(unreadable, r.From.Header()) {
			report(at+".from", fmt.Sprintf("%s carries something else", r.From), "choose another header, such as x-api-key")
		}
		if len(r.Use) == 0 {
			report(at+".use", "lists no method", "write api_key or jwt, or remove the rule")
		}
		if written {
			c.checkMethods(report, at+".use", r.Use)
		}
		if name, ok := strings.CutPrefix(r.From.String(), "query:"); ok && !c.routesReadQuery(name) {
			report(at+".from", fmt.Sprintf("no route has insecure_query_credential: %s", name), "name it on a route, or remove the rule")
		}
	}
}

func (c *Config) routesReadQuery(name string) bool {
	return slices.ContainsFunc(c.Routes, func(r Route) bool { return r.InsecureQueryCredential == name })
}

// unreadable are fields that carry the message or several things at once, not
// one credential; unsettable are those that make no statement about the caller.
var (
	unreadable = []string{
		"connection", "content-encoding", "content-length", "content-type", "cookie", "host",
		"set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
	}
	unsettable = append([]string{"authorization", "proxy-authorization"}, unreadable...)
)

func (c *Config) checkUpstream(report report) {
	if t := c.Upstream.IdentityToken; t != nil {
		switch _, set := c.Upstream.Headers[t.Header]; {
		case c.Signing.IsZero():
			report("upstream.identity_token", "there are no keys to sign with", "add signing.issuer and signing.keys")
		case !isToken(t.Header) || t.Header != strings.ToLower(t.Header) || slices.Contains(unreadable, t.Header) || !t.reservable():
			report("upstream.identity_token.header", fmt.Sprintf("%q cannot hold a token", t.Header), "write authorization, or a name of your own in lower case")
		case set:
			report("upstream.identity_token.header", fmt.Sprintf("upstream.headers sets %s too", t.Header), "choose another field for one of them")
		case t.Scheme != "" && !isToken(t.Scheme):
			report("upstream.identity_token.scheme", fmt.Sprintf("%q is not a scheme", t.Scheme), "write one word, such as Bearer")
		case c.Upstream.InsecureKeepCredential && t.Header == "authorization":
			report("upstream.identity_token.header", "the caller's credential is kept there", "choose another field, or remove insecure_keep_credential")
		}
	}
	decision := ""
	for _, name := range slices.Sorted(maps.Keys(c.Upstream.Headers)) {
		at := fmt.Sprintf("upstream.headers.%s", name)
		if !isToken(name) {
			at = fmt.Sprintf("upstream.headers[%q]", name)
		}
		switch {
		case !isToken(name):
			report(at, fmt.Sprintf("%q is not the name of a header field", name), "")
		case name != strings.ToLower(name):
			report(at, "names of header fields are written in lower case", "write "+strings.ToLower(name))
		case slices.ContainsFunc(c.Credentials, func(r CredentialRule) bool { return r.From.Header() == name }) && !slices.Contains(unsettable, name):
			report(at, "clients send their credentials in this header", "choose a name of your own, such as x-auth-principal")
		case slices.Contains(unsettable, name):
			report(at, "cannot be set for the upstream", "choose a name of your own, such as x-auth-principal")
		}
		if c.Upstream.Headers[name] == AttributeDecision {
			if decision != "" {
				report(at, fmt.Sprintf("the decision's id is in %s already", decision), "keep one of them")
			}
			decision = name
		}
		if receipt := c.receiptHeader(); c.Upstream.Headers[name] == AttributeReservation && receipt != name {
			report(at, fmt.Sprintf("the receipt is in %s already", receipt), "keep one of them")
		}
	}
}

// refusable are the built-in functions that policies may use only by name.
var refusable = []string{
	"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "uuid.rfc4122",
	"io.jwt.encode_sign", "io.jwt.encode_sign_raw", "trace", "rego.parse_module",
}

var entrypoint = regexp.MustCompile(`^data(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

func (c *Config) checkPolicy(report report) {
	c.Policy.check("policy", report)
	c.checkShadow(report)
}

// check holds the parts of one policy against each other. The fields are reported below
// at.
func (p *OnePolicy) check(at string, report report) {
	if !entrypoint.MatchString(p.Entrypoint) {
		report(at+".entrypoint", fmt.Sprintf("%q is not a rule", p.Entrypoint), "write it as data.postern.authz.decision")
	}
	if v := p.RegoVersion; v != nil && *v != 0 && *v != 1 {
		report(at+".rego_version", fmt.Sprintf("%d is not a version of Rego: use 0 or 1", *v), "")
	}
	for i, b := range p.AllowBuiltins {
		if !slices.Contains(refusable, b) {
			report(fmt.Sprintf("%s.allow_builtins[%d]", at, i), fmt.Sprintf("%q is not a function that must be allowed: those are %s", b, strings.Join(refusable, ", ")),
				strictyaml.Suggest(b, refusable))
		}
	}
	reaches := slices.Contains(p.AllowBuiltins, "http.send") || slices.Contains(p.AllowBuiltins, "net.lookup_ip_addr")
	switch {
	case len(p.AllowHosts) > 0 && !reaches:
		report(at+".allow_hosts", "no function may use the network", "add http.send to allow_builtins, or remove the hosts")
	case len(p.AllowHosts) == 0 && reaches:
		report(at+".allow_builtins", "the functions may reach no host", "list the hosts in allow_hosts")
	}
	checkNoRepeats(report, at+".allow_builtins", p.AllowBuiltins)
	p.checkBundles(at, report)
}

// checkRanges refuses numbers that turn a limit off or make it useless.
func (c *Config) checkRanges(report report) {
	const million = 1_000_000
	number := func(path string, v, low, high int) {
		if v < low || v > high {
			report(path, fmt.Sprintf("%d is out of range: use %d to %d", v, low, high), "")
		}
	}
	duration := func(path string, v, low, high time.Duration) {
		if v < low || v > high {
			report(path, fmt.Sprintf("%s is out of range: use %s to %s", short(v), short(low), short(high)), "")
		}
	}
	size := func(path string, v, low, high strictyaml.Size) {
		if v < low || v > high {
			report(path, fmt.Sprintf("%s is out of range: use %s to %s", v, low, high), "")
		}
	}
	number("cache.credentials.size", c.Cache.Credentials.Size, 1, 10*million)
	duration("cache.credentials.max_ttl", c.Cache.Credentials.MaxTTL, time.Second, time.Hour)
	number("cache.negative.size", c.Cache.Negative.Size, 1, 10*million)
	duration("cache.negative.ttl", c.Cache.Negative.TTL, 100*time.Millisecond, time.Minute)
	number("decisions.keep", c.Decisions.Keep, 0, million)
	size("limits.message_size", c.Limits.MessageSize, strictyaml.KiB, maxMessage)
	c.checkMessageSize(report)
	size("limits.header_list", c.Limits.HeaderList, strictyaml.KiB, strictyaml.MiB)
	number("limits.concurrent_streams", int(c.Limits.Streams), 1, 100_000)
	number("limits.connections", c.Limits.Connections, 1, million)
	number("limits.requests", c.Limits.Requests, 1, million)
	duration("limits.deadline", c.Limits.Deadline, time.Millisecond, time.Minute)
	duration("shutdown.drain", c.Shutdown.Drain, 0, 10*time.Minute)
	duration("store.max_stale", c.Store.MaxStale, time.Second, 24*time.Hour)
	duration("tenants.max_ttl", c.Tenants.MaxTTL, time.Minute, tenYears)
	duration("tenants.max_grace", c.Tenants.MaxGrace, time.Second, tenYears)
	duration("tenants.unused_for", c.Tenants.UnusedFor, 0, tenYears)
	number("tenants.max_pats", c.Tenants.MaxPATs, 1, 1000)
	evaluation := func(at string, p *OnePolicy) {
		duration(at+".timeout", p.Timeout, time.Millisecond, 10*time.Second)
		number(at+".max_evaluations", p.MaxEvaluations, 0, 10_000)
		number(at+".max_value", p.MaxValue, 1<<10, 16<<20)
		number(at+".limits.files", p.Limits.Files, 1, million)
		number(at+".limits.depth", p.Limits.Depth, 1, 100)
		if p.Limits.Bytes < 1<<10 {
			report(at+".limits.bytes", fmt.Sprintf("%d is out of range: use at least 1024", p.Limits.Bytes), "")
		}
		if p.Cache.MaxBytes < 1<<20 {
			report(at+".cache.max_bytes", fmt.Sprintf("%d is out of range: use at least 1048576", p.Cache.MaxBytes), "set "+at+".cache.size to -1 to turn the cache off")
		}
		number(at+".cache.size", p.Cache.Size, -1, 10*million)
		duration(at+".cache.max_ttl", p.Cache.MaxTTL, time.Second, time.Hour)
	}
	p := &c.Policy.OnePolicy
	evaluation("policy", p)
	if shadow := c.Policy.Shadow; shadow != nil {
		evaluation("policy.shadow", &shadow.OnePolicy)
	}
	if p.Timeout >= c.Limits.Deadline {
		report("policy.timeout", fmt.Sprintf("%s leaves no time to answer within limits.deadline, %s", short(p.Timeout), short(c.Limits.Deadline)), "")
	}
}

const tenYears = 10 * 365 * 24 * time.Hour

const (
	maxMessage = 64 * strictyaml.MiB
	// messageSlack is room for what a message holds besides the request: method,
	// host, peers, certificate and the encoding itself.
	messageSlack = 16 * strictyaml.KiB
)

// checkMessageSize refuses a limit on messages that is less than those on what
// they hold: gRPC would answer RESOURCE_EXHAUSTED to a request that `request.limits`
// lets through, and a gateway that fails open lets it pass on that.
func (c *Config) checkMessageSize(report report) {
	l, standard := c.Request.Limits, defaultRequest().Limits
	need := messageSlack +
		strictyaml.Size(cmp.Or(l.MaxPathBytes, standard.MaxPathBytes)) +
		strictyaml.Size(cmp.Or(l.MaxQueryBytes, standard.MaxQueryBytes)) +
		strictyaml.Size(cmp.Or(l.MaxHeaderBytes, standard.MaxHeaderBytes)) +
		strictyaml.Size(cmp.Or(l.MaxBodyBytes, standard.MaxBodyBytes))
	need = (need + strictyaml.KiB - 1) / strictyaml.KiB * strictyaml.KiB
	switch message := fmt.Sprintf("%s cannot hold the %s that request.limits lets through", c.Limits.MessageSize, need); {
	case c.Limits.MessageSize >= need:
	case need > maxMessage:
		report("limits.message_size", message, fmt.Sprintf("lower request.limits: a message has at most %s", maxMessage))
	default:
		report("limits.message_size", message, fmt.Sprintf("write at least %s, or lower request.limits.max_body_bytes", need))
	}
}

// short writes 1m0s as 1m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func checkName(report report, path, name string, seen map[string]bool) {
	switch {
	case name == "":
		report(path, "is empty", "give it a name for logs and metrics")
	case !isToken(name) || len(name) > 64:
		report(path, fmt.Sprintf("%q is not a name", name), "use up to 64 letters, digits, - and _")
	case seen[name]:
		report(path, fmt.Sprintf("%q is used already", name), "names are unique")
	}
	seen[name] = true
}

func checkNoRepeats[T comparable](report report, path string, list []T) {
	for i, v := range list {
		if slices.Contains(list[:i], v) {
			report(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%v is listed twice", v), "")
		}
	}
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		b := s[i]
		if !('a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0) {
			return false
		}
	}
	return s != ""
}

// isScope reports whether s is a scope-token of RFC 6749 section 3.3.
func isScope(s string) bool {
	for i := range len(s) {
		if b := s[i]; b <= ' ' || b >= 0x7f || b == '"' || b == '\\' {
			return false
		}
	}
	return s != ""
}

// isRealm reports whether s can stand in a quoted string without escapes.
func isRealm(s string) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' || b >= 0x7f || b == '"' || b == '\\' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// isSPIFFE reports whether s is a SPIFFE ID with a path.
func isSPIFFE(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "spiffe" && isHost(u.Host) && strings.HasPrefix(u.Path, "/") && len(u.Path) > 1 &&
		!strings.HasSuffix(u.Path, "/") && u.RawQuery == "" && u.Fragment == "" && u.User == nil && len(s) <= 2048
}

// isHost reports whether s is a host name in lower case, or one with "*." before.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(s, "*."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || label[0] == '-' {
			return false
		}
	}
	return len(s) <= 253
}
