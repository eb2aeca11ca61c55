package jwt_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/jose"
	"pgregory.net/rapid"
)

const issuerURL = "https://issuer.example.com/"

// now is the time in all these tests.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is an issuer with one key, and how to make tokens of it.
type world struct {
	private ed25519.PrivateKey
	keys    jose.Keys
	now     time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := jose.NewKeySet(&jose.Key{ID: "k-1", Alg: "EdDSA", Public: public})
	if err != nil {
		t.Fatal(err)
	}
	return &world{private, keys, now}
}

// authenticator returns one for the issuer, with the configuration changed.
func (w *world) authenticator(t testing.TB, change func(*jwt.Config)) *jwt.Authenticator {
	t.Helper()
	c := jwt.Config{URL: issuerURL, Audiences: []string{"orders"}}
	c.SetDefaults()
	if change != nil {
		change(&c)
	}
	a, err := jwt.New([]jwt.Config{c}, jwt.Deps{
		Keys: map[string]jose.Keys{issuerURL: w.keys},
		Now:  func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// claims are those of an ordinary access token, with some replaced. A nil value
// removes one.
func claims(changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": issuerURL, "sub": "alice", "aud": "orders", "jti": "j-1",
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(), "scope": "read write",
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func (w *world) sign(t testing.TB, header string, claims any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := golangjwt.SigningMethodEdDSA.Sign(text, w.private)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

const plainHeader = `{"alg":"EdDSA","kid":"k-1"}`

func (w *world) token(t testing.TB, changes map[string]any) string {
	t.Helper()
	return w.sign(t, plainHeader, claims(changes))
}

// reason is that of a refusal, or one that no refusal has.
func reason(err error) policy.Reason {
	var refusal *authn.Refusal
	switch {
	case err == nil:
		return policy.ReasonAllowed
	case errors.As(err, &refusal):
		return refusal.Reason
	}
	return policy.ReasonUnavailable
}

func mustProve(t *testing.T, a *jwt.Authenticator, token string) *authn.Proof {
	t.Helper()
	proof, err := authenticate(a, token)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// J-07, O-02: what a token says becomes a principal.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, func(c *jwt.Config) {
		c.Constraints = &policy.Constraints{RequireTLS: true}
		c.Claims.Tenant = path(t, "org.id")
		c.Claims.Roles = path(t, "/realm_access/roles")
		c.Claims.Permissions = path(t, "https://example.com/permissions")
		c.Pass = []string{"email", "plan", "missing"}
	})
	proof := mustProve(t, a, w.token(t, map[string]any{
		"org":                             map[string]any{"id": "t-1"},
		"realm_access":                    map[string]any{"roles": []string{"admin", "Domain Users"}},
		"https://example.com/permissions": "orders.read",
		"email":                           "alice@example.com",
		"plan":                            map[string]any{"n": 1, "list": []any{true, nil}},
		"ignored":                         "x",
		"sid":                             "s-1", "azp": "app", "acr": "gold", "amr": []string{"pwd"}, "auth_time": now.Add(-2 * time.Minute).Unix(),
	}))
	want := &policy.Principal{
		ID: "alice", Kind: policy.KindUser, Tenant: "t-1",
		Roles: []string{"admin", "Domain Users"}, Permissions: []string{"orders.read"}, Scopes: []string{"read", "write"},
		Claims: map[string]any{"email": "alice@example.com", "plan": map[string]any{"n": json.Number("1"), "list": []any{true, nil}}},
		Method: policy.MethodJWT, Assurance: 3, ACR: "gold", AMR: []string{"pwd"}, AuthTime: now.Add(-2 * time.Minute),
		CredentialID: "j-1", Issuer: issuerURL, IssuedAt: now.Add(-time.Minute), ExpiresAt: now.Add(time.Hour),
	}
	if !reflect.DeepEqual(proof.Principal, want) {
		t.Errorf("got  %+v\nwant %+v", proof.Principal, want)
	}
	subject := authn.Subject{TokenID: "j-1", SessionID: "s-1", KeyID: "k-1", Issuer: issuerURL, ID: "alice", Client: "app", Tenant: "t-1", IssuedAt: now.Add(-time.Minute)}
	if proof.Subject != subject {
		t.Errorf("got %+v", proof.Subject)
	}
	if !proof.NotAfter.Equal(now.Add(time.Hour+30*time.Second)) || proof.State != policy.StateNone || !proof.Constraints.RequireTLS {
		t.Errorf("got %v, %v, %v", proof.NotAfter, proof.State, proof.Constraints)
	}
}

func path(t testing.TB, text string) jwt.ClaimPath {
	t.Helper()
	p, err := jwt.ParseClaimPath(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// J-03, J-04, M-06, O-06, O-08: each thing that can be wrong has its own reason.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, c := range map[string]struct {
		changes map[string]any
		config  func(*jwt.Config)
		want    policy.Reason
	}{
		"good":                     {nil, nil, policy.ReasonAllowed},
		"no issuer":                {map[string]any{"iss": nil}, nil, policy.ReasonIssuerUntrusted},
		"issuer without the slash": {map[string]any{"iss": issuerURL[:len(issuerURL)-1]}, nil, policy.ReasonIssuerUntrusted},
		"issuer is a list":         {map[string]any{"iss": []string{issuerURL}}, nil, policy.ReasonIssuerUntrusted},
		"no audience":              {map[string]any{"aud": nil}, nil, policy.ReasonInvalidAudience},
		"other audience":           {map[string]any{"aud": "billing"}, nil, policy.ReasonInvalidAudience},
		"audience in capitals":     {map[string]any{"aud": "Orders"}, nil, policy.ReasonInvalidAudience},
		"audience among others":    {map[string]any{"aud": []string{"billing", "orders"}}, nil, policy.ReasonAllowed},
		"audience and a number":    {map[string]any{"aud": []any{"orders", 1}}, nil, policy.ReasonInvalidAudience},
		"any audience":             {map[string]any{"aud": "billing"}, anyAudience, policy.ReasonAllowed},
		"any audience, none":       {map[string]any{"aud": nil}, anyAudience, policy.ReasonAllowed},
		"any audience, malformed":  {map[string]any{"aud": 1}, anyAudience, policy.ReasonInvalidAudience},
		"audience called any":      {map[string]any{"aud": "any"}, nil, policy.ReasonInvalidAudience},
		"no expiry":                {map[string]any{"exp": nil}, nil, policy.ReasonInvalidClaim},
		"expiry is text":           {map[string]any{"exp": "4102444800"}, nil, policy.ReasonInvalidClaim},
		"expiry 0":                 {map[string]any{"exp": 0}, nil, policy.ReasonInvalidClaim},
		"expired":                  {map[string]any{"exp": unix(-30 * time.Second)}, nil, policy.ReasonExpired},
		"expired within the skew":  {map[string]any{"exp": unix(-29 * time.Second)}, nil, policy.ReasonAllowed},
		"not yet":                  {map[string]any{"nbf": unix(31 * time.Second)}, nil, policy.ReasonNotYetValid},
		"not yet within the skew":  {map[string]any{"nbf": unix(30 * time.Second)}, nil, policy.ReasonAllowed},
		"nbf 0":                    {map[string]any{"nbf": 0}, nil, policy.ReasonAllowed},
		"nbf null":                 {map[string]any{"nbf": json.RawMessage("null")}, nil, policy.ReasonInvalidClaim},
		"a login in the future":    {map[string]any{"auth_time": unix(31 * time.Second)}, nil, policy.ReasonInvalidClaim},
		"a login in a while, strict skew": {map[string]any{"auth_time": unix(time.Second)}, func(c *jwt.Config) { c.ClockSkew = 0 },
			policy.ReasonInvalidClaim},
		"issued soon, strict skew": {map[string]any{"iat": unix(time.Second)}, func(c *jwt.Config) { c.ClockSkew = 0 }, policy.ReasonNotYetValid},
		"issued in the future":     {map[string]any{"iat": unix(31 * time.Second)}, nil, policy.ReasonNotYetValid},
		"issued within the skew":   {map[string]any{"iat": unix(30 * time.Second)}, nil, policy.ReasonAllowed},
		"issued after the end":     {map[string]any{"iat": unix(2 * time.Hour)}, nil, policy.ReasonInvalidClaim},
		"issued -1":                {map[string]any{"iat": -1}, nil, policy.ReasonInvalidClaim},
		"no iat":                   {map[string]any{"iat": nil}, nil, policy.ReasonAllowed},
		"lives 61 minutes":         {nil, maxLifetime(61 * time.Minute), policy.ReasonAllowed},
		"lives longer":             {nil, maxLifetime(61*time.Minute - time.Second), policy.ReasonLifetimeExceeded},
		"no iat, maximum":          {map[string]any{"iat": nil}, maxLifetime(time.Hour), policy.ReasonInvalidClaim},
		"no subject":               {map[string]any{"sub": nil}, nil, policy.ReasonInvalidClaim},
		"subject null":             {map[string]any{"sub": json.RawMessage("null")}, nil, policy.ReasonInvalidClaim},
		"subject with line end":    {map[string]any{"sub": "alice\r\nx-role: admin"}, nil, policy.ReasonInvalidClaim},
		"subject with blank":       {map[string]any{"sub": "alice\u3164"}, nil, policy.ReasonInvalidClaim},
		"subject with space":       {map[string]any{"sub": "alice smith"}, nil, policy.ReasonAllowed},
		"token id is a number":     {map[string]any{"jti": 1}, nil, policy.ReasonInvalidClaim},
		"roles are a number":       {map[string]any{"roles": 1}, nil, policy.ReasonInvalidClaim},
		"roles hold a number":      {map[string]any{"roles": []any{"a", 1}}, nil, policy.ReasonInvalidClaim},
		"roles null":               {map[string]any{"roles": json.RawMessage("null")}, nil, policy.ReasonAllowed},
		"scope with a tab":         {map[string]any{"scope": "read\tadmin"}, nil, policy.ReasonInvalidClaim},
		"required claim missing":   {nil, require("org"), policy.ReasonInvalidClaim},
		"required claim null":      {map[string]any{"org": json.RawMessage("null")}, require("org"), policy.ReasonInvalidClaim},
		"required claim":           {map[string]any{"org": "x"}, require("org"), policy.ReasonAllowed},
		"client not listed":        {map[string]any{"client_id": "b"}, clients("a"), policy.ReasonInvalidClaim},
		"no client":                {nil, clients("a"), policy.ReasonInvalidClaim},
		"client":                   {map[string]any{"azp": "a"}, clients("a"), policy.ReasonAllowed},
		"refresh token":            {map[string]any{"type": "refresh"}, nil, policy.ReasonWrongTokenType},
		"refresh token (Keycloak)": {map[string]any{"typ": "Refresh"}, nil, policy.ReasonWrongTokenType},
		"offline token":            {map[string]any{"typ": "Offline"}, nil, policy.ReasonWrongTokenType},
		"bearer (Keycloak)":        {map[string]any{"typ": "Bearer"}, nil, policy.ReasonAllowed},
		"id token (Cognito)":       {map[string]any{"token_use": "id"}, nil, policy.ReasonWrongTokenType},
		"access token (Cognito)":   {map[string]any{"token_use": "access"}, nil, policy.ReasonAllowed},
		"ID token with a nonce":    {map[string]any{"nonce": "n", "scope": nil}, nil, policy.ReasonWrongTokenType},
		"ID token with at_hash":    {map[string]any{"at_hash": "h"}, nil, policy.ReasonWrongTokenType},
		"logout token":             {map[string]any{"events": map[string]any{}}, nil, policy.ReasonWrongTokenType},
		"bound to no key":          {map[string]any{"cnf": map[string]any{"jkt": "x"}}, nil, policy.ReasonBinding},
		"issued to another client": {map[string]any{"sub": "app", "client_id": "app"}, clients("a"), policy.ReasonInvalidClaim},
	} {
		proof, err := authenticate(w.authenticator(t, c.config), w.token(t, c.changes))
		if got := reason(err); got != c.want || (proof != nil) != (err == nil) {
			t.Errorf("%s: got %s, want %s (%v)", name, got, c.want, err)
		}
	}
}

func anyAudience(c *jwt.Config) { c.Audiences = []string{"any"} }

func maxLifetime(d time.Duration) func(*jwt.Config) {
	return func(c *jwt.Config) { c.MaxLifetime = d }
}

func require(name string) func(*jwt.Config) {
	return func(c *jwt.Config) {
		p, _ := jwt.ParseClaimPath(name)
		c.RequiredClaims = []jwt.ClaimPath{p}
	}
}

func clients(ids ...string) func(*jwt.Config) {
	return func(c *jwt.Config) { c.Clients = ids }
}

// O-08, O-06: the header's typ, where anything goes and where RFC 9068 does.
func TestTokenTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lenient := w.authenticator(t, nil)
	strict := w.authenticator(t, func(c *jwt.Config) { c.TokenTypes = jwt.Strict })
	for typ, want := range map[string]struct{ lenient, strict bool }{
		``:                            {true, false},
		`,"typ":"JWT"`:                {true, false},
		`,"typ":"jwt"`:                {true, false},
		`,"typ":"at+jwt"`:             {true, true},
		`,"typ":"AT+JWT"`:             {true, true},
		`,"typ":"application/at+jwt"`: {true, true},
		`,"typ":"at+jwt "`:            {},
		`,"typ":"application/JWT"`:    {true, false},
		`,"typ":"Application/AT+jwt"`: {true, true},
		`,"typ":"application/"`:       {},
		`,"typ":"text/jwt"`:           {},
		`,"typ":"at+jwt","cty":"Application/JWT"`: {},
		`,"typ":"application/application/jwt"`:    {},
		`,"typ":"logout+jwt"`:                     {},
		`,"typ":"dpop+jwt"`:                       {},
		`,"typ":""`:                               {},
		`,"typ":"at+jwt","cty":"JWT"`:             {},
		`,"typ":"at+jwt","cty":"json"`:            {true, true},
	} {
		token := w.sign(t, `{"alg":"EdDSA","kid":"k-1"`+typ+`}`, claims(map[string]any{"client_id": "app"}))
		for name, c := range map[string]struct {
			a    *jwt.Authenticator
			want bool
		}{"lenient": {lenient, want.lenient}, "strict": {strict, want.strict}} {
			_, err := authenticate(c.a, token)
			if got := reason(err); c.want != (err == nil) || err != nil && got != policy.ReasonWrongTokenType {
				t.Errorf("%s%s: %v", name, typ, err)
			}
		}
	}
	for _, name := range []string{"client_id", "iat", "jti", "sub"} {
		token := w.sign(t, `{"alg":"EdDSA","typ":"at+jwt"}`, claims(map[string]any{"client_id": "app", name: nil}))
		if _, err := authenticate(strict, token); reason(err) != policy.ReasonInvalidClaim {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// C-06, G-13 (RFC 8705 section 3.1, RFC 9449 section 6.1): what a token is bound to is in
// the proof, for the Checker to ask for; what nobody can ask for refuses the token.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	const (
		certificate = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" // RFC 8705 section 3.1, and its last bits loose
		hex         = "6f070ad1eb1cdc0082dc3076639fe5112b1713ca3d96d734e4ef3d8dd37e760d"
		key         = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" // RFC 9449 section 6.1
	)
	good := certificate[:42] + "0" // the text that those bytes have
	for name, c := range map[string]struct {
		cnf  any
		want authn.Confirmation
	}{
		"a certificate": {map[string]any{"x5t#S256": good}, authn.Confirmation{Certificate: hex}},
		"a key":         {map[string]any{"jkt": key}, authn.Confirmation{Key: key}},
		"both":          {map[string]any{"jkt": key, "x5t#S256": good}, authn.Confirmation{Certificate: hex, Key: key}},
	} {
		if got := mustProve(t, a, w.token(t, map[string]any{"cnf": c.cnf})).Confirm; got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := mustProve(t, a, w.token(t, nil)).Confirm; got != (authn.Confirmation{}) {
		t.Errorf("bound to nothing: %+v", got)
	}
	for name, cnf := range map[string]any{
		"null": json.RawMessage("null"), "text": key, "list": []string{key}, "true": true, "empty": map[string]any{},
		"jwk":                  map[string]any{"jwk": map[string]any{"kty": "EC"}},
		"jwe":                  map[string]any{"jwe": "x"},
		"kid":                  map[string]any{"kid": "k-1"},
		"jku":                  map[string]any{"jku": "https://evil.example/"},
		"x5t":                  map[string]any{"x5t": good},
		"a key and an unknown": map[string]any{"jkt": key, "kid": "k-1"},
		"a key and a thumbprint of an unknown kind": map[string]any{"jkt": key, "x": key},
		"another case":      map[string]any{"JKT": key},
		"loose bits":        map[string]any{"x5t#S256": certificate},
		"padded":            map[string]any{"jkt": key + "="},
		"a line end":        map[string]any{"jkt": key[:42] + "\n"},
		"short":             map[string]any{"jkt": key[:42]},
		"long":              map[string]any{"jkt": key + "A"},
		"hex":               map[string]any{"x5t#S256": hex},
		"a number":          map[string]any{"jkt": 1},
		"a list":            map[string]any{"jkt": []string{key}},
		"a null":            map[string]any{"jkt": json.RawMessage("null")},
		"no text":           map[string]any{"jkt": ""},
		"one good, one bad": map[string]any{"jkt": key, "x5t#S256": ""},
	} {
		if proof, err := authenticate(a, w.token(t, map[string]any{"cnf": cnf})); proof != nil || reason(err) != policy.ReasonBinding {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// the issuer's level is the base, and a second factor makes it 4.
func TestAssurance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		base int
		amr  any
		want int
	}{
		{0, nil, 3}, {0, []string{"pwd"}, 3}, {0, []string{"pwd", "otp"}, 4}, {0, []string{"mfa"}, 4}, {0, "mfa", 4},
		{2, nil, 2}, {2, []string{"mfa"}, 4}, {4, nil, 4}, {4, []string{"pwd"}, 4},
	} {
		a := w.authenticator(t, func(cfg *jwt.Config) { cfg.Assurance = cmp.Or(c.base, cfg.Assurance) })
		if got := mustProve(t, a, w.token(t, map[string]any{"amr": c.amr})).Principal.Assurance; got != c.want {
			t.Errorf("base %d, amr %v: %d", c.base, c.amr, got)
		}
	}
}

// T-02: a token that somebody else could own as well is refused, whoever is asked.
func TestTwoOwners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := jwt.Config{URL: issuerURL, Audiences: []string{"orders"}}
	a, err := jwt.New([]jwt.Config{c}, jwt.Deps{
		Keys:      map[string]jose.Keys{issuerURL: w.keys},
		AlsoOwned: func(issuer, subject string) bool { return strings.HasPrefix(subject, "spiffe://") },
		Now:       func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authenticate(a, w.token(t, map[string]any{"sub": "spiffe://prod.example/x"})); reason(err) != policy.ReasonCredentialAmbiguous {
		t.Error(err)
	}
	if _, err := authenticate(a, w.token(t, nil)); err != nil {
		t.Error(err)
	}
	if !a.OwnsClaims(issuerURL, "alice") || a.OwnsClaims("https://other.example/", "alice") {
		t.Error("whose is whose")
	}
}

// M-01: a token that a client got for itself is a service's.
func TestKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		changes map[string]any
		kind    policy.Kind
		want    policy.Kind
	}{
		"a user":                     {nil, "", policy.KindUser},
		"a user of a client":         {map[string]any{"client_id": "app"}, "", policy.KindUser},
		"a client itself":            {map[string]any{"sub": "app", "client_id": "app"}, "", policy.KindService},
		"a client itself, by azp":    {map[string]any{"sub": "app", "azp": "app"}, "", policy.KindService},
		"a user named as the client": {map[string]any{"sub": "app", "azp": "app", "auth_time": 1767225600}, "", policy.KindUser},
		"Auth0":                      {map[string]any{"sub": "app@clients", "azp": "app", "gty": "client-credentials"}, "", policy.KindService},
		"configured":                 {nil, policy.KindDevice, policy.KindDevice},
		"configured over evidence":   {map[string]any{"sub": "app", "azp": "app"}, policy.KindUser, policy.KindUser},
	} {
		a := w.authenticator(t, func(cfg *jwt.Config) { cfg.Kind = c.kind })
		if got := mustProve(t, a, w.token(t, c.changes)).Principal.Kind; got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// O-02: scope and scp, as text and as a list.
func TestScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	for name, c := range map[string]struct {
		changes map[string]any
		want    []string
	}{
		"scope":              {map[string]any{"scope": "read orders:write"}, []string{"read", "orders:write"}},
		"spaces":             {map[string]any{"scope": " read  write "}, []string{"read", "write"}},
		"empty":              {map[string]any{"scope": ""}, nil},
		"none":               {map[string]any{"scope": nil}, nil},
		"scope as a list":    {map[string]any{"scope": []string{"read", "write"}}, []string{"read", "write"}},
		"scp":                {map[string]any{"scope": nil, "scp": []string{"read"}}, []string{"read"}},
		"scp as text":        {map[string]any{"scope": nil, "scp": "read write"}, []string{"read", "write"}},
		"scope before scp":   {map[string]any{"scope": "read", "scp": "admin"}, []string{"read"}},
		"case is kept":       {map[string]any{"scope": "Admin"}, []string{"Admin"}},
		"other case of name": {map[string]any{"Scope": "admin", "scope": "read"}, []string{"read"}},
	} {
		got := mustProve(t, a, w.token(t, c.changes)).Principal.Scopes
		if len(got) != len(c.want) || len(got) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, scope := range []any{"a,\"b\"", "read\u00a0admin", "read\nadmin", `a\b`, []any{"read", "admin "}, []any{[]string{"admin"}}, map[string]any{"admin": true}, 1, true, []any{""}} {
		if _, err := authenticate(a, w.token(t, map[string]any{"scope": scope})); reason(err) != policy.ReasonInvalidClaim {
			t.Errorf("%v: %v", scope, err)
		}
	}
}

// O-03: who acts for whom, outermost first.
func TestActors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	proof := mustProve(t, a, w.token(t, map[string]any{
		"act": map[string]any{"sub": "agent-7", "act": map[string]any{"client_id": "svc", "iss": "x", "act": map[string]any{"sub": "carol"}}},
	}))
	want := []policy.Actor{{ID: "agent-7"}, {ID: "svc", Kind: policy.KindService}, {ID: "carol"}}
	if !reflect.DeepEqual(proof.Principal.Actors, want) || proof.Principal.ID != "alice" {
		t.Errorf("got %+v", proof.Principal.Actors)
	}
	for _, act := range []any{"bob", 1, []any{}, map[string]any{}, map[string]any{"sub": ""}, map[string]any{"sub": 1}, json.RawMessage("null"), map[string]any{"sub": "a", "act": "b"}, map[string]any{"sub": "a\n"}} {
		if _, err := authenticate(a, w.token(t, map[string]any{"act": act})); reason(err) != policy.ReasonInvalidClaim {
			t.Errorf("act %v: %v", act, err)
		}
	}
}

// J-06: what looks like a secret reaches nobody, also inside others, and no
// configuration changes that.
func TestSecretsDoNotPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, func(c *jwt.Config) { c.Pass = []string{"profile", "email"} })
	token := w.token(t, map[string]any{
		"password": "hunter2", "profile": map[string]any{"plan": "gold", "api_key": "hunter2", "deep": []any{map[string]any{"accessToken": "hunter2", "x": 1}}},
	})
	proof := mustProve(t, a, token)
	want := map[string]any{"profile": map[string]any{"plan": "gold", "deep": []any{map[string]any{"x": json.Number("1")}}}}
	if !reflect.DeepEqual(proof.Principal.Claims, want) {
		t.Errorf("got %v", proof.Principal.Claims)
	}
	if text := fmt.Sprintf("%+v %+v", proof, proof.Principal); strings.Contains(text, "hunter2") {
		t.Error("the secret can be printed")
	}
	for _, name := range []string{"password", "Password", "user_passwd", "secret", "clientSecret", "token", "id_token", "key", "apiKey", "api-key", "https://x.example/key", "otp", "credentials", "pwd"} {
		_, err := jwt.New([]jwt.Config{{URL: issuerURL, Audiences: []string{"a"}, Pass: []string{name}}}, jwt.Deps{Keys: map[string]jose.Keys{issuerURL: w.keys}})
		if err == nil {
			t.Errorf("%s may pass", name)
		}
	}
	for _, name := range []string{"keyboard", "monkey", "email", "spin", "compass", "org_id"} {
		if _, err := jwt.New([]jwt.Config{{URL: issuerURL, Audiences: []string{"a"}, Pass: []string{name}}}, jwt.Deps{Keys: map[string]jose.Keys{issuerURL: w.keys}}); err != nil {
			t.Error(err)
		}
	}
}

// finder counts the questions for keys, and answers with an error.
type finder struct {
	asked int
	err   error
}

func (f *finder) Find(context.Context, string, string) ([]*jose.Key, error) {
	f.asked++
	return nil, f.err
}

// J-01, J-02: a token chooses neither issuer nor key source; a key that is not
// there refuses it, keys that cannot be had are no answer about it.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := &finder{}
	w.keys = f
	a := w.authenticator(t, func(c *jwt.Config) { c.Algorithms = []string{"EdDSA"} })
	good := w.token(t, nil)

	for name, token := range map[string]string{
		"unknown issuer":    w.token(t, map[string]any{"iss": "https://evil.example.com/"}),
		"other algorithm":   w.sign(t, `{"alg":"RS256","kid":"k-1"}`, claims(nil)),
		"none":              w.sign(t, `{"alg":"none"}`, claims(nil)),
		"HS256":             w.sign(t, `{"alg":"HS256","kid":"k-1"}`, claims(nil)),
		"malformed":         good + "=",
		"over 8 KiB (J-08)": w.token(t, map[string]any{"pad": strings.Repeat("x", 9<<10)}),
	} {
		if _, err := authenticate(a, token); reason(err).Status() != 401 || f.asked != 0 {
			t.Errorf("%s: %v after %d questions for keys", name, err, f.asked)
		}
	}
	if _, err := authenticate(a, good); reason(err) != policy.ReasonSignatureInvalid || f.asked != 1 {
		t.Errorf("no such key: %v", err)
	}
	f.err = errors.New("the issuer does not answer")
	if _, err := authenticate(a, good); reason(err) != policy.ReasonUnavailable || !errors.Is(err, f.err) || errors.Is(err, authn.ErrNotMine) {
		t.Errorf("keys that cannot be had: %v", err)
	}
}

// J-08, J-12: what is an attempt at a JWS, and what is somebody else's.
func TestShape(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	good := w.token(t, nil)
	head, _, _ := strings.Cut(good, ".")
	for token, want := range map[string]policy.Reason{
		good + "\n":                         policy.ReasonCredentialMalformed,
		" " + good:                          policy.ReasonCredentialMalformed,
		good + ".":                          policy.ReasonCredentialMalformed,
		good + ".x.y.z":                     policy.ReasonCredentialMalformed,
		head + ".x":                         policy.ReasonCredentialMalformed,
		"..":                                policy.ReasonCredentialMalformed,
		"a.b.c":                             policy.ReasonCredentialMalformed,
		`{"payload":"","signatures":[]}`:    policy.ReasonCredentialMalformed,
		"eyJ" + strings.Repeat("A", 9<<10):  policy.ReasonTokenTooLarge,
		"a." + strings.Repeat("A", 9<<10):   0,
		"a.b." + strings.Repeat("A", 9<<10): policy.ReasonTokenTooLarge,
		"":                                  0,
		".":                                 0,
		"e":                                 0,
		"opaque":                            0,
		"pst_key_live_abc":                  0,
		"eyJpdiI6IkFBIn0":                   0,
		head + ".a.b.c.d":                   0, // a JWE
		strings.Repeat("A", 9<<10):          0,
		strings.Repeat(".", 9<<10):          0,
	} {
		_, err := authenticate(a, token)
		if want == 0 && !errors.Is(err, authn.ErrNotMine) || want != 0 && reason(err) != want {
			t.Errorf("%.40q: %v", token, err)
		}
	}
}

// An issuer's own limit on size holds although another issuer's is wider. J-08
func TestTokenSizeOfIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := "https://wide.example.com/"
	a, err := jwt.New([]jwt.Config{
		{URL: issuerURL, Audiences: []string{"orders"}},
		{URL: other, Audiences: []string{"orders"}, MaxTokenBytes: 16 << 10},
	}, jwt.Deps{Keys: map[string]jose.Keys{issuerURL: w.keys, other: w.keys}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for iss, want := range map[string]policy.Reason{issuerURL: policy.ReasonTokenTooLarge, other: policy.ReasonAllowed} {
		token := w.token(t, map[string]any{"iss": iss, "pad": strings.Repeat("x", 7<<10)})
		if _, err := authenticate(a, token); reason(err) != want {
			t.Errorf("%s: %v", iss, err)
		}
	}
}

// E-03, J-04: over any times, a token is accepted at a moment if and only if that
// lies within its times widened by the skew, and NotAfter is that end exactly.
func TestExpiryEdges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		second := func(name string) int64 { return rapid.Int64Range(-400, 400).Draw(rt, name) }
		skew := time.Duration(rapid.Int64Range(1, 300).Draw(rt, "skew")) * time.Second
		exp, nbf, iat := now.Unix()+second("exp"), now.Unix()+second("nbf"), now.Unix()+second("iat")
		a := w.authenticator(t, func(c *jwt.Config) { c.ClockSkew = skew })
		proof, err := authenticate(a, w.token(t, map[string]any{"exp": exp, "nbf": nbf, "iat": iat}))

		leeway := int64(skew / time.Second)
		live := now.Unix() < exp+leeway && now.Unix()+leeway >= nbf && now.Unix()+leeway >= iat && nbf <= exp && iat <= exp
		if live != (err == nil) {
			rt.Fatalf("live %v, got %v", live, err)
		}
		if err == nil && (proof.NotAfter.Unix() != exp+leeway || !now.Before(proof.NotAfter)) {
			rt.Fatalf("counts until %v", proof.NotAfter)
		}
	})
}

// auth_time may lie ahead by the skew and no more, so that nobody's login looks
// recent for the life of the token. Zero, which some issuers write, is unknown.
func TestAuthTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	for offset, want := range map[time.Duration]policy.Reason{
		-time.Hour: policy.ReasonAllowed, 0: policy.ReasonAllowed, 30 * time.Second: policy.ReasonAllowed,
		31 * time.Second: policy.ReasonInvalidClaim, 24 * time.Hour: policy.ReasonInvalidClaim,
	} {
		proof, err := authenticate(a, w.token(t, map[string]any{"auth_time": now.Add(offset).Unix()}))
		if reason(err) != want || err == nil && !proof.Principal.AuthTime.Equal(now.Add(offset).Truncate(time.Second)) {
			t.Errorf("%s: %v", offset, err)
		}
	}
	if got := mustProve(t, a, w.token(t, map[string]any{"auth_time": 0})).Principal.AuthTime; !got.IsZero() {
		t.Errorf("unknown is %s", got)
	}
}

// E-03: to the nanosecond, an expired token is refused at its end.
func TestExpiryInstant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	token := w.token(t, map[string]any{"exp": now.Unix()})
	for offset, want := range map[time.Duration]policy.Reason{
		30*time.Second - 1: policy.ReasonAllowed,
		30 * time.Second:   policy.ReasonExpired,
		time.Hour:          policy.ReasonExpired,
	} {
		w.now = now.Add(offset)
		if _, err := authenticate(a, token); reason(err) != want {
			t.Errorf("after %s: %v", offset, err)
		}
	}
}

// J-01: the sample token of the classic debugger page, unsigned for us and
// expired since 2018, is nothing.
func TestSampleToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sample := w.sign(t, `{"alg":"HS256","typ":"JWT"}`, map[string]any{"sub": "1234567890", "name": "John Doe", "iat": 1516239022, "exp": 1516242622})
	if _, err := authenticate(w.authenticator(t, nil), sample); reason(err).Status() != 401 {
		t.Error(err)
	}
}

// The promises that every kind of credential keeps.
func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.token(t, nil)
	head, _, _ := strings.Cut(good, ".")
	authntest.Suite{
		Authenticator: w.authenticator(t, nil),
		Uses:          []policy.Method{policy.MethodJWT},
		Good:          map[string]string{good: "alice", w.token(t, map[string]any{"sub": "bob", "jti": nil}): "bob"},
		Bad: map[string]policy.Reason{
			w.token(t, map[string]any{"exp": 1}):     policy.ReasonExpired,
			w.token(t, map[string]any{"aud": "x"}):   policy.ReasonInvalidAudience,
			w.token(t, map[string]any{"iss": "x"}):   policy.ReasonIssuerUntrusted,
			newWorld(t).token(t, nil):                policy.ReasonSignatureInvalid,
			w.sign(t, `{"alg":"none"}`, claims(nil)): policy.ReasonSignatureInvalid,
			good + "=":                               policy.ReasonCredentialMalformed,
		},
		NotMine: []string{"pst_key_live_abc", "opaque", head + ".a.b.c.d"},
	}.Run(t)
}

// An Authenticator without issuers owns nothing.
func TestNoIssuers(t *testing.T) {
	t.Parallel()
	a, err := jwt.New(nil, jwt.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if proof, err := authenticate(a, newWorld(t).token(t, nil)); proof != nil || err == nil {
		t.Error(proof, err)
	}
}

// FuzzAuthenticate: no text makes a panic, an error that is no refusal, or a
// principal that cannot be told from another.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f)
	a := w.authenticator(f, func(c *jwt.Config) { c.Pass = []string{"x"} })
	f.Add(plainHeader, `{"iss":"https://issuer.example.com/","sub":"alice","aud":"orders","exp":1772370000,"iat":1772366000}`)
	f.Add(plainHeader, `{"iss":"https://issuer.example.com/","sub":"alice","aud":["orders"],"exp":1.77237e9,"act":{"sub":"x","act":{"sub":"y"}},"scope":"a b","roles":["r"],"x":{"y":[1]}}`)
	f.Add(`{"alg":"none"}`, `{}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
		signature, err := golangjwt.SigningMethodEdDSA.Sign(text, w.private)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := authenticate(a, text+"."+base64.RawURLEncoding.EncodeToString(signature))
		if err != nil {
			if proof != nil || !errors.Is(err, authn.ErrNotMine) && reason(err).Status() != 401 {
				t.Fatalf("%q %q: %v", header, payload, err)
			}
			return
		}
		p := proof.Principal
		if p.ID == "" || strings.TrimSpace(p.ID) != p.ID || strings.ContainsAny(p.ID, "\x00\r\n") || p.Kind == "" || p.Issuer != issuerURL || !now.Before(proof.NotAfter) {
			t.Fatalf("%q %q: %+v", header, payload, p)
		}
		for _, name := range append(append(p.Roles, p.Scopes...), p.Permissions...) {
			if name == "" || strings.ContainsAny(name, "\x00\r\n") {
				t.Fatalf("%q: %q", payload, name)
			}
		}
	})
}

// The first sight of a token beside the bare RSA verification that it contains:
// each by its fastest run, in turns, because other work disturbs both.
func BenchmarkAuthenticateRS256(b *testing.B) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := jose.NewKeySet(&jose.Key{ID: "k-1", Alg: "RS256", Public: &private.PublicKey})
	if err != nil {
		b.Fatal(err)
	}
	a, err := jwt.New([]jwt.Config{{URL: issuerURL, Audiences: []string{"orders"}, Pass: []string{"email"}}},
		jwt.Deps{Keys: map[string]jose.Keys{issuerURL: keys}, Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	payload, _ := json.Marshal(claims(map[string]any{"roles": []string{"reader", "writer"}, "email": "alice@example.com", "azp": "app", "sid": "s-1"}))
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k-1","typ":"at+jwt"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := golangjwt.SigningMethodRS256.Sign(text, private)
	if err != nil {
		b.Fatal(err)
	}
	c := &authn.Credential{Secret: policy.NewSecret(text + "." + base64.RawURLEncoding.EncodeToString(signature))}

	b.ReportAllocs()
	whole, bare := time.Hour, time.Hour
	for b.Loop() {
		start := time.Now()
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := golangjwt.SigningMethodRS256.Verify(text, signature, &private.PublicKey); err != nil {
			b.Fatal(err)
		}
		whole, bare = min(whole, middle.Sub(start)), min(bare, time.Since(middle))
	}
	b.ReportMetric(float64(whole.Nanoseconds()), "ns/first-sight")
	b.ReportMetric(float64(whole)/float64(bare), "x-verification")
}
