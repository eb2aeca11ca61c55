package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/jose"
)

// verifier is a service behind the gateway: it believes nothing but a token that a
// published key of Postern has signed.
type verifier struct{ keys *jose.KeySet }

func newVerifier(t testing.TB, p *replica) verifier {
	t.Helper()
	res, err := http.Get("http://" + p.login + "/.well-known/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	keys, _, err := jose.ParseKeySet(body)
	if err != nil {
		t.Fatal(err)
	}
	return verifier{keys}
}

// read returns the claims of a token, if its signature is good.
func (v verifier) read(t testing.TB, token string) (claims map[string]any) {
	t.Helper()
	parsed, err := jose.ParseCompact(token, jose.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	found, err := v.keys.Find(t.Context(), parsed.KeyID(), parsed.Algorithm())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jose.Verify(parsed, found, []string{"EdDSA"}); err != nil {
		t.Fatal(err)
	}
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// G-02 and S-08: whatever the caller brought, a key, a token, a JWT or the cookie of a
// session, the service gets a token of Postern's that it can verify, for itself and for
// five minutes at most, and nothing of what the caller brought.
func TestIdentityTokens(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, signedStore+"\nupstream: { identity_token: {} }", "audience: api\n", "")
	w.write(t, "one.key", hex.EncodeToString([]byte("thirty-two bytes for a signature")))
	w.bootstrap(t)
	w.write(t, "jwks.json", jwks(testIssuer))
	p := launch(t, w)
	p.user(t, "ann", "reader")
	p.service(t, "export", "reader")
	_, key := p.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "export", DisplayName: "key"})
	_, token := p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "pat"})
	session := does(t, p.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{PrincipalId: "ann", Amr: []string{"pwd"}}}).GetCreated().GetSecret()
	p.hide(session)
	service := newVerifier(t, p)
	foreign := testIssuer.token(claims{"sub": "ann", "roles": []string{"reader"}, "exp": time.Now().Add(time.Minute).Unix()})
	for method, q := range map[string]request{
		"api_key": withKey("/", key),
		"pat":     get("/", bearer(token)...),
		"jwt":     get("/", bearer(foreign)...),
		"session": withCookie("/", session),
	} {
		a := p.expect(t, q, 200, "allowed")
		scheme, text, _ := strings.Cut(a.upstream("authorization"), " ")
		if scheme != "Bearer" {
			t.Fatalf("%s: the service gets %q", method, a.upstream("authorization"))
		}
		got := service.read(t, text)
		issued, _ := got["iat"].(float64)
		expires, _ := got["exp"].(float64)
		sub := "ann"
		if method == "api_key" {
			sub = "export"
		}
		if got["iss"] != "https://auth.test" || got["aud"] != "api.test" || got["sub"] != sub || got["method"] != method || expires-issued > 300 || expires <= issued {
			t.Errorf("%s: %v", method, got)
		}
		if method == "jwt" && (expires-issued > 61 || got["origin"] != "https://issuer.test") {
			t.Errorf("it lives longer than what it stands for, or does not say whose it was: %v", got)
		}
		if cookie := a.upstream("cookie"); !slices.Contains(a.removed, "x-api-key") || method == "session" && cookie != "a=b" {
			t.Errorf("%s: the caller's own may reach the service: cookie %q, removed %v", method, cookie, a.removed)
		}
		if again := p.expect(t, q, 200, "allowed").upstream("authorization"); again != a.upstream("authorization") {
			t.Errorf("%s: a new token for each request", method)
		}
	}
	elsewhere := withKey("/other/1", key)
	elsewhere.host = "other.test"
	if _, text, _ := strings.Cut(p.expect(t, elsewhere, 200, "allowed").upstream("authorization"), " "); service.read(t, text)["aud"] != "other" {
		t.Error("the route's audience is not the token's")
	}
}
