package introspect_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"net/http"
	"reflect"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/jose"
)

// M-03, T-03, M-01: one issuer's JWTs checked by its keys and by introspection lead to the
// same principal and the same refusals; with the issuer down, checking by keys goes on.
func TestBothModesAgree(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := jose.NewKeySet(&jose.Key{ID: "k", Public: private.Public()})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.ParseSigningKey(pemOf(t, private))
	if err != nil {
		t.Fatal(err)
	}
	issuerConfig := jwt.Config{URL: issuerURL, Audiences: []string{"orders"}}
	issuerConfig.SetDefaults()
	local, err := jwt.New([]jwt.Config{issuerConfig}, jwt.Deps{Now: clock, Keys: map[string]jose.Keys{issuerURL: keys}})
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{}
	cfg := config()
	cfg.SetDefaults()
	cfg.AcceptJWTs, cfg.Method = true, policy.MethodJWT
	remote := made(t, i, cfg)

	without := func(m members, name string) members {
		m = m.with(name, nil)
		delete(m, name)
		return m
	}
	user := without(active("alice"), "token_type").with("jti", "t-1").with("sid", "s-1").with("roles", []string{"admin"}).with("act", members{"sub": "agent-7"})
	for name, tt := range map[string]struct {
		claims members
		typ    string
		want   string
	}{
		"user":          {user, "at+jwt", "alice"},
		"service":       {user.with("sub", "app").with("sid", nil), "at+jwt", "invalid_claim"},
		"own behalf":    {without(user, "sid").with("sub", "app"), "at+jwt", "app"},
		"no typ":        {user, "", "alice"},
		"ID token":      {user.with("at_hash", "x"), "JWT", "wrong_token_type"},
		"logout token":  {user, "logout+jwt", "wrong_token_type"},
		"refresh token": {user.with("typ", "Refresh"), "JWT", "wrong_token_type"},
		"expired":       {user.with("exp", start.Unix()-31), "at+jwt", "expired"},
		"in skew":       {user.with("exp", start.Unix()-29), "at+jwt", "alice"},
		"early":         {user.with("nbf", start.Unix()+31), "at+jwt", "not_yet_valid"},
		"not for us":    {user.with("aud", "payments"), "at+jwt", "invalid_audience"},
		"nobody":        {user.with("sub", ""), "at+jwt", "invalid_claim"},
		"bad scope":     {user.with("scope", []int{1}), "at+jwt", "invalid_claim"},
		"another's":     {user.with("iss", "https://other.test"), "at+jwt", ""},
	} {
		claims := without(tt.claims, "active")
		token, err := signer.Sign(tt.typ, "k", claims)
		if err != nil {
			t.Fatal(err)
		}
		i.set(token, claims.with("active", true).json())
		byKeys, errKeys := local.Authenticate(t.Context(), credential(token))
		byAsking, errAsking := remote.Authenticate(t.Context(), credential(token))
		if tt.want == "" {
			if outcome(byKeys, errKeys) != "issuer_untrusted" || outcome(byAsking, errAsking) != "not mine" {
				t.Errorf("%s: by keys %v, by asking %v", name, errKeys, errAsking)
			}
			continue
		}
		if a, b := outcome(byKeys, errKeys), outcome(byAsking, errAsking); a != tt.want || b != tt.want {
			t.Errorf("%s: by keys %s (%v), by asking %s (%v), want %s", name, a, errKeys, b, errAsking, tt.want)
		}
		if byKeys == nil || byAsking == nil {
			continue
		}
		if !reflect.DeepEqual(byKeys.Principal, byAsking.Principal) {
			t.Errorf("%s:\nby keys   %+v\nby asking %+v", name, byKeys.Principal, byAsking.Principal)
		}
		signedBy := byKeys.Subject
		signedBy.KeyID = "" // which key signed it, nobody asked
		if signedBy != byAsking.Subject || !byKeys.NotAfter.Equal(byAsking.NotAfter) {
			t.Errorf("%s: %+v and %+v", name, byKeys.Subject, byAsking.Subject)
		}
	}

	token, err := signer.Sign("at+jwt", "k", without(user, "active"))
	if err != nil {
		t.Fatal(err)
	}
	i.will(func(*http.Request) (*http.Response, error) { return nil, io.EOF })
	for name, tt := range map[string]struct {
		authenticator authn.Authenticator
		want          string
	}{"by keys": {local, "alice"}, "by asking": {remote, "unreachable"}} {
		if got := outcome(tt.authenticator.Authenticate(t.Context(), credential(token))); got != tt.want {
			t.Errorf("issuer down, %s: %s, want %s", name, got, tt.want)
		}
	}
}
