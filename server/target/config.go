package target

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
)

// Config says what is read, and where.
type Config struct {
	Models  Models
	Tenancy []Rule
	// Reads says for each route, by name, in whose words its bodies speak.
	Reads map[string]Protocol
}

// Protocol is in whose words a body speaks.
type Protocol string

// The protocols.
const (
	// OpenAI is the API of chat completions, responses, completions and embeddings.
	OpenAI Protocol = "openai"
	// Anthropic is the API of messages.
	Anthropic Protocol = "anthropic"
	// MCP is the Model Context Protocol: one JSON-RPC message in each request.
	MCP Protocol = "mcp"
	// Gateway looks at no body: path, header and metadata say which model it is.
	Gateway Protocol = "gateway"
)

// Values implements strictyaml.Enum.
func (Protocol) Values() []string { return []string{"openai", "anthropic", "mcp", "gateway"} }

// Models says which models there are, and who else but the body says which one is asked.
// It counts on routes with `reads: openai`, `anthropic` or `gateway`.
type Models struct {
	// Tiers is the table of models by their exact names, each with its tier, for example
	// gpt-4o-mini: standard. A model that is not in it is denied with model_denied, before
	// the policy is asked. Default: empty; then the policy alone decides, and what it
	// sees has no tier.
	Tiers map[string]string `yaml:"tiers"`
	// Header is the field in which gateways say which model is asked, for example
	// x-ai-eg-model of Envoy AI Gateway. It counts only from callers with `trust:
	// [models]`, and is removed from the requests of all others. If the body says
	// something else, the request is refused. Default: none.
	Header string `yaml:"header"`
	// Metadata is the place in Envoy's dynamic metadata in which an earlier filter says
	// so. It counts only from callers with `trust: [context_extensions]`.
	Metadata Metadata `yaml:"metadata"`
	// Paths name the model for servers that have it in the path, for example
	// /openai/deployments/{model}/**.
	Paths []Template `yaml:"paths"`
	// Category is the category of the prompt, by whoever classifies it.
	Category Category `yaml:"category"`
}

// Metadata is a place in Envoy's dynamic metadata.
type Metadata struct {
	// Filter is the name of the filter, for example io.envoy.ai_gateway, and Key that of
	// the value, which must be a string.
	Filter string `yaml:"filter"`
	// Key is the name of the value.
	Key string `yaml:"key"`
}

// Category says who classifies prompts. Where `known` is set, a request that asks a
// model and has no category, or one that is not known, is denied with category_denied.
type Category struct {
	// Known are the categories that there are, for example general, code, medical. What
	// each needs is the policy's business. Default: none, and nothing is classified.
	Known []string `yaml:"known"`
	// Header is the field in which a gateway or classifier says which it is. It counts
	// only from callers with `trust: [models]`, and is removed from the requests of all
	// others. Danger: the caller must take it from what clients send. Default: none.
	Header string `yaml:"header"`
	// Metadata is the place in Envoy's dynamic metadata in which an earlier filter says
	// so. It counts only from callers with `trust: [context_extensions]`.
	Metadata Metadata `yaml:"metadata"`
}

// Rule is a place in which requests name what belongs to a tenant. Whoever asks must be
// of that tenant, byte for byte, or is denied with tenant_mismatch, whatever the policy
// says. Exactly one of path, header, query, body and resource says where.
type Rule struct {
	// Type is what is named, for example conversation, model or collection: it is what
	// policies see in input.target.resources. Default: tenant.
	Type string `yaml:"type"`
	// Path is a path with {tenant} in it, as in /tenants/{tenant}/** or
	// /v1/orgs/{tenant}/conversations/{conversation}. All up to {tenant} says that a tenant
	// is named; what follows only names the thing. With `separator`, it has one other
	// part in braces, as in /v1/conversations/{conversation}. It holds for everything
	// below, and however a forgiving server reads the path.
	Path Template `yaml:"path"`
	// Header is a header field, and Query a parameter of the query: each value is one.
	Header string `yaml:"header"`
	// Query is a parameter of the query.
	Query string `yaml:"query"`
	// Body points into a JSON body (RFC 6901), as in /metadata/tenant; "*" stands for all
	// elements of an array. It needs `routes`, on which bodies that cannot be read are
	// refused.
	Body string `yaml:"body"`
	// Resource is the type of a resource of which actions say the id (ActionTarget of
	// CheckService).
	Resource string `yaml:"resource"`
	// Separator says that the tenant is what stands before it in an id: ":" for
	// acme:conv-1, "/" for acme/coll. An id without it has no tenant, and is denied.
	// Default: none, the whole text is the tenant.
	Separator string `yaml:"separator"`
	// Shared are names of things that belong to nobody, as they stand there, or, with "*"
	// last, how they begin: [gpt-4o, text-embedding-*]. Danger: every tenant gets past
	// this rule with them. Default: none.
	Shared []string `yaml:"shared"`
	// Required denies requests that do not name a tenant there. Default: false.
	Required bool `yaml:"required"`
	// Routes are names of routes, on which alone the rule counts. Default: all, and
	// requests that match no route.
	Routes []string `yaml:"routes"`
}

// Template is a path with parts in braces that stand for one segment each. "*" stands
// for any segment, and "**", last, for what is below, as it does without it too.
type Template struct {
	text     string
	segments []segment
}

// segment is one part of a template: a literal as a forgiving server reads it, "" for
// any, or the name of a part in braces.
type segment struct{ literal, name string }

var partName = regexp.MustCompile(`^\{[a-z][a-z0-9_]{0,31}\}$`)

// ParseTemplate reads a template. Errors say what is allowed.
func ParseTemplate(text string) (Template, error) {
	t := Template{text: text}
	plain := strings.TrimSuffix(text, "/**")
	if plain == "" || plain[0] != '/' {
		return Template{}, errors.New(`a path starts with "/" and names something, as in /tenants/{tenant}/**`)
	}
	for part := range strings.SplitSeq(plain[1:], "/") {
		switch {
		case partName.MatchString(part):
			name := part[1 : len(part)-1]
			if slices.ContainsFunc(t.segments, func(s segment) bool { return s.name == name }) {
				return Template{}, fmt.Errorf("%s stands twice", part)
			}
			t.segments = append(t.segments, segment{name: name})
		case part == "*":
			t.segments = append(t.segments, segment{})
		case strings.ContainsAny(part, "{}*"):
			return Template{}, fmt.Errorf("%q is not a part: write a whole segment of lower-case letters, digits and _ in braces, as in {tenant}", part)
		default:
			if _, err := policy.ParsePathPattern("/" + part); err != nil || part == "" {
				return Template{}, fmt.Errorf("%q cannot stand in a path: write it decoded", part)
			}
			t.segments = append(t.segments, segment{literal: canonical.Fold("/" + part)[1:]})
		}
	}
	return t, nil
}

// String returns the template as it was written.
func (t Template) String() string { return t.text }

// MarshalText and UnmarshalText let configuration read and show templates.
func (t Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText reads a template as ParseTemplate does.
func (t *Template) UnmarshalText(text []byte) error {
	parsed, err := ParseTemplate(string(text))
	*t = parsed
	return err
}

// index returns the position of a part, or -1.
func (t *Template) index(name string) int {
	return slices.IndexFunc(t.segments, func(s segment) bool { return s.name == name })
}

// parts are the names in braces.
func (t *Template) parts() (names []string) {
	for _, s := range t.segments {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	return names
}

// partModel and partTenant are the parts in braces that mean something.
const (
	partTenant = "tenant"
	partModel  = "model"
)

var word = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Check implements strictyaml.Checker.
func (m *Models) Check(report func(path, message, suggestion string)) {
	for model, tier := range m.Tiers {
		if len(model) == 0 || len(model) > maxName || !isClean(model) {
			report("tiers", fmt.Sprintf("%.64q is not the name of a model", model), "")
		}
		if !word.MatchString(tier) {
			report("tiers."+model, fmt.Sprintf("%.64q is not a tier", tier), "write a word of letters, digits and ._-, because scopes are made of it: model:tier:standard")
		}
	}
	checkField(report, "header", m.Header)
	m.Metadata.check(report, "metadata")
	for i := range m.Paths {
		if t := &m.Paths[i]; t.text != "" && (len(t.parts()) != 1 || t.index(partModel) < 0) {
			report(fmt.Sprintf("paths[%d]", i), fmt.Sprintf("%q does not say where the model is", t.text), "write it as in /openai/deployments/{model}/**")
		}
	}
	c := &m.Category
	checkField(report, "category.header", c.Header)
	c.Metadata.check(report, "category.metadata")
	for i, name := range c.Known {
		if !word.MatchString(name) || slices.Contains(c.Known[:i], name) {
			report(fmt.Sprintf("category.known[%d]", i), fmt.Sprintf("%.64q is not a category, or stands there twice", name), "write words of letters, digits and ._-")
		}
	}
	said := c.Header != "" || c.Metadata != (Metadata{})
	switch {
	case said && len(c.Known) == 0:
		report("category.known", "nothing says which categories there are", "list them")
	case !said && len(c.Known) > 0:
		report("category.header", "nobody says which category a prompt has", "name the header field or the metadata of the classifier")
	}
	if m.Header != "" && m.Header == c.Header {
		report("category.header", "is the field of the model", "use another one")
	}
}

func (m *Metadata) check(report func(path, message, suggestion string), at string) {
	if (m.Filter == "") != (m.Key == "") {
		report(at, "filter and key belong together", "set both or neither")
	}
}

// checkField refuses what is no field that a gateway can set.
func checkField(report func(path, message, suggestion string), at, name string) {
	if name == "" {
		return
	}
	if _, err := canonical.New(canonical.Config{CredentialHeaders: []string{name}}); err != nil {
		report(at, fmt.Sprintf("%q is not a header field name", name), "write it in lower case, as in x-ai-eg-model")
	}
}

// Check implements strictyaml.Checker.
func (r *Rule) Check(report func(path, message, suggestion string)) {
	var where []string
	for _, w := range []struct{ name, value string }{
		{"path", r.Path.text}, {"header", r.Header}, {"query", r.Query}, {"body", r.Body}, {"resource", r.Resource},
	} {
		if w.value != "" {
			where = append(where, w.name)
		}
	}
	switch len(where) {
	case 0:
		report("", "nothing says where the tenant is named", "set path, header, query, body or resource")
		return
	case 1:
	default:
		report(where[1], strings.Join(where, " and ")+" cannot both be set", "make rules of their own of them")
		return
	}
	if r.Type != "" && !word.MatchString(r.Type) {
		report("type", fmt.Sprintf("%.64q is not a type", r.Type), "write a word, as in conversation")
	}
	checkField(report, "header", r.Header)
	r.checkPath(report)
	r.checkBody(report)
	for i, s := range r.Shared {
		if s == "" || s == "*" || strings.Contains(strings.TrimSuffix(s, "*"), "*") {
			report(fmt.Sprintf("shared[%d]", i), fmt.Sprintf("%q would share everything, or nothing", s), `write whole names, or the beginning of some and "*"`)
		}
	}
	if len(r.Separator) > 8 || !isClean(r.Separator) || strings.Contains(r.Separator, "*") {
		report("separator", "is not a separator", `write ":" or "/", for example`)
	}
}

func (r *Rule) checkPath(report func(path, message, suggestion string)) {
	t := &r.Path
	switch {
	case t.text == "":
	case r.Separator == "" && t.index(partTenant) < 0:
		report("path", fmt.Sprintf("%q does not say where the tenant is", t.text), "write {tenant} in its place, or set separator if it stands before the id")
	case r.Separator != "" && (len(t.parts()) != 1 || t.index(partTenant) >= 0):
		report("path", fmt.Sprintf("%q does not say which id has the tenant in front", t.text), "write one part in braces, as in /v1/conversations/{conversation}")
	case r.Separator == "/":
		report("separator", "no segment of a path holds a slash", "write /collections/{tenant}/{collection} instead")
	}
}

func (r *Rule) checkBody(report func(path, message, suggestion string)) {
	if r.Body == "" {
		return
	}
	if r.Body[0] != '/' || strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(r.Body), "~") || len(r.Body) > 512 {
		report("body", fmt.Sprintf("%.64q is not a JSON pointer", r.Body), "write it as in /metadata/tenant (RFC 6901)")
	}
	if len(r.Routes) == 0 {
		report("routes", "bodies are read on some routes only", "name the routes whose bodies say it")
	}
}

// validate is Check of all that there is, for whoever did not read it from a file.
func (c *Config) validate() error {
	var all []error
	report := func(at string) func(path, message, suggestion string) {
		return func(path, message, suggestion string) {
			all = append(all, fmt.Errorf("%s.%s: %s; %s", at, path, message, suggestion))
		}
	}
	c.Models.Check(report("models"))
	for i := range c.Tenancy {
		c.Tenancy[i].Check(report(fmt.Sprintf("tenancy[%d]", i)))
	}
	for route, protocol := range c.Reads {
		if !slices.Contains(protocol.Values(), string(protocol)) || route == "" {
			all = append(all, fmt.Errorf("route %q: %q is not read", route, protocol))
		}
	}
	return errors.Join(all...)
}

// Trusted are the header fields that say something about models, for those who are
// trusted to.
func (m *Models) Trusted() (names []string) {
	for _, name := range []string{m.Header, m.Category.Header} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Fields are all header fields that are read. They may occur once and in one spelling
// only, or an upstream could take another one for them.
func (c *Config) Fields() []string {
	names := c.Models.Trusted()
	for i := range c.Tenancy {
		if h := c.Tenancy[i].Header; h != "" && !slices.Contains(names, h) {
			names = append(names, h)
		}
	}
	return names
}
