package rego_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// readsAll is a policy that may read every field.
func readsAll(t *testing.T, config rego.Config) *rego.Snapshot {
	t.Helper()
	return compile(t, module(`decision if count(input) > 0`), config)
}

func documentOf(t *testing.T, s *rego.Snapshot, in *policy.Input) any {
	t.Helper()
	doc, err := rego.DocumentOf(s, in)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func fromJSON(t *testing.T, text string) any {
	t.Helper()
	v, err := rego.DecodeJSON([]byte(text), 32)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The whole document of one request: the plugin's part first, then ours.
func TestDocument(t *testing.T) {
	t.Parallel()
	in := input(withBody("application/json", `{"n": 1.50, "s": ["x"]}`), func(in *policy.Input) {
		in.Attributes.Time = time.Unix(1767323045, 7).UTC()
		in.Attributes.Extensions = map[string]string{"virtual_host": "shop"}
		in.Attributes.Metadata = map[string]any{"envoy.filters.http.jwt_authn": map[string]any{"ok": true}}
		in.Attributes.Context = map[string]any{"flag": true}
		in.Principal.AuthTime = time.Unix(1767000000, 0)
		in.Principal.Actors = []policy.Actor{{ID: "bot", Kind: policy.KindAgent}}
		in.Request.Zones = []string{"mesh"}
		in.Peer = &policy.Peer{ID: "spiffe://prod/a", TrustDomain: "prod", Fingerprint: "ab"}
		in.Request.Service, in.Request.RPC = "shop.Orders", "Get"
		in.Route.Scopes, in.Route.Permission = []string{"read"}, "orders.read"
	})
	want := fromJSON(t, `{
"attributes": {
  "source": {"address": {"socketAddress": {"address": "192.0.2.7", "portValue": 4711}}, "principal": "spiffe://prod/ns/edge"},
  "destination": {},
  "request": {
    "time": {"seconds": 1767323045, "nanos": 7},
    "http": {"id": "r1", "method": "GET", "path": "/orders/7?lang=en&id=1&id=2", "query": "lang=en&id=1&id=2", "host": "api.example.com:443",
      "scheme": "https", "protocol": "HTTP/2", "size": -1, "body": "{\"n\": 1.50, \"s\": [\"x\"]}",
      "headers": {"x-region": "eu", "accept": "a,b", "content-type": "application/json"}}},
  "contextExtensions": {"virtual_host": "shop"},
  "metadataContext": {"filterMetadata": {"envoy.filters.http.jwt_authn": {"ok": true}}}},
"parsed_path": ["orders", "7"], "parsed_query": {"lang": ["en"], "id": ["1", "2"]},
"parsed_body": {"n": 1.50, "s": ["x"]}, "truncated_body": false,
"source_principal": "spiffe://prod/ns/edge", "version": {"encoding": "protojson", "ext_authz": "v3"},
"request": {"method": "GET", "scheme": "https", "host": "api.example.com", "port": 443, "path": "/orders/7", "folded": "/orders/7", "segments": ["orders", "7"],
  "query": "lang=en&id=1&id=2", "client_ip": "198.51.100.1", "plaintext": false, "zones": ["mesh"], "grpc": {"service": "shop.Orders", "method": "Get"}},
"principal": {"id": "ann", "kind": "user", "tenant": "acme", "roles": ["viewer"], "scopes": ["read"], "permissions": [],
  "claims": {"team": "billing"}, "metadata": {}, "method": "jwt", "assurance": 3, "acr": "", "amr": [], "auth_time": 1767000000,
  "actors": [{"id": "bot", "kind": "agent"}], "credential_id": "", "issuer": ""},
"peer": {"id": "spiffe://prod/a", "trust_domain": "prod", "fingerprint": "ab"},
"route": {"name": "orders", "tenant": "", "scopes": ["read"], "permission": "orders.read", "labels": {"tier": "gold"}},
"target": {"tenant": "", "http": {"method": "GET", "scheme": "https", "host": "api.example.com", "path": "/orders/7", "folded": "/orders/7"},
  "grpc": {"service": "shop.Orders", "method": "Get"}},
"context": {"flag": true}}`)
	if diff := cmp.Diff(want, documentOf(t, readsAll(t, rego.Config{}), in)); diff != "" {
		t.Error(diff)
	}
}

// An action in an application's own words has a target of its own.
func TestActionDocument(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if count(input.target) > 0`), rego.Config{})
	got := documentOf(t, s, input(func(in *policy.Input) {
		in.Attributes.Tenant = "acme"
		in.Attributes.Action = &policy.Action{Name: "orders.refund", ResourceType: "order", ResourceID: "7", Properties: map[string]any{"total": 9}}
	}))
	want := fromJSON(t, `{"target": {"tenant": "acme", "action":
		{"action": "orders.refund", "resource_type": "order", "resource_id": "7", "properties": {"total": 9}}}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a request would do, and what people agreed to. What nobody knows is absent: -1
// would be under every limit.
func TestTargetDocument(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if count(input.target) > 0
decision if count(input.agreement) > 0
decision if input.principal.token_budget`), rego.Config{})
	got := documentOf(t, s, input(func(in *policy.Input) {
		in.Principal.TokenBudget = 10000
		in.Target = &policy.Target{
			Protocol: "mcp", Model: "gpt-4o", Tier: "premium", MaxTokens: -1, PromptTokens: 0, Method: "tools/call",
			Tools: []policy.ToolCall{
				{Name: "search", Arguments: map[string]any{"q": json.Number("1.0")}, Schema: "ab"},
				{Name: "list"},
			},
			Resources: []policy.Resource{{Type: "conversation", Tenant: "acme", ID: "7", From: "path"}},
		}
		in.Agreement = &policy.Agreement{Scopes: []string{"data:write"}, Approval: &policy.Approval{
			ID: "ap1", Approver: "acme/bea", Kind: policy.KindUser, Action: "00", ExpiresAt: time.Unix(9, 0),
		}}
	}))
	want := fromJSON(t, `{"principal": {"token_budget": 10000}, "target": {"tenant": "",
		"http": {"method": "GET", "scheme": "https", "host": "api.example.com", "path": "/orders/7", "folded": "/orders/7"},
		"protocol": "mcp", "model": "gpt-4o", "tier": "premium", "prompt_tokens": 0, "method": "tools/call",
		"tools": [{"name": "search", "arguments": {"q": 1.0}, "schema": "ab"}, {"name": "list"}],
		"resources": [{"type": "conversation", "tenant": "acme", "id": "7", "from": "path"}]},
		"agreement": {"scopes": ["data:write"],
			"approval": {"id": "ap1", "approver": "acme/bea", "kind": "user", "roles": [], "action": "00", "expires_at": 9}}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Two targets have one key only if no policy can tell them apart, and no key holds an
// argument as it is. CACHE-05
func TestTargetKeys(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if count(input.target) > 0`), rego.Config{})
	seen := map[string]int{}
	for i, target := range []*policy.Target{
		nil,
		{},
		{MaxTokens: -1, PromptTokens: -1},
		{Model: "a", Tier: "b"},
		{Model: "ab"},
		{Model: "", Tier: "ab"},
		{Tools: []policy.ToolCall{{Name: "a", Schema: "b"}}},
		{Tools: []policy.ToolCall{{Name: "ab"}}},
		{Tools: []policy.ToolCall{{Name: "a"}, {Name: "b"}}},
		{Tools: []policy.ToolCall{{Name: "a", Arguments: map[string]any{}}}},
		{Tools: []policy.ToolCall{{Name: "a", Arguments: map[string]any{"password": "hunter2"}}}},
		{Tools: []policy.ToolCall{{Name: "a", Arguments: map[string]any{"password": json.Number("2")}}}},
		{Tools: []policy.ToolCall{{Name: "a", Arguments: map[string]any{"password": "2"}}}},
		{Resources: []policy.Resource{{Type: "a", Tenant: "b"}}},
		{Resources: []policy.Resource{{Type: "a", ID: "b"}}},
		{Resources: []policy.Resource{{Type: "a"}, {Tenant: "b"}}},
	} {
		key, err := rego.KeyOf(s, input(func(in *policy.Input) { in.Target = target }))
		if before, twice := seen[key]; twice || err != nil || strings.Contains(key, "hunter2") {
			t.Errorf("%d: as %d, %v, %q", i, before, err, key)
		}
		seen[key] = i
	}
}

// The document holds what the policy reads, and nothing else.
func TestPruned(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`decision := true`:                                                      `{}`,
		`decision if input.request.method == "GET"`:                             `{"request": {"method": "GET"}}`,
		`decision if input.principal.claims.team == "x"`:                        `{"principal": {"claims": {"team": "billing"}}}`,
		`decision if input.attributes.request.http.headers["x-region"] == "eu"`: `{"attributes": {"request": {"http": {"headers": {"x-region": "eu"}}}}}`,
		`decision if input.peer.id`:                                             `{}`,
		`decision if input.no.such.field`:                                       `{}`,
	} {
		s := compile(t, module(text), rego.Config{})
		if diff := cmp.Diff(fromJSON(t, want), documentOf(t, s, input())); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// REGO-14: the canonical path is one; the raw text has other names.
func TestOnePath(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if { input.parsed_path == ["a b", "c"]; input.request.path == "/a b/c"; input.target.http.path == "/a b/c"; input.attributes.request.http.path == "/a%20b/./c" }`), rego.Config{})
	v := decide(t, s, input(func(in *policy.Input) {
		in.Attributes.Path, in.Request.Path, in.Request.Segments = "/a%20b/./c", "/a b/c", []string{"a b", "c"}
	}))
	if !v.Allow {
		t.Errorf("%+v", v)
	}
}

// REGO-09: no credential is in the document or the key, unless it was asked for;
// even then the key holds only its digest.
func TestCredentialsAreHidden(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-canary"
	in := input(func(in *policy.Input) {
		in.Attributes.Headers = nil
		for _, name := range []string{"authorization", "proxy-authorization", "cookie", "x-api-key", "x-vault-token", "x-legacy-key", "cookie"} {
			in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: name, Value: secret})
		}
		for _, name := range []string{":path", "referer", "x-forwarded-uri"} {
			in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: name, Value: "/x?a=1&%61pi_key=" + secret + "&b=2"})
		}
		in.Route.InsecureQueryCredential = "api_key"
		in.Attributes.Path, in.Request.Query = "/x?a=1&api_key="+secret+"&b=2", "a=1&api_key="+secret+"&b=2"
		in.Attributes.Body = []byte(secret) // the key holds its digest; the policy sees it
	})
	config := rego.Config{CredentialHeaders: []string{"X-Legacy-Key"}}
	for _, text := range []string{
		`decision if count(input) > 0`,
		`decision if input.attributes.request.http.headers.authorization`,
		`decision if { some name; input.attributes.request.http.headers[name] }`,
		`decision if input.attributes.request.http.headers[":path"]`,
	} {
		s := compile(t, module(text), config)
		key, err := rego.KeyOf(s, in)
		if err != nil || strings.Contains(key, secret) {
			t.Errorf("%s: the secret is in the key (%v)", text, err)
		}
		doc, _ := documentOf(t, s, in).(map[string]any)
		if a, ok := doc["attributes"].(map[string]any); ok {
			if http, ok := a["request"].(map[string]any)["http"].(map[string]any); ok {
				delete(http, "body")
			}
		}
		shown, _ := json.Marshal(doc)
		if strings.Contains(string(shown), secret) {
			t.Errorf("%s: the secret is in %s", text, shown)
		}
	}
	config.InsecureExposeCredentials = true
	for _, header := range []string{`.authorization == "` + secret + `"`, `.cookie == "` + secret + "," + secret + `"`, `["x-legacy-key"]`} {
		s := compile(t, module(`decision if input.attributes.request.http.headers`+header), config)
		if !decide(t, s, in).Allow {
			t.Errorf("headers%s: not shown although it was asked for", header)
		}
		if key, _ := rego.KeyOf(s, in); strings.Contains(key, secret) {
			t.Error("the exposed secret is in the key")
		}
	}
}

// Bodies by their type; what cannot be parsed for good reasons is null.
func TestBodies(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if { input.parsed_body; input.truncated_body }`), rego.Config{})
	multipart := "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\nContent-Disposition: form-data; name=\"j\"\r\nContent-Type: application/json\r\n\r\n{\"x\":2}\r\n--B--\r\n"
	for _, c := range []struct {
		kind, body string
		change     func(*policy.Input)
		want       string
	}{
		{"application/json; charset=utf-8", `[1]`, nil, `{"parsed_body": [1], "truncated_body": false}`},
		{"application/json", ``, nil, `{"parsed_body": null, "truncated_body": false}`},
		{"application/x-www-form-urlencoded", `a=1&a=2&b=`, nil, `{"parsed_body": {"a": ["1", "2"], "b": [""]}, "truncated_body": false}`},
		{"multipart/form-data; boundary=B", multipart, nil, `{"parsed_body": {"a": ["1"], "j": [{"x": 2}]}, "truncated_body": false}`},
		{"Application/JSON", `[1]`, nil, `{"parsed_body": [1], "truncated_body": false}`},
		{" application/json;;", `[1]`, nil, `{"parsed_body": [1], "truncated_body": false}`},
		{"application/vnd.api+json", `{"a": 1}`, nil, `{"parsed_body": {"a": 1}, "truncated_body": false}`},
		{"application/merge-patch+JSON; charset=utf-8", `{"a": 1}`, nil, `{"parsed_body": {"a": 1}, "truncated_body": false}`},
		{"text/json", `1`, nil, `{"parsed_body": 1, "truncated_body": false}`},
		{"APPLICATION/X-WWW-FORM-URLENCODED", `a=1`, nil, `{"parsed_body": {"a": ["1"]}, "truncated_body": false}`},
		{"Multipart/Form-Data; Boundary=B", strings.Replace(multipart, "application/json", "Application/Problem+JSON", 1), nil, `{"parsed_body": {"a": ["1"], "j": [{"x": 2}]}, "truncated_body": false}`},
		{"text/plain; was=application/json", `[1]`, nil, `{"parsed_body": null, "truncated_body": false}`},
		{"text/plain", `x`, nil, `{"parsed_body": null, "truncated_body": false}`},
		{"", `x`, nil, `{"parsed_body": null, "truncated_body": false}`},
		{"application/json", `{"a":`, func(in *policy.Input) { in.Attributes.BodyTruncated = true }, `{"parsed_body": null, "truncated_body": true}`},
		{"application/json", `{"a":`, func(in *policy.Input) { in.Attributes.Size = 10 }, `{"parsed_body": null, "truncated_body": true}`},
		{"application/json", `{"a":`, func(in *policy.Input) {
			in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: "content-length", Value: "10"})
		}, `{"parsed_body": null, "truncated_body": true}`},
	} {
		in := input(withBody(c.kind, c.body))
		if c.change != nil {
			c.change(in)
		}
		if diff := cmp.Diff(fromJSON(t, c.want), documentOf(t, s, in)); diff != "" {
			t.Errorf("%s %q: %s", c.kind, c.body, diff)
		}
	}
	for name, in := range map[string]*policy.Input{
		"two content types":           input(withBody("application/json", `{}`), withBody("text/plain", `{}`)),
		"two types in one field":      input(withBody("application/json, text/plain", `{}`)),
		"a parameter given twice":     input(withBody("application/json; a=1; a=2", `{}`)),
		"broken JSON":                 input(withBody("application/problem+json", `{"a"`)),
		"two JSON texts":              input(withBody("application/json-seq", "{}\n{}")),
		"parts without a boundary":    input(withBody("multipart/form-data", multipart)),
		"a part with no clear type":   input(withBody("multipart/form-data; boundary=B", strings.Replace(multipart, "application/json", "application/json, x/y", 1))),
		"a content type that is none": input(withBody("/json", `{}`)),
	} {
		if v := decide(t, s, in); v.Reason != policy.ReasonRequestInvalid {
			t.Errorf("%s: %v", name, v.Reason)
		}
	}
}

// A rule that denies by what the body holds sees it whatever the type is called,
// and can tell a body that is not parsed from none.
func TestBodyIsNotHidden(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`default decision := false
decision if { not input.attributes.request.http.body; not input.truncated_body }
decision if { is_object(input.parsed_body); not input.parsed_body.amount > 100 }`), rego.Config{})
	for _, kind := range []string{"application/json", "Application/JSON", "application/vnd.api+json", "text/plain", ""} {
		if decide(t, s, input(withBody(kind, `{"amount": 101}`))).Allow {
			t.Errorf("%q hides the body", kind)
		}
	}
	if !decide(t, s, input()).Allow || !decide(t, s, input(withBody("application/vnd.api+json", `{"amount": 100}`))).Allow {
		t.Error("denied without a body, or with a good one")
	}
}

// Requests that lack what is optional have no panic in them.
func TestSparseInput(t *testing.T) {
	t.Parallel()
	s := readsAll(t, rego.Config{})
	if v := decide(t, s, &policy.Input{Attributes: &policy.Attributes{}, Request: &policy.Request{}}); !v.Allow {
		t.Errorf("%+v", v)
	}
	in := input(func(in *policy.Input) { in.Request.ClientIP, in.Attributes.Source = netip.Addr{}, policy.Endpoint{} })
	if v := decide(t, s, in); !v.Allow {
		t.Errorf("%+v", v)
	}
	var broken *rego.Fault
	if _, _, err := s.Decide(t.Context(), &policy.Input{}); err == nil {
		t.Errorf("an input without a request was decided: %v", broken)
	}
}

// FuzzRead reads requests that nobody would write.
func FuzzRead(f *testing.F) {
	f.Add("application/json", `{"a": [1e5, {"b": null}]}`, "/a/%2e%2e/ｂ;c", "a=1&b=%20")
	f.Add("multipart/form-data; boundary=B", "--B\r\n\r\nx\r\n--B--", `/\..`, ";")
	f.Add("application/x-www-form-urlencoded", "a=1&&b", "//", "%")
	s := compile(f, module(`decision if count(input) > 0`), rego.Config{})
	f.Fuzz(func(t *testing.T, kind, content, path, query string) {
		in := input(withBody(kind, content), func(in *policy.Input) {
			in.Attributes.Path, in.Request.Path, in.Request.Query = path, "/"+path, query
			in.Route.InsecureQueryCredential = "a"
		})
		_, keyErr := rego.KeyOf(s, in)
		_, docErr := rego.DocumentOf(s, in)
		if keyErr != nil && docErr == nil {
			t.Errorf("the key refuses what the document shows: %v", keyErr)
		}
	})
}
