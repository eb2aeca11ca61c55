package rego

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
)

// This file opens a policy to the tools of its authors (package policy/author). No
// request is decided through it.

// Inside is what a snapshot is made of. Nothing of it may be changed.
type Inside struct {
	Compiler *ast.Compiler
	Store    storage.Store
	// Builtins are the functions that Postern adds to OPA's.
	Builtins map[string]*topdown.Builtin
	// Entry is the entrypoint, Query the question for it. The variable Result of the
	// query holds the answer.
	Entry ast.Ref
	Query ast.Body
}

// Result is the variable of Inside.Query that holds the decision.
const Result = string(resultVar)

// Inside opens the snapshot.
func (s *Snapshot) Inside() Inside {
	return Inside{Compiler: s.compiler, Store: s.store, Builtins: s.builtins, Entry: s.entry, Query: s.query}
}

// Document returns the input document of a request with all that any policy could
// read; this policy is shown a part of it. An error says that the request holds what
// is not handed to policies.
func (s *Snapshot) Document(in *policy.Input) (*ast.Term, error) {
	r := &reader{view: &s.plan.view}
	doc := newPlan(s.plan.view, []Path{{}}).document(r, in)
	if r.err != nil {
		return nil, r.err
	}
	return doc, nil
}

// Read returns the verdict in what the entrypoint said; nil stands for undefined. It
// does not say which rule decided.
func (s *Snapshot) Read(result ast.Value) *policy.Verdict { return s.read(result) }

// DecideDocument decides a recorded input document at a moment, without the cache and
// without a place among the evaluations. Documents hold what the recorder chose to
// write, so this is for replays only.
func (s *Snapshot) DecideDocument(ctx context.Context, input *ast.Term, now time.Time) (v *policy.Verdict, err error) {
	var cached bool
	defer s.survive(&v, &cached, &err)
	e := s.begin(ctx)
	defer e.end()
	result, err := s.run(e, input, now, nil)
	if conflict, ok := errors.AsType[*topdown.Error](err); ok && conflict.Code == topdown.ConflictErr {
		return s.conflict(conflict), nil
	}
	if err != nil {
		return nil, s.failure(e, err)
	}
	if v = s.read(result); !v.Allow {
		s.explain(e, input, now, result, v)
	}
	return v, nil
}

// Hidden returns the header fields that the policy is not shown.
func (s *Snapshot) Hidden() []string { return slices.Sorted(maps.Keys(s.plan.view.hidden)) }

// AnalyzeQuery says what the answer to another question to this policy, one that was
// compiled with its compiler, can depend on.
func (s *Snapshot) AnalyzeQuery(query ast.Body) *Analysis {
	return Analyze(s.compiler, query, ownBuiltins)
}

// Modules returns the parsed files by name, those of the library among them. They
// must not be changed: copy them to compile them.
func (b *Bundle) Modules() map[string]*ast.Module { return maps.Clone(b.modules) }

// InLibrary reports whether a file is one of those that ship with Postern.
func InLibrary(file string) bool {
	return len(file) > len(libraryPrefix) && file[:len(libraryPrefix)] == libraryPrefix
}

// WithData returns the policy with other data: each name at the top takes the place
// of what the data files say there. A null takes it away.
func (b *Bundle) WithData(over map[string]any) *Bundle {
	other := *b
	other.data = maps.Clone(b.data)
	for name, v := range over {
		if other.data[name] = v; v == nil {
			delete(other.data, name)
		}
	}
	return &other
}

// Capabilities are what a policy may call under a configuration.
func Capabilities(c Config) *ast.Capabilities { return capabilities(c) }

// ProblemsOf turns the errors of OPA's parser and compiler into ours.
func ProblemsOf(err error) Problems { return problemsOf(err, "") }

// DecodeDocument reads one JSON text as input documents and data are read: numbers
// keep their digits, and a name that stands twice in an object is an error.
func DecodeDocument(text []byte) (any, error) {
	v, err := decodeJSON(text, maxDocumentDepth)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.New("the JSON text ends too early")
	}
	return v, err
}

// InputSchema is a JSON Schema of the input document. It comes from the table from
// which the document itself is made, so it names exactly what a policy can find
// there. It is open only where a request brings names of its own: header fields,
// claims, metadata, context, bodies.
func InputSchema() map[string]any { return document.schema(&view{maxValue: 1 << 20}, everything()) }

func (f *field) schema(v *view, in *policy.Input) map[string]any {
	if f.get != nil {
		return schemaOf(f.get(v, in))
	}
	properties := map[string]any{}
	for i := range f.fields {
		properties[f.fields[i].name] = f.fields[i].schema(v, in)
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

func schemaOf(v value) map[string]any {
	switch v.kind {
	case kindText, kindAddress, kindSecret:
		return map[string]any{"type": "string"}
	case kindNumber:
		return map[string]any{"type": "number"}
	case kindBoolean:
		return map[string]any{"type": "boolean"}
	case kindList:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	case kindTree:
		return map[string]any{"type": "object"}
	case kindSpecial:
		switch v.special.tag() {
		case tagArray:
			return map[string]any{"type": "array"}
		case tagObject:
			return map[string]any{"type": "object"}
		}
	}
	return map[string]any{}
}

// everything is a request of which each field of the document is set.
func everything() *policy.Input {
	now, words := time.Unix(1, 1), []string{"x"}
	end := policy.Endpoint{
		Address: netip.MustParseAddrPort("192.0.2.1:1"), Principal: "x", Certificate: "x", Service: "x",
		Labels: map[string]string{"x": "x"},
	}
	facts := map[string]any{"x": "x"}
	return &policy.Input{
		Attributes: &policy.Attributes{
			RequestID: "x", Time: now, Method: "GET", Scheme: "https", Host: "x", Path: "/x?x=x", Protocol: "HTTP/2",
			Headers: policy.Headers{{Name: "x", Value: "x"}}, Size: 1, Source: end, Destination: end,
			Extensions: map[string]string{"x": "x"}, Metadata: facts, Context: facts, Tenant: "x",
			Action: &policy.Action{Name: "x", ResourceType: "x", ResourceID: "x", Properties: facts},
		},
		Request: &policy.Request{
			Method: "GET", Scheme: "https", Host: "x", Port: 1, Path: "/x", Folded: "/x", Segments: words, Query: "x=x",
			Service: "x", RPC: "x", ClientIP: end.Address.Addr(), Zones: words,
		},
		Principal: &policy.Principal{
			ID: "x", Kind: policy.KindUser, Tenant: "x", Roles: words, Scopes: words, Permissions: words,
			Narrowed: &policy.Narrowed{Permissions: words, UserRoles: words, UserPermissions: words},
			Claims:   facts, Metadata: facts, Method: policy.MethodJWT, Assurance: 1, ACR: "x", AMR: words, AuthTime: now,
			Actors: []policy.Actor{{ID: "x", Kind: policy.KindUser}}, CredentialID: "x", TokenBudget: 1, Issuer: "x", IssuedAt: now, ExpiresAt: now,
		},
		Peer:  &policy.Peer{ID: "x", TrustDomain: "x", Fingerprint: "x"},
		Route: &policy.Route{Name: "x", Tenant: "x", Scopes: words, Permission: "x", Labels: map[string]string{"x": "x"}},
		Target: &policy.Target{
			Protocol: "x", Model: "x", Tier: "x", MaxTokens: 1, PromptTokens: 1, Category: "x", Method: "x",
			Tools:     []policy.ToolCall{{Name: "x", Arguments: facts, Schema: "x"}},
			Resources: []policy.Resource{{Type: "x", Tenant: "x", ID: "x", From: "x"}},
		},
		Agreement: &policy.Agreement{Consent: "x", Scopes: words, Approval: &policy.Approval{
			ID: "x", Approver: "x", Kind: policy.KindUser, Roles: words, Action: "x", ExpiresAt: now,
		}},
	}
}
