package introspect_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/authn/introspect/providertest"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/strictyaml"
)

const (
	opaqueResource = "https://orders.test/opaque"
	signedResource = "https://orders.test/jwt"
)

// provider is the real one, in the words of these tests.
type provider struct {
	t *testing.T
	*providertest.Provider
}

func startProvider(t *testing.T) *provider {
	t.Helper()
	return &provider{t, providertest.Start(t)}
}

func (p *provider) post(path, id, secret string, form url.Values) map[string]any {
	p.t.Helper()
	return p.Post(p.t, path, id, secret, form)
}

func (p *provider) token(client, resource string) string {
	p.t.Helper()
	return p.Token(p.t, client, resource)
}

// login lets a user log in, as a browser would, and returns what the web client gets.
func (p *provider) login(user, resource string) map[string]any {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == "web.test" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	visit := func(response *http.Response, err error) *http.Response {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return response
	}
	page := visit(browser.Get(p.Issuer + "/auth?" + url.Values{
		"client_id": {"web"}, "redirect_uri": {"https://web.test/callback"}, "response_type": {"code"}, "scope": {"openid offline_access orders.read"},
		"prompt": {"consent"}, "resource": {resource}, "nonce": {"n"},
	}.Encode()))
	for _, prompt := range []string{"login", "consent"} {
		if page.StatusCode != http.StatusOK {
			p.t.Fatalf("before the prompt %s: %s", prompt, page.Status)
		}
		page = visit(browser.PostForm(page.Request.URL.String(), url.Values{"prompt": {prompt}, "login": {user}, "password": {"x"}}))
	}
	callback, err := page.Location()
	if err != nil {
		p.t.Fatal(err)
	}
	return p.post("/token", "web", "secret-of-web", url.Values{
		"grant_type": {"authorization_code"}, "code": {callback.Query().Get("code")}, "redirect_uri": {"https://web.test/callback"}, "resource": {resource},
	})
}

// introspection asks the provider, whose endpoint is found by discovery.
func (p *provider) introspection(change func(*introspect.Config)) *introspect.Authenticator {
	p.t.Helper()
	cfg := introspect.Config{Issuer: p.Issuer, ClientID: "basic", ClientSecret: policy.NewSecret("p%:+/= &"), Audiences: []string{"orders"}}
	cfg.SetDefaults()
	cfg.HTTP.InsecureAllowHTTP, cfg.HTTP.InsecureAllowPrivateAddresses, cfg.HTTP.Timeout = true, true, 10*time.Second
	if change != nil {
		change(&cfg)
	}
	a, err := introspect.New(cfg, introspect.Deps{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = a.Close() })
	return a
}

func (p *provider) want(a authn.Authenticator, what, token, want string) *authn.Proof {
	p.t.Helper()
	proof, err := a.Authenticate(p.t.Context(), credential(token))
	if got := outcome(proof, err); got != want {
		p.t.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
	return proof
}

// O-01, O-07, M-01, T-03, G-13 (RFC 7662): a certified provider answers about opaque
// tokens of clients and users: active, revoked, expired, of another kind.
func TestProviderIntrospection(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	for name, change := range map[string]func(*introspect.Config){
		"client_secret_basic": nil,
		"client_secret_post":  func(c *introspect.Config) { c.ClientID, c.Auth = "post", introspect.AuthPost },
		"private_key_jwt": func(c *introspect.Config) {
			c.ClientID, c.ClientSecret, c.KeyFile, c.KeyID = "key", policy.Secret{}, strictyaml.Path(keyFile(t, p.Key)), "c1"
		},
	} {
		proof := p.want(p.introspection(change), name, p.token("svc", opaqueResource), "svc")
		if proof == nil {
			continue
		}
		if s := proof.Principal; s.Kind != policy.KindService || strings.Join(s.Scopes, " ") != "orders.read" || s.Issuer != p.Issuer || proof.NotAfter.IsZero() {
			t.Errorf("%s: %+v", name, s)
		}
	}
	p.want(p.introspection(func(c *introspect.Config) { c.ClientSecret = policy.NewSecret("wrong") }), "wrong secret of ours", p.token("svc", opaqueResource), "fault")
	p.want(p.introspection(func(c *introspect.Config) { c.Audiences = []string{"payments"} }), "of another audience", p.token("svc", opaqueResource), "invalid_audience")

	a := p.introspection(nil)
	p.want(a, "made up", "WtGO7dBrY_MUMRx6-ZzM4cGR3_Pm_LKLQHYNeBUzii4", "credential_unknown")
	revoked := p.token("svc", opaqueResource)
	p.want(a, "before it is revoked", revoked, "svc")
	p.post("/token/revocation", "svc", "secret-of-svc", url.Values{"token": {revoked}})
	p.want(a, "revoked", revoked, "credential_unknown")

	user := p.login("alice", opaqueResource)
	access, _ := user["access_token"].(string)
	refresh, _ := user["refresh_token"].(string)
	id, _ := user["id_token"].(string)
	if proof := p.want(a, "a user's", access, "alice"); proof != nil && (proof.Principal.Kind != policy.KindUser || proof.Subject.Client != "web") {
		t.Errorf("%+v", proof.Principal)
	}
	p.want(a, "refresh token", refresh, "invalid_audience")
	p.want(p.introspection(func(c *introspect.Config) { c.Audiences = []string{"any"} }), "refresh token, any audience", refresh, "wrong_token_type")
	p.want(a, "ID token", id, "not mine")
	p.want(p.introspection(func(c *introspect.Config) { c.AcceptJWTs = true }), "ID token, JWTs accepted", id, "wrong_token_type")

	brief := p.token("brief", opaqueResource)
	p.want(a, "before it ends", brief, "brief")
	p.post("/test/clock?seconds=61", "", "", nil)
	p.want(a, "expired", brief, "credential_unknown")
}

// O-01, M-01, T-03: its JWT access tokens (RFC 9068) are checked with its keys, found by
// discovery, in strict mode; its ID tokens are not API credentials; when it rotates its
// keys no decision fails, and those of a key that it withdrew are refused.
func TestProviderKeys(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	ahead := time.Duration(0)
	source, err := jose.NewSource(jose.SourceConfig{Issuer: p.Issuer, InsecureAllowHTTP: true, InsecureAllowPrivateAddresses: true},
		jose.WithClock(func() time.Time { return time.Now().Add(ahead) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	issuer := jwt.Config{URL: p.Issuer, Audiences: []string{"orders"}, TokenTypes: jwt.Strict}
	issuer.SetDefaults()
	a, err := jwt.New([]jwt.Config{issuer}, jwt.Deps{Keys: map[string]jose.Keys{p.Issuer: source}})
	if err != nil {
		t.Fatal(err)
	}
	old := p.token("svc", signedResource)
	if proof := p.want(a, "a service's", old, "svc"); proof != nil && (proof.Principal.Kind != policy.KindService || proof.Subject.Client != "svc" || proof.Subject.KeyID != "k1") {
		t.Errorf("%+v", proof)
	}
	user := p.login("alice", signedResource)
	access, _ := user["access_token"].(string)
	id, _ := user["id_token"].(string)
	if proof := p.want(a, "a user's", access, "alice"); proof != nil && proof.Principal.Kind != policy.KindUser {
		t.Errorf("%+v", proof.Principal)
	}
	p.want(a, "ID token", id, "wrong_token_type")
	p.want(a, "opaque", p.token("svc", opaqueResource), "not mine")

	p.post("/test/rotate", "", "", nil)
	ahead += time.Minute // the cooldown is over
	next := p.token("svc", signedResource)
	if proof := p.want(a, "by the new key", next, "svc"); proof != nil && proof.Subject.KeyID != "k2" {
		t.Errorf("%+v", proof.Subject)
	}
	p.want(a, "by the old key", old, "svc")
	p.post("/test/retire", "", "", nil)
	if err := source.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want(a, "by a key that was withdrawn", old, "signature_invalid")
	p.want(a, "by the key that is left", next, "svc")
}
