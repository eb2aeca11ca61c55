package main

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/authn/introspect/providertest"
)

// O-01, O-07, M-01, T-03, G-13 (RFC 7662, RFC 9068): the tokens of a certified provider,
// found by discovery: opaque ones by asking it, JWTs by its keys, also after it has
// changed them.
func TestKindsProvider(t *testing.T) {
	t.Parallel()
	p := providertest.Start(t)
	w := prepare(t, "provider", "@ISSUER@", p.Issuer)
	w.write(t, "client.secret", "p%:+/= &")
	b := start(t, w)
	opaque, signed := p.Token(t, "svc", "https://orders.test/opaque"), p.Token(t, "svc", "https://orders.test/jwt")
	b.hide(opaque)
	b.hide(secretParts(signed)...)
	for method, token := range map[string]string{"oauth": opaque, "jwt": signed} {
		a := b.expect(t, get("/", bearer(token)...), 200, "allowed")
		if s := a.seen(t); a.principal != "svc" || a.issuer != p.Issuer || a.method != method || s.Kind != "service" || strings.Join(s.Scopes, " ") != "orders.read" || s.Assurance != 3 {
			t.Errorf("%v by %s: %+v", a, a.method, s)
		}
		if a := b.expect(t, get("/scoped/", bearer(token)...), 403, "insufficient_scope"); strings.Join(a.missingScopes, " ") != "orders.write" {
			t.Errorf("missing: %v", a.missingScopes)
		}
	}
	b.expect(t, get("/", bearer("WtGO7dBrY_MUMRx6-ZzM4cGR3_Pm_LKLQHYNeBUzii4")...), 401, "credential_unknown")
	p.Post(t, "/token/revocation", "svc", "secret-of-svc", url.Values{"token": {opaque}})
	b.denied(t, get("/", bearer(opaque)...), time.Now().Add(1500*time.Millisecond))

	p.Post(t, "/test/rotate", "", "", nil)
	next := get("/", bearer(p.Token(t, "svc", "https://orders.test/jwt"))...)
	eventually(t, "the new key is fetched", func() bool { return b.askEnvoy(t, next).allowed() }) // a cooldown after the first
	b.expect(t, get("/", bearer(signed)...), 200, "allowed")
}
