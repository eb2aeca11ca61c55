package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowded is how many bad tokens the tests of stampedes send; the race detector, under
// which each takes ten times as long, sends fewer.
var crowded = 10_000

// startTwoWays starts two servers that believe the issuer: one checks its tokens by its
// keys, which it finds by discovery, the other asks the issuer about each.
func startTwoWays(t testing.TB, s *oauthServer) (local, remote *box) {
	t.Helper()
	start := func(section string) *box {
		w := prepare(t, "twoways", "@OAUTH@", s.URL, "@SECTION@", section)
		w.write(t, "oauth.pem", s.ca())
		w.write(t, "oauth.secret", introspectionSecret)
		return start(t, w)
	}
	const common = ` audiences: [api], method: oauth, claims: { tenant: tenant }, `
	local = start(`issuers: [{ url: "` + s.URL + `",` + common + `algorithms: [EdDSA], keys: { ca_file: oauth.pem, insecure_allow_private_addresses: true, cooldown: 1s } }]`)
	remote = start(`introspection: [{ issuer: "` + s.URL + `",` + common + `client_id: postern, client_secret: "${file:oauth.secret}", accept_jwts: true, ` +
		`http: { ca_file: oauth.pem, insecure_allow_private_addresses: true, timeout: 5s }, cache: { max_ttl: 1s, negative: 1s } }]`)
	for _, b := range []*box{local, remote} {
		b.hide(introspectionSecret)
	}
	return local, remote
}

// T-03, M-03, O-01: the same token leads to the same decision, checked by the issuer's
// keys or by asking the issuer; when the issuer is down, the first goes on.
func TestKindsLocalAndRemote(t *testing.T) {
	t.Parallel()
	s := startOAuth(t)
	local, remote := startTwoWays(t, s)
	now := time.Now()
	for name, c := range map[string]struct {
		claims claims
		path   string
		status int
	}{
		"a user":                 {claims{"sub": "ann", "client_id": "web", "scope": "read write", "roles": []string{"clerk"}, "tenant": "acme", "jti": "1"}, "/", 200},
		"a client's own":         {claims{"sub": "batch", "client_id": "batch"}, "/", 200},
		"delegated":              {claims{"sub": "ann", "act": claims{"sub": "agent-7"}}, "/", 200},
		"two factors":            {claims{"sub": "ann", "amr": []string{"mfa"}}, "/", 200},
		"scopes that it has":     {claims{"sub": "ann", "scope": "read write pay"}, "/scoped/", 200},
		"scopes that it lacks":   {claims{"sub": "ann", "scope": "write"}, "/scoped/", 403},
		"another audience":       {claims{"sub": "ann", "aud": "x"}, "/", 401},
		"expired":                {claims{"sub": "ann", "exp": now.Add(-time.Hour).Unix()}, "/", 401},
		"not yet":                {claims{"sub": "ann", "nbf": now.Add(time.Hour).Unix()}, "/", 401},
		"bound to a certificate": {claims{"sub": "ann", "cnf": claims{"x5t#S256": strings.Repeat("A", 43)}}, "/", 401},
		"nobody":                 {claims{"jti": "x"}, "/", 401},
	} {
		token := s.token(c.claims)
		s.knows(token, c.claims)
		one, other := local.ask(t, get(c.path, bearer(token)...)), remote.ask(t, get(c.path, bearer(token)...))
		if one.status != c.status || one.String() != other.String() || one.method != other.method || one.upstream("x-seen") != other.upstream("x-seen") || fmt.Sprint(one.missingScopes) != fmt.Sprint(other.missingScopes) {
			t.Errorf("%s: by keys %v %s, by asking %v %s", name, one, one.upstream("x-seen"), other, other.upstream("x-seen"))
		}
	}
	// What the issuer withdraws is seen by the one that asks (INTROSPECT-06), and by the
	// other when it ends.
	withdrawn := s.token(claims{"sub": "ann", "jti": "2"})
	s.knows(withdrawn, claims{"sub": "ann", "jti": "2"})
	remote.expect(t, get("/", bearer(withdrawn)...), 200, "allowed")
	s.knows(withdrawn, nil)
	remote.denied(t, get("/", bearer(withdrawn)...), time.Now().Add(1200*time.Millisecond))
	local.expect(t, get("/", bearer(withdrawn)...), 200, "allowed")

	s.fails(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	token := s.token(claims{"sub": "bob"})
	local.expect(t, get("/", bearer(token)...), 200, "allowed")
	remote.expect(t, get("/", bearer(token)...), 503, "dependency_unavailable")
	s.fails(nil)
	s.knows(token, claims{"sub": "bob"})
	eventually(t, "the issuer is asked again", func() bool { return remote.askEnvoy(t, get("/", bearer(token)...)).allowed() })
}

// INTROSPECT-01, INTROSPECT-03, JWKS-22, JWKS-23, JWKS-25: an issuer that is down, slow,
// lies, redirects, or sends what has no end: 503, within a bound, never a yes, never a
// no, and nobody else is affected. What it says later counts again.
func TestKindsIssuerFails(t *testing.T) {
	t.Parallel()
	inside := atomic.Int64{}
	trap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		inside.Add(1)
		_, _ = io.WriteString(w, `{"active":true,"sub":"admin","aud":"api"}`)
	}))
	t.Cleanup(trap.Close)
	text := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, fails := range map[string]http.HandlerFunc{
		"500":              text(500, "application/json", `{"active":true,"sub":"ann","aud":"api"}`),
		"401":              text(401, "application/json", `{"active":true,"sub":"ann","aud":"api"}`),
		"204":              text(204, "application/json", ""),
		"a web page":       text(200, "text/html", "<html>welcome</html>"),
		"a list":           text(200, "application/json", `[{"active":true,"sub":"ann","aud":"api"}]`),
		"nothing":          text(200, "application/json", ``),
		"cut off":          text(200, "application/json", `{"active":true,"sub":"ann","aud":"ap`),
		"two answers":      text(200, "application/json", `{"active":true,"sub":"ann","aud":"api"}{"active":false}`),
		"active twice":     text(200, "application/json", `{"active":false,"active":true,"sub":"ann","aud":"api"}`),
		"active as text":   text(200, "application/json", `{"active":"true","sub":"ann","aud":"api"}`),
		"active as number": text(200, "application/json", `{"active":1,"sub":"ann","aud":"api"}`),
		"ACTIVE":           text(200, "application/json", `{"ACTIVE":true,"sub":"ann","aud":"api"}`),
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, trap.URL, http.StatusTemporaryRedirect)
		},
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or else nobody notices that the client has left
			<-r.Context().Done()
		},
		"100 MB": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"active":true,"sub":"ann","aud":"api","x":"`)
			for block, i := strings.Repeat("x", 1<<20), 0; i < 100; i++ {
				if _, err := io.WriteString(w, block); err != nil {
					return
				}
			}
		},
		"reset": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startOAuth(t)
			w := prepare(t, "issuerfails", "@OAUTH@", s.URL)
			w.write(t, "oauth.pem", s.ca())
			w.write(t, "oauth.secret", introspectionSecret)
			key := w.mint(t, order{id: "alice"})
			w.write(t, "jwks.json", jwks(testIssuer))
			s.fails(fails)
			b := start(t, w)
			token := "opaque-" + rand.Text()
			b.hide(token, introspectionSecret)
			if a := b.expect(t, get("/", bearer(token)...), 503, "dependency_unavailable"); strings.Contains(a.body, "127.0.0.1") || strings.Contains(a.body, "active") {
				t.Errorf("the client is told %s", a.body)
			}
			b.expect(t, get("/", bearer(s.token(claims{"sub": "ann"}))...), 503, "dependency_unavailable") // nor are there keys
			b.expect(t, withKey("/", key), 200, "allowed")
			b.expect(t, get("/", bearer(testIssuer.token(claims{"sub": "ann"}))...), 200, "allowed")
			if status, body := b.fetch(t, "/readyz"); status != 200 || !strings.Contains(body, "introspection") {
				t.Errorf("%d %s", status, body)
			}
			s.fails(nil)
			s.knows(token, claims{"sub": "ann"})
			eventually(t, "the issuer is asked again", func() bool { return b.askEnvoy(t, get("/", bearer(token)...)).allowed() })
			if name != "500" { // a second of waiting is enough
				return
			}
			eventually(t, "its keys are fetched", func() bool {
				return b.askEnvoy(t, get("/", bearer(s.token(claims{"sub": fmt.Sprint(time.Now())}))...)).allowed()
			})
		})
	}
	t.Cleanup(func() {
		if n := inside.Load(); n != 0 {
			t.Errorf("a redirect was followed %d times", n)
		}
	})
}

// O-01, JWKS-24: an issuer on a private address, or whose metadata is another's or
// points elsewhere, is not used.
func TestKindsDiscoveryIsGuarded(t *testing.T) {
	t.Parallel()
	trap, connections := listenTrap(t)
	for name, metadata := range map[string]string{
		"another issuer":   `{"issuer":"@URL@/","jwks_uri":"@URL@/jwks","introspection_endpoint":"@URL@/introspect"}`,
		"keys elsewhere":   `{"issuer":"@URL@","jwks_uri":"https://127.0.0.1:` + trap + `/jwks","introspection_endpoint":"https://127.0.0.1:` + trap + `/introspect"}`,
		"keys over http":   `{"issuer":"@URL@","jwks_uri":"http://127.0.0.1:` + trap + `/jwks","introspection_endpoint":"http://127.0.0.1:` + trap + `/introspect"}`,
		"the cloud's data": `{"issuer":"@URL@","jwks_uri":"http://169.254.169.254/latest","introspection_endpoint":"http://169.254.169.254/latest"}`,
		"nothing":          `{"issuer":"@URL@"}`,
		"a private name":   "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startOAuth(t)
			if metadata != "" {
				s.fails(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, strings.ReplaceAll(metadata, "@URL@", s.URL))
				})
			}
			address, private := s.URL, "insecure_allow_private_addresses: true"
			if metadata == "" {
				address, private = "https://localhost:"+trap, "insecure_allow_private_addresses: false"
			}
			w := prepare(t, "issuerfails", `url: "@OAUTH@/introspect" # not by discovery`, "", "insecure_allow_private_addresses: true", private)
			w.write(t, "postern.yaml", strings.ReplaceAll(w.read(t, "postern.yaml"), "@OAUTH@", address))
			w.write(t, "oauth.pem", s.ca())
			w.write(t, "oauth.secret", introspectionSecret)
			w.mint(t, order{id: "alice"})
			w.write(t, "jwks.json", jwks(testIssuer))
			b := start(t, w)
			b.expect(t, get("/", bearer(newIssuer(address, "k1").token(claims{"sub": "ann"}))...), 503, "dependency_unavailable")
			b.expect(t, get("/", bearer("opaque-"+rand.Text())...), 503, "dependency_unavailable")
			if s.asked.Load() > 0 {
				t.Error("it was asked all the same")
			}
		})
	}
	t.Cleanup(func() {
		if n := connections.Load(); n != 0 {
			t.Errorf("%d connections to where nobody should go", n)
		}
	})
}

// O-07, CACHE-16, INTROSPECT-04: a thousand callers with one token that nobody has seen
// cause one question; an issuer that is down is left alone.
func TestKindsIntrospectionFlights(t *testing.T) {
	t.Parallel()
	lab := startKinds(t)
	s := lab.oauth
	before := s.asked.Load()
	token := get("/", bearer(s.opaque(claims{"sub": "ann"}))...)
	gone, leave := context.WithCancel(context.Background())
	leave()
	_, _ = lab.envoy.Check(gone, token.forEnvoy()) // the first leaves at once
	lab.letsIn(t, 1000, token)
	if n := s.asked.Load() - before; n != 1 {
		t.Errorf("%d questions for one token", n)
	}
	asked := atomic.Int64{}
	s.fails(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusBadGateway) })
	var all sync.WaitGroup
	began := time.Now()
	for i := range crowded / 2 {
		q := get("/", bearer("opaque-"+rand.Text())...)
		all.Go(func() {
			if ok, err := lab.quietly(q, i%2 == 0); ok || err != nil {
				t.Errorf("%v, %v", ok, err)
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	t.Logf("%d tokens while the issuer is down: %v, %d questions", crowded/2, took, asked.Load())
	if n := asked.Load(); n > 100+int64(took.Seconds()*10) { // what was under way when the breaker opened, and probes
		t.Errorf("an issuer that is down was asked %d times", n)
	}
	lab.expect(t, token, 200, "allowed") // what is known stays known
	s.fails(nil)
	next := get("/", bearer(s.opaque(claims{"sub": "bob"}))...)
	eventually(t, "the issuer is asked again", func() bool { return lab.askEnvoy(t, next).allowed() })
}

// JWKS-26: ten thousand tokens with random kids cause no more than a fetch in each
// cooldown, and good tokens go on.
func TestKindsRandomKids(t *testing.T) {
	t.Parallel()
	s := startOAuth(t)
	local, _ := startTwoWays(t, s)
	good := get("/", bearer(s.token(claims{"sub": "ann"}))...)
	local.expect(t, good, 200, "allowed")
	before, began := s.fetched.Load(), time.Now()
	var all sync.WaitGroup
	for client := range 10 {
		all.Go(func() {
			for i := range crowded / 10 {
				token := s.sign(map[string]any{"alg": "EdDSA", "kid": rand.Text()}, claims{"sub": "mallory"})
				if ok, err := local.quietly(get("/", bearer(token)...), i%2 == 0); ok || err != nil {
					t.Errorf("%v, %v", ok, err)
					return
				}
				if client == 0 && i%100 == 0 {
					if ok, _ := local.quietly(good, true); !ok {
						t.Error("a good token was refused")
					}
				}
			}
		})
	}
	all.Wait()
	took, n := time.Since(began), s.fetched.Load()-before
	t.Logf("%d tokens with random kids in %v: %d fetches", crowded, took, n)
	if n > 1+int64(took/cooldown) {
		t.Errorf("%d fetches in %v", n, took)
	}
}
