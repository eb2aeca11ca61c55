package target

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// toolTokens is more than any model adds of its own to a prompt with tools. Anthropic
// documents up to 804 tokens, 735 of which are for one tool that is not a function and so
// has no bound anyway; OpenAI's are fewer.
const toolTokens = 1024

// models are the witnesses of a model, and what is known of it.
type models struct {
	Models
	known map[string]bool // categories
}

func newModels(c *Models) models {
	m := models{Models: *c, known: map[string]bool{}}
	for _, name := range c.Category.Known {
		m.known[name] = true
	}
	return m
}

// prompt reads a request that asks a model: the body first, then what others say of it.
// A request without a body, such as that for a list of models, asks none unless somebody
// says so.
func (x *reading) prompt(body func() error) error {
	asks := x.body.Exists() || x.job.reads == Gateway
	if x.body.Exists() {
		if err := body(); err != nil {
			return err
		}
	}
	if err := x.witnesses(); err != nil {
		return err
	}
	t, m := x.target, &x.reader.models
	if t.Model == "" {
		if asks {
			return refused(policy.ReasonModel, "the request names no model")
		}
		return nil
	}
	if len(m.Tiers) > 0 {
		tier, known := m.Tiers[t.Model]
		if !known {
			return refused(policy.ReasonModel, "the model is in no tier")
		}
		t.Tier = tier
	}
	return x.category()
}

// witnesses hears who else says which model it is. All must say the same.
func (x *reading) witnesses() error {
	m := &x.reader.models
	if err := x.agree(x.field(m.Header)); err != nil {
		return err
	}
	if err := x.agree(x.metadata(&m.Metadata)); err != nil {
		return err
	}
	for i := range m.Paths {
		at := m.Paths[i].index(partModel)
		model, found, err := x.capture(&m.Paths[i], at)
		if err != nil {
			return err
		}
		if found {
			if err := x.agree(model, true, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// agree takes what a witness says of the model.
func (x *reading) agree(model string, said bool, err error) error {
	switch {
	case err != nil || !said:
		return err
	case model == "" || len(model) > maxName || !isClean(model):
		return invalid("what the gateway says of the model is no name")
	case x.target.Model == "":
		x.target.Model = model
	case x.target.Model != model:
		return invalid("two different models are named")
	}
	return nil
}

// category takes the category from whoever is trusted to classify.
func (x *reading) category() error {
	c := &x.reader.models.Category
	if len(c.Known) == 0 {
		return nil
	}
	told, said, err := x.field(c.Header)
	if err != nil {
		return err
	}
	also, saidToo, err := x.metadata(&c.Metadata)
	switch {
	case err != nil:
		return err
	case said && saidToo && told != also:
		return invalid("two different categories are named")
	case saidToo:
		told = also
	case !said:
		return refused(policy.ReasonCategory, "nobody who is trusted to has classified the prompt")
	}
	if !x.reader.models.known[told] {
		return refused(policy.ReasonCategory, "the category is not known")
	}
	x.target.Category = told
	return nil
}

// field returns what a header field says; said is false if there is none.
func (x *reading) field(name string) (value string, said bool, err error) {
	if name == "" {
		return "", false, nil
	}
	value, n := x.attributes.Headers.Get(name)
	if n > 1 {
		return "", false, invalid("the field " + name + " occurs twice")
	}
	return value, n == 1, nil
}

// metadata returns what dynamic metadata says.
func (x *reading) metadata(at *Metadata) (value string, said bool, err error) {
	filter, _ := x.attributes.Metadata[at.Filter].(map[string]any)
	v, said := filter[at.Key]
	if at.Key == "" || !said {
		return "", false, nil
	}
	value, ok := v.(string)
	if !ok {
		return "", false, invalid("the metadata " + at.Key + " is no text")
	}
	return value, true, nil
}

// The members that count, and those that bring something into the prompt from elsewhere.
var (
	openAINames = namesOf("model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of",
		"messages", "input", "prompt", "instructions", "tools", "functions", "previous_response_id", "conversation")
	openAIElsewhere = []string{"previous_response_id", "conversation", "context_management", "web_search_options",
		"search_parameters", "data_sources", "plugins", "attachments", "file_ids", "chat_template"}

	anthropicNames     = namesOf("model", "max_tokens", "messages", "system", "tools", "container", "mcp_servers")
	anthropicElsewhere = []string{"container", "mcp_servers", "context_management"}

	toolNames     = namesOf("type", "name", "function", "parameters", "input_schema")
	functionNames = namesOf("name", "parameters")
	messageNames  = namesOf("jsonrpc", "id", "method", "params", "result", "error")
	callNames     = namesOf("name", "arguments", "_meta")
	schemaNames   = namesOf(SchemaMember)
)

func (x *reading) openAI() error {
	o := objectOf(x.body, "the body", openAINames)
	t := x.target
	t.Model = o.text("model")
	// Servers differ in which of the three they look at, and in whether best_of counts.
	most := max(o.count("max_tokens", 0), o.count("max_completion_tokens", 0), o.count("max_output_tokens", 0))
	choices := max(1, o.count("n", 1), o.count("best_of", 1))
	prompt := o.get("prompt")
	t.MaxTokens = times(times(most, choices), prompts(prompt))
	if most < 0 && x.isEmbedding(o) {
		t.MaxTokens = 0
	}
	bounded := prompt.Kind() != jose.Object // a template, which is kept elsewhere
	for _, name := range []string{"messages", "input", "instructions"} {
		v := o.get(name)
		if name == "messages" {
			v = o.list(name)
		}
		bounded = bounded && isText(v)
	}
	bounded = x.addTools(o, "tools", "parameters") && bounded
	bounded = x.addTools(o, "functions", "parameters") && bounded
	x.bound(o, bounded, openAIElsewhere)
	return o.err
}

// isEmbedding recognizes a request that gets no tokens in answer.
func (x *reading) isEmbedding(o *object) bool {
	return strings.HasSuffix(x.request.Path, "/embeddings") && o.get("input").Exists() &&
		!o.get("messages").Exists() && !o.get("prompt").Exists()
}

// prompts is how many prompts there are, each with an answer of its own: an array is of
// texts, or of the tokens of one, or of several that are arrays of tokens.
func prompts(v jose.Value) int64 {
	n := int64(0)
	for e := range v.Elements() {
		if e.Kind() == jose.Number {
			return 1
		}
		n++
	}
	return max(1, n)
}

func (x *reading) anthropic() error {
	o := objectOf(x.body, "the body", anthropicNames)
	x.target.Model = o.text("model")
	x.target.MaxTokens = o.count("max_tokens", 0)
	bounded := isText(o.list("messages")) && isText(o.get("system"))
	bounded = x.addTools(o, "tools", "input_schema") && bounded
	x.bound(o, bounded, anthropicElsewhere)
	return o.err
}

// bound says how many tokens the question has at most.
func (x *reading) bound(o *object, bounded bool, elsewhere []string) {
	for _, name := range elsewhere {
		if o.get(name).Exists() {
			bounded = false
		}
	}
	if !bounded {
		return
	}
	x.target.PromptTokens = int64(len(x.attributes.Body))
	if len(x.target.Tools) > 0 {
		x.target.PromptTokens += toolTokens
	}
}

// textTypes are the parts of a message that are all there, and textMembers what they and
// messages consist of. Whatever else there is may stand for more than itself.
var (
	textTypes = set("text", "input_text", "output_text", "refusal", "message", "summary_text", "reasoning",
		"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
		"tool_use", "tool_result", "thinking", "redacted_thinking", "function")
	textMembers = set("type", "role", "content", "text", "name", "id", "status", "refusal", "annotations", "logprobs",
		"tool_calls", "tool_call_id", "function_call", "function", "call_id", "arguments", "input", "output", "summary",
		"reasoning_content", "encrypted_content", "thinking", "signature", "data", "tool_use_id", "is_error",
		"citations", "cache_control", "phase")
)

func set(all ...string) map[string]bool {
	m := make(map[string]bool, len(all))
	for _, s := range all {
		m[s] = true
	}
	return m
}

// isText reports whether all of a value is text that stands in it: a text, tokens, a
// message, a part of one, or an array of these.
func isText(v jose.Value) bool {
	switch v.Kind() {
	case jose.Object:
		return isTextObject(v)
	case jose.Array:
		for e := range v.Elements() {
			if !isText(e) {
				return false
			}
		}
	case jose.Bool:
		return false
	}
	return true
}

func isTextObject(v jose.Value) bool {
	kind := v.Get("type")
	if name, ok := kind.Text(); kind.Exists() && !(ok && textTypes[name]) || !kind.Exists() && !v.Get("role").Exists() {
		return false
	}
	for name := range v.Members() {
		if !textMembers[name] {
			return false
		}
	}
	return isText(v.Get("content")) && isText(v.Get("output")) && isText(v.Get("summary"))
}

// addTools adds the tools that a model is offered, and reports whether all of them are
// functions: the others bring what they find into the prompt.
func (x *reading) addTools(o *object, name, schema string) (bounded bool) {
	bounded = true
	for e := range o.list(name).Elements() {
		if len(x.target.Tools) == maxTools {
			o.fail("has too many tools")
			return false
		}
		call, function := o.tool(e, schema)
		bounded = bounded && function
		x.target.Tools = append(x.target.Tools, call)
	}
	return bounded
}

// tool reads one tool. One that is no function has the name that it gives itself, or
// that of its type.
func (o *object) tool(v jose.Value, schema string) (call policy.ToolCall, function bool) {
	t := objectOf(v, "a tool", toolNames)
	kind := t.text("type")
	function = kind == "" || kind == "function" || kind == "custom"
	if inner := t.get("function"); kind == "function" && inner.Exists() { // chat completions
		t.keep(o)
		t = objectOf(inner, "a function", functionNames)
	}
	call.Name = t.text("name")
	if call.Name == "" {
		if call.Name = kind; function {
			t.fail("has no name")
		}
	}
	if s := t.get(schema); s.Exists() {
		call.Schema = digest(s)
	}
	t.keep(o)
	return call, function
}

// keep hands the error on.
func (o *object) keep(outer *object) {
	if outer.err == nil {
		outer.err = o.err
	}
}

// digest is the SHA-256 of a value as JSON with its members in the order of their names
// and without spaces (as RFC 8785 has it, but that numbers stay as they are written).
func digest(v jose.Value) string {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v.Any()); err != nil { // it was JSON a moment ago
		return "unreadable"
	}
	sum := sha256.Sum256(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
	return hex.EncodeToString(sum[:])
}
