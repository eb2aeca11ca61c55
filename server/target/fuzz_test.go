package target_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/target"
)

// The fuzz tests play the upstream: a server that reads requests forgivingly. What it
// would find, the reader must have found too, or have refused.

var promptSeeds = []string{
	`{"model":"gpt-4","messages":[{"role":"user","content":"hi"}],"max_tokens":100,"n":2}`,
	`{"model":"mini","prompt":["a",[1,2]],"max_completion_tokens":7,"tools":[{"type":"function","function":{"name":"f","parameters":{"a":[1.5e3,null]}}}]}`,
	`{"model":"mini","Model":"gpt-4"}`, `{"model":"mini","\u006dodel":"gpt-4"}`, `{"model":"mini","max_to` + "\u212a" + `ens":9}`,
	`{"model":"mini"}{"model":"gpt-4"}`, `{"model":"mini","max_tokens":1e5}`, `[{}]`, ``, `{"model":"mini","n":0}`,
}

// FuzzPrompt holds the reading of prompts against that of encoding/json.
func FuzzPrompt(f *testing.F) {
	for _, s := range promptSeeds {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	c := config()
	c.Models.Tiers = nil
	r := newReader(f, c)
	f.Fuzz(func(t *testing.T, body []byte, openAI bool) {
		route := "anthropic"
		if openAI {
			route = "openai"
		}
		got, err := read(r, route, post("/v1/x", string(body)))
		if err != nil {
			var refusal *policy.Refusal
			if !errors.As(err, &refusal) {
				t.Errorf("not a refusal: %v", err)
			}
			return
		}
		var upstream struct {
			Model     string
			Max       *int64 `json:"max_tokens"`
			Most      *int64 `json:"max_completion_tokens"`
			N         *int64 `json:"n"`
			MaxOutput *int64 `json:"max_output_tokens"`
		}
		if err := json.Unmarshal(body, &upstream); err != nil {
			t.Fatalf("accepted what is no such JSON: %v", err)
		}
		if upstream.Model != got.Model {
			t.Errorf("the upstream would ask %q, the policy sees %q", upstream.Model, got.Model)
		}
		for _, most := range []*int64{upstream.Max, upstream.Most, upstream.MaxOutput} {
			if most == nil || !openAI && most != upstream.Max {
				continue
			}
			n := int64(1)
			if openAI && upstream.N != nil {
				n = *upstream.N
			}
			if *most < 0 || n < 1 || got.MaxTokens < *most || got.MaxTokens/n < *most {
				t.Errorf("%d times %d are more than %d", n, *most, got.MaxTokens)
			}
		}
		if got.PromptTokens >= 0 && got.PromptTokens < int64(len(body)) {
			t.Errorf("%d tokens in %d bytes", got.PromptTokens, len(body))
		}
	})
}

// FuzzMCP does the same for messages of MCP.
func FuzzMCP(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"q":"x"},"_meta":{"a":1}}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`, `{"jsonrpc":"2.0","id":"x","result":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}`, `[]`, `{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"a","name":"b"}}`,
	} {
		f.Add([]byte(s))
	}
	r := newReader(f, config())
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := read(r, "mcp", post("/mcp", string(body)))
		if err != nil {
			return
		}
		var upstream struct {
			Method string
			Params struct {
				Name      string
				Arguments map[string]any
			}
		}
		err = json.Unmarshal(body, &upstream)
		if calls := strings.EqualFold(upstream.Method, "tools/call"); calls != (len(got.Tools) == 1) || upstream.Method != got.Method {
			t.Fatalf("the upstream sees %q, the policy %+v (%v)", upstream.Method, got, err)
		}
		if len(got.Tools) == 1 && (err != nil || upstream.Params.Name != got.Tools[0].Name) {
			t.Errorf("the upstream would call %q, the policy sees %q (%v)", upstream.Params.Name, got.Tools[0].Name, err)
		}
	})
}

// FuzzTenants looks for a tenant in path, query or body that was not read.
func FuzzTenants(f *testing.F) {
	f.Add("/tenants/acme/x?tenant_id=acme", `{"metadata":{"tenant":"acme"}}`)
	f.Add("/TENANTS/other?a=1;Tenant_Id=other", `{"metadata":{"tenant":"acme"},"Metadata":{"tenant":"other"}}`)
	f.Add("/%EF%BC%B4enants/a%2Fb?tenant_id[]=%6f", `{"items":[{"owner":"x"}]}`)
	f.Add("/tenants%2Fother/acme?&&tenant_id", ``)
	r := newReader(f, tenancy())
	f.Fuzz(func(t *testing.T, path, body string) {
		a := post(path, body)
		var q policy.Request
		if requests.Read(a, &q) != nil {
			return
		}
		got, err := r.Read(a, &q, &policy.Route{Name: "body"})
		if err != nil {
			return
		}
		var read []string
		if got != nil {
			for _, named := range got.Resources {
				read = append(read, named.Tenant, canonical.Fold("/" + named.Tenant)[1:])
			}
		}
		for _, tenant := range upstreamTenants(&q, body) {
			if !slices.Contains(read, tenant) {
				t.Errorf("the upstream would read the tenant %q, the policy sees %q", tenant, read)
			}
		}
	})
}

// upstreamTenants are those that some forgiving server would read.
func upstreamTenants(q *policy.Request, body string) (all []string) {
	for _, path := range []string{q.Path, strings.ToLower(q.Path), q.Folded} {
		parts := strings.Split(strings.Trim(path, "/"), "/")
		if len(parts) > 1 && parts[0] == "tenants" {
			all = append(all, parts[1])
		}
	}
	for _, query := range []string{q.Query, strings.ReplaceAll(q.Query, ";", "&")} {
		values, _ := url.ParseQuery(query)
		for name, v := range values {
			if strings.EqualFold(name, "tenant_id") {
				all = append(all, v...)
			}
		}
	}
	var upstream struct {
		Metadata struct{ Tenant string }
		Items    []struct{ Owner string }
	}
	if json.Unmarshal([]byte(body), &upstream) == nil {
		all = append(all, upstream.Metadata.Tenant)
		for _, item := range upstream.Items {
			all = append(all, item.Owner)
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// FuzzTemplate reads templates that nobody would write.
func FuzzTemplate(f *testing.F) {
	f.Add("/tenants/{tenant}/**")
	f.Add("/*/{a}/B")
	f.Fuzz(func(t *testing.T, text string) {
		one, err := target.ParseTemplate(text)
		if err != nil {
			return
		}
		if again, err := target.ParseTemplate(one.String()); err != nil || again.String() != text {
			t.Errorf("%q: %v", text, err)
		}
	})
}
