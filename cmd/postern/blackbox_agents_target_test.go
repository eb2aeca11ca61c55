package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/authn/apikey"
)

// targetLab is a server that reads models, tools and tenants, and two callers of it: one
// that is believed what it says about models, and one that is not.
type targetLab struct {
	*box
	edge *box
	keys map[string]string
}

const edgeToken = "3f1c9a7be25d4860917a6c5e0f8b2d34"

func newTargetLab(t *testing.T) *targetLab {
	t.Helper()
	digest := sha256.Sum256([]byte(`{"type":"object"}`))
	w := prepare(t, "target", "@SCHEMA@", hex.EncodeToString(digest[:]))
	w.write(t, "edge", edgeToken)
	agent := func(id string, o order, changes ...func(*apikey.Key)) string {
		o.id, o.principalKind = id, "agent"
		if o.tenant == "" {
			o.tenant = "acme"
		}
		return w.mint(t, o, changes...)
	}
	own := func(tools ...any) func(*apikey.Key) {
		return func(k *apikey.Key) { k.Principal.Metadata = map[string]any{"tools": tools} }
	}
	lab := &targetLab{keys: map[string]string{
		"standard": agent("standard", order{scopes: []string{"model:tier:standard"}, roles: []string{"assistant"}}),
		"premium":  agent("premium", order{scopes: []string{"model:tier:standard", "model:tier:premium"}, roles: []string{"developer"}}),
		"doctor":   agent("doctor", order{scopes: []string{"model:tier:standard"}, roles: []string{"doctor"}}),
		"support":  agent("support", order{scopes: []string{"mcp", "orders:write", "orders:read"}, roles: []string{"support"}}),
		"reader":   agent("reader", order{scopes: []string{"mcp"}, roles: []string{"support"}}),
		"narrow":   agent("narrow", order{scopes: []string{"mcp"}, roles: []string{"support"}}, own("search")),
		"none":     agent("none", order{scopes: []string{"mcp"}, roles: []string{"support"}}, own()),
		"other":    agent("other", order{tenant: "other", scopes: []string{"model:tier:standard", "mcp"}, roles: []string{"support"}}),
		"operator": w.mint(t, order{id: "operator"}),
	}}
	lab.box = start(t, w)
	lab.edge = lab.as(t, grpc.WithPerRPCCredentials(callToken(edgeToken)))
	for _, key := range lab.keys {
		lab.hide(key)
	}
	lab.hide(edgeToken)
	return lab
}

// prompt is a request to a model, which the edge has classified.
func (lab *targetLab) prompt(key, path, body string, fields ...string) request {
	q := get(path, append([]string{"x-api-key", lab.keys[key], "content-type", "application/json", "x-prompt-category", "general"}, fields...)...)
	return q.posting(body)
}

// the model is read from the body, and the scope of its tier decides.
func TestAgentsReachModelsOfTheirTier(t *testing.T) {
	t.Parallel()
	lab := newTargetLab(t)
	chat := func(model string) string {
		return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"max_tokens":10}`, model)
	}
	lab.edge.expect(t, lab.prompt("standard", "/v1/chat/completions", chat("mini")), 200, "allowed")
	a := lab.edge.expect(t, lab.prompt("standard", "/v1/chat/completions", chat("gpt-4")), 403, "insufficient_scope")
	if !slices.Equal(a.missingScopes, []string{"model:tier:premium"}) || !strings.Contains(a.body, "Agent standard lacks scope: model:tier:premium") {
		t.Errorf("%q, %q", a.missingScopes, a.body)
	}
	lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", chat("gpt-4")), 200, "allowed")
	lab.edge.expect(t, lab.prompt("standard", "/v1/messages", chat("mini")), 200, "allowed")
	lab.edge.expect(t, lab.prompt("standard", "/v1/messages", chat("gpt-4")), 403, "insufficient_scope")
	lab.edge.expect(t, lab.prompt("standard", "/v1/responses", `{"model":"mini","input":"hi"}`), 200, "allowed")
	for _, model := range []string{"gpt-5", "GPT-4", "mini ", "Mini", "openai/mini", "mini-2026-01-01", "*"} {
		lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", chat(model)), 403, "model_denied")
	}
	lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", `{"messages":[]}`), 403, "model_denied")

	// What has two readings, or none, goes nowhere.
	for _, body := range []string{
		``, `{`, `[]`, `{"model":"mini","model":"gpt-4"}`, `{"model":"mini","Model":"gpt-4"}`, `{"model":"mini","\u006dodel":"gpt-4"}`,
		`{"model":"mini","max_tokens":-1}`, `{"model":"mini","max_tokens":0.5}`, `{"model":"mini"} {}`, "{\"model\":\"mini\xff\"}",
	} {
		lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", body), 400, "request_invalid")
	}
	cut := lab.prompt("premium", "/v1/chat/completions", chat("mini")).forEnvoy()
	cut.Attributes.Request.Http.Headers["x-envoy-auth-partial-body"] = "true"
	if a := lab.edge.askRaw(t, cut); a.status != 400 || a.reason != "request_invalid" {
		t.Errorf("half a body: %v", a)
	}

	// The gateway's word and the body's must be the same; a client's word does not count.
	lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", chat("mini"), "x-ai-eg-model", "mini"), 200, "allowed")
	lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", chat("mini"), "x-ai-eg-model", "gpt-4"), 400, "request_invalid")
	lab.edge.expect(t, lab.prompt("premium", "/v1/chat/completions", `{"messages":[]}`, "x-ai-eg-model", "gpt-4"), 200, "allowed")
	lab.expect(t, lab.prompt("premium", "/v1/chat/completions", `{"messages":[]}`, "x-ai-eg-model", "gpt-4"), 403, "model_denied")
	lab.edge.expect(t, get("/v1/chat/completions", "x-api-key", lab.keys["standard"]), 200, "allowed") // asks no model
}

// the matrix of categories and roles, with the category of whoever is trusted to
// classify, and of nobody else.
func TestPromptCategories(t *testing.T) {
	t.Parallel()
	lab := newTargetLab(t)
	const body = `{"model":"mini","messages":[]}`
	ask := func(key, category string) request {
		fields := []string{"x-api-key", lab.keys[key], "content-type", "application/json"}
		if category != "" {
			fields = append(fields, "x-prompt-category", category)
		}
		return get("/v1/chat/completions", fields...).posting(body)
	}
	for category, may := range map[string]map[string]string{
		"general": {"standard": "allowed", "premium": "allowed", "doctor": "allowed"},
		"code":    {"standard": "category_denied", "premium": "allowed", "doctor": "category_denied"},
		"medical": {"standard": "permission_missing", "premium": "permission_missing", "doctor": "allowed"},
		"weapons": {"standard": "category_denied", "premium": "category_denied", "doctor": "category_denied"},
		"General": {"standard": "category_denied", "premium": "category_denied", "doctor": "category_denied"},
		"":        {"standard": "category_denied", "premium": "category_denied", "doctor": "category_denied"},
	} {
		for key, reason := range may {
			status := 403
			if reason == "allowed" {
				status = 200
			}
			lab.edge.expect(t, ask(key, category), status, reason)
			// The same from a client of a gateway that is not believed: the field is not there.
			lab.expect(t, ask(key, category), 403, "category_denied")
		}
	}
	// Dynamic metadata of an earlier filter, which no client can forge.
	raw := ask("standard", "").forEnvoy()
	said, _ := structpb.NewStruct(map[string]any{"category": "general"})
	raw.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"classifier": said}}
	if a := lab.edge.askRaw(t, raw); !a.allowed() {
		t.Errorf("metadata: %v", a)
	}
	if a := lab.askRaw(t, raw); a.reason != "category_denied" {
		t.Errorf("metadata of somebody who is not believed: %v", a)
	}
	// What is not believed does not get on to the upstream, in whatever spelling.
	a := lab.expect(t, get("/orders", "x-api-key", lab.keys["standard"], "x-prompt-category", "general", "x_prompt_category", "general"), 200, "allowed")
	for _, name := range []string{"x-prompt-category", "x_prompt_category", "x-ai-eg-model"} {
		if !slices.Contains(a.removed, name) {
			t.Errorf("%s is not removed: %q", name, a.removed)
		}
	}
}

// whatever is named in path, header, query, body or action belongs to the tenant of
// whoever asks, though the policy allows everything.
func TestTenantsAreIsolated(t *testing.T) {
	t.Parallel()
	lab := newTargetLab(t)
	with := func(path string, fields ...string) func(key string) request {
		return func(key string) request {
			return get(path, append([]string{"x-api-key", lab.keys[key], "content-type", "application/json", "x-prompt-category", "general"}, fields...)...)
		}
	}
	posting := func(path, body string) func(key string) request {
		return func(key string) request { return with(path)(key).posting(body) }
	}
	for _, ask := range []func(string) request{
		with("/tenants/acme"), with("/tenants/acme/files/7"), with("/TENANTS/acme/files"), with("/tenants/%61cme/x"), with("/tenants;v=1/acme/x"),
		with("/v1/conversations/acme:7/messages"), with("/orders", "x-tenant", "acme"), with("/orders?tenant=acme"), with("/orders?a=1&Tenant=acme"),
		posting("/v1/chat/completions", `{"model":"mini","metadata":{"tenant":"acme"}}`),
		posting("/v1/messages", `{"model":"mini","metadata":{"tenant":"acme"}}`),
		posting("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"tenant":"acme"}}}`),
	} {
		own := "standard"
		if ask(own).path == "/mcp" {
			own = "support"
		}
		lab.edge.expect(t, ask(own), 200, "allowed")
		lab.edge.expect(t, ask("other"), 403, "tenant_mismatch")
		if ask(own).path == "/mcp" {
			continue // the route asks for a scope first
		}
		lab.edge.expect(t, ask("operator"), 403, "tenant_mismatch") // of no tenant
	}
	lab.expect(t, with("/operators/x?tenant=acme")("operator"), 200, "allowed")
	lab.expect(t, with("/operators/x?tenant=acme")("other"), 403, "tenant_mismatch")
	lab.expect(t, with("/v1/conversations/7")("standard"), 403, "tenant_mismatch") // whose is it?
	lab.expect(t, with("/tenants/acme?tenant=other")("standard"), 403, "tenant_mismatch")
	for id, want := range map[string]bool{"acme/docs": true, "other/docs": false, "docs": false} {
		res, err := lab.postern.Check(t.Context(), &posternv1.CheckRequest{
			Credential: &posternv1.Credential{Kind: &posternv1.Credential_ApiKey{ApiKey: lab.keys["support"]}},
			Target:     &posternv1.Target{Kind: &posternv1.Target_Action{Action: &posternv1.ActionTarget{Action: "search", ResourceType: "collection", ResourceId: id}}},
		})
		if err != nil || res.GetDecision().GetAllowed() != want {
			t.Errorf("collection %s: %v, %v", id, res.GetDecision(), err)
		}
	}
}

// random pairs through the built server, in every place.
func TestRandomTenantsAreIsolated(t *testing.T) {
	t.Parallel()
	lab := newTargetLab(t)
	r := rand.New(rand.NewPCG(5, 6))
	names := []string{"acme", "other", "Acme", "OTHER", "acme2", "a", "oth"}
	for range 500 {
		key, own := "standard", "acme"
		if r.IntN(2) == 0 {
			key, own = "other", "other"
		}
		name := names[r.IntN(len(names))]
		fields := []string{"x-api-key", lab.keys[key], "content-type", "application/json", "x-prompt-category", "general"}
		q := get("/orders", fields...)
		switch r.IntN(5) {
		case 0:
			q = get("/tenants/"+name+"/x", fields...)
		case 1:
			q = get("/v1/conversations/"+name+":7", fields...)
		case 2:
			q = get("/orders", append(fields, "x-tenant", name)...)
		case 3:
			q = get("/orders?tenant="+name, fields...)
		case 4:
			body, _ := json.Marshal(map[string]any{"model": "mini", "metadata": map[string]string{"tenant": name}})
			q = get("/v1/chat/completions", fields...).posting(string(body))
		}
		if a := lab.edge.askEnvoy(t, q); a.allowed() != (name == own) {
			t.Fatalf("%s asks for %s of %s %s: %v", own, q.path, name, q.body, a)
		}
	}
}

// A-08, BUDGET-09: which tools an agent calls, by role, by its own list, and by what the
// tool was when somebody looked at it. Names are compared byte for byte, and a request
// that could call two tools calls none.
func TestAgentsCallTheirTools(t *testing.T) {
	t.Parallel()
	lab := newTargetLab(t)
	call := func(key, params string) request {
		return get("/mcp", "x-api-key", lab.keys[key], "content-type", "application/json").
			posting(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + params + `}`)
	}
	lab.expect(t, call("support", `{"name":"search","arguments":{"q":"x"}}`), 200, "allowed")
	lab.expect(t, call("support", `{"name":"shell","arguments":{}}`), 403, "tool_denied")
	lab.expect(t, call("support", `{"name":"Search"}`), 403, "tool_denied")
	for _, name := range []string{"SEARCH", "ｓearch", "search/", "/search", "*", "se\u0301arch"} {
		lab.expect(t, call("support", `{"name":"`+name+`"}`), 403, "tool_denied")
	}
	lab.expect(t, call("support", `{"name":"search\u0000"}`), 400, "request_invalid")
	lab.expect(t, call("support", `{"name":"orders.refund","arguments":{"amount":100}}`), 200, "allowed")
	lab.expect(t, call("support", `{"name":"orders.refund","arguments":{"amount":101}}`), 403, "policy_denied")
	lab.expect(t, call("support", `{"name":"orders.refund","arguments":{"amount":1,"amount":101}}`), 400, "request_invalid")
	lab.expect(t, call("support", `{"name":"search","name":"shell"}`), 400, "request_invalid")
	lab.expect(t, call("support", `{"name":"search","Name":"shell"}`), 400, "request_invalid")
	lab.expect(t, call("narrow", `{"name":"search"}`), 200, "allowed")
	lab.expect(t, call("narrow", `{"name":"orders.refund","arguments":{"amount":1}}`), 403, "tool_denied")
	lab.expect(t, call("none", `{"name":"search"}`), 403, "tool_denied")
	digest := sha256.Sum256([]byte(`{"type":"object"}`))
	changed := sha256.Sum256([]byte(`{"type":"object","additionalProperties":true}`))
	const pinned = `{"name":"deploy","_meta":{"postern.dev/schema-sha256":"%x"}}`
	lab.expect(t, call("support", fmt.Sprintf(pinned, digest)), 200, "allowed")
	lab.expect(t, call("support", fmt.Sprintf(pinned, changed)), 403, "tool_denied")
	lab.expect(t, call("support", `{"name":"deploy"}`), 403, "tool_denied")

	post := func(body string) request { return call("support", "{}").posting(body) }
	lab.expect(t, post(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`), 200, "allowed")
	lab.expect(t, post(`[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]`), 400, "request_invalid")
	lab.expect(t, post(`[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"}},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"shell"}}]`), 400, "request_invalid")
	lab.expect(t, post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"shell"}}`), 400, "request_invalid")
	lab.expect(t, post(`{"jsonrpc":"2.0","id":null,"method":"tools/list"}`), 400, "request_invalid")
	lab.expect(t, post(`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"search"}}`), 400, "request_invalid")
	lab.expect(t, get("/mcp", "x-api-key", lab.keys["support"]), 200, "allowed") // the stream of events
	smuggled := call("support", `{"name":"search"}`)
	smuggled.headers = append(smuggled.headers, get("/", "mcp-name", "shell").headers...)
	lab.expect(t, smuggled, 400, "request_invalid")
}

// an MCP client is told where to read who issues tokens, and all the scopes
// that it lacks.
func TestChallengesOfMCP(t *testing.T) {
	t.Parallel()
	lab := newTargetLab(t)
	var golden bytes.Buffer
	for _, c := range []struct{ name, key, body string }{
		{"no credential", "", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`},
		{"a bad credential", "bad", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`},
		{"without the scope of the route", "standard", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`},
		{"without the scopes of the tool", "reader", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"orders.refund","arguments":{"amount":1}}}`},
		{"without the tool", "reader", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"shell"}}`},
	} {
		fields := []string{"content-type", "application/json"}
		if key, known := lab.keys[c.key]; known {
			fields = append(fields, "authorization", "Bearer "+key)
		} else if c.key != "" {
			fields = append(fields, "authorization", "Bearer nonsense")
		}
		a := lab.ask(t, get("/mcp", fields...).posting(c.body))
		fmt.Fprintf(&golden, "%s\n----\n%d %s\n", c.name, a.status, a.reason)
		for _, h := range a.headers {
			if h.Name == "www-authenticate" {
				fmt.Fprintf(&golden, "WWW-Authenticate: %s\n", h.Value)
			}
		}
		golden.WriteString("\n")
	}
	const file = "testdata/mcp_challenges.golden"
	want, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil || golden.String() != string(want) {
		t.Errorf("%s, %v; got:\n%s", file, err, golden.String())
	}
}

// the list of tools in the registry counts at once, before any policy and for
// whoever the agent acts for.
func TestRegisteredAgentsCallTheirTools(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore, "  - { name: rest }\n", "  - { name: mcp, paths: [/mcp], reads: mcp }\n  - { name: rest }\n")
	w.bootstrap(t)
	p := launch(t, w)
	p.run(t, "user", "create", "carol")
	p.run(t, "agent", "create", "researcher", "--owner", "carol", "--tool", "search", "--tool", "orders.*")
	_, key := p.key(t, "researcher")
	p.hide(key)
	call := func(tool string, fields ...string) request {
		return get("/mcp", fields...).posting(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `"}}`)
	}
	acting := bearer(testIssuer.token(claims{"sub": "carol", "act": claims{"sub": "researcher"}}))
	alone := bearer(testIssuer.token(claims{"sub": "carol"}))
	for _, fields := range [][]string{{"x-api-key", key}, acting} {
		p.becomes(t, call("search", fields...), 200, "allowed")
		p.expect(t, call("orders.refund", fields...), 200, "allowed")
		p.expect(t, call("shell", fields...), 403, "tool_denied")
	}
	p.expect(t, call("shell", alone...), 200, "allowed") // the policy lets everybody do everything there
	p.run(t, "agent", "update", "researcher", "--tool", "shell")
	p.becomes(t, call("search", "x-api-key", key), 403, "tool_denied")
	p.expect(t, call("shell", "x-api-key", key), 200, "allowed")
}
