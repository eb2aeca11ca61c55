package target_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/target"
)

// config reads bodies on routes that are named after their protocol.
func config() target.Config {
	return target.Config{
		Models: target.Models{
			Tiers:  map[string]string{"gpt-4": "premium", "mini": "standard", "claude": "premium", "embed": "standard"},
			Header: "x-ai-eg-model", Metadata: target.Metadata{Filter: "ai", Key: "model"},
			Paths: []target.Template{template("/openai/deployments/{model}/**")},
		},
		Reads: map[string]target.Protocol{"openai": target.OpenAI, "anthropic": target.Anthropic, "mcp": target.MCP, "gateway": target.Gateway},
	}
}

func template(text string) target.Template {
	t, err := target.ParseTemplate(text)
	if err != nil {
		panic(err)
	}
	return t
}

func newReader(t testing.TB, c target.Config) *target.Reader {
	t.Helper()
	r, err := target.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// post is a request with a JSON body. Changes are to the attributes.
func post(path, body string, changes ...func(*policy.Attributes)) *policy.Attributes {
	a := &policy.Attributes{Method: "POST", Scheme: "https", Host: "api.test", Path: path, Body: []byte(body), Size: -1,
		Headers: policy.Headers{{Name: "content-type", Value: "application/json"}}}
	for _, change := range changes {
		change(a)
	}
	return a
}

func header(name, value string) func(*policy.Attributes) {
	return func(a *policy.Attributes) {
		a.Headers = append(a.Headers, policy.Header{Name: name, Value: value})
	}
}

var requests = func() *canonical.Reader {
	r, err := canonical.New(canonical.Config{Paths: canonical.PathConfig{EncodedSlash: canonical.EncodedSlashKeep}})
	if err != nil {
		panic(err)
	}
	return r
}()

// errUnserved says that the request does not get as far as the reader of targets.
var errUnserved = errors.New("canonical refuses it")

func read(r *target.Reader, route string, a *policy.Attributes) (*policy.Target, error) {
	var q policy.Request
	if err := requests.Read(a, &q); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnserved, err)
	}
	return r.Read(a, &q, &policy.Route{Name: route})
}

func wantReason(t *testing.T, name string, err error, want policy.Reason) {
	t.Helper()
	var refusal *policy.Refusal
	switch {
	case want == policy.ReasonAllowed && err == nil:
	case !errors.As(err, &refusal) || refusal.Reason != want || errors.Is(err, errUnserved):
		t.Errorf("%s: %v, want %v", name, err, want)
	}
}

// what the bodies of two providers ask for.
func TestPrompts(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	for _, c := range []struct {
		name, route, path, body string
		model, tier             string
		most, prompt            int64 // prompt: -1 unknown, else what is added to the length
		tools                   []string
	}{
		{"chat", "openai", "/v1/chat/completions", `{"model":"gpt-4","messages":[{"role":"user","content":"hi"}],"max_tokens":100}`, "gpt-4", "premium", 100, 0, nil},
		{"nothing said", "openai", "/v1/chat/completions", `{"model":"mini","messages":[]}`, "mini", "standard", -1, 0, nil},
		{"null is not said", "openai", "/v1/chat/completions", `{"model":"mini","messages":[],"max_tokens":null,"n":null}`, "mini", "standard", -1, 0, nil},
		{"choices", "openai", "/v1/chat/completions", `{"model":"mini","messages":[],"max_completion_tokens":10,"n":3}`, "mini", "standard", 30, 0, nil},
		{"the largest of several", "openai", "/v1/chat/completions", `{"model":"mini","max_tokens":5,"max_completion_tokens":10,"max_output_tokens":7}`, "mini", "standard", 10, 0, nil},
		{"best of", "openai", "/v1/completions", `{"model":"mini","prompt":"x","max_tokens":10,"n":2,"best_of":4}`, "mini", "standard", 40, 0, nil},
		{"several prompts", "openai", "/v1/completions", `{"model":"mini","prompt":["a","b","c"],"max_tokens":10,"n":2}`, "mini", "standard", 60, 0, nil},
		{"tokens of one prompt", "openai", "/v1/completions", `{"model":"mini","prompt":[1,2,3],"max_tokens":10}`, "mini", "standard", 10, 0, nil},
		{"tokens of two prompts", "openai", "/v1/completions", `{"model":"mini","prompt":[[1,2],[3]],"max_tokens":10}`, "mini", "standard", 20, 0, nil},
		{"more than there is", "openai", "/v1/completions", `{"model":"mini","prompt":["a","b"],"max_tokens":2147483647,"n":2147483647}`, "mini", "standard", 9223372028264841218, 0, nil},
		{"far more than there is", "openai", "/v1/completions", `{"model":"mini","prompt":["a","b","c"],"max_tokens":2147483647,"n":2147483647}`, "mini", "standard", 9223372036854775807, 0, nil},
		{"responses", "openai", "/v1/responses", `{"model":"mini","input":"hi","instructions":"be brief","max_output_tokens":9}`, "mini", "standard", 9, 0, nil},
		{"responses with items", "openai", "/v1/responses", `{"model":"mini","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]},{"type":"function_call_output","call_id":"c","output":"7"}]}`, "mini", "standard", -1, 0, nil},
		{"an image", "openai", "/v1/chat/completions", `{"model":"mini","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.test/i.png"}}]}]}`, "mini", "standard", -1, -1, nil},
		{"an image beside the text", "openai", "/v1/chat/completions", `{"model":"mini","messages":[{"role":"user","content":"hi","images":["aGk="]}]}`, "mini", "standard", -1, -1, nil},
		{"an earlier response", "openai", "/v1/responses", `{"model":"mini","input":"go on","previous_response_id":"r1"}`, "mini", "standard", -1, -1, nil},
		{"a stored item", "openai", "/v1/responses", `{"model":"mini","input":[{"type":"item_reference","id":"i1"}]}`, "mini", "standard", -1, -1, nil},
		{"a stored prompt", "openai", "/v1/responses", `{"model":"mini","prompt":{"id":"p1"}}`, "mini", "standard", -1, -1, nil},
		{"a conversation", "openai", "/v1/responses", `{"model":"mini","input":"hi","conversation":"c1"}`, "mini", "standard", -1, -1, nil},
		{"functions", "openai", "/v1/chat/completions", `{"model":"mini","tools":[{"type":"function","function":{"name":"f"}},{"type":"custom","name":"g"}],"functions":[{"name":"h"}]}`, "mini", "standard", -1, 1024, []string{"f", "g", "h"}},
		{"a tool of the provider", "openai", "/v1/responses", `{"model":"mini","tools":[{"type":"web_search"}]}`, "mini", "standard", -1, -1, []string{"web_search"}},
		{"embeddings", "openai", "/v1/embeddings", `{"model":"embed","input":["a","b"]}`, "embed", "standard", 0, 0, nil},
		{"no embeddings elsewhere", "openai", "/v1/responses", `{"model":"embed","input":["a","b"]}`, "embed", "standard", -1, 0, nil},
		{"the model in the path", "openai", "/openai/deployments/gpt-4/chat/completions", `{"messages":[]}`, "gpt-4", "premium", -1, 0, nil},
		{"messages", "anthropic", "/v1/messages", `{"model":"claude","max_tokens":64,"system":[{"type":"text","text":"x"}],"messages":[{"role":"user","content":"hi"}]}`, "claude", "premium", 64, 0, nil},
		{"a document", "anthropic", "/v1/messages", `{"model":"claude","max_tokens":64,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://x.test"}}]}]}`, "claude", "premium", 64, -1, nil},
		{"an image in a result", "anthropic", "/v1/messages", `{"model":"claude","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"image"}]}]}]}`, "claude", "premium", 1, -1, nil},
		{"tools", "anthropic", "/v1/messages", `{"model":"claude","max_tokens":0,"messages":[],"tools":[{"name":"f","input_schema":{"type":"object"}}]}`, "claude", "premium", 0, 1024, []string{"f"}},
		{"a tool of Anthropic's", "anthropic", "/v1/messages", `{"model":"claude","max_tokens":1,"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search"}]}`, "claude", "premium", 1, -1, []string{"web_search"}},
		{"servers elsewhere", "anthropic", "/v1/messages", `{"model":"claude","max_tokens":1,"messages":[],"mcp_servers":[{"url":"https://x.test"}]}`, "claude", "premium", 1, -1, nil},
	} {
		got, err := read(r, c.route, post(c.path, c.body))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		prompt := c.prompt
		if prompt >= 0 {
			prompt += int64(len(c.body))
		}
		var tools []string
		for _, call := range got.Tools {
			tools = append(tools, call.Name)
		}
		if got.Protocol != c.route || got.Model != c.model || got.Tier != c.tier || got.MaxTokens != c.most || got.PromptTokens != prompt || !cmp.Equal(tools, c.tools) {
			t.Errorf("%s: %+v, want prompt %d", c.name, got, prompt)
		}
	}
}

// A body has one reading, or is refused.
func TestRefusedBodies(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	for name, body := range map[string]string{
		"model twice":              `{"model":"mini","model":"gpt-4"}`,
		"model twice, escaped":     `{"model":"mini","\u006dodel":"gpt-4"}`,
		"another case":             `{"model":"mini","Model":"gpt-4"}`,
		"another case alone":       `{"MODEL":"mini"}`,
		"long s":                   `{"model":"mini","meſſages":[]}`,
		"kelvin sign":              `{"model":"mini","max_toKens":5}`,
		"camel case":               `{"model":"mini","maxTokens":5}`,
		"with a dash":              `{"model":"mini","max-tokens":5}`,
		"not UTF-8":                "{\"model\":\"mini\xff\"}",
		"byte order mark":          "\ufeff{\"model\":\"mini\"}",
		"UTF-16":                   "{\x00\"\x00m\x00",
		"lone surrogate":           `{"model":"mini\ud800"}`,
		"something after":          `{"model":"mini"}{"model":"gpt-4"}`,
		"a comment":                `{"model":"mini"/*,*/}`,
		"cut off":                  `{"model":"mini"`,
		"empty":                    ``,
		"blank":                    ` `,
		"an array":                 `[{"model":"mini"}]`,
		"a text":                   `"mini"`,
		"model is a number":        `{"model":7}`,
		"model is a list":          `{"model":["mini"]}`,
		"model is empty":           `{"model":""}`,
		"model with a newline":     `{"model":"mini\n"}`,
		"model without end":        `{"model":"` + strings.Repeat("m", 257) + `"}`,
		"max_tokens is negative":   `{"model":"mini","max_tokens":-1}`,
		"max_tokens is a fraction": `{"model":"mini","max_tokens":1.5}`,
		"max_tokens is 1.0":        `{"model":"mini","max_tokens":1.0}`,
		"max_tokens is 1e2":        `{"model":"mini","max_tokens":1e2}`,
		"max_tokens is a text":     `{"model":"mini","max_tokens":"5"}`,
		"max_tokens is minus 0":    `{"model":"mini","max_tokens":-0}`,
		"max_tokens out of range":  `{"model":"mini","max_tokens":9223372036854775808}`,
		"max_tokens too large":     `{"model":"mini","max_tokens":2147483648}`,
		"max_tokens is a list":     `{"model":"mini","max_tokens":[1]}`,
		"n is 0":                   `{"model":"mini","max_tokens":5,"n":0}`,
		"n is negative":            `{"model":"mini","max_tokens":5,"n":-3}`,
		"best_of is 0":             `{"model":"mini","max_tokens":5,"best_of":0}`,
		"messages is a text":       `{"model":"mini","messages":"hi"}`,
		"tools is an object":       `{"model":"mini","tools":{}}`,
		"a tool is a text":         `{"model":"mini","tools":["f"]}`,
		"a tool without name":      `{"model":"mini","tools":[{"type":"function","function":{}}]}`,
		"a tool with two names":    `{"model":"mini","tools":[{"type":"function","function":{"name":"f","Name":"g"}}]}`,
	} {
		_, err := read(r, "openai", post("/v1/chat/completions", body))
		wantReason(t, name, err, policy.ReasonRequestInvalid)
		if strings.HasPrefix(name, "n is") || strings.HasPrefix(name, "best_of") || strings.HasPrefix(name, "a tool") {
			continue // words of the one only
		}
		_, err = read(r, "anthropic", post("/v1/messages", body))
		wantReason(t, name+" (anthropic)", err, policy.ReasonRequestInvalid)
	}
	deep := `{"model":"mini","x":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + `}`
	_, err := read(r, "openai", post("/v1/chat/completions", deep))
	wantReason(t, "deep", err, policy.ReasonRequestTooLarge)
	wide := &strings.Builder{}
	for i := range 600 {
		fmt.Fprintf(wide, `,"m%d":1`, i)
	}
	_, err = read(r, "openai", post("/v1/chat/completions", `{"model":"mini"`+wide.String()+`}`))
	wantReason(t, "wide", err, policy.ReasonRequestTooLarge)
	_, err = read(r, "openai", post("/v1/chat/completions", `{"model":"mini","tools":[`+strings.Repeat(`{"name":"f"},`, 512)+`{"name":"f"}]}`))
	wantReason(t, "too many tools", err, policy.ReasonRequestInvalid)
}

// What the gateway did not show, or shows of another type, is not guessed.
func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	const body = `{"model":"mini","messages":[]}`
	kind := func(value string) func(*policy.Attributes) {
		return func(a *policy.Attributes) { a.Headers[0].Value = value }
	}
	for name, c := range map[string]struct {
		body   string
		change func(*policy.Attributes)
		want   policy.Reason
	}{
		"whole":                {body, func(*policy.Attributes) {}, policy.ReasonAllowed},
		"of known length":      {body, header("content-length", fmt.Sprint(len(body))), policy.ReasonAllowed},
		"truncated":            {body, func(a *policy.Attributes) { a.BodyTruncated = true }, policy.ReasonRequestInvalid},
		"longer":               {body, func(a *policy.Attributes) { a.Size = int64(len(body)) + 1 }, policy.ReasonRequestInvalid},
		"longer by its field":  {body, header("content-length", "1000"), policy.ReasonRequestInvalid},
		"shorter by its field": {body, header("content-length", "10"), policy.ReasonRequestInvalid},
		"length is no number":  {body, header("content-length", "+30"), policy.ReasonRequestInvalid},
		"not forwarded":        {"", func(*policy.Attributes) {}, policy.ReasonRequestInvalid},
		"not forwarded, gone":  {"", func(a *policy.Attributes) { a.BodyTruncated = true }, policy.ReasonRequestInvalid},
		"none":                 {"", header("content-length", "0"), policy.ReasonRequestInvalid},
		"compressed":           {body, header("content-encoding", "gzip"), policy.ReasonRequestInvalid},
		"not compressed":       {body, header("content-encoding", "identity"), policy.ReasonAllowed},
		"a form":               {body, kind("application/x-www-form-urlencoded"), policy.ReasonRequestInvalid},
		"parts":                {body, kind("multipart/form-data; boundary=x"), policy.ReasonRequestInvalid},
		"text":                 {body, kind("text/plain"), policy.ReasonRequestInvalid},
		"lines of JSON":        {body, kind("application/jsonl"), policy.ReasonRequestInvalid},
		"another charset":      {body, kind("application/json; charset=utf-16"), policy.ReasonRequestInvalid},
		"broken type":          {body, kind("application/json; charset"), policy.ReasonRequestInvalid},
		"charset":              {body, kind("application/json; charset=UTF-8"), policy.ReasonAllowed},
		"no type":              {body, func(a *policy.Attributes) { a.Headers = nil }, policy.ReasonAllowed},
		"unknown model":        {`{"model":"gpt-5"}`, func(*policy.Attributes) {}, policy.ReasonModel},
		"renamed model":        {`{"model":"GPT-4"}`, func(*policy.Attributes) {}, policy.ReasonModel},
		"no model":             {`{"messages":[]}`, func(*policy.Attributes) {}, policy.ReasonModel},
		"null model":           {`{"model":null}`, func(*policy.Attributes) {}, policy.ReasonModel},
		"GET with a body":      {`{"model":"gpt-5"}`, func(a *policy.Attributes) { a.Method = "GET" }, policy.ReasonModel},
		"GET that hides one": {"", func(a *policy.Attributes) {
			a.Method = "GET"
			header("content-length", "30")(a)
		}, policy.ReasonRequestInvalid},
		"GET":     {"", func(a *policy.Attributes) { a.Method = "GET" }, policy.ReasonAllowed},
		"its own": {"", func(a *policy.Attributes) { a.Method = "PROMPT" }, policy.ReasonRequestInvalid},
	} {
		_, err := read(r, "openai", post("/v1/chat/completions", c.body, c.change))
		wantReason(t, name, err, c.want)
	}
}

// All who say which model it is must say the same.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	said := func(v any) func(*policy.Attributes) {
		return func(a *policy.Attributes) { a.Metadata = map[string]any{"ai": map[string]any{"model": v}} }
	}
	const mini, none = `{"model":"mini"}`, `{"messages":[]}`
	for name, c := range map[string]struct {
		route, path, body string
		changes           []func(*policy.Attributes)
		model             string
		want              policy.Reason
	}{
		"header agrees":      {"openai", "/v1/x", mini, []func(*policy.Attributes){header("x-ai-eg-model", "mini")}, "mini", policy.ReasonAllowed},
		"header differs":     {"openai", "/v1/x", mini, []func(*policy.Attributes){header("x-ai-eg-model", "gpt-4")}, "", policy.ReasonRequestInvalid},
		"header is empty":    {"openai", "/v1/x", mini, []func(*policy.Attributes){header("x-ai-eg-model", "")}, "", policy.ReasonRequestInvalid},
		"header alone":       {"openai", "/v1/x", none, []func(*policy.Attributes){header("x-ai-eg-model", "gpt-4")}, "gpt-4", policy.ReasonAllowed},
		"two headers":        {"openai", "/v1/x", mini, []func(*policy.Attributes){header("x-ai-eg-model", "mini"), header("x-ai-eg-model", "mini")}, "", policy.ReasonRequestInvalid},
		"metadata agrees":    {"openai", "/v1/x", mini, []func(*policy.Attributes){said("mini")}, "mini", policy.ReasonAllowed},
		"metadata differs":   {"openai", "/v1/x", mini, []func(*policy.Attributes){said("gpt-4")}, "", policy.ReasonRequestInvalid},
		"metadata is odd":    {"openai", "/v1/x", mini, []func(*policy.Attributes){said(7.0)}, "", policy.ReasonRequestInvalid},
		"path differs":       {"openai", "/openai/deployments/gpt-4/x", mini, nil, "", policy.ReasonRequestInvalid},
		"path agrees":        {"openai", "/openai/deployments/mini/x", mini, nil, "mini", policy.ReasonAllowed},
		"path in capitals":   {"openai", "/OpenAI/deployments/gpt-4/x", mini, nil, "", policy.ReasonRequestInvalid},
		"gateway, header":    {"gateway", "/v1/x", "", []func(*policy.Attributes){header("x-ai-eg-model", "mini")}, "mini", policy.ReasonAllowed},
		"gateway, metadata":  {"gateway", "/v1/x", "", []func(*policy.Attributes){said("gpt-4")}, "gpt-4", policy.ReasonAllowed},
		"gateway, differing": {"gateway", "/v1/x", "", []func(*policy.Attributes){said("gpt-4"), header("x-ai-eg-model", "mini")}, "", policy.ReasonRequestInvalid},
		"gateway, silent":    {"gateway", "/v1/x", mini, nil, "", policy.ReasonModel},
		"gateway, unknown":   {"gateway", "/v1/x", "", []func(*policy.Attributes){header("x-ai-eg-model", "gpt-5")}, "", policy.ReasonModel},
	} {
		got, err := read(r, c.route, post(c.path, c.body, c.changes...))
		wantReason(t, name, err, c.want)
		if err == nil && got.Model != c.model {
			t.Errorf("%s: %q", name, got.Model)
		}
	}
}

// prompts are classified by whoever is trusted to, or denied.
func TestCategories(t *testing.T) {
	t.Parallel()
	c := config()
	c.Models.Category = target.Category{Known: []string{"general", "code"}, Header: "x-category", Metadata: target.Metadata{Filter: "ai", Key: "category"}}
	r := newReader(t, c)
	const body = `{"model":"mini"}`
	for name, c := range map[string]struct {
		changes  []func(*policy.Attributes)
		category string
		want     policy.Reason
	}{
		"known":       {[]func(*policy.Attributes){header("x-category", "code")}, "code", policy.ReasonAllowed},
		"unknown":     {[]func(*policy.Attributes){header("x-category", "weapons")}, "", policy.ReasonCategory},
		"in capitals": {[]func(*policy.Attributes){header("x-category", "Code")}, "", policy.ReasonCategory},
		"empty":       {[]func(*policy.Attributes){header("x-category", "")}, "", policy.ReasonCategory},
		"silent":      {nil, "", policy.ReasonCategory},
		"twice":       {[]func(*policy.Attributes){header("x-category", "code"), header("x-category", "code")}, "", policy.ReasonRequestInvalid},
		"metadata":    {[]func(*policy.Attributes){func(a *policy.Attributes) { a.Metadata = map[string]any{"ai": map[string]any{"category": "general"}} }}, "general", policy.ReasonAllowed},
		"two":         {[]func(*policy.Attributes){header("x-category", "code"), func(a *policy.Attributes) { a.Metadata = map[string]any{"ai": map[string]any{"category": "general"}} }}, "", policy.ReasonRequestInvalid},
	} {
		got, err := read(r, "openai", post("/v1/chat/completions", body, c.changes...))
		wantReason(t, name, err, c.want)
		if err == nil && got.Category != c.category {
			t.Errorf("%s: %q", name, got.Category)
		}
	}
	if got, err := read(r, "openai", post("/v1/models", "", func(a *policy.Attributes) { a.Method = "GET" })); err != nil || got.Model != "" {
		t.Errorf("a list of models is not a prompt: %+v, %v", got, err)
	}
}

// the messages of the Model Context Protocol.
func TestMCP(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	for body, want := range map[string]*policy.Target{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"q":"x","n":1.50}}}`: {
			Method: "tools/call", Tools: []policy.ToolCall{{Name: "search", Arguments: map[string]any{"q": "x", "n": json.Number("1.50")}}}},
		`{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"search","_meta":{"postern.dev/schema-sha256":"ab","progressToken":1}}}`: {
			Method: "tools/call", Tools: []policy.ToolCall{{Name: "search", Schema: "ab"}}},
		`{"jsonrpc":"2.0","id":-7,"method":"tools/list"}`:                  {Method: "tools/list"},
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`:           {Method: "notifications/initialized"},
		`{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}`:            {},
		`{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}`:      {},
		`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"a":1}}`: {Method: "prompts/get"},
	} {
		got, err := read(r, "mcp", post("/mcp", body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		want.Protocol, want.MaxTokens, want.PromptTokens = "mcp", -1, -1
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
	for _, body := range []string{
		``, `[]`, `7`,
		`[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]`,
		`{"id":1,"method":"tools/list"}`,
		`{"jsonrpc":"1.0","id":1,"method":"tools/list"}`,
		`{"jsonrpc":2.0,"id":1,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1}`,
		`{"jsonrpc":"2.0","result":{}}`,
		`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}`,
		`{"jsonrpc":"2.0","id":null,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1e3,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":true,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":[1],"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1,"ID":2,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}`,
		`{"jsonrpc":"2.0","id":1,"method":""}`,
		`{"jsonrpc":"2.0","id":1,"method":null}`,
		`{"jsonrpc":"2.0","id":1,"method":["tools/call"]}`,
		`{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":" tools/call","params":{"name":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}`,
		`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":null}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"x":2}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":7}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"postern.dev/schema-sha256":7}}}`,
	} {
		_, err := read(r, "mcp", post("/mcp", body))
		wantReason(t, body, err, policy.ReasonRequestInvalid)
	}
	if got, err := read(r, "mcp", post("/mcp", "", func(a *policy.Attributes) { a.Method = "GET" })); err != nil || got.Protocol != "mcp" {
		t.Errorf("the stream of events: %+v, %v", got, err)
	}
}

// Fields that repeat the message for gateways must repeat it.
func TestMirroredFields(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	const call = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"orders.refund"}}`
	for _, c := range []struct {
		name, value string
		want        policy.Reason
	}{
		{"mcp-method", "tools/call", policy.ReasonAllowed},
		{"mcp-method", "tools/list", policy.ReasonRequestInvalid},
		{"mcp-method", "", policy.ReasonRequestInvalid},
		{"mcp-name", "orders.refund", policy.ReasonAllowed},
		{"mcp-name", "=?base64?b3JkZXJzLnJlZnVuZA==?=", policy.ReasonAllowed},
		{"mcp-name", "=?base64?c2VhcmNo?=", policy.ReasonRequestInvalid},
		{"mcp-name", "search", policy.ReasonRequestInvalid},
	} {
		_, err := read(r, "mcp", post("/mcp", call, header(c.name, c.value)))
		wantReason(t, c.name+": "+c.value, err, c.want)
	}
}

// A schema has one digest, however it is written.
func TestSchemaDigest(t *testing.T) {
	t.Parallel()
	r := newReader(t, config())
	schemaOf := func(schema string) string {
		t.Helper()
		got, err := read(r, "anthropic", post("/v1/messages", `{"model":"claude","messages":[],"tools":[{"name":"f","input_schema":`+schema+`}]}`))
		if err != nil {
			t.Fatal(err)
		}
		return got.Tools[0].Schema
	}
	// printf '%s' '{"properties":{"a":{"description":"<&>"},"b":{"type":"string"}},"type":"object"}' | sha256sum
	const want = "c24debef7b74542254e2dcbe60cfe1f4a81ff2ac1ec6a6a24ae5bdf9f68b6edc"
	a := schemaOf(`{"type":"object","properties":{"b":{"type":"string"},"a":{"description":"<&>"}}}`)
	b := schemaOf("{ \"properties\": {\"\\u0061\": {\"description\":\"<\\u0026>\"}, \"b\":{\"type\":\"string\"}},\n\"type\":\"object\"}")
	if a != b || a != want {
		t.Errorf("%s and %s", a, b)
	}
	if a == schemaOf(`{"type":"object","properties":{"b":{"type":"string"},"a":{"description":"<&>!"}}}`) {
		t.Error("another schema has the same digest")
	}
}

// Elsewhere nothing is read, and nothing is allocated.
func TestOffElsewhere(t *testing.T) {
	if r := newReader(t, target.Config{}); r != nil {
		t.Error("a reader of nothing")
	}
	r := newReader(t, config())
	a := post("/orders/7", `{"model":"a","model":"b"`)
	var q policy.Request
	if err := requests.Read(a, &q); err != nil {
		t.Fatal(err)
	}
	route := &policy.Route{Name: "orders"}
	if got, err := r.Read(a, &q, route); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Read(a, &q, route) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A configuration that says too little, or contradicts itself, makes no reader.
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]target.Config{
		"no place":             {Tenancy: []target.Rule{{}}},
		"two places":           {Tenancy: []target.Rule{{Header: "x-tenant", Query: "tenant"}}},
		"no tenant in path":    {Tenancy: []target.Rule{{Path: template("/orders/{order}")}}},
		"tenant and separator": {Tenancy: []target.Rule{{Path: template("/orders/{tenant}"), Separator: ":"}}},
		"slash in a segment":   {Tenancy: []target.Rule{{Path: template("/orders/{order}"), Separator: "/"}}},
		"no pointer":           {Tenancy: []target.Rule{{Body: "tenant", Routes: []string{"a"}}}},
		"broken pointer":       {Tenancy: []target.Rule{{Body: "/a~2", Routes: []string{"a"}}}},
		"body everywhere":      {Tenancy: []target.Rule{{Body: "/tenant"}}},
		"everything is shared": {Tenancy: []target.Rule{{Header: "x-tenant", Shared: []string{"*"}}}},
		"no field":             {Tenancy: []target.Rule{{Header: "X-Tenant"}}},
		"no protocol":          {Reads: map[string]target.Protocol{"a": "cohere"}},
		"category of nobody":   {Models: target.Models{Category: target.Category{Known: []string{"a"}}}},
		"no category":          {Models: target.Models{Category: target.Category{Header: "x-a"}}},
		"one field for two":    {Models: target.Models{Header: "x-a", Category: target.Category{Header: "x-a", Known: []string{"a"}}}},
		"no tier":              {Models: target.Models{Tiers: map[string]string{"a": "b c"}}},
		"half of metadata":     {Models: target.Models{Metadata: target.Metadata{Key: "a"}}},
		"no model in path":     {Models: target.Models{Paths: []target.Template{template("/x/{y}")}}},
	} {
		if r, err := target.New(c); err == nil || r != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, text := range []string{"", "/", "/**", "a/{tenant}", "/{Tenant}", "/x{tenant}", "/{tenant", "/{}", "/{tenant}/{tenant}", "/**/{tenant}", "/a//{tenant}", "/../{tenant}", "/a%20/{tenant}"} {
		if _, err := target.ParseTemplate(text); err == nil {
			t.Errorf("%q is a template", text)
		}
	}
}
