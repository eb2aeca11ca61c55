package rego

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
)

// Explanation is how a policy came to a decision about one request: for its
// operators, never for callers.
type Explanation struct {
	// Verdict is the decision; nil if the policy failed.
	Verdict *policy.Verdict
	// Reads are the places of the input that the decision can depend on, and what
	// stood there. They are what the cache compares.
	Reads []Reading
	// Steps are the rules that were tried, in their order, at most maxSteps.
	Steps []Step
	// Analysis says what keeps decisions of this policy from being remembered.
	Analysis *Analysis
}

// Reading is one place of the input.
type Reading struct {
	// Path is the place as a policy writes it: input.principal.roles.
	Path string
	// Value is what stood there as JSON, cut after 200 bytes; the type if only that
	// counts. It is empty if the place was Absent, or Masked: what a body holds,
	// and what is named like a secret.
	Value          string
	Absent, Masked bool
}

// Step is one evaluation of one rule.
type Step struct {
	Rule string
	File string
	Line int
	// Answered says that the rule had an answer. Else Failed is the expression that
	// had none, as the policy writes it, and FailedLine its line.
	Answered   bool
	Failed     string
	FailedLine int
}

const (
	maxSteps       = 500
	maxShownValue  = 200
	maxShownSource = 200
)

// Explain decides a request aside: it neither uses nor fills the cache, and it waits
// for a place among the slow evaluations. The policy is asked once, with a tracer. The
// error is one of those of Decide; the explanation then says how far it came.
func (s *Snapshot) Explain(ctx context.Context, in *policy.Input) (x *Explanation, err error) {
	x = &Explanation{Analysis: s.Analysis}
	var cached bool
	defer s.survive(&x.Verdict, &cached, &err)
	e := s.begin(ctx)
	defer e.end()
	if !take(e, s.slow, time.Until(e.deadline)) {
		return x, ErrOverloaded
	}
	e.place = amongSlow
	r := &reader{view: &s.plan.view}
	x.Reads = s.readings(r, in)
	input := s.plan.document(r, in)
	if r.err != nil {
		x.Verdict, _, err = s.unreadable(r.err)
		return x, err
	}
	t := &trace{frames: map[uint64]*frame{}}
	result, err := s.run(e, input, s.now(), t)
	x.Steps = t.steps()
	if conflict, ok := errors.AsType[*topdown.Error](err); ok && conflict.Code == topdown.ConflictErr {
		x.Verdict = s.conflict(conflict)
		return x, nil
	}
	if err != nil {
		return x, s.failure(e, err)
	}
	if x.Verdict = s.read(result); !x.Verdict.Allow {
		s.blameEntrypoint(x.Verdict)
		s.blame(t, result, x.Verdict)
	}
	return x, nil
}

// readings looks at every place that the policy can read. Where a place is too large
// or cannot be read, r notes it.
func (s *Snapshot) readings(r *reader, in *policy.Input) []Reading {
	all := make([]Reading, 0, len(s.Analysis.Paths))
	for _, path := range s.Analysis.Paths {
		all = append(all, s.reading(r, in, path))
	}
	return all
}

func (s *Snapshot) reading(r *reader, in *policy.Input, path Path) Reading {
	found := Reading{Path: path.String()}
	one := newPlan(s.plan.view, []Path{path})
	at := one.document(r, in).Value
	for _, step := range path.Ref {
		if at = below(at, step); at == nil {
			found.Absent = true
			return found
		}
	}
	switch {
	case path.ShapeOnly:
		found.Value = ast.ValueName(at)
	case isSecret(path.Ref) || s.plan.view.secret[last(path.Ref)]:
		found.Masked = true
	default:
		found.Value = cut(masked(at, &s.plan.view).String(), maxShownValue)
	}
	return found
}

func last(steps []string) string {
	if len(steps) == 0 {
		return ""
	}
	return steps[len(steps)-1]
}

// below is the member or element of that name.
func below(at ast.Value, step string) ast.Value {
	switch at := at.(type) {
	case ast.Object:
		if t := at.Get(ast.StringTerm(step)); t != nil {
			return t.Value
		}
	case *ast.Array:
		if i, ok := position(step, at.Len()); ok {
			return at.Elem(i).Value
		}
	}
	return nil
}

// secretWords are parts of names under which secrets are found in bodies, claims and
// metadata.
var secretWords = []string{"password", "passwd", "secret", "token", "apikey", "api_key", "api-key", "authorization", "cookie", "private", "certificate"}

// isSecret reports whether the place holds what must not be shown: a body, which may
// hold anything, or a name that says so.
func isSecret(steps []string) bool {
	for i, step := range steps {
		if step == "parsed_body" && i == 0 || step == "body" && i == 3 && steps[0] == "attributes" || isSecretName(step) {
			return true
		}
	}
	return false
}

func isSecretName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// masked is the value without what is secret in it.
func masked(v ast.Value, view *view) ast.Value {
	switch v := v.(type) {
	case ast.Object:
		shown := ast.NewObject()
		v.Foreach(func(key, value *ast.Term) {
			name := textOf(key)
			if isSecretName(name) || view.secret[name] || name == "body" || name == "parsed_body" {
				value = ast.InternedTerm("***")
			}
			shown.Insert(key, ast.NewTerm(masked(value.Value, view)))
		})
		return shown
	case *ast.Array:
		terms := make([]*ast.Term, 0, v.Len())
		v.Foreach(func(t *ast.Term) { terms = append(terms, ast.NewTerm(masked(t.Value, view))) })
		return ast.NewArray(terms...)
	}
	return v
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// steps are the rules in the order in which they were tried.
func (t *trace) steps() []Step {
	steps := make([]Step, 0, min(len(t.rules), maxSteps))
	for _, f := range t.rules[:min(len(t.rules), maxSteps)] {
		step := Step{Rule: f.name, Answered: f.answered}
		if at := f.rule.Location; at != nil {
			step.File, step.Line = at.File, at.Row
		}
		if !f.answered && f.failed != nil && f.failed.Location != nil {
			source, _, _ := strings.Cut(string(f.failed.Location.Text), "\n")
			step.Failed, step.FailedLine = cut(source, maxShownSource), f.failed.Location.Row
		}
		steps = append(steps, step)
	}
	return steps
}
