package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// tokenLab is a server with agents of the tenant acme, and its administrator.
type tokenLab struct {
	*replica
	tokens adminv1.TokenServiceClient
	agents adminv1.AgentServiceClient
	own    issuer // the key of researcher
	n      int
}

// launchTokens starts it. The section agents has another line.
func launchTokens(t testing.TB, agents string) *tokenLab {
	t.Helper()
	w := prepare(t, "agenttokens", "@STORE@", sqliteStore, "@AGENTS@", agents)
	w.write(t, "jwks.json", jwks(testIssuer))
	w.write(t, "one.key", hex.EncodeToString([]byte("thirty-two bytes for a signature")))
	w.write(t, "two.key", hex.EncodeToString([]byte("thirty-two others for signatures")))
	w.write(t, "elder.secret", elderSecret)
	w.bootstrap(t)
	lab := &tokenLab{replica: launch(t, w), own: newIssuer("researcher", "r-1")}
	key := strings.TrimSpace(w.read(t, "admin.key"))
	lab.tokens = lab.calling(t, key)
	lab.agents = adminv1.NewAgentServiceClient(dial(t, lab.replica.admin, grpc.WithPerRPCCredentials(callToken(key))))
	for _, tenant := range []string{"acme", "other"} {
		does(t, lab.tenants.CreateTenant, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: tenant}})
		lab.principal(t, &adminv1.Principal{Tenant: tenant, Id: "ann", Kind: aUser, Scopes: []string{"data:read", "data:write"}})
	}
	lab.agent(t, &adminv1.Agent{Tenant: "acme", Id: "researcher", OwnerId: "ann", TokenRoles: []string{"reader", "writer"}, Jwks: jwks(lab.own)})
	lab.agent(t, &adminv1.Agent{Tenant: "other", Id: "researcher", TokenRoles: []string{"executor"}, Jwks: jwks(newIssuer("researcher", "r-2"))})
	for _, id := range []string{"coder", "third", "fourth"} {
		lab.agent(t, &adminv1.Agent{Tenant: "acme", Id: id, TokenRoles: []string{"reader"}})
	}
	return lab
}

const elderSecret = "an older issuer's secret, shared by two"

func (lab *tokenLab) agent(t testing.TB, a *adminv1.Agent) {
	t.Helper()
	does(t, lab.agents.CreateAgent, &adminv1.CreateAgentRequest{Agent: a})
}

// calling is the service of tokens for a caller with a credential.
func (lab *tokenLab) calling(t testing.TB, credential string) adminv1.TokenServiceClient {
	t.Helper()
	return adminv1.NewTokenServiceClient(dial(t, lab.replica.admin, grpc.WithPerRPCCredentials(callToken(credential))))
}

// issue issues a token of an agent of acme.
func (lab *tokenLab) issued(t testing.TB, id, role string, changes ...func(*adminv1.IssueAgentTokenRequest)) (token string, said *adminv1.AgentToken) {
	t.Helper()
	req := &adminv1.IssueAgentTokenRequest{AgentId: id, Role: role, TenantId: "acme"}
	for _, change := range changes {
		change(req)
	}
	res := does(t, lab.tokens.IssueAgentToken, req)
	lab.hide(res.GetSecret())
	return res.GetSecret(), res.GetToken()
}

// signs is a token that researcher of acme signs itself.
func (lab *tokenLab) signs(changes claims) string {
	lab.n++
	now := time.Now()
	full := claims{"sub": "researcher", "tenant": "acme", "exp": now.Add(time.Minute).Unix(), "jti": fmt.Sprintf("own-%d", lab.n)}
	maps.Copy(full, changes)
	text := lab.own.token(full)
	lab.hide(text)
	return text
}

// shown is what the service saw of a caller.
type shown struct {
	ID, Tenant, Kind      string
	Roles, Scopes, Actors []string
	Budget                int64
}

func (a answer) shown(t testing.TB) (s shown) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.upstream("x-seen")), &s); err != nil {
		t.Fatalf("%v: x-seen is %q: %v", a, a.upstream("x-seen"), err)
	}
	return s
}

// again asks, each time with a request of its own, until this replica was not blind.
func (lab *tokenLab) again(t testing.TB, path string, token func() string, status int, reason string) (a answer) {
	t.Helper()
	for _, ask := range []func(testing.TB, request) answer{lab.askEnvoy, lab.askPostern} {
		eventually(t, "an answer to "+path, func() bool {
			a = ask(t, get(path, bearer(token())...))
			return a.status != 503
		})
		if a.status != status || a.reason != reason {
			t.Errorf("%s: %v, want %d %s", path, a, status, reason)
		}
	}
	return a
}

// what tokens are issued, and what they say.
func TestAgentTokensAreIssued(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, "")
	service := newVerifier(t, lab.replica)

	// the golden claims.
	token, said := lab.issued(t, "researcher", "writer")
	claimed := service.read(t, token)
	issued, _ := claimed["iat"].(float64)
	asker := strings.Split(lab.read(t, "admin.key"), "_")[2] // the key's id
	origins, _ := claimed["origins"].([]any)
	if len(origins) != 1 {
		t.Fatalf("%v", claimed)
	}
	made, _ := origins[0].(map[string]any)["iat"].(float64)
	want := map[string]any{
		"iss": "https://auth.test", "sub": "researcher", "aud": "api", "tenant": "acme", "type": "agent", "jti": said.GetJti(),
		"roles": []any{"writer"}, "scopes": []any{"data:read", "data:write"}, "scope": "data:read data:write",
		"token_budget": 10_000.0, "iat": issued, "exp": issued + 15*60,
		"via":     []any{asker}, // with whose end it ends
		"origins": []any{map[string]any{"iss": "postern", "sub": "bootstrap", "jti": asker, "iat": made}},
	}
	if diff := cmp.Diff(want, claimed); diff != "" {
		t.Error(diff)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil || string(head) != `{"alg":"EdDSA","kid":"one","typ":"agent+jwt"}` {
		t.Errorf("%s %v", head, err)
	}
	if made == 0 || made > issued {
		t.Errorf("the key is of %v, its token of %v", made, issued)
	}
	if age := time.Since(time.Unix(int64(issued), 0)); age < 0 || age > time.Minute || len(said.GetJti()) != 22 {
		t.Errorf("issued %s ago, %q", age, said.GetJti())
	}
	a := lab.expect(t, get("/write/1", bearer(token)...), 200, "allowed")
	if diff := cmp.Diff(shown{ID: "researcher", Tenant: "acme", Kind: "agent", Roles: []string{"writer"}, Scopes: []string{"data:read", "data:write"}, Actors: []string{}, Budget: 10_000}, a.shown(t)); diff != "" {
		t.Error(diff)
	}
	if a.method != "agent" || a.credential != said.GetJti() || a.issuer != "postern" {
		t.Errorf("%s %s %s", a.method, a.credential, a.issuer)
	}
	if a := lab.ask(t, get("/items", "x-api-key", token)); a.status != 401 { // no rule takes one there
		t.Errorf("as an API key: %v", a)
	}

	// exactly these roles; what an agent may not have, it does not get.
	for role, scopes := range map[string]string{"reader": "data:read", "writer": "data:read data:write"} {
		token, _ := lab.issued(t, "researcher", role)
		if got := service.read(t, token)["scope"]; got != scopes {
			t.Errorf("%s stands for %v", role, got)
		}
	}
	res := does(t, lab.tokens.IssueAgentToken, &adminv1.IssueAgentTokenRequest{AgentId: "researcher", Role: "executor", TenantId: "other"})
	if got := service.read(t, res.GetSecret())["scope"]; got != "data:read data:write exec:sandbox" {
		t.Errorf("executor stands for %v", got)
	}
	lab.hide(res.GetSecret())
	for name, tt := range map[string]struct {
		change func(*adminv1.IssueAgentTokenRequest)
		code   codes.Code
		reason string
	}{
		"role root":          {func(r *adminv1.IssueAgentTokenRequest) { r.Role = "root" }, codes.InvalidArgument, "INVALID_FIELD"},
		"no role":            {func(r *adminv1.IssueAgentTokenRequest) { r.Role = "" }, codes.InvalidArgument, "INVALID_FIELD"},
		"role Reader":        {func(r *adminv1.IssueAgentTokenRequest) { r.Role = "Reader" }, codes.InvalidArgument, "INVALID_FIELD"},
		"role *":             {func(r *adminv1.IssueAgentTokenRequest) { r.Role = "*" }, codes.InvalidArgument, "INVALID_FIELD"},
		"not its role":       {func(r *adminv1.IssueAgentTokenRequest) { r.Role = "executor" }, codes.PermissionDenied, "PERMISSION_DENIED"},
		"not of the role":    {func(r *adminv1.IssueAgentTokenRequest) { r.Scopes = []string{"exec:sandbox"} }, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER"},
		"two hours (A-10)":   {func(r *adminv1.IssueAgentTokenRequest) { r.TtlMinutes = 120 }, codes.InvalidArgument, "TTL_TOO_LONG"},
		"61 minutes (A-10)":  {func(r *adminv1.IssueAgentTokenRequest) { r.TtlMinutes = 61 }, codes.InvalidArgument, "TTL_TOO_LONG"},
		"minus one":          {func(r *adminv1.IssueAgentTokenRequest) { r.TtlMinutes = -1 }, codes.InvalidArgument, "INVALID_FIELD"},
		"overflowing":        {func(r *adminv1.IssueAgentTokenRequest) { r.TtlMinutes = 1<<31 - 1 }, codes.InvalidArgument, "INVALID_FIELD"},
		"a negative budget":  {func(r *adminv1.IssueAgentTokenRequest) { r.TokenBudget = -5 }, codes.InvalidArgument, "INVALID_FIELD"},
		"another audience":   {func(r *adminv1.IssueAgentTokenRequest) { r.Audiences = []string{"https://evil.test"} }, codes.InvalidArgument, "INVALID_FIELD"},
		"an odd thumbprint":  {func(r *adminv1.IssueAgentTokenRequest) { r.Cnf = &adminv1.Confirmation{Jkt: "x"} }, codes.InvalidArgument, "INVALID_FIELD"},
		"an odd certificate": {func(r *adminv1.IssueAgentTokenRequest) { r.Cnf = &adminv1.Confirmation{CertificateSha256: "zz"} }, codes.InvalidArgument, "INVALID_FIELD"},
		"no such agent":      {func(r *adminv1.IssueAgentTokenRequest) { r.AgentId = "ghost" }, codes.NotFound, "NOT_FOUND"},
		"a user":             {func(r *adminv1.IssueAgentTokenRequest) { r.AgentId = "ann" }, codes.NotFound, "NOT_FOUND"},
		"no agent":           {func(r *adminv1.IssueAgentTokenRequest) { r.AgentId = "" }, codes.InvalidArgument, "INVALID_FIELD"},
	} {
		req := &adminv1.IssueAgentTokenRequest{AgentId: "researcher", Role: "reader", TenantId: "acme"}
		tt.change(req)
		if _, err := sighted(t, lab.tokens.IssueAgentToken, req); status.Code(err) != tt.code || reasonOf(err) != tt.reason {
			t.Errorf("%s: %v %s, want %v %s", name, status.Code(err), reasonOf(err), tt.code, tt.reason)
		}
	}

	// an hour, and no longer; what is asked for is what it says.
	long, said := lab.issued(t, "researcher", "reader", func(r *adminv1.IssueAgentTokenRequest) { r.TtlMinutes, r.TokenBudget = 60, 7 })
	if c := service.read(t, long); c["exp"].(float64)-c["iat"].(float64) != 3600 || c["token_budget"] != 7.0 || said.GetTokenBudget() != 7 {
		t.Errorf("%v", c)
	}
	if s := lab.expect(t, get("/read/1", bearer(long)...), 200, "allowed").shown(t); s.Budget != 7 {
		t.Errorf("%+v", s)
	}

	// A token for one service is good there alone.
	tools, _ := lab.issued(t, "researcher", "reader", func(r *adminv1.IssueAgentTokenRequest) { r.Audiences = []string{"https://tools.test"} })
	lab.expect(t, get("/tools/1", bearer(tools)...), 200, "allowed")
	lab.expect(t, get("/read/1", bearer(tools)...), 401, "invalid_audience")

	// One that is bound is good for its holder alone.
	bound, _ := lab.issued(t, "researcher", "reader", func(r *adminv1.IssueAgentTokenRequest) {
		r.Cnf = &adminv1.Confirmation{CertificateSha256: strings.Repeat("AB:", 31) + "AB"}
	})
	lab.expect(t, get("/read/1", bearer(bound)...), 401, "binding")

	// The audit log names the token, in the same transaction, and nothing else of it.
	entries := does(t, lab.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{Action: "token.issue", Tenant: "acme"}).GetEntries()
	if e := entries[slices.IndexFunc(entries, func(e *adminv1.AuditEntry) bool { return e.GetDetail()["jti"] == said.GetJti() })]; e.GetDetail()["scopes"] != "data:read" || e.GetDetail()["role"] != "reader" || e.GetTarget() != "principal/acme/researcher" {
		t.Errorf("%v", e)
	}

	// It is revoked by its jti, and by its agent's end.
	does(t, lab.tokens.RevokeAgentToken, &adminv1.RevokeAgentTokenRequest{Jti: said.GetJti(), TenantId: "acme", Reason: "seen"})
	lab.becomes(t, get("/read/1", bearer(long)...), 401, "revoked")
	lab.expect(t, get("/read/1", bearer(token)...), 200, "allowed")
	refuses(t, lab.tokens.RevokeAgentToken, &adminv1.RevokeAgentTokenRequest{Jti: "4fQzR8xW0bLm", TenantId: "acme"}, codes.InvalidArgument, "INVALID_FIELD")
	does(t, lab.agents.DecommissionAgent, &adminv1.DecommissionAgentRequest{Tenant: "acme", Id: "researcher"})
	lab.becomes(t, get("/read/1", bearer(token)...), 401, "revoked")
	refuses(t, lab.tokens.IssueAgentToken, &adminv1.IssueAgentTokenRequest{AgentId: "researcher", Role: "reader", TenantId: "acme"}, codes.FailedPrecondition, "WRONG_STATE")

	// What an agent may have is what its record says now.
	coder, _ := lab.issued(t, "coder", "reader")
	lab.expect(t, get("/read/1", bearer(coder)...), 200, "allowed")
	lab.run(t, "agent", "update", "acme/coder", "--clear", "token-role")
	lab.becomes(t, get("/read/1", bearer(coder)...), 403, "insufficient_scope")
	lab.expect(t, get("/", bearer(coder)...), 200, "allowed")
}

// an agent is told which scope it lacks, in these words.
func TestAgentsAreToldWhatTheyLack(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, "")
	reader, _ := lab.issued(t, "coder", "reader")
	tells := func(path, token, message, scopes string) {
		t.Helper()
		a := lab.expect(t, get(path, bearer(token)...), 403, "insufficient_scope")
		if !strings.Contains(a.body, message) || !strings.Contains(a.header("www-authenticate"), `error="insufficient_scope"`) || !strings.Contains(a.header("www-authenticate"), `scope="`+scopes+`"`) {
			t.Errorf("%s: %s, %s", path, a.body, a.header("www-authenticate"))
		}
	}
	tells("/write/1", reader, "Agent coder lacks scope: data:write", "data:write")
	tells("/exec/1", reader, "Agent coder lacks scope: exec:sandbox", "exec:sandbox")
	lab.again(t, "/write/1", func() string { return lab.signs(claims{"scope": ""}) }, 403, "insufficient_scope")
	eventually(t, "an answer that lists both", func() bool {
		a := lab.askEnvoy(t, get("/write/1", bearer(lab.signs(claims{"scope": ""}))...))
		return strings.Contains(a.body, "Agent researcher lacks scope: data:read, data:write")
	})
	// Nobody else is called an agent.
	user := testIssuer.token(claims{"sub": "Agent x", "tenant": "acme"})
	if a := lab.expect(t, get("/read/1", bearer(user)...), 403, "insufficient_scope"); strings.Contains(a.body, "lacks scope:") {
		t.Error(a.body)
	}
}

// agents sign with keys of their records, each token once; chains narrow.
func TestAgentsSign(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, "")
	each := func(changes claims) func() string { return func() string { return lab.signs(changes) } }
	a := lab.again(t, "/write/1", each(nil), 200, "allowed")
	if a.principal != "researcher" || a.method != "agent" {
		t.Errorf("%v", a)
	}
	// replayed jti → 401, by either door, also for other claims of the same jti.
	once := lab.signs(nil)
	lab.expectOnce(t, once)
	lab.again(t, "/", func() string { return once }, 401, "replayed")
	jti := fmt.Sprintf("own-%d", lab.n)
	lab.again(t, "/", each(claims{"jti": jti, "scope": "data:read"}), 401, "replayed")

	// a key that is not registered → 401.
	stranger := issuer{"researcher", "r-1", newIssuer("somebody", "else").key}
	by := func(i issuer, changes claims) func() string {
		return func() string {
			lab.n++
			full := claims{"sub": i.url, "tenant": "acme", "exp": time.Now().Add(time.Minute).Unix(), "jti": fmt.Sprintf("x-%d", lab.n)}
			maps.Copy(full, changes)
			return i.token(full)
		}
	}
	lab.again(t, "/", by(stranger, nil), 401, "signature_invalid")
	lab.again(t, "/", by(issuer{"researcher", "r-9", stranger.key}, nil), 401, "signature_invalid")
	lab.again(t, "/", by(newIssuer("ghost", "g"), nil), 401, "issuer_untrusted")
	lab.again(t, "/", each(claims{"tenant": "other"}), 401, "signature_invalid")
	lab.again(t, "/", by(newIssuer("researcher", "r-2"), nil), 401, "signature_invalid") // the other tenant's, for acme
	lab.again(t, "/", each(claims{"aud": "elsewhere"}), 401, "invalid_audience")
	lab.again(t, "/", each(claims{"exp": time.Now().Add(time.Hour).Unix()}), 401, "lifetime_exceeded")

	// a chain that widens, or that is too long → 403.
	chain := func(ids ...string) (act claims) {
		for i := len(ids) - 1; i >= 0; i-- {
			next := claims{"sub": ids[i]}
			if act != nil {
				next["act"] = act
			}
			act = next
		}
		return act
	}
	s := lab.again(t, "/read/1", each(claims{"scope": "data:read", "act": chain("coder", "third", "fourth")}), 200, "allowed")
	if got := s.principal; got != "researcher" {
		t.Error(got)
	}
	lab.again(t, "/read/1", each(claims{"scope": "data:read", "act": chain("coder", "third", "fourth", "coder")}), 403, "delegation_denied")
	lab.again(t, "/read/1", each(claims{"scope": "data:read data:write", "act": chain("coder")}), 403, "delegation_denied")
	lab.again(t, "/read/1", each(claims{"scope": "exec:sandbox"}), 403, "delegation_denied")
	lab.again(t, "/read/1", each(claims{"scope": "data:read", "act": chain("ghost")}), 403, "delegation_denied")
	lab.again(t, "/read/1", each(claims{"act": []any{chain("coder")}}), 401, "invalid_claim")
	lab.again(t, "/read/1", each(claims{"act": "coder"}), 401, "invalid_claim")

	// So it is with the tokens of other issuers.
	foreign := func(ids ...string) request {
		return get("/", bearer(testIssuer.token(claims{"sub": "bob", "tenant": "acme", "act": chain(ids...)}))...)
	}
	lab.expect(t, foreign("a", "b", "c"), 200, "allowed")
	lab.expect(t, foreign("a", "b", "c", "d"), 403, "delegation_denied")

	// Its keys are replaced in the record, with effect at once.
	old := lab.own
	lab.own = newIssuer("researcher", "r-3")
	w := lab.replica.world
	w.write(t, "next.jwks", jwks(lab.own))
	lab.run(t, "agent", "update", "acme/researcher", "--keys", w.path("next.jwks"))
	eventually(t, "the new key counts", func() bool { return lab.askEnvoy(t, get("/", bearer(lab.signs(nil))...)).allowed() })
	lab.again(t, "/", by(old, nil), 401, "signature_invalid")
	lab.run(t, "agent", "disable", "acme/researcher")
	eventually(t, "the agent is off", func() bool { return lab.askEnvoy(t, get("/", bearer(lab.signs(nil))...)).reason == "disabled" })
}

// expectOnce uses a token up.
func (lab *tokenLab) expectOnce(t testing.TB, token string) {
	t.Helper()
	if a := lab.askEnvoy(t, get("/", bearer(token)...)); !a.allowed() && a.status != 503 {
		t.Errorf("%v", a)
	}
}

// None of the tokens that Postern signs, or that others do, is taken for another.
func TestAgentTokensAreNotConfused(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, "")
	token, _ := lab.issued(t, "researcher", "reader")
	_, personal := lab.replica.issue(t, &adminv1.Credential{Type: pat, Tenant: "acme", PrincipalId: "ann", DisplayName: "x", Format: aJWT})
	parts, others := strings.Split(token, "."), strings.Split(personal, ".")
	one := issuer{"https://auth.test", "one", nil}
	seed := sha256.Sum256([]byte("another key"))
	one.key = newIssuer("x", hex.EncodeToString(seed[:4])).key
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	public, err := base64.RawURLEncoding.DecodeString(strings.Split(strings.Split(jwks(lab.own), `"x":"`)[1], `"`)[0])
	if err != nil {
		t.Fatal(err)
	}
	mac := func(head, payload string, key []byte) string {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(head + "." + payload))
		return head + "." + payload + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	for name, text := range map[string]string{
		"the head of a PAT":             others[0] + "." + parts[1] + "." + parts[2],
		"the claims of a PAT":           parts[0] + "." + others[1] + "." + others[2],
		"alg none":                      encode(`{"alg":"none","kid":"one","typ":"agent+jwt"}`) + "." + parts[1] + ".",
		"alg HS256 with the public key": mac(encode(`{"alg":"HS256","kid":"one","typ":"agent+jwt"}`), parts[1], public),
		"HS256 that nobody configured":  elderToken(elderSecret, nil),
		"another key under the kid":     one.sign(map[string]any{"alg": "EdDSA", "kid": "one", "typ": "agent+jwt"}, claims{"sub": "researcher", "tenant": "acme", "type": "agent", "jti": "1234567890123456789012"}),
		"its key in the header":         encode(`{"alg":"EdDSA","kid":"one","typ":"agent+jwt","jwk":{"kty":"OKP"}}`) + "." + parts[1] + "." + parts[2],
		"typ of an access token":        encode(`{"alg":"EdDSA","kid":"one","typ":"at+jwt"}`) + "." + parts[1] + "." + parts[2],
		"a kid with a NUL":              encode(`{"alg":"EdDSA","kid":"one\u0000","typ":"agent+jwt"}`) + "." + parts[1] + "." + parts[2],
		"a kid that is a file":          encode(`{"alg":"EdDSA","kid":"../../one.key","typ":"agent+jwt"}`) + "." + parts[1] + "." + parts[2],
		"an issuer's for an agent":      testIssuer.sign(map[string]any{"alg": "EdDSA", "kid": testIssuer.kid, "typ": "agent+jwt"}, claims{"sub": "researcher", "tenant": "acme", "type": "agent"}),
		"deep":                          parts[0] + "." + encode(`{"act":`+strings.Repeat(`{"act":`, 200)+`1`+strings.Repeat(`}`, 201)) + "." + parts[2],
	} {
		if a := lab.ask(t, get("/read/1", bearer(text)...)); a.status != 401 {
			t.Errorf("%s: %v", name, a)
		}
	}
	// Nor is an agent token a credential for the admin API of anybody else.
	refuses(t, lab.as(t, token).principals.ListPrincipals, &adminv1.ListPrincipalsRequest{Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
	many := testIssuer.token(claims{"sub": "bob", "tenant": "acme", "scope": strings.Repeat("data:read ", 2000)})
	if a := lab.ask(t, get("/read/1", bearer(many)...)); a.status != 401 {
		t.Errorf("huge scopes: %v", a)
	}
}

// elderToken is one of compat_hs256.
func elderToken(secret string, changes claims) string {
	now := time.Now()
	full := claims{
		"sub": "researcher", "tenant": "acme", "scopes": []string{"data:read", "exec:sandbox"}, "token_budget": 900,
		"iat": now.Unix(), "exp": now.Add(30 * time.Minute).Unix(), "type": "agent",
	}
	maps.Copy(full, changes)
	text := segment(map[string]any{"alg": "HS256", "typ": "JWT"}) + "." + segment(full)
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// the plain tokens of an older issuer, where they are configured.
func TestCompatHS256(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, `compat_hs256: { secret: "${file:elder.secret}" }`)
	s := lab.expect(t, get("/read/1", bearer(elderToken(elderSecret, nil))...), 200, "allowed").shown(t)
	if diff := cmp.Diff(shown{ID: "researcher", Tenant: "acme", Kind: "agent", Roles: []string{}, Scopes: []string{"data:read"}, Actors: []string{}, Budget: 900}, s); diff != "" {
		t.Error(diff)
	}
	for name, tt := range map[string]struct {
		token  string
		reason string
	}{
		"another secret": {elderToken("another secret that has enough bytes", nil), "signature_invalid"},
		"no type":        {elderToken(elderSecret, claims{"type": "user"}), "issuer_untrusted"},
		"act":            {elderToken(elderSecret, claims{"act": claims{"sub": "coder"}}), "invalid_claim"},
		"two hours":      {elderToken(elderSecret, claims{"exp": time.Now().Add(2 * time.Hour).Unix()}), "lifetime_exceeded"},
		"expired":        {elderToken(elderSecret, claims{"iat": time.Now().Add(-time.Hour).Unix(), "exp": time.Now().Add(-time.Minute).Unix()}), "expired"},
		"another tenant": {elderToken(elderSecret, claims{"tenant": "nowhere"}), "credential_unknown"},
		"unregistered":   {elderToken(elderSecret, claims{"sub": "ghost"}), "credential_unknown"},
	} {
		if a := lab.ask(t, get("/", bearer(tt.token)...)); a.status != 401 || a.reason != tt.reason {
			t.Errorf("%s: %v, want 401 %s", name, a, tt.reason)
		}
	}
	lab.run(t, "agent", "disable", "acme/researcher")
	lab.becomes(t, get("/read/1", bearer(elderToken(elderSecret, nil))...), 401, "disabled")
}

// A-07, BUDGET-06 and RFC 8693: tokens are exchanged, and whatever comes of it can do less.
func TestTokensAreExchanged(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, "")
	user := func(changes claims) string {
		full := claims{"sub": "bob", "tenant": "acme", "scope": "data:read data:write mail:send"}
		maps.Copy(full, changes)
		return testIssuer.token(full)
	}
	exchange := func(req *adminv1.ExchangeTokenRequest) *adminv1.ExchangeTokenResponse {
		t.Helper()
		res := does(t, lab.tokens.ExchangeToken, req)
		lab.hide(res.GetAccessToken())
		return res
	}
	researcher, _ := lab.issued(t, "researcher", "writer")
	coder, _ := lab.issued(t, "coder", "reader")

	// A user of another issuer, for whom an agent acts.
	res := exchange(&adminv1.ExchangeTokenRequest{GrantType: "urn:ietf:params:oauth:grant-type:token-exchange", SubjectToken: user(nil), ActorToken: researcher})
	if res.GetTokenType() != "Bearer" || res.GetIssuedTokenType() != "urn:ietf:params:oauth:token-type:access_token" || res.GetScope() != "data:read data:write" ||
		res.GetExpiresIn() < 14*60 || res.GetExpiresIn() > 15*60 {
		t.Errorf("%v %s %s %d", res.GetTokenType(), res.GetIssuedTokenType(), res.GetScope(), res.GetExpiresIn())
	}
	claimed := newVerifier(t, lab.replica).read(t, res.GetAccessToken())
	if diff := cmp.Diff(map[string]any{"sub": "researcher", "kind": "agent"}, claimed["act"]); diff != "" || claimed["sub"] != "bob" || claimed["kind"] != "user" || claimed["origin"] != "https://issuer.test" {
		t.Errorf("%v", claimed)
	}
	a := lab.expect(t, get("/write/1", bearer(res.GetAccessToken())...), 200, "allowed")
	if s := a.shown(t); s.ID != "bob" || s.Kind != "user" || !slices.Equal(s.Actors, []string{"researcher"}) || a.issuer != "https://issuer.test" {
		t.Errorf("%+v %s", s, a.issuer)
	}
	lab.expect(t, get("/delegated/1", bearer(res.GetAccessToken())...), 200, "allowed")
	lab.expect(t, get("/delegated/1", bearer(researcher)...), 403, "delegation_denied")

	// The agent hands on to another one, which may do less, and so on, to the depth of 3.
	second := exchange(&adminv1.ExchangeTokenRequest{SubjectToken: res.GetAccessToken(), ActorToken: coder})
	if second.GetScope() != "data:read" || !slices.Equal(second.GetToken().GetActors(), []string{"coder", "researcher"}) {
		t.Errorf("%v", second.GetToken())
	}
	s := lab.expect(t, get("/read/1", bearer(second.GetAccessToken())...), 200, "allowed").shown(t)
	if s.ID != "bob" || !slices.Equal(s.Actors, []string{"coder", "researcher"}) {
		t.Errorf("%+v", s)
	}
	third, _ := lab.issued(t, "third", "reader")
	fourth, _ := lab.issued(t, "fourth", "reader")
	deep := exchange(&adminv1.ExchangeTokenRequest{SubjectToken: second.GetAccessToken(), ActorToken: third})
	lab.expect(t, get("/read/1", bearer(deep.GetAccessToken())...), 200, "allowed")

	for name, tt := range map[string]struct {
		req    *adminv1.ExchangeTokenRequest
		code   codes.Code
		reason string
	}{
		"depth 4":                 {&adminv1.ExchangeTokenRequest{SubjectToken: deep.GetAccessToken(), ActorToken: fourth}, codes.PermissionDenied, "PERMISSION_DENIED"},
		"wider than the actor":    {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), ActorToken: coder, Scope: "data:write"}, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER"},
		"wider than the subject":  {&adminv1.ExchangeTokenRequest{SubjectToken: second.GetAccessToken(), ActorToken: researcher, Scope: "data:read data:write"}, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER"},
		"wider than both":         {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), ActorToken: researcher, Scope: "exec:sandbox"}, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER"},
		"nothing in common":       {&adminv1.ExchangeTokenRequest{SubjectToken: user(claims{"scope": "mail:send"}), ActorToken: coder}, codes.PermissionDenied, "PERMISSION_DENIED"},
		"another tenant":          {&adminv1.ExchangeTokenRequest{SubjectToken: user(claims{"tenant": "other"}), ActorToken: researcher}, codes.PermissionDenied, "PERMISSION_DENIED"},
		"no tenant":               {&adminv1.ExchangeTokenRequest{SubjectToken: user(claims{"tenant": nil}), ActorToken: researcher}, codes.InvalidArgument, "INVALID_FIELD"},
		"a user acts":             {&adminv1.ExchangeTokenRequest{SubjectToken: researcher, ActorToken: user(nil)}, codes.PermissionDenied, "PERMISSION_DENIED"},
		"an actor that is acted":  {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), ActorToken: res.GetAccessToken()}, codes.PermissionDenied, "PERMISSION_DENIED"},
		"an expired subject":      {&adminv1.ExchangeTokenRequest{SubjectToken: user(claims{"exp": time.Now().Add(-time.Hour).Unix()}), ActorToken: coder}, codes.InvalidArgument, "INVALID_FIELD"},
		"no subject":              {&adminv1.ExchangeTokenRequest{ActorToken: coder}, codes.InvalidArgument, "INVALID_FIELD"},
		"garbage":                 {&adminv1.ExchangeTokenRequest{SubjectToken: "x.y.z", ActorToken: coder}, codes.InvalidArgument, "INVALID_FIELD"},
		"another grant":           {&adminv1.ExchangeTokenRequest{GrantType: "password", SubjectToken: user(nil), ActorToken: coder}, codes.InvalidArgument, "INVALID_FIELD"},
		"an ID token":             {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), SubjectTokenType: "urn:ietf:params:oauth:token-type:id_token", ActorToken: coder}, codes.InvalidArgument, "INVALID_FIELD"},
		"a refresh token, please": {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), RequestedTokenType: "urn:ietf:params:oauth:token-type:refresh_token", ActorToken: coder}, codes.InvalidArgument, "INVALID_FIELD"},
		"a type without a token":  {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), ActorTokenType: "urn:ietf:params:oauth:token-type:jwt"}, codes.InvalidArgument, "INVALID_FIELD"},
		"the administrator acts":  {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil)}, codes.PermissionDenied, "PERMISSION_DENIED"},
		"two hours":               {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), ActorToken: coder, TtlMinutes: 120}, codes.InvalidArgument, "TTL_TOO_LONG"},
		"a larger budget":         {&adminv1.ExchangeTokenRequest{SubjectToken: user(nil), ActorToken: coder, TokenBudget: 20_000}, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER"},
	} {
		if _, err := sighted(t, lab.tokens.ExchangeToken, tt.req); status.Code(err) != tt.code || reasonOf(err) != tt.reason {
			t.Errorf("%s: %v, want %v %s", name, err, tt.code, tt.reason)
		}
	}

	// It ends with the first of the tokens that it comes from.
	short := exchange(&adminv1.ExchangeTokenRequest{SubjectToken: user(claims{"exp": time.Now().Add(40 * time.Second).Unix()}), ActorToken: coder, TokenBudget: 3})
	if short.GetExpiresIn() > 40 || short.GetToken().GetTokenBudget() != 3 {
		t.Errorf("%d, %d", short.GetExpiresIn(), short.GetToken().GetTokenBudget())
	}

	// Agents ask for themselves: who calls is the actor. A token that is accepted once is.
	mine, err := itself(t, lab, nil, adminv1.TokenServiceClient.ExchangeToken, &adminv1.ExchangeTokenRequest{SubjectToken: user(nil), Scope: "data:read"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(mine.GetToken().GetActors(), []string{"researcher"}) || mine.GetExpiresIn() > 60 {
		t.Errorf("%v", mine.GetToken())
	}
	lab.hide(mine.GetAccessToken())
	var subject string
	eventually(t, "a token that is accepted once is exchanged", func() bool {
		subject = lab.signs(claims{"scope": "data:read"})
		res, err := lab.tokens.ExchangeToken(t.Context(), &adminv1.ExchangeTokenRequest{SubjectToken: subject, ActorToken: coder})
		lab.hide(res.GetAccessToken())
		return err == nil
	})
	_, err = sighted(t, lab.tokens.ExchangeToken, &adminv1.ExchangeTokenRequest{SubjectToken: subject, ActorToken: coder})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "used before") {
		t.Errorf("a subject token that was used: %v", err)
	}

	// A user of Postern's own, by the session; both must go on being there.
	session := does(t, lab.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}).GetCreated().GetSecret()
	lab.hide(session)
	ann := exchange(&adminv1.ExchangeTokenRequest{SubjectToken: session, SubjectTokenType: "urn:postern:params:oauth:token-type:session", ActorToken: researcher})
	q := get("/write/1", bearer(ann.GetAccessToken())...)
	if s := lab.expect(t, q, 200, "allowed").shown(t); s.ID != "ann" || s.Tenant != "acme" {
		t.Errorf("%+v", s)
	}
	// Who acts for a user is not the user: not in Postern's own API, and not for more.
	mallory := lab.as(t, ann.GetAccessToken())
	refuses(t, mallory.users.SetPassword, &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: "Xq7-Zk2-Vw9-Jh4-Ty6"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, lab.calling(t, ann.GetAccessToken()).IssueAgentToken, &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "researcher", Role: "writer"}, codes.PermissionDenied, "PERMISSION_DENIED")
	// The audit log names both.
	entries := does(t, lab.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{Action: "token.exchange", Tenant: "acme"}).GetEntries()
	if at := slices.IndexFunc(entries, func(e *adminv1.AuditEntry) bool { return e.GetDetail()["jti"] == ann.GetToken().GetJti() }); at < 0 ||
		entries[at].GetDetail()["subject"] != "ann" || entries[at].GetDetail()["actor"] != "researcher" || entries[at].GetTarget() != "principal/acme/ann" {
		t.Errorf("%v", entries)
	}
	lab.run(t, "user", "disable", "acme/ann")
	lab.becomes(t, q, 401, "disabled")
	lab.run(t, "user", "enable", "acme/ann")
	lab.becomes(t, q, 200, "allowed")
	lab.run(t, "agent", "decommission", "acme/researcher", "--yes")
	lab.becomes(t, q, 401, "revoked")
	lab.becomes(t, get("/read/1", bearer(deep.GetAccessToken())...), 401, "revoked") // researcher is in the middle of it
}

// itself makes a call as researcher, with a token of its own each time until this replica
// was not blind.
func itself[Req, Res any](t testing.TB, lab *tokenLab, changes claims, method func(adminv1.TokenServiceClient, context.Context, Req, ...grpc.CallOption) (Res, error), req Req) (res Res, err error) {
	t.Helper()
	eventually(t, fmt.Sprintf("an answer to %T", req), func() bool {
		res, err = method(lab.calling(t, lab.signs(changes)), t.Context(), req)
		return status.Code(err) != codes.Unavailable
	})
	return res, err
}

// Who may issue tokens: who has what the role stands for, the owner, and the agent itself;
// by no token can one be had that lives longer.
func TestWhoIssuesAgentTokens(t *testing.T) {
	t.Parallel()
	lab := launchTokens(t, "")
	ask := func(role string) *adminv1.IssueAgentTokenRequest {
		return &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "researcher", Role: role}
	}
	// Itself, by its key.
	mine, err := itself(t, lab, nil, adminv1.TokenServiceClient.IssueAgentToken, ask("writer"))
	if err != nil {
		t.Fatal(err)
	}
	lab.hide(mine.GetSecret())
	lab.expect(t, get("/write/1", bearer(mine.GetSecret())...), 200, "allowed")
	// By a part of what it is, no more than that part.
	if _, err := itself(t, lab, claims{"roles": []string{"reader"}}, adminv1.TokenServiceClient.IssueAgentToken, ask("writer")); status.Code(err) != codes.PermissionDenied || reasonOf(err) != "GRANT_EXCEEDS_ISSUER" {
		t.Errorf("by a part of its rights: %v", err)
	}
	// A token of its is for what it is for, and not for others.
	refuses(t, lab.calling(t, mine.GetSecret()).IssueAgentToken, ask("reader"), codes.PermissionDenied, "PERMISSION_DENIED")
	// By a key of its that is not limited.
	_, key := lab.replica.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "researcher"})
	lab.hide(does(t, lab.calling(t, key).IssueAgentToken, ask("writer")).GetSecret())
	// Not another agent, and not another tenant's.
	_, other := lab.replica.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "coder"})
	refuses(t, lab.calling(t, other).IssueAgentToken, ask("reader"), codes.PermissionDenied, "PERMISSION_DENIED")
	_, foreign := lab.replica.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "other", PrincipalId: "researcher"})
	refuses(t, lab.calling(t, foreign).IssueAgentToken, ask("reader"), codes.PermissionDenied, "PERMISSION_DENIED")

	// An issuer that has the role, and one that has not.
	lab.principal(t, &adminv1.Principal{Tenant: "acme", Id: "ci", Kind: aService, Roles: []string{"issuer", "reader"}, Scopes: []string{"data:read"}})
	_, ci := lab.replica.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "ci"})
	lab.hide(does(t, lab.calling(t, ci).IssueAgentToken, ask("reader")).GetSecret())
	refuses(t, lab.calling(t, ci).IssueAgentToken, ask("writer"), codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER")

	// The owner, who has none of these roles, by a session.
	session := does(t, lab.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}).GetCreated().GetSecret()
	lab.hide(session)
	ann := adminv1.NewTokenServiceClient(dial(t, lab.replica.admin, grpc.WithPerRPCCredentials(callCookie(session))))
	lab.hide(does(t, ann.IssueAgentToken, ask("writer")).GetSecret())
	refuses(t, ann.IssueAgentToken, &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "coder", Role: "reader"}, codes.PermissionDenied, "PERMISSION_DENIED")

	// The command line shows the secret once, on standard output, and last.
	text := lab.run(t, "agent", "token", "acme/researcher", "--role", "reader", "--budget", "5", "--ttl-minutes", "1")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	token := lines[len(lines)-1]
	lab.hide(token)
	if strings.Count(text, token) != 1 {
		t.Errorf("%d times", strings.Count(text, token))
	}
	if s := lab.expect(t, get("/read/1", bearer(token)...), 200, "allowed").shown(t); s.Budget != 5 {
		t.Errorf("%+v", s)
	}
	w := lab.replica.world
	w.write(t, "agent.jwt", token)
	w.write(t, "user.jwt", testIssuer.token(claims{"sub": "bob", "tenant": "acme", "scope": "data:read"}))
	exchanged := strings.TrimSpace(lab.run(t, "token", "exchange", "--subject-file", w.path("user.jwt"), "--actor-file", w.path("agent.jwt"), "-q"))
	lab.hide(exchanged)
	a := lab.expect(t, get("/read/1", bearer(exchanged)...), 200, "allowed")
	if a.principal != "bob" {
		t.Errorf("%v", a)
	}
	lab.run(t, "token", "revoke-agent", a.credential, "--tenant", "acme")
	lab.becomes(t, get("/read/1", bearer(exchanged)...), 401, "revoked")

	// Keys rotate with overlap, and what was used stays used.
	used := lab.signs(nil)
	lab.expectOnce(t, used)
	text = w.read(t, "postern.yaml")
	w.write(t, "postern.yaml", strings.Replace(text, `[{ id: one, key: "${file:one.key}" }]`, `[{ id: two, key: "${file:two.key}" }, { id: one, key: "${file:one.key}" }]`, 1))
	eventually(t, "the new key signs", func() bool {
		fresh, _ := lab.issued(t, "researcher", "reader")
		return strings.Split(fresh, ".")[0] != strings.Split(token, ".")[0]
	})
	lab.expect(t, get("/read/1", bearer(token)...), 200, "allowed")
	lab.again(t, "/", func() string { return used }, 401, "replayed")
	fresh, _ := lab.issued(t, "researcher", "reader")
	lab.expect(t, get("/read/1", bearer(fresh)...), 200, "allowed")
}

// Where nothing signs, nothing can be issued, and what agents sign is accepted.
func TestNoSigningKeys(t *testing.T) {
	t.Parallel()
	w := prepare(t, "agenttokens", "@STORE@", sqliteStore, "@AGENTS@", "", `signing: { issuer: "https://auth.test", keys: [{ id: one, key: "${file:one.key}" }] }`, "")
	w.write(t, "jwks.json", jwks(testIssuer))
	w.bootstrap(t)
	lab := &tokenLab{replica: launch(t, w), own: newIssuer("researcher", "r-1")}
	lab.tokens = lab.calling(t, strings.TrimSpace(w.read(t, "admin.key")))
	w.write(t, "own.jwks", jwks(lab.own))
	lab.run(t, "tenant", "create", "acme")
	lab.run(t, "agent", "create", "acme/researcher", "--token-role", "reader", "--keys", w.path("own.jwks"))
	refuses(t, lab.tokens.IssueAgentToken, &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "researcher", Role: "reader"}, codes.FailedPrecondition, "NOT_CONFIGURED")
	lab.again(t, "/read/1", func() string { return lab.signs(nil) }, 200, "allowed")
}

// callCookie sends the cookie of a session with every call.
type callCookie string

func (c callCookie) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"cookie": "__Host-session=" + string(c)}, nil
}

func (callCookie) RequireTransportSecurity() bool { return false }
