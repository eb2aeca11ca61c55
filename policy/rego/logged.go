package rego

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
)

// The rules that OPA asks about the events of a decision log.
const (
	DefaultMask = "data.system.log.mask"
	DefaultDrop = "data.system.log.drop"
)

// Scribe answers what a decision log asks one policy: what it was shown of a request,
// what of that is not for the log, and whether the event is for the log at all. It
// works beside the requests: it takes none of their places, but is bounded in time
// and work as they are.
type Scribe struct {
	snapshot   *Snapshot
	plan       *plan
	mask, drop *sideQuestion // nil: the policy has no such rule
}

// sideQuestion is another rule than the entrypoint, ready to be asked.
type sideQuestion struct {
	prepared ast.QueryCompiler
	query    ast.Body
}

// maxLogged is the longest text of a request that goes into a log, in bytes.
const maxLogged = 1 << 20

// Scribe prepares the questions. Mask and drop name rules, and are the defaults if
// empty; a policy without them masks and drops nothing.
func (s *Snapshot) Scribe(mask, drop string) (*Scribe, error) {
	v := s.plan.view
	v.hidden, v.maxValue = v.secret, maxLogged // credentials are not for logs, even where a policy sees them
	c := &Scribe{snapshot: s, plan: newPlan(v, []Path{{}})}
	setDefault(&mask, DefaultMask)
	setDefault(&drop, DefaultDrop)
	var err error
	if c.mask, err = s.sideQuestion(mask); err == nil {
		c.drop, err = s.sideQuestion(drop)
	}
	return c, err
}

func (s *Snapshot) sideQuestion(rule string) (*sideQuestion, error) {
	ref, err := parseEntrypoint(rule)
	if err != nil || len(s.compiler.GetRulesWithPrefix(ref)) == 0 {
		return nil, err
	}
	q := &sideQuestion{prepared: s.compiler.QueryCompiler()}
	if q.query, err = q.prepared.Compile(ast.NewBody(ast.Equality.Expr(resultTerm, ast.NewTerm(ref)))); err != nil {
		return nil, problemsOf(err, "")
	}
	return q, nil
}

// Revision is that of the policy.
func (c *Scribe) Revision() string { return c.snapshot.Revision }

// Entrypoint is the rule that decides.
func (c *Scribe) Entrypoint() string { return c.snapshot.Entrypoint }

// Silent reports that the policy has neither rule, and nothing needs to be asked.
func (c *Scribe) Silent() bool { return c.mask == nil && c.drop == nil }

// Input returns the whole input document of a request as a JSON value that belongs to
// the caller: maps, slices, strings, json.Number, bool and nil. Header fields that
// carry credentials are not in it. What cannot be read, such as a broken body, is null
// there and in the error, which holds nothing of the request.
func (c *Scribe) Input(in *policy.Input) (doc map[string]any, err error) {
	defer notPanicking(&err)
	r := &reader{view: &c.plan.view}
	j, err := ast.JSON(c.plan.document(r, in).Value)
	if err != nil {
		return nil, err
	}
	doc, _ = j.(map[string]any)
	c.hideFields(doc)
	return doc, r.err
}

// hideFields takes out the fields that carry credentials under names that only look
// like theirs: a request that was refused because it could be read in two ways is
// logged as it came, and AUTHORIZATION is one of the two.
func (c *Scribe) hideFields(doc map[string]any) {
	at := doc
	for _, step := range []string{"attributes", "request", "http", "headers"} {
		at, _ = at[step].(map[string]any)
	}
	for name := range at {
		if c.plan.view.hidden[strings.ToLower(strings.TrimSpace(name))] {
			delete(at, name)
		}
	}
}

// Mask asks what of an event is not for the log: a list as in OPA's data.system.log.mask,
// or nil. The errors are those of Decide.
func (c *Scribe) Mask(ctx context.Context, event map[string]any) (any, error) {
	return c.ask(ctx, c.mask, event)
}

// Drop asks whether an event is not for the log at all. An answer that is not a
// boolean is an error.
func (c *Scribe) Drop(ctx context.Context, event map[string]any) (bool, error) {
	answer, err := c.ask(ctx, c.drop, event)
	if answer == nil || err != nil {
		return false, err
	}
	yes, ok := answer.(bool)
	if !ok {
		return false, errors.New("the policy's drop rule says neither true nor false")
	}
	return yes, nil
}

// ask returns nil if the rule is undefined.
func (c *Scribe) ask(ctx context.Context, q *sideQuestion, event map[string]any) (answer any, err error) {
	if q == nil {
		return nil, nil
	}
	defer notPanicking(&err)
	input, err := ast.InterfaceToValue(event)
	if err != nil {
		return nil, err
	}
	s := c.snapshot
	e := s.begin(ctx)
	defer e.end()
	var result ast.Value
	err = topdown.NewQuery(q.query).WithQueryCompiler(q.prepared).WithCompiler(s.compiler).
		WithStore(s.store).WithTransaction(theTransaction).WithInput(ast.NewTerm(input)).
		WithBuiltins(s.builtins).WithInterQueryBuiltinValueCache(s.values).WithMetrics(noMetrics).
		WithTime(s.now().Truncate(time.Second)).WithStrictBuiltinErrors(true).WithCancel(e).
		Iter(e, func(found topdown.QueryResult) error {
			result = found[resultVar].Value
			return nil
		})
	if err != nil {
		return nil, s.failure(e, err)
	}
	if result == nil {
		return nil, nil
	}
	return ast.JSON(result)
}

// notPanicking turns a panic into an error without its text.
func notPanicking(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic of type %T", p)
	}
}
