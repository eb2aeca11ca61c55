package author

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Table is a file of requests and of what the policy should say to them.
type Table struct {
	// Tests are the cases, each with a name of its own.
	Tests []Case `yaml:"tests,required"`

	file  string
	lines []int // of each case
}

// Case is a request with the answer that is wanted.
type Case struct {
	Name     string `yaml:"name,required"`
	Question `yaml:",inline"`
	// Now is the time of the decision; the default is the time.
	Now time.Time `yaml:"now"`
	// Data takes the place of what the data files say under these names; null takes a
	// name away.
	Data map[string]any `yaml:"data"`
	// Want is the answer.
	Want Want `yaml:"want,required"`
}

// Question is a request and who makes it.
type Question struct {
	// Request is an HTTP or gRPC request, Action one in the application's own words.
	Request *Request `yaml:"request"`
	Action  *Action  `yaml:"action"`
	// Principal is who calls; without it, nobody whom Postern knows (anonymous).
	Principal *Principal `yaml:"principal"`
	Peer      *Peer      `yaml:"peer"`
	// Route is the route of Postern's configuration that would match.
	Route *Route `yaml:"route"`
	// Context holds the facts that the caller of CheckService adds.
	Context map[string]any `yaml:"context"`
}

// Request is an HTTP request as the gateway would bring it.
type Request struct {
	// Method defaults to GET, Scheme to https, Host to localhost, Path to /; the path
	// may have a query.
	Method string `yaml:"method"`
	Scheme string `yaml:"scheme"`
	Host   string `yaml:"host"`
	Path   string `yaml:"path"`
	// Headers are header fields by name.
	Headers map[string]string `yaml:"headers"`
	Body    string            `yaml:"body"`
	// Source is the client's address; the default is 127.0.0.1.
	Source string `yaml:"source"`
	// Extensions are what the gateway's own configuration says of the route (Envoy
	// context_extensions).
	Extensions map[string]string `yaml:"extensions"`
}

// Action is something to be done to a resource.
type Action struct {
	Action       string         `yaml:"action,required"`
	ResourceType string         `yaml:"resource_type"`
	ResourceID   string         `yaml:"resource_id"`
	Tenant       string         `yaml:"tenant"`
	Properties   map[string]any `yaml:"properties"`
}

// Principal is a proven identity. The names are those of input.principal.
type Principal struct {
	ID string `yaml:"id,required"`
	// Kind defaults to user.
	Kind        string         `yaml:"kind"`
	Tenant      string         `yaml:"tenant"`
	Roles       []string       `yaml:"roles"`
	Scopes      []string       `yaml:"scopes"`
	Permissions []string       `yaml:"permissions"`
	Claims      map[string]any `yaml:"claims"`
	Metadata    map[string]any `yaml:"metadata"`
	// Method is how it was proven; the default is api_key.
	Method       string    `yaml:"method"`
	Assurance    int       `yaml:"assurance"`
	ACR          string    `yaml:"acr"`
	AMR          []string  `yaml:"amr"`
	AuthTime     time.Time `yaml:"auth_time"`
	Actors       []Actor   `yaml:"actors"`
	CredentialID string    `yaml:"credential_id"`
	Issuer       string    `yaml:"issuer"`
	IssuedAt     time.Time `yaml:"issued_at"`
	ExpiresAt    time.Time `yaml:"expires_at"`
}

// Actor is one who acts for the principal, outermost first.
type Actor struct {
	ID   string `yaml:"id,required"`
	Kind string `yaml:"kind"`
}

// Peer is the workload at the other end of the TLS connection.
type Peer struct {
	ID          string `yaml:"id,required"`
	TrustDomain string `yaml:"trust_domain"`
	Fingerprint string `yaml:"fingerprint"`
}

// Route is what the policy is told of the route.
type Route struct {
	Name       string            `yaml:"name"`
	Tenant     string            `yaml:"tenant"`
	Scopes     []string          `yaml:"scopes"`
	Permission string            `yaml:"permission"`
	Labels     map[string]string `yaml:"labels"`
}

// Want is the answer that is wanted. What is left out may be anything.
type Want struct {
	Allow *bool `yaml:"allow,required"`
	// Reason is the code of the reason: permission_missing.
	Reason string `yaml:"reason"`
	// Message is what the caller is told, and Status the HTTP status.
	Message string `yaml:"message"`
	Status  int    `yaml:"status"`
	// MissingPermissions and MissingScopes are all that was missing, in any order.
	MissingPermissions []string `yaml:"missing_permissions"`
	MissingScopes      []string `yaml:"missing_scopes"`
	// Rule is the rule that denied: data.app.deny.
	Rule string `yaml:"rule"`
	// Headers are header fields that the answer sets, upstream or for the client.
	Headers map[string]string `yaml:"headers"`
}

// ReadTable reads a table. The error is strictyaml.Errors: all that is wrong, by line.
func ReadTable(name string, text []byte) (*Table, error) {
	t := &Table{file: name}
	if err := strictyaml.Decode(name, text, t, strictyaml.WithMaxSize(maxTestFile)); err != nil {
		return nil, err
	}
	var places struct {
		Tests []yaml.Node `yaml:"tests"`
	}
	if err := yaml.Unmarshal(text, &places); err != nil {
		return nil, err
	}
	for i := range places.Tests {
		t.lines = append(t.lines, places.Tests[i].Line)
	}
	return t, nil
}

// Check implements strictyaml.Checker.
func (t *Table) Check(report func(path, message, suggestion string)) {
	names := map[string]bool{}
	for i := range t.Tests {
		c := &t.Tests[i]
		at := fmt.Sprintf("tests[%d]", i)
		if names[c.Name] {
			report(at+".name", fmt.Sprintf("%q stands twice", c.Name), "give each case a name of its own")
		}
		names[c.Name] = true
		if _, ok := policy.ParseReason(c.Want.Reason); c.Want.Reason != "" && !ok {
			report(at+".want.reason", fmt.Sprintf("there is no reason %q", c.Want.Reason), strictyaml.Suggest(c.Want.Reason, reasonCodes()))
		}
		c.check(func(field, message, suggestion string) { report(at+"."+field, message, suggestion) })
	}
}

func reasonCodes() (codes []string) {
	for _, r := range policy.Reasons() {
		codes = append(codes, r.String())
	}
	return codes
}

func (q *Question) check(report func(field, message, suggestion string)) {
	switch {
	case q.Request == nil && q.Action == nil:
		report("name", "the case asks nothing", "give it a request or an action")
	case q.Request != nil && q.Action != nil:
		report("action", "stands beside a request", "ask one or the other")
	}
	if q.Request != nil && q.Request.Source != "" {
		if _, err := netip.ParseAddr(q.Request.Source); err != nil {
			report("request.source", fmt.Sprintf("%q is not an IP address", q.Request.Source), "")
		}
	}
	if q.Principal != nil && q.Principal.Kind != "" && !slices.Contains(principalKinds, q.Principal.Kind) {
		report("principal.kind", fmt.Sprintf("there is no kind %q", q.Principal.Kind), "use "+strings.Join(principalKinds, ", "))
	}
}

var principalKinds = []string{string(policy.KindUser), string(policy.KindService), string(policy.KindAgent), string(policy.KindDevice), string(policy.KindAnonymous)}

// Input is the question as the policy is asked it: the request is read by canonical.
// A *canonical.Refusal says that it has no single reading and never gets to a policy.
func (q *Question) Input() (*policy.Input, error) {
	in := &policy.Input{
		Attributes: q.attributes(), Request: &policy.Request{}, Route: &policy.Route{},
		Principal: &policy.Principal{Kind: policy.KindAnonymous, Method: policy.MethodAnonymous},
	}
	reader, err := canonical.New(canonical.Config{})
	if err != nil {
		return nil, err
	}
	if err := reader.Read(in.Attributes, in.Request); err != nil {
		return nil, err
	}
	if q.Principal != nil {
		if in.Principal, err = q.Principal.policy(); err != nil {
			return nil, err
		}
	}
	if p := q.Peer; p != nil {
		in.Peer = &policy.Peer{ID: p.ID, TrustDomain: p.TrustDomain, Fingerprint: p.Fingerprint}
	}
	if r := q.Route; r != nil {
		in.Route = &policy.Route{Name: r.Name, Tenant: r.Tenant, Scopes: r.Scopes, Permission: r.Permission, Labels: r.Labels}
	}
	in.Attributes.Context, err = documents(q.Context)
	return in, err
}

func (q *Question) attributes() *policy.Attributes {
	a := &policy.Attributes{Door: "grpc", Size: -1}
	if x := q.Action; x != nil {
		properties, _ := documents(x.Properties)
		a.Tenant = x.Tenant
		a.Action = &policy.Action{Name: x.Action, ResourceType: x.ResourceType, ResourceID: x.ResourceID, Properties: properties}
		return a
	}
	r := q.Request
	if r == nil {
		r = &Request{}
	}
	a.Method, a.Scheme, a.Host, a.Path = orElse(r.Method, "GET"), orElse(r.Scheme, "https"), orElse(r.Host, "localhost"), orElse(r.Path, "/")
	a.Protocol, a.Extensions = "HTTP/2", r.Extensions
	if ip, err := netip.ParseAddr(orElse(r.Source, "127.0.0.1")); err == nil {
		a.Source.Address = netip.AddrPortFrom(ip, 0)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		a.Headers = append(a.Headers, policy.Header{Name: strings.ToLower(name), Value: r.Headers[name]})
	}
	if r.Body != "" {
		a.Body, a.Size = []byte(r.Body), int64(len(r.Body))
	}
	return a
}

func orElse(s, standard string) string {
	if s == "" {
		return standard
	}
	return s
}

func (p *Principal) policy() (*policy.Principal, error) {
	claims, err := documents(p.Claims)
	metadata, err2 := documents(p.Metadata)
	out := &policy.Principal{
		ID: p.ID, Kind: policy.Kind(orElse(p.Kind, string(policy.KindUser))), Tenant: p.Tenant,
		Roles: p.Roles, Scopes: p.Scopes, Permissions: p.Permissions, Claims: claims, Metadata: metadata,
		Method: policy.Method(orElse(p.Method, string(policy.MethodAPIKey))), Assurance: p.Assurance, ACR: p.ACR, AMR: p.AMR, AuthTime: p.AuthTime,
		CredentialID: p.CredentialID, Issuer: p.Issuer, IssuedAt: p.IssuedAt, ExpiresAt: p.ExpiresAt,
	}
	for _, a := range p.Actors {
		out.Actors = append(out.Actors, policy.Actor{ID: a.ID, Kind: policy.Kind(a.Kind)})
	}
	return out, errors.Join(err, err2)
}

// documents makes JSON values of what was read from YAML.
func documents(m map[string]any) (map[string]any, error) {
	if m == nil {
		return nil, nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var out map[string]any
	err = d.Decode(&out)
	return out, err
}

// run runs the cases whose name matches.
func (t *Table) run(ctx context.Context, p *Policy, match *regexp.Regexp, seen *Coverage, done func(Result)) (all []Result) {
	others := map[string]*Policy{}
	for i := range t.Tests {
		c := &t.Tests[i]
		r := Result{Name: t.file + "/" + c.Name, File: t.file, Outcome: Pass}
		if i < len(t.lines) {
			r.Line = t.lines[i]
		}
		if match != nil && !match.MatchString(r.Name) {
			continue
		}
		begin := time.Now()
		why, err := c.run(ctx, p, others, seen)
		switch r.Took = time.Since(begin); {
		case err != nil:
			r.Outcome, r.Why = Error, strings.Split(err.Error(), "\n")
		case len(why) > 0:
			r.Outcome, r.Why = Fail, why
		}
		done(r)
		all = append(all, r)
	}
	return all
}

// run says what the answer is that it should not be.
func (c *Case) run(ctx context.Context, p *Policy, others map[string]*Policy, seen *Coverage) ([]string, error) {
	p, err := p.withData(ctx, c.Data, others)
	if err != nil {
		return nil, err
	}
	*p.clock = c.Now
	in, err := c.Input()
	var refusal *canonical.Refusal
	switch {
	case errors.As(err, &refusal):
		return c.Want.differences(&policy.Verdict{Reason: refusal.Reason, Rule: "the request never gets to a policy: " + refusal.Detail}), nil
	case err != nil:
		return nil, err
	}
	v, _, err := p.Snapshot.Decide(ctx, in)
	if err != nil {
		return nil, err
	}
	if seen != nil {
		document, err := p.Document(in)
		if err != nil {
			return nil, err
		}
		body, compiler, err := p.query(p.Entrypoint)
		if err != nil {
			return nil, err
		}
		if err := p.run(ctx, body, compiler, document, p.now(), seen.lines, func(topdown.QueryResult) error { return nil }); err != nil {
			return nil, err
		}
	}
	return c.Want.differences(v), nil
}

// withData is the policy with other data, compiled once for equal data.
func (p *Policy) withData(ctx context.Context, data map[string]any, others map[string]*Policy) (*Policy, error) {
	if len(data) == 0 {
		return p, nil
	}
	data, err := documents(data)
	if err != nil {
		return nil, err
	}
	key, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	if others[string(key)] == nil {
		other, err := Compile(ctx, p.bundle.WithData(data), p.config)
		if err != nil {
			return nil, err
		}
		others[string(key)] = other
	}
	return others[string(key)], nil
}

// differences are what the verdict has other than it should.
func (w *Want) differences(v *policy.Verdict) (all []string) {
	differ := func(name, got, want string) { all = append(all, fmt.Sprintf("%s is %s, want %s", name, got, want)) }
	if v.Allow != *w.Allow {
		text := fmt.Sprint(v.Allow)
		if !v.Allow {
			text += " (" + Because(v) + ")"
		}
		differ("allow", text, fmt.Sprint(*w.Allow))
	}
	if w.Reason != "" && v.Reason.String() != w.Reason {
		differ("reason", v.Reason.String(), w.Reason)
	}
	if got := Message(v); w.Message != "" && got != w.Message {
		differ("message", fmt.Sprintf("%q", got), fmt.Sprintf("%q", w.Message))
	}
	if got := Status(v); w.Status != 0 && got != w.Status {
		differ("status", fmt.Sprint(got), fmt.Sprint(w.Status))
	}
	for _, l := range []struct {
		name      string
		got, want []string
	}{{"missing_permissions", v.MissingPermissions, w.MissingPermissions}, {"missing_scopes", v.MissingScopes, w.MissingScopes}} {
		if l.want != nil && !slices.Equal(sorted(l.got), sorted(l.want)) {
			differ(l.name, "["+strings.Join(l.got, " ")+"]", "["+strings.Join(l.want, " ")+"]")
		}
	}
	if w.Rule != "" && v.Rule != w.Rule {
		differ("rule", orElse(v.Rule, "none"), w.Rule)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		got, _ := policy.Headers(append(slices.Clone(v.UpstreamHeaders), v.ClientHeaders...)).Get(strings.ToLower(name))
		if got != w.Headers[name] {
			differ("header "+name, fmt.Sprintf("%q", got), fmt.Sprintf("%q", w.Headers[name]))
		}
	}
	return all
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// Message is what the caller of a verdict is told.
func Message(v *policy.Verdict) string { return orElse(v.Message, v.Reason.Message()) }

// Status is the HTTP status of a verdict.
func Status(v *policy.Verdict) int {
	if v.Status != 0 && !v.Allow {
		return v.Status
	}
	return v.Reason.Status()
}

// Because is why a verdict is a deny: the reason, what was missing, and where.
func Because(v *policy.Verdict) string {
	text := v.Reason.String()
	if missing := slices.Concat(v.MissingPermissions, v.MissingScopes); len(missing) > 0 {
		text += ": " + strings.Join(missing, " ")
	}
	if at := Where(v); at != "" {
		text += "; " + at
	}
	return text
}

// Where is the rule of a deny with its file and line; "" if it is unknown.
func Where(v *policy.Verdict) string {
	if v.File == "" {
		return v.Rule
	}
	return fmt.Sprintf("%s at %s:%d", v.Rule, v.File, v.Line)
}

// ReadPrincipal reads one principal in YAML.
func ReadPrincipal(name string, r io.Reader) (*Principal, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxTestFile+1))
	if err != nil {
		return nil, err
	}
	var p Principal
	if err := strictyaml.Decode(name, text, &p, strictyaml.WithMaxSize(maxTestFile)); err != nil {
		return nil, err
	}
	return &p, nil
}
