package introspect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/introspect"
)

const (
	issuerURL    = "https://issuer.test"
	clientSecret = "s3cret-of-the-client:%&+ ä"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// members are what an answer says.
type members map[string]any

func (m members) with(name string, value any) members {
	all := members{name: value}
	for k, v := range m {
		if k != name {
			all[k] = v
		}
	}
	return all
}

func (m members) json() string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func active(sub string) members {
	return members{
		"active": true, "sub": sub, "client_id": "app", "scope": "read write", "iss": issuerURL, "aud": "orders",
		"iat": start.Add(-time.Minute).Unix(), "exp": start.Add(time.Hour).Unix(), "token_type": "Bearer",
	}
}

// issuer is an authorization server that a test plays.
type issuer struct {
	mu     sync.Mutex
	tokens map[string]string // token to answer; all others are inactive
	asked  int
	answer func(*http.Request) (*http.Response, error) // replaces the answers
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.asked++
	answer := i.answer
	i.mu.Unlock()
	if answer != nil {
		return answer(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return reply(400, "application/json", "{}"), nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if text, ok := i.tokens[form.Get("token")]; ok {
		return reply(200, "application/json;charset=utf-8", text), nil
	}
	return reply(200, "application/json", `{"active":false}`), nil
}

func (i *issuer) set(token, answer string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.tokens == nil {
		i.tokens = map[string]string{}
	}
	i.tokens[token] = answer
}

func (i *issuer) will(answer func(*http.Request) (*http.Response, error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

func reply(status int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: status, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
		Header: http.Header{"Content-Type": {contentType}},
	}
}

func always(status int, contentType, body string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return reply(status, contentType, body), nil }
}

func config() introspect.Config {
	return introspect.Config{
		URL: issuerURL + "/introspect?key=query-secret", ClientID: "postern", ClientSecret: policy.NewSecret(clientSecret), Audiences: []string{"orders"},
	}
}

func clock() time.Time { return start }

// made makes an Authenticator that asks the issuer.
func made(t testing.TB, i http.RoundTripper, cfg introspect.Config) *introspect.Authenticator {
	t.Helper()
	a, err := introspect.New(cfg, introspect.Deps{Now: clock, Transport: i, KeyPrefix: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func credential(token string) *authn.Credential {
	return &authn.Credential{Uses: []policy.Method{policy.MethodOAuth}, Secret: policy.NewSecret(token), Scheme: "bearer"}
}

// outcome is what an authenticator answered, as a word: the principal's id, the reason
// of a refusal, "not mine", "unreachable" or "fault".
func outcome(proof *authn.Proof, err error) string {
	var refusal *authn.Refusal
	switch {
	case err == nil && proof != nil:
		return proof.Principal.ID
	case errors.As(err, &refusal):
		return refusal.Reason.String()
	case errors.Is(err, authn.ErrNotMine):
		return "not mine"
	case errors.Is(err, authn.ErrUnreachable):
		return "unreachable"
	case err != nil:
		return "fault"
	}
	return "nothing"
}

// O-07: opaque tokens by introspection keep the promises of every kind.
func TestSuite(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	good := map[string]string{"2YotnFZFEjr1zCsicMWpAA": "alice", "mF_9.B5f-4-1JqM~x/y+z==": "svc"}
	i.set("2YotnFZFEjr1zCsicMWpAA", active("alice").json())
	i.set("mF_9.B5f-4-1JqM~x/y+z==", active("svc").json())
	i.set("b", active("b").with("aud", "payments").json())
	i.set("c", active("c").with("exp", start.Add(-time.Hour).Unix()).json())
	authntest.Suite{
		Authenticator: made(t, i, config()),
		Uses:          []policy.Method{policy.MethodOAuth},
		Good:          good,
		Bad: map[string]policy.Reason{
			"0000000000000000000000":  policy.ReasonCredentialUnknown,
			"b":                       policy.ReasonInvalidAudience,
			"c":                       policy.ReasonExpired,
			"token with spaces":       policy.ReasonCredentialMalformed,
			strings.Repeat("x", 9000): policy.ReasonTokenTooLarge,
		},
		NotMine: []string{"", "pst_key_abc", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "a.b.c", "eyJhbGciOiJkaXIifQ..a.b.c", "mF_9.B5f-4.1JqM~x/y+z=="},
	}.Run(t)
}

// O-07, INTROSPECT-01, INTROSPECT-02, G-13 (RFC 7662 section 2.2): which answers are a
// proof, which a refusal, and which no answer at all.
func TestAnswers(t *testing.T) {
	t.Parallel()
	good := active("alice")
	thumbprint := "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"
	deep := strings.Repeat("[", 50) + strings.Repeat("]", 50)
	for _, tt := range []struct {
		name, body, want string
	}{
		{"good", good.json(), "alice"},
		{"no exp", good.with("exp", nil).json(), "invalid_claim"},
		{"expired", good.with("exp", start.Add(-time.Minute).Unix()).json(), "expired"},
		{"in skew", good.with("exp", start.Add(-29*time.Second).Unix()).json(), "alice"},
		{"skew over", good.with("exp", start.Add(-30*time.Second).Unix()).json(), "expired"},
		{"nbf in the future", good.with("nbf", start.Add(time.Minute).Unix()).json(), "not_yet_valid"},
		{"iat in the future", good.with("iat", start.Add(time.Minute).Unix()).json(), "not_yet_valid"},
		{"exp is a string", good.with("exp", "4102444800").json(), "invalid_claim"},
		{"exp 0", good.with("exp", 0).json(), "invalid_claim"},
		{"aud of another", good.with("aud", "payments").json(), "invalid_audience"},
		{"aud in a list", good.with("aud", []string{"payments", "orders"}).json(), "alice"},
		{"aud missing", strings.Replace(good.json(), `"aud"`, `"x"`, 1), "invalid_audience"},
		{"aud is a number", good.with("aud", 1).json(), "invalid_audience"},
		{"iss of another", good.with("iss", "https://issuer.test/").json(), "issuer_untrusted"},
		{"iss null", good.with("iss", nil).json(), "issuer_untrusted"},
		{"iss missing", strings.Replace(good.json(), `"iss"`, `"x"`, 1), "alice"},
		{"refresh token", good.with("token_type", "refresh_token").json(), "wrong_token_type"},
		{"refresh token of Keycloak", good.with("typ", "Refresh").json(), "wrong_token_type"},
		{"ID token", good.with("token_use", "id").json(), "wrong_token_type"},
		{"ID token by nonce", good.with("at_hash", "x").json(), "wrong_token_type"},
		{"mac", good.with("token_type", "mac").json(), "wrong_token_type"},
		{"N_A", good.with("token_type", "N_A").json(), "wrong_token_type"},
		{"token_type is a number", good.with("token_type", 1).json(), "wrong_token_type"},
		{"token_type bearer", good.with("token_type", "bearer").json(), "alice"},
		{"DPoP without key", good.with("token_type", "DPoP").json(), "binding"},
		{"DPoP", good.with("token_type", "DPoP").with("cnf", members{"jkt": thumbprint[:42] + "I"}).json(), "alice"},
		{"jkt of loose bits", good.with("cnf", members{"jkt": thumbprint[:42] + "J"}).json(), "binding"},
		{"cnf unknown", good.with("cnf", members{"kid": "k"}).json(), "binding"},
		{"cnf jwk", good.with("cnf", members{"jwk": members{}}).json(), "binding"},
		{"cnf empty", good.with("cnf", members{}).json(), "binding"},
		{"cnf null", good.with("cnf", nil).json(), "binding"},
		{"cnf short", good.with("cnf", members{"jkt": "abc"}).json(), "binding"},
		{"sub missing", strings.Replace(good.json(), `"sub"`, `"x"`, 1), "app"},
		{"sub empty", good.with("sub", "").json(), "invalid_claim"},
		{"sub is a number", good.with("sub", 7).json(), "invalid_claim"},
		{"sub invisible", good.with("sub", "al\u200bice").json(), "invalid_claim"},
		{"nobody", `{"active":true,"aud":"orders"}`, "invalid_claim"},
		{"scope is no scope", good.with("scope", "read \u00e4").json(), "invalid_claim"},

		{"inactive", `{"active":false}`, "credential_unknown"},
		{"inactive with more", `{"active":false,"sub":"alice","aud":"orders"}`, "credential_unknown"},
		{"active is text", good.with("active", "true").json(), "fault"},
		{"active is 1", good.with("active", 1).json(), "fault"},
		{"active is null", good.with("active", nil).json(), "fault"},
		{"active missing", "{}", "fault"},
		{"active twice", `{"active":false,"active":true,"sub":"a","aud":"orders"}`, "fault"},
		{"active twice, escaped", `{"active":false,"\u0061ctive":true,"sub":"a","aud":"orders"}`, "fault"},
		{"ACTIVE", strings.Replace(good.json(), "active", "ACTIVE", 1), "fault"},
		{"sub twice", `{"active":true,"sub":"a","sub":"b","aud":"orders"}`, "fault"},
		{"a list", "[]", "fault"},
		{"a list of answers", "[" + good.json() + "]", "fault"},
		{"true", "true", "fault"},
		{"nothing", "", "fault"},
		{"null", "null", "fault"},
		{"two answers", good.json() + good.json(), "fault"},
		{"half an answer", good.json()[:40], "fault"},
		{"HTML", "<html>{\"active\":true}</html>", "fault"},
		{"byte order mark", "\ufeff" + good.json(), "fault"},
		{"not UTF-8", strings.Replace(good.json(), "alice", "\xff", 1), "fault"},
		{"deep", good.with("x", json.RawMessage(deep)).json(), "fault"},
		{"too long", good.with("x", strings.Repeat("x", 64<<10)).json(), "fault"},
	} {
		t.Run("INTROSPECT/"+tt.name, func(t *testing.T) {
			t.Parallel()
			a := made(t, &issuer{answer: always(200, "application/json", tt.body)}, func() introspect.Config {
				c := config()
				c.ClockSkew = 30 * time.Second
				return c
			}())
			proof, err := a.Authenticate(t.Context(), credential("opaque"))
			if got := outcome(proof, err); got != tt.want {
				t.Errorf("%s (%v), want %s", got, err, tt.want)
			}
		})
	}
}

// INTROSPECT-01, E-06: an answer other than 200 with JSON is never taken for "inactive",
// and only the issuer's own faults may be bridged with what was known before.
func TestStatuses(t *testing.T) {
	t.Parallel()
	good := active("alice").json()
	for _, tt := range []struct {
		status            int
		contentType, body string
		want              string
	}{
		{200, "application/json", good, "alice"},
		{200, "application/json; charset=UTF-8", good, "alice"},
		{200, "application/token-introspection+json", good, "alice"},
		{200, "text/html", good, "fault"},
		{200, "text/plain", good, "fault"},
		{200, "", good, "fault"},
		{200, "application/token-introspection+jwt", good, "fault"},
		{200, "application/json, text/html", good, "fault"},
		{201, "application/json", good, "fault"},
		{204, "application/json", "", "fault"},
		{206, "application/json", good, "fault"},
		{301, "application/json", good, "fault"},
		{302, "application/json", `{"active":false}`, "fault"},
		{307, "application/json", good, "fault"},
		{400, "application/json", `{"active":false}`, "fault"},
		{401, "application/json", `{"active":false}`, "fault"},
		{403, "application/json", `{"active":false}`, "fault"},
		{404, "application/json", `{"active":false}`, "fault"},
		{429, "application/json", `{"active":false}`, "fault"},
		{500, "application/json", `{"active":false}`, "unreachable"},
		{502, "text/html", good, "unreachable"},
		{503, "application/json", `{"active":false}`, "unreachable"},
		{504, "", "", "unreachable"},
	} {
		a := made(t, &issuer{answer: always(tt.status, tt.contentType, tt.body)}, config())
		proof, err := a.Authenticate(t.Context(), credential("opaque"))
		if got := outcome(proof, err); got != tt.want {
			t.Errorf("%d %q: %s (%v), want %s", tt.status, tt.contentType, got, err, tt.want)
		}
	}
}

// M-01, O-07: what becomes of an answer.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	i.set("user", active("alice").with("tenant", "acme").with("roles", []string{"admin"}).with("jti", "t-1").with("sid", "s-1").
		with("acr", "high").with("amr", []string{"pwd", "otp"}).with("auth_time", start.Add(-time.Hour).Unix()).
		with("act", members{"sub": "agent-7"}).with("team", "blue").with("api_key", "hush").
		with("cnf", members{"x5t#S256": strings.Repeat("A", 43)}).json())
	i.set("service", active("app").json())
	i.set("client", `{"active":true,"client_id":"batch","aud":["orders"],"scope":"read"}`)
	cfg := config()
	claims, err := pathOf("tenant")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Claims.Tenant, cfg.Pass = claims, []string{"team"}
	cfg.Constraints = &policy.Constraints{RequireTLS: true}
	a := made(t, i, cfg)

	proof, err := a.Authenticate(t.Context(), credential("user"))
	if err != nil {
		t.Fatal(err)
	}
	p := proof.Principal
	if p.ID != "alice" || p.Kind != policy.KindUser || p.Tenant != "acme" || p.Issuer != issuerURL || p.Method != policy.MethodOAuth || p.Assurance != 4 ||
		fmt.Sprintf("%v %v %v %v %v %v", p.Roles, p.Scopes, p.AMR, p.ACR, p.Actors, p.Claims) != "[admin] [read write] [pwd otp] high [{agent-7 }] map[team:blue]" ||
		p.CredentialID != "t-1" || !p.AuthTime.Equal(start.Add(-time.Hour)) || !p.ExpiresAt.Equal(start.Add(time.Hour)) {
		t.Errorf("%+v", p)
	}
	s := proof.Subject
	if s.TokenID != "t-1" || s.SessionID != "s-1" || s.Issuer != issuerURL || s.ID != "alice" || s.Client != "app" || s.Tenant != "acme" || !s.IssuedAt.Equal(p.IssuedAt) {
		t.Errorf("%+v", s)
	}
	if proof.Confirm.Certificate != strings.Repeat("0", 64) || proof.Confirm.Key != "" || proof.State != policy.StateStore || proof.Constraints != cfg.Constraints ||
		!proof.NotAfter.Equal(start.Add(time.Hour+cfg.ClockSkew)) {
		t.Errorf("confirm %+v, state %s, until %v", proof.Confirm, proof.State, proof.NotAfter)
	}

	for token, id := range map[string]string{"service": "app", "client": "batch"} {
		proof, err := a.Authenticate(t.Context(), credential(token))
		if err != nil || proof.Principal.ID != id || proof.Principal.Kind != policy.KindService {
			t.Errorf("%s: %+v, %v", token, proof, err)
		}
	}
	if proof, _ := a.Authenticate(t.Context(), credential("client")); !proof.NotAfter.IsZero() {
		t.Error("a token without end has one")
	}

	cfg.Clients = []string{"app"}
	if got := outcome(made(t, i, cfg).Authenticate(t.Context(), credential("client"))); got != "invalid_claim" {
		t.Errorf("a client that is not accepted: %s", got)
	}
	cfg.Clients, cfg.Kind, cfg.Method, cfg.Assurance = nil, policy.KindAgent, "partner", 2
	proof, err = made(t, i, cfg).Authenticate(t.Context(), credential("service"))
	if err != nil || proof.Principal.Kind != policy.KindAgent || proof.Subject.Agent != "app" || proof.Principal.Method != "partner" || proof.Principal.Assurance != 2 {
		t.Errorf("%+v, %v", proof, err)
	}
}

// Where any audience will do, an answer must say that it is about an access token: some
// issuers find refresh tokens active too, and answer the same but for token_type.
func TestTokenTypes(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	i.set("typed", `{"active":true,"sub":"alice","token_type":"Bearer"}`)
	i.set("untyped", `{"active":true,"sub":"alice"}`)
	i.set("ours", `{"active":true,"sub":"alice","aud":"orders"}`)
	for _, tt := range []struct {
		audience             string
		types                introspect.TokenTypes
		typed, untyped, ours string
	}{
		{"any", "", "alice", "wrong_token_type", "wrong_token_type"},
		{"any", "lenient", "alice", "alice", "alice"},
		{"orders", "", "invalid_audience", "invalid_audience", "alice"},
		{"orders", "strict", "invalid_audience", "wrong_token_type", "wrong_token_type"},
	} {
		cfg := config()
		cfg.Audiences, cfg.TokenTypes = []string{tt.audience}, tt.types
		a := made(t, i, cfg)
		for token, want := range map[string]string{"typed": tt.typed, "untyped": tt.untyped, "ours": tt.ours} {
			if got := outcome(a.Authenticate(t.Context(), credential(token))); got != want {
				t.Errorf("%s for %s, %s: %s, want %s", token, tt.audience, tt.types, got, want)
			}
		}
	}
}

// T-02: who may be asked about what. Nobody else's token is shown to the issuer.
func TestShapes(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	opaque, prefixed, signed := config(), config(), config()
	prefixed.Prefixes = []string{"at_", "rt-", "s.", "acme"}
	signed.AcceptJWTs = true
	jws := func(header, claims string) string { return encode(header) + "." + encode(claims) + ".c2ln" }
	ours := jws(`{"alg":"RS256","typ":"at+jwt"}`, `{"iss":"`+issuerURL+`","sub":"alice"}`)
	for _, token := range []string{"opaque", "at_1", ours} {
		i.set(token, active("alice").json())
	}
	for _, tt := range []struct {
		token                    string
		opaque, prefixed, signed string
	}{
		{"opaque", "alice", "not mine", "alice"},
		{"at_1", "alice", "alice", "alice"},
		{"pst_key_000000000000_x", "not mine", "not mine", "not mine"},
		{"acme_key_live_0123456789AB_0123456789012345678901234567890123456789012ABCDEF", "not mine", "not mine", "not mine"},
		{"acme_ses_0123456789AB_0123456789012345678901234567890123456789012ABCDEF", "not mine", "not mine", "not mine"},
		{"acme_pat_live_misspelt", "not mine", "not mine", "not mine"},
		{"other_key_0123456789AB_0123456789012345678901234567890123456789012ABCDEF", "not mine", "not mine", "not mine"},
		{"acme_at_1", "credential_unknown", "credential_unknown", "credential_unknown"},
		{"hvs.CAESIJlU02LQZq2lWaGVJbmc2", "not mine", "not mine", "not mine"},
		{"hvb.x", "not mine", "not mine", "not mine"},
		{"hvr.CAESIJlU02LQZq2lWaGVJbmc2.c2ln", "not mine", "not mine", "not mine"},
		{"s.abcdefghijklmnopqrstuvwx", "not mine", "credential_unknown", "not mine"}, // prefixes names it
		{"b.abcdefghijklmnopqrstuvwx", "not mine", "not mine", "not mine"},
		{"s.short", "credential_unknown", "credential_unknown", "credential_unknown"},
		{ours, "not mine", "not mine", "alice"},
		{jws(`{"alg":"RS256"}`, `{"iss":"https://other.test"}`), "not mine", "not mine", "not mine"},
		{jws(`{"alg":"RS256"}`, `{"sub":"alice"}`), "not mine", "not mine", "not mine"},
		{jws(`{"alg":"RS256"}`, `{"iss":"https://other.test","iss":"`+issuerURL+`"}`), "not mine", "not mine", "not mine"},
		{"a.b.c", "not mine", "not mine", "not mine"},
		{"eyJ", "not mine", "not mine", "not mine"},
		{jws(`{"alg":"RS256","typ":"logout+jwt"}`, `{"iss":"`+issuerURL+`"}`), "not mine", "not mine", "wrong_token_type"},
		{jws(`{"alg":"RS256"}`, `{"iss":"`+issuerURL+`","nonce":"n"}`), "not mine", "not mine", "wrong_token_type"},
	} {
		before := i.count()
		for n, cfg := range []introspect.Config{opaque, prefixed, signed} {
			want := []string{tt.opaque, tt.prefixed, tt.signed}[n]
			if got := outcome(made(t, i, cfg).Authenticate(t.Context(), credential(tt.token))); got != want {
				t.Errorf("%.40s: %s, want %s", tt.token, got, want)
			}
			if want == "not mine" && i.count() != before {
				t.Errorf("%.40s was shown to the issuer", tt.token)
			}
			before = i.count()
		}
	}
	if opaque.Shapes() != authn.ShapeOpaque || signed.Shapes() != authn.ShapeOpaque|authn.ShapeSigned {
		t.Error("shapes")
	}
	other := config()
	other.Prefixes = []string{"at"}
	if !opaque.Overlaps(&prefixed) || !prefixed.Overlaps(&other) {
		t.Error("texts that both take")
	}
	other.Prefixes = []string{"gho_"}
	if prefixed.Overlaps(&other) {
		t.Error("no text begins with both")
	}
}

// INTROSPECT-05: neither the token nor what Postern proves itself by is in any error,
// whatever goes wrong and however it is printed.
func TestNoSecretInErrors(t *testing.T) {
	t.Parallel()
	const token = "tok-4f9d8a7c6b5e"
	echo := func(r *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(r.Body)
		return reply(500, "text/plain "+token, string(body)+r.Header.Get("Authorization")), nil
	}
	fail := func(r *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("dial tcp: %w", io.ErrUnexpectedEOF)
	}
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"echo": echo, "network": fail, "html": always(200, "text/html", token), "401": always(401, "text/html", token),
		"malformed": always(200, "application/json", `{"active":true,"`+token+`":1,"`+token+`":2}`),
		"inactive":  always(200, "application/json", `{"active":false,"x":"`+token+`"}`),
		"iss":       always(200, "application/json", `{"active":true,"iss":"x"}`),
		"sub":       always(200, "application/json", `{"active":true,"aud":"orders","sub":["`+token+`"]}`),
	} {
		for _, auth := range []introspect.Auth{introspect.AuthBasic, introspect.AuthPost} {
			cfg := config()
			cfg.Auth = auth
			a := made(t, &issuer{answer: answer}, cfg)
			_, err := a.Authenticate(t.Context(), credential(token))
			if err == nil {
				t.Fatalf("%s: no error", name)
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err), fmt.Sprintf("%+v", a.Status())} {
				for _, secret := range []string{token, "s3cret", url.QueryEscape(clientSecret), "query-secret", "cG9zdGVybj"} {
					if strings.Contains(text, secret) {
						t.Errorf("%s: %q shows %q", name, text, secret)
					}
				}
			}
		}
	}
}

// A context that is over asks nobody and counts for nothing.
func TestContextIsOver(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	a := made(t, i, config())
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		if got := outcome(a.Authenticate(over, credential("opaque"))); got != "fault" {
			t.Error(got)
		}
	}
	if got := outcome(a.Authenticate(over, credential("a.b.c"))); got != "not mine" {
		t.Error(got)
	}
	if i.count() != 0 || !a.Status().Usable {
		t.Errorf("asked %d times, %+v", i.count(), a.Status())
	}
}

// INTROSPECT-06: a token that was active is asked about again after at most max_ttl, 30
// seconds by default, and so is refused within that time of being revoked.
func TestRevokedWithinTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		cfg := config()
		i.set("opaque", members{"active": true, "sub": "alice", "aud": "orders", "exp": time.Now().Add(time.Hour).Unix()}.json())
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		c := authn.NewCached(a, cfg.CacheConfig())
		ask := func() string { return outcome(c.Authenticate(t.Context(), credential("opaque"))) }
		if got := ask(); got != "alice" {
			t.Fatal(got)
		}
		i.set("opaque", `{"active":false}`)
		time.Sleep(30*time.Second - time.Nanosecond)
		if got := ask(); got != "alice" || i.count() != 1 {
			t.Errorf("%s after %d questions", got, i.count())
		}
		time.Sleep(time.Nanosecond)
		for range 3 {
			if got := ask(); got != "credential_unknown" || i.count() != 2 {
				t.Errorf("%s after %d questions", got, i.count())
			}
		}
		time.Sleep(5 * time.Second)
		if ask(); i.count() != 3 {
			t.Errorf("a refusal was believed longer than its time: %d questions", i.count())
		}
	})
}

// E-06: what stale_for bridges: network faults and 5xx. An answer that refuses us, or
// that makes no sense, is for a person to look at, and is not bridged.
func TestStaleFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		want   string
	}{
		"down": {func(*http.Request) (*http.Response, error) { return nil, io.EOF }, "alice"},
		"503":  {always(503, "", ""), "alice"},
		"hangs": {func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, "alice"},
		"401":       {always(401, "", ""), "fault"},
		"429":       {always(429, "", ""), "fault"},
		"malformed": {always(200, "application/json", "{}"), "fault"},
		"inactive":  {always(200, "application/json", `{"active":false}`), "credential_unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{}
				cfg := config()
				cfg.Cache.StaleFor = time.Minute
				i.set("opaque", `{"active":true,"sub":"alice","aud":"orders"}`)
				a, err := introspect.New(cfg, introspect.Deps{Transport: i})
				if err != nil {
					t.Fatal(err)
				}
				c := authn.NewCached(a, cfg.CacheConfig())
				if got := outcome(c.Authenticate(t.Context(), credential("opaque"))); got != "alice" {
					t.Fatal(got)
				}
				i.will(tt.answer)
				time.Sleep(time.Minute)
				proof, err := c.Authenticate(t.Context(), credential("opaque"))
				if got := outcome(proof, err); got != tt.want {
					t.Errorf("%s (%v), want %s", got, err, tt.want)
				} else if got == "alice" && proof.State != policy.StateStale {
					t.Errorf("state %s", proof.State)
				}
				time.Sleep(31 * time.Second)
				if got := outcome(c.Authenticate(t.Context(), credential("opaque"))); got == "alice" {
					t.Error("believed longer than stale_for")
				}
				time.Sleep(time.Minute) // flights end by themselves
			})
		})
	}
}

// CACHE-01: what one endpoint said of a token does not count for another.
func TestEndpointsShareNothing(t *testing.T) {
	t.Parallel()
	x, y := &issuer{}, &issuer{}
	x.set("opaque", active("alice").json())
	var chain authn.Chain
	for method, i := range map[policy.Method]*issuer{"x": x, "y": y} {
		cfg := config()
		cfg.Method = method
		cache := cfg.CacheConfig()
		cache.Now = clock
		chain = append(chain, authn.Link{Method: method, Authenticator: authn.NewCached(made(t, i, cfg), cache), Shapes: cfg.Shapes()})
	}
	ask := func(method policy.Method) string {
		c := credential("opaque")
		c.Uses = []policy.Method{method}
		return outcome(chain.Authenticate(t.Context(), c))
	}
	for range 2 {
		if got := ask("x"); got != "alice" {
			t.Error(got)
		}
		if got := ask("y"); got != "credential_unknown" {
			t.Error(got)
		}
	}
	if x.count() != 1 || y.count() != 1 {
		t.Errorf("x was asked %d times, y %d", x.count(), y.count())
	}
}
