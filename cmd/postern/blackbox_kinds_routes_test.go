package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
)

// Routes and ways to combine, with every kind that needs no store.
func TestKindsRoutes(t *testing.T) {
	t.Parallel()
	var bound, service string
	lab := startKinds(t, func(lab *kindsLab) {
		service = lab.mint(t, order{id: "job", principalKind: "service"})
		bound = lab.mint(t, order{id: "alice"}, func(k *apikey.Key) {
			k.Constraints = &policy.Constraints{Peers: []string{lab.web.spiffe}}
		})
	})
	lab.hide(bound, service)
	t.Run("methods", func(t *testing.T) { t.Parallel(); methodsOfRoutes(t, lab) })
	t.Run("assurance", func(t *testing.T) { t.Parallel(); levels(t, lab) })
	t.Run("zones", func(t *testing.T) { t.Parallel(); zonesMove(t, lab) })
	t.Run("kinds", func(t *testing.T) { t.Parallel(); principalKinds(t, lab, service) })
	t.Run("binding", func(t *testing.T) { t.Parallel(); keyAndCertificate(t, lab, bound) })
	t.Run("combined", func(t *testing.T) { t.Parallel(); combined(t, lab) })
	t.Run("cookie", func(t *testing.T) { t.Parallel(); tokenInACookie(t, lab) })
	t.Run("shapes", func(t *testing.T) { t.Parallel(); shapesOfTokens(t, lab) })
	t.Run("workloads", func(t *testing.T) { t.Parallel(); workloadsSign(t, lab) })
	t.Run("certificates", func(t *testing.T) { t.Parallel(); certificates(t, lab) })
}

// G-03: a route takes the methods that it lists, and every other, however good, is told
// so.
func methodsOfRoutes(t *testing.T, lab *kindsLab) {
	signed, opaque := bearer(lab.jwt.token(claims{"sub": "ann"})), bearer(lab.oauth.opaque(claims{"sub": "ann"}))
	key, cert := []string{"x-api-key", lab.key}, lab.web.xfcc()
	svid := bearer(lab.mesh.svid(t, "x", nil))
	for _, c := range []struct {
		path    string
		headers []string
		status  int
		reason  string
	}{
		{"/keys/1", key, 200, "allowed"},
		{"/keys/1", signed, 401, "method_not_accepted"},
		{"/keys/1", opaque, 401, "method_not_accepted"},
		{"/keys/1", svid, 401, "method_not_accepted"},
		{"/keys/1", cert, 401, "credential_missing"}, // every request of a mesh has one: it is no answer to the question
		{"/either/1", key, 200, "allowed"},
		{"/either/1", signed, 200, "allowed"},
		{"/either/1", opaque, 401, "method_not_accepted"},
		{"/either/1", plus(key, signed), 401, "multiple_credentials"},
		{"/certs/1", cert, 200, "allowed"},
		{"/certs/1", key, 401, "method_not_accepted"},
		{"/certs/1", plus(cert, key), 401, "method_not_accepted"},
		{"/certs/1", nil, 401, "credential_missing"},
		{"/", svid, 200, "allowed"},
		{"/", plus(key, []string{"x-api-key", "x"}), 400, "request_invalid"},
		{"/", plus(signed, []string{"x-second-token", "x"}), 401, "multiple_credentials"},
		{"/keys/1", append(bearer("pst_key_nonsense"), key...), 401, "multiple_credentials"},
	} {
		lab.expect(t, get(c.path, c.headers...), c.status, c.reason)
	}
	// Basic where it may be used, on a route that does not take it.
	q := get("/keys/1", basicOf("ann", annsPassword)...)
	q.source = "198.51.100.9"
	lab.expect(t, q, 401, "method_not_accepted")
}

// the level that each way of proving gets, and what routes make of it.
func levels(t *testing.T, lab *kindsLab) {
	amr := func(methods ...string) claims { return claims{"sub": "ann", "amr": methods} }
	h := newHolder(t)
	golden := []struct {
		name  string
		level int
		q     func() request
	}{
		{"basic", 1, func() request {
			q := get("/", basicOf("ann", annsPassword)...)
			q.source = "198.51.100.9"
			return q
		}},
		{"api_key", 2, func() request { return withKey("/", lab.key) }},
		{"api_key as bearer", 2, func() request { return get("/", bearer(lab.key)...) }},
		{"api_key and a certificate beside it", 2, func() request { return get("/", plus([]string{"x-api-key", lab.key}, lab.web.xfcc())...) }},
		{"jwt", 3, func() request { return get("/", bearer(lab.jwt.token(claims{"sub": "ann"}))...) }},
		{"jwt amr=pwd", 3, func() request { return get("/", bearer(lab.jwt.token(amr("pwd")))...) }},
		{"jwt amr=pwd,pin", 3, func() request { return get("/", bearer(lab.jwt.token(amr("pwd", "pin")))...) }},
		{"jwt amr=otp", 3, func() request { return get("/", bearer(lab.jwt.token(amr("otp")))...) }},
		{"jwt amr=MFA", 3, func() request { return get("/", bearer(lab.jwt.token(amr("MFA")))...) }},
		{"jwt amr=pwd,otp", 4, func() request { return get("/", bearer(lab.jwt.token(amr("pwd", "otp")))...) }},
		{"jwt amr=mfa", 4, func() request { return get("/", bearer(lab.jwt.token(amr("mfa")))...) }},
		{"jwt in DPoP", 3, func() request { return h.shows("/", lab.jwt.token(claims{"sub": "ann", "cnf": h.bind()}), nil) }},
		{"oauth", 3, func() request { return get("/", bearer(lab.oauth.opaque(claims{"sub": "ann"}))...) }},
		{"oauth amr=mfa", 4, func() request { return get("/", bearer(lab.oauth.opaque(amr("mfa")))...) }},
		{"oauth by JWKS, amr=mfa", 4, func() request {
			c := amr("mfa")
			c["client_id"], c["jti"] = "web", "1"
			return get("/", bearer(lab.strict.sign(map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}, c))...)
		}},
		{"jwt_svid", 3, func() request { return get("/", bearer(lab.mesh.svid(t, "x", nil))...) }},
		{"workload", 3, func() request { return get("/", bearer(assertion(lab.planner, nil))...) }},
		{"mtls", 4, func() request { return get("/", lab.web.xfcc()...) }},
		{"mtls, Client-Cert", 4, func() request { return get("/", lab.web.clientCert()...) }},
	}
	for _, c := range golden {
		if a := lab.askEnvoy(t, c.q()); !a.allowed() || a.seen(t).Assurance != c.level {
			t.Errorf("%s: %v at level %d, want %d", c.name, a, a.seen(t).Assurance, c.level)
		}
		for level := 1; level <= 4; level++ {
			path := fmt.Sprintf("/level/%d/x", level)
			at := func() request {
				q := c.q()
				q.path = path
				for i, f := range q.headers { // the proof is for the path
					if f.Name == "dpop" {
						token := strings.TrimPrefix(q.headers[i-1].Value, "DPoP ")
						q = h.shows(path, token, nil)
					}
				}
				return q
			}
			if level <= c.level {
				lab.fresh(t, at, 200, "allowed")
			} else {
				lab.fresh(t, at, 403, "assurance")
			}
		}
	}
}

// G-07: a zone is an address or a workload that a certificate proves. What a client says
// of either moves nobody, and a zone opens no other tenant's door.
func zonesMove(t *testing.T, lab *kindsLab) {
	outside := get("/inside/x")
	office := outside
	office.source = "198.51.100.7"
	mapped := outside
	mapped.source = "::ffff:198.51.100.7"
	lab.expect(t, outside, 403, "network_not_allowed")
	for name, q := range map[string]request{"office": office, "IPv4 in IPv6": mapped} {
		if a := lab.expect(t, q, 200, "allowed"); !slices.Equal(a.seen(t).Zones, []string{"office"}) {
			t.Errorf("%s: %v", name, a.seen(t).Zones)
		}
	}
	if a := lab.expect(t, get("/inside/x", lab.web.xfcc()...), 200, "allowed"); !slices.Equal(a.seen(t).Zones, []string{"mesh"}) {
		t.Errorf("mesh: %v", a.seen(t).Zones)
	}
	lab.expect(t, get("/inside-known/x", lab.web.xfcc()...), 200, "allowed") // no token
	known := get("/inside-known/x")
	known.source = "198.51.100.7"
	lab.expect(t, known, 401, "credential_missing") // a place is nobody
	for _, spoofed := range [][]string{
		{"x-forwarded-for", "198.51.100.7"}, {"x-real-ip", "198.51.100.7"}, {"forwarded", "for=198.51.100.7"},
		{"x-envoy-external-address", "198.51.100.7"}, {"true-client-ip", "198.51.100.7"},
	} {
		lab.expect(t, get("/inside/x", spoofed...), 403, "network_not_allowed")
	}
	lab.stranger.expect(t, get("/inside/x", lab.web.xfcc()...), 403, "network_not_allowed")
	other := newPKI(t, lab.path("other"+t.Name()))
	lab.expect(t, get("/inside/x", other.workload(t, "ns/shop/sa/web").xfcc()...), 401, "issuer_untrusted")
	// A zone does not carry its caller into a tenant.
	lab.expect(t, get("/shop-inside/x", lab.web.xfcc()...), 200, "allowed")
	stray := lab.pki.issue(t, "--spiffe", "spiffe://prod.test/ns/other/sa/web", "--name", "stray")
	if a := lab.ask(t, get("/shop-inside/x", stray.xfcc()...)); a.status != 403 {
		t.Errorf("a workload of no tenant: %v", a)
	}
	token := lab.jwt.token(claims{"sub": "ann", "tenant": "rival"})
	lab.expect(t, get("/shop-inside/x", plus(bearer(token), lab.web.xfcc())...), 403, "tenant_mismatch")
}

// K-10 and M-01: what the principal of each kind is; only users get to the users' route.
func principalKinds(t *testing.T, lab *kindsLab, service string) {
	office := func(q request) request { q.source = "198.51.100.9"; return q }
	for name, c := range map[string]struct {
		q    func() request
		kind string
	}{
		"a key of a user":    {func() request { return withKey("/people/", lab.key) }, "user"},
		"a key of a service": {func() request { return withKey("/people/", service) }, "service"},
		"a user's token": {func() request {
			return get("/people/", bearer(lab.jwt.token(claims{"sub": "ann", "client_id": "web"}))...)
		}, "user"},
		"a client's own token": {func() request {
			return get("/people/", bearer(lab.jwt.token(claims{"sub": "web", "client_id": "web"}))...)
		}, "service"},
		"a client's own, by azp": {func() request { return get("/people/", bearer(lab.jwt.token(claims{"sub": "web", "azp": "web"}))...) }, "service"},
		"a client's own, opaque": {func() request { return get("/people/", bearer(lab.oauth.opaque(claims{"client_id": "web"}))...) }, "service"},
		"a user's opaque token": {func() request {
			return get("/people/", bearer(lab.oauth.opaque(claims{"sub": "ann", "client_id": "web"}))...)
		}, "user"},
		"a certificate":              {func() request { return get("/people/", lab.web.xfcc()...) }, "service"},
		"a registered agent":         {func() request { return get("/people/", bearer(assertion(lab.planner, nil))...) }, "agent"},
		"a workload by its JWT-SVID": {func() request { return get("/people/", bearer(lab.mesh.svid(t, "x", nil))...) }, "service"},
		"a password":                 {func() request { return office(get("/people/", basicOf("ann", annsPassword)...)) }, "user"},
	} {
		status, reason := 200, "allowed"
		if c.kind != "user" {
			status, reason = 403, "principal_kind"
		}
		lab.fresh(t, c.q, status, reason)
		q := c.q()
		q.path = "/"
		if a := lab.askEnvoy(t, q); a.seen(t).Kind != c.kind {
			t.Errorf("%s: %v of kind %q", name, a, a.seen(t).Kind)
		}
	}
}

// two methods on a route, and a key that goes with one certificate.
func keyAndCertificate(t *testing.T, lab *kindsLab, bound string) {
	other := lab.pki.issue(t, "--spiffe", "spiffe://prod.test/ns/shop/sa/cart", "--name", "cart")
	free, pinned := []string{"x-api-key", lab.key}, []string{"x-api-key", bound}
	right, wrong := lab.web.xfcc(), other.xfcc()
	lab.expect(t, get("/key-and-cert/", plus(free, right)...), 200, "allowed")
	lab.expect(t, get("/key-and-cert/", plus(free, wrong)...), 200, "allowed")
	lab.expect(t, get("/key-and-cert/", free...), 401, "credential_missing")
	lab.expect(t, get("/key-and-cert/", right...), 401, "credential_missing")
	if a := lab.expect(t, get("/key-and-cert/", plus(pinned, right)...), 200, "allowed"); a.principal != "alice" || a.seen(t).Peer != lab.web.spiffe {
		t.Error(a)
	}
	lab.expect(t, get("/key-and-cert/", plus(pinned, wrong)...), 401, "binding")
	lab.expect(t, get("/", pinned...), 401, "binding") // the key itself demands it, on every route
	lab.expect(t, get("/", plus(pinned, wrong)...), 401, "binding")
	lab.stranger.expect(t, get("/", plus(pinned, right)...), 401, "binding")
}

// OAuth and JWT, both.
func combined(t *testing.T, lab *kindsLab) {
	signed, opaque := bearer(lab.jwt.token(claims{"sub": "ann"})), lab.oauth.opaque(claims{"sub": "ann-there"})
	if a := lab.expect(t, get("/oauth-and-jwt/", plus(signed, []string{"x-second-token", opaque})...), 200, "allowed"); a.principal != "ann" || a.method != "jwt" {
		t.Error(a)
	}
	lab.expect(t, get("/oauth-and-jwt/", signed...), 401, "credential_missing")
	lab.expect(t, get("/oauth-and-jwt/", bearer(opaque)...), 401, "credential_missing")
	lab.expect(t, get("/oauth-and-jwt/", plus(signed, []string{"x-second-token", "opaque-unknown"})...), 401, "credential_unknown")
	lab.expect(t, get("/oauth-and-jwt/", plus(signed, []string{"x-second-token", strings.TrimPrefix(signed[1], "Bearer ")})...), 401, "method_not_accepted")
	rival := lab.oauth.opaque(claims{"sub": "ann", "tenant": "rival"})
	ours := bearer(lab.jwt.token(claims{"sub": "ann", "tenant": "acme"}))
	lab.expect(t, get("/oauth-and-jwt/", plus(ours, []string{"x-second-token", rival})...), 403, "tenant_mismatch")
}

// J-11: a JWT in a cookie is under the rules of cookies.
func tokenInACookie(t *testing.T, lab *kindsLab) {
	token := lab.jwt.token(claims{"sub": "ann"})
	cookie := []string{"cookie", "theme=dark; token=" + token}
	for _, c := range []struct {
		method  string
		headers []string
		status  int
	}{
		{"GET", nil, 200},
		{"GET", []string{"sec-fetch-site", "cross-site"}, 200},
		{"HEAD", nil, 200},
		{"POST", nil, 403},
		{"POST", []string{"sec-fetch-site", "cross-site"}, 403},
		{"POST", []string{"origin", "https://evil.test"}, 403},
		{"DELETE", []string{"sec-fetch-site", "none"}, 200},
		{"POST", []string{"sec-fetch-site", "same-origin"}, 200},
		{"PUT", []string{"origin", "https://api.test"}, 200},
		{"GET", []string{"upgrade", "websocket", "origin", "https://evil.test"}, 403},
	} {
		a := lab.ask(t, get("/x", plus(cookie, c.headers)...).with(c.method))
		if a.status != c.status || c.status == 403 && a.reason != "csrf" {
			t.Errorf("%s with %v: %v, want %d", c.method, c.headers, a, c.status)
		}
		if a.allowed() && a.upstream("cookie") != "theme=dark" {
			t.Errorf("the upstream gets the cookies %q", a.upstream("cookie"))
		}
	}
	// The same token in the header comes from no browser by itself.
	lab.expect(t, get("/x", bearer(token)...).with("POST"), 200, "allowed")
	lab.expect(t, get("/x", plus(cookie, bearer(token))...), 401, "multiple_credentials")
}

// T-02: a bearer token goes to the one kind that can own it, and no other is shown it.
func shapesOfTokens(t *testing.T, lab *kindsLab) {
	quiet := func(token string, status int, reason string) {
		t.Helper()
		lab.expect(t, get("/shape", bearer(token)...), status, reason)
		if lab.oauth.saw(token) {
			t.Error("the issuer of opaque tokens was shown another's")
		}
	}
	quiet(lab.key, 200, "allowed")
	quiet(lab.key[:len(lab.key)-1]+"!", 401, "credential_malformed")
	quiet(lab.jwt.token(claims{"sub": "ann"}), 200, "allowed")
	quiet(lab.jwt.token(claims{"sub": "ann", "iss": "https://nobody.test"}), 401, "issuer_untrusted")
	quiet(lab.mesh.svid(t, "x", nil), 200, "allowed")
	quiet("eyJ.nonsense.x", 401, "credential_malformed")
	if opaque := lab.oauth.opaque(claims{"sub": "ann"}); lab.ask(t, get("/shape", bearer(opaque)...)).allowed() != lab.oauth.saw(opaque) {
		t.Error("it was not shown its own")
	}
	// Names that two could own.
	both := lab.jwt.token(claims{"sub": "spiffe://prod.test/x"})
	if a := lab.ask(t, get("/shape", bearer(both)...)); a.status != 401 {
		t.Errorf("an issuer's token about a workload of ours: %v", a)
	}
}

// C-01 to C-04, TLS-01 TLS-02 TLS-04 TLS-05: a certificate that a gateway shows is
// verified again.
func certificates(t *testing.T, lab *kindsLab) {
	issue := func(flags ...string) []string {
		return lab.pki.issue(t, append(flags, "--name", strings.NewReplacer("/", "", ":", "", "-", "").Replace(strings.Join(flags, "")))...).xfcc()
	}
	other := newPKI(t, lab.path("another"))
	const id = "spiffe://prod.test/ns/shop/sa/web"
	for name, c := range map[string]struct {
		headers []string
		status  int
		reason  string
	}{
		"a workload, C-03":          {issue("--spiffe", id), 200, "allowed"},
		"by DNS name":               {issue("--dns", "billing.test"), 200, "allowed"},
		"another CA":                {other.workload(t, "ns/shop/sa/web").xfcc(), 401, "issuer_untrusted"},
		"another trust domain":      {issue("--spiffe", "spiffe://dev.test/x"), 401, "issuer_untrusted"},
		"of a server":               {issue("--spiffe", id, "--server"), 401, "credential_malformed"},
		"expired":                   {issue("--spiffe", id, "--ttl", "-1h"), 401, "expired"},
		"two SPIFFE ids, C-02":      {issue("--spiffe", id, "--spiffe", "spiffe://prod.test/b"), 401, "credential_malformed"},
		"a common name alone":       {lab.pki.issue(t, "--name", "nobody").xfcc(), 401, "credential_unknown"},
		"a hash that does not fit":  {[]string{"x-forwarded-client-cert", strings.Replace(lab.web.xfcc()[1], "Hash="+lab.web.Fingerprint[:8], "Hash=00000000", 1)}, 401, "multiple_credentials"},
		"a name and no certificate": {[]string{"x-forwarded-client-cert", "Hash=" + lab.web.Fingerprint + ";URI=" + id}, 401, "credential_unknown"},
		"a hop in front":            {[]string{"x-forwarded-client-cert", other.workload(t, "front").xfcc()[1] + "," + lab.web.xfcc()[1]}, 200, "allowed"},
		"a hop behind":              {[]string{"x-forwarded-client-cert", lab.web.xfcc()[1] + "," + other.workload(t, "back").xfcc()[1]}, 401, "issuer_untrusted"},
		"nonsense":                  {[]string{"x-forwarded-client-cert", "nonsense"}, 401, "credential_malformed"},
		"empty":                     {[]string{"x-forwarded-client-cert", ""}, 401, "credential_malformed"},
		"with a key, and it is bad": {plus([]string{"x-api-key", lab.key}, issue("--spiffe", id, "--ttl", "-2h")), 401, "expired"},
	} {
		a := lab.ask(t, get("/x", c.headers...))
		if a.status != c.status || a.reason != c.reason {
			t.Errorf("%s: %v, want %d %s", name, a, c.status, c.reason)
		}
	}
	// Whom nobody trusts to say so is not heard, and what it forwards goes no further.
	lab.stranger.expect(t, get("/x", lab.web.xfcc()...), 401, "credential_missing")
	a := lab.stranger.expect(t, get("/x", plus([]string{"x-api-key", lab.key}, lab.web.xfcc(), lab.web.clientCert())...), 200, "allowed")
	for _, name := range []string{"x-forwarded-client-cert", "client-cert", "client-cert-chain"} {
		if !slices.Contains(a.removed, name) {
			t.Errorf("%s of a stranger goes upstream", name)
		}
	}
	// Envoy shows it apart from the fields too, and both must speak of one.
	q := get("/x").forEnvoy()
	q.Attributes.Source.Certificate, q.Attributes.Source.Principal = escaped(lab.web.pem), lab.web.spiffe
	if a := lab.askRaw(t, q); a.principal != lab.web.spiffe {
		t.Errorf("source.certificate: %v", a)
	}
	q.Attributes.Source.Principal = "spiffe://prod.test/somebody-else"
	if a := lab.askRaw(t, q); a.status != 401 {
		t.Errorf("a principal that is not in the certificate: %v", a)
	}
	q.Attributes.Source.Certificate = ""
	if a := lab.askRaw(t, q); a.status != 401 {
		t.Errorf("a principal without a certificate: %v", a)
	}
	if a := lab.stranger.askRaw(t, q); a.reason != "credential_missing" {
		t.Errorf("a stranger's: %v", a)
	}
}

// C-04, TLS-10: a certificate is taken back by the CA's list, or by its fingerprint.
func TestKindsRevokedCertificates(t *testing.T) {
	t.Parallel()
	lab := startKinds(t)
	listed, denied, kept := lab.pki.workload(t, "a"), lab.pki.workload(t, "b"), lab.pki.workload(t, "c")
	for _, c := range []certificate{listed, denied, kept} {
		lab.expect(t, get("/certs/", c.xfcc()...), 200, "allowed")
	}
	keys := lab.read(t, "keys.yaml")
	began := time.Now()
	lab.write(t, "keys.yaml", "revocations: [{fingerprint: "+denied.Fingerprint+"}]\n"+keys)
	eventually(t, "the fingerprint is revoked", func() bool { return lab.askEnvoy(t, get("/certs/", denied.xfcc()...)).reason == "revoked" })
	lab.pki.revoke(t, listed)
	eventually(t, "the list counts", func() bool { return lab.askEnvoy(t, get("/certs/", listed.xfcc()...)).reason == "revoked" })
	t.Logf("both after %v", time.Since(began))
	for _, c := range []certificate{listed, denied} {
		lab.expect(t, get("/certs/", c.xfcc()...), 401, "revoked")
		lab.expect(t, get("/", plus([]string{"x-api-key", lab.key}, c.xfcc())...), 401, "revoked")
	}
	lab.expect(t, get("/certs/", kept.xfcc()...), 200, "allowed")
}

// What workloads sign themselves: once, by the right one, for this service.
func workloadsSign(t *testing.T, lab *kindsLab) {
	send := func(token string) func() request { return func() request { return get("/w", bearer(token)...) } }
	token := assertion(lab.planner, claims{"scope": "read"})
	a := lab.askEnvoy(t, send(token)())
	if s := a.seen(t); s.ID != "planner" || s.Kind != "agent" || !slices.Equal(s.Scopes, []string{"read"}) || a.method != "workload" {
		t.Errorf("%v %+v", a, s)
	}
	for _, again := range []answer{lab.askEnvoy(t, send(token)()), lab.askPostern(t, send(token)())} {
		if again.reason != "replayed" || again.status != 401 {
			t.Errorf("again: %v", again)
		}
	}
	lab.expect(t, send(assertion(lab.nightly, nil))(), 200, "allowed") // reusable
	for name, changes := range map[string]claims{
		"more scope than it has": {"scope": "read admin"}, "another audience": {"aud": "other"}, "another subject": {"sub": "nightly"},
		"no jti": {"jti": nil}, "an hour": {"exp": time.Now().Add(time.Hour).Unix()}, "expired": {"exp": time.Now().Add(-time.Hour).Unix()},
		"the name of another": {"iss": "nightly", "sub": "nightly"},
	} {
		if a := lab.askEnvoy(t, send(assertion(lab.planner, changes))()); a.status != 401 {
			t.Errorf("%s: %v", name, a)
		}
	}
	for name, changes := range map[string]claims{
		"another trust domain": {"sub": "spiffe://dev.test/x"}, "no path": {"sub": "spiffe://prod.test"}, "another audience": {"aud": []string{"other"}},
		"expired": {"exp": time.Now().Add(-time.Hour).Unix()}, "no exp": {"exp": nil},
	} {
		if a := lab.ask(t, send(lab.mesh.svid(t, "x", changes))()); a.status != 401 {
			t.Errorf("JWT-SVID, %s: %v", name, a)
		}
	}
	// 200 copies of one assertion at once: one is used.
	race := assertion(lab.planner, nil)
	var all sync.WaitGroup
	var mu sync.Mutex
	allowed := 0
	for i := range 200 {
		all.Go(func() {
			if ok, _ := lab.quietly(send(race)(), i%2 == 0); ok {
				mu.Lock()
				allowed++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if allowed != 1 {
		t.Errorf("%d of 200 copies were allowed", allowed)
	}
}
