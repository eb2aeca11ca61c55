package main

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// RFC 8707 section 2: a token that its issuer has made for one service is good there, and
// neither at another one, nor at what is the installation's, nor at the admin API; and what
// it is exchanged for is for no more services than it is itself.
func TestTokensOfOneService(t *testing.T) {
	t.Parallel()
	w := prepare(t, "agenttokens", "@STORE@", sqliteStore, "@AGENTS@", "",
		`audiences: [api], algorithms: [EdDSA], jwks_file: jwks.json, claims: { tenant: tenant } }`,
		`audiences: [api, "https://tools.test"], algorithms: [EdDSA], jwks_file: jwks.json, claims: { tenant: tenant, roles: roles } }
workloads:
  audiences: [api, "https://tools.test"]
  clients: [{ id: deployer, tenant: acme, jwks_file: client.json, reusable: true }]
admin_api: { issuers: ["https://issuer.test"] }`, "use: [api_key, pat, jwt, agent]", "use: [api_key, pat, jwt, workload, agent]")
	client := newIssuer("deployer", "c-1")
	w.write(t, "jwks.json", jwks(testIssuer))
	w.write(t, "client.json", jwks(client))
	w.write(t, "one.key", hex.EncodeToString([]byte("thirty-two bytes for a signature")))
	w.bootstrap(t)
	p := launch(t, w)
	root := strings.TrimSpace(w.read(t, "admin.key"))
	does(t, p.tenants.CreateTenant, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: "acme"}})
	agents := adminv1.NewAgentServiceClient(dial(t, p.admin, withToken(root)))
	does(t, agents.CreateAgent, &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: "coder", TokenRoles: []string{"reader"}}})
	exchange := adminv1.NewTokenServiceClient(dial(t, p.admin, withToken(root)))

	const tools = "https://tools.test"
	for name, c := range map[string]struct {
		aud                 any
		main, tools         int
		admin               codes.Code
		exchanged, forTools codes.Code
		becomes             string // the audience of what it is exchanged for
	}{
		"the installation":             {"api", 200, 200, codes.OK, codes.OK, codes.OK, "api"},
		"a service":                    {tools, 401, 200, codes.Unauthenticated, codes.OK, codes.OK, tools},
		"both":                         {[]string{"api", tools}, 200, 200, codes.OK, codes.OK, codes.OK, "api"},
		"a service, and one of others": {[]string{tools, "https://else.test"}, 401, 200, codes.Unauthenticated, codes.OK, codes.OK, tools},
	} {
		user := testIssuer.token(claims{"aud": c.aud, "tenant": "acme", "sub": "ann", "scope": "data:read"})
		admin := testIssuer.token(claims{"aud": c.aud, "sub": "root", "roles": []string{"platform-admin"}})
		own := client.token(claims{"iss": "deployer", "sub": "deployer", "aud": c.aud, "exp": time.Now().Add(time.Minute).Unix()})
		p.hide(user, admin, own)
		for kind, token := range map[string]string{"a user's": user, "a workload's": own} {
			if a := p.ask(t, get("/", bearer(token)...)); a.status != c.main {
				t.Errorf("%s for %s at the installation: %v", kind, name, a)
			}
			if a := p.ask(t, get("/tools/x", bearer(token)...)); a.status != c.tools {
				t.Errorf("%s for %s at the service: %v", kind, name, a)
			}
		}
		tenants := adminv1.NewTenantServiceClient(dial(t, p.admin, withToken(admin)))
		if _, err := tenants.ListTenants(t.Context(), &adminv1.ListTenantsRequest{}); status.Code(err) != c.admin {
			t.Errorf("for %s at the admin API: %v", name, err)
		}
		for asked, want := range map[string]codes.Code{"": c.exchanged, tools: c.forTools} {
			actor := does(t, exchange.IssueAgentToken, &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "coder", Role: "reader", Audiences: []string{"api", tools}}).GetSecret()
			req := &adminv1.ExchangeTokenRequest{SubjectToken: user, ActorToken: actor}
			becomes := c.becomes
			if asked != "" {
				req.Audience, becomes = []string{asked}, asked
			}
			res, err := exchange.ExchangeToken(t.Context(), req)
			p.hide(actor, res.GetAccessToken())
			if got := strings.Join(res.GetToken().GetAudiences(), " "); status.Code(err) != want || err == nil && got != becomes {
				t.Errorf("for %s exchanged for %q: %q, want %q: %v", name, asked, got, becomes, err)
			}
		}
	}
	user := testIssuer.token(claims{"aud": tools, "tenant": "acme", "sub": "ann"})
	actor := does(t, exchange.IssueAgentToken, &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "coder", Role: "reader"}).GetSecret()
	p.hide(user, actor)
	if res, err := exchange.ExchangeToken(t.Context(), &adminv1.ExchangeTokenRequest{SubjectToken: user, ActorToken: actor, Audience: []string{"api"}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a service's token is exchanged for the installation's: %v %v", res.GetToken().GetAudiences(), err)
	}
}
