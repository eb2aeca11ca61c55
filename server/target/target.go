// Package target reads what a request would do at its upstream: which model it asks,
// which tools it calls, whose things it names. It does so only where the configuration
// says, and costs a look-up of the route's name elsewhere.
//
// Four witnesses are heard:
//
//	body      in the words of OpenAI, Anthropic or MCP, on routes that say so (reads)
//	gateway   header fields and dynamic metadata that say model and category. They are
//	          taken from callers that are trusted to say so; check.Checker has removed
//	          them from the requests of all others.
//	path      the model of servers that name it there, and tenants
//	tenancy   the places where requests name what belongs to a tenant: path, header,
//	          query, members of a JSON body, resources of an action
//
// A gateway, a policy and an upstream that read one body in two ways are how a denied
// model gets called. So a body is refused unless it has one reading: strict JSON (UTF-8,
// no member twice, nothing after it), whole, of a JSON content type, not compressed, and
// without a member whose name a forgiving server takes for one that counts: "Model",
// "max-tokens", "maxTokens". Two witnesses who name different models are a refusal too,
// and so is silence where an answer is needed.
//
// Sizes are bounds that hold, not estimates. A token of a byte-level tokenizer stands
// for at least one byte, and the frame that a model puts around a message is shorter
// than the JSON around it, so a body has no more tokens than bytes; tools add an
// instruction of the model's own (toolTokens). What refers to something that is not in
// the body, such as an image, a file or an earlier response, has no bound: -1.
//
// Whose a thing is, Read only reads; check.Checker compares it with who asks. A place
// that names something without a readable tenant is an error here.
package target

import (
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// Reader reads targets. It is immutable and safe for concurrent use.
type Reader struct {
	models models
	// routes are what to read on routes by name, others on all routes that are not there.
	routes map[string]*job
	others job
}

// job is what is read on one route.
type job struct {
	reads Protocol
	// paths, headers, queries, bodies and actions say where tenants are named.
	paths, headers, queries, bodies, actions []place
}

// New returns a Reader, or nil if nothing is to be read. The error holds everything
// that is wrong with c.
func New(c Config) (*Reader, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if len(c.Reads) == 0 && len(c.Tenancy) == 0 {
		return nil, nil
	}
	r := &Reader{models: newModels(&c.Models), routes: map[string]*job{}}
	for route, protocol := range c.Reads {
		r.job(route).reads = protocol
	}
	for i := range c.Tenancy {
		for _, route := range c.Tenancy[i].Routes {
			r.job(route)
		}
	}
	for i := range c.Tenancy {
		r.addRule(&c.Tenancy[i])
	}
	return r, nil
}

func (r *Reader) job(route string) *job {
	j := r.routes[route]
	if j == nil {
		j = &job{}
		r.routes[route] = j
	}
	return j
}

// addRule adds the rule to the routes that it names, or to all.
func (r *Reader) addRule(rule *Rule) {
	if len(rule.Routes) > 0 {
		for _, route := range rule.Routes {
			r.routes[route].add(rule)
		}
		return
	}
	r.others.add(rule)
	for _, j := range r.routes {
		j.add(rule)
	}
}

// Read returns what the request would do, or nil if nothing that is looked for was
// found. Every error is a *policy.Refusal.
func (r *Reader) Read(a *policy.Attributes, q *policy.Request, route *policy.Route) (*policy.Target, error) {
	j := r.routes[route.Name]
	if j == nil {
		j = &r.others
	}
	reading := reading{reader: r, job: j, attributes: a, request: q}
	if err := reading.read(); err != nil {
		return nil, err
	}
	return reading.target, nil
}

// reading is one request being read.
type reading struct {
	reader     *Reader
	job        *job
	attributes *policy.Attributes
	request    *policy.Request
	target     *policy.Target // nil until something is found
	body       jose.Value     // absent if there is none
	parsed     bool
}

// found returns the target, new if it is the first time.
func (x *reading) found() *policy.Target {
	if x.target == nil {
		x.target = &policy.Target{MaxTokens: -1, PromptTokens: -1}
	}
	return x.target
}

func (x *reading) read() error {
	if err := x.tenants(); err != nil {
		return err
	}
	if x.job.reads == "" || x.attributes.Action != nil {
		return nil
	}
	x.found().Protocol = string(x.job.reads)
	if x.job.reads != Gateway {
		if err := x.parse(); err != nil {
			return err
		}
	}
	switch x.job.reads {
	case OpenAI:
		return x.prompt(x.openAI)
	case Anthropic:
		return x.prompt(x.anthropic)
	case MCP:
		return x.mcp()
	}
	return x.prompt(func() error { return nil })
}

// invalid refuses a request that has more than one reading, or none.
func invalid(detail string) error {
	return &policy.Refusal{Reason: policy.ReasonRequestInvalid, Detail: "target: " + detail}
}

func refused(reason policy.Reason, detail string) error {
	return &policy.Refusal{Reason: reason, Detail: "target: " + detail}
}
