package rego

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
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
type Reading = policy.Reading

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
	input := s.plan.document(r, in)
	x.Reads, _ = s.plan.readings(input.Value, len(s.plan.spots), math.MaxInt)
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

// spot is a place of the input that a policy can read.
type spot struct {
	text string
	ref  []string
	// names are the steps of ref as terms.
	names []*ast.Term
	shape bool
	// secret says that what stands there is not shown.
	secret bool
	// ofMany says that the policy reads more than this; it is left out if it says nothing.
	ofMany bool
}

// newSpots are those of the paths. An object of the document is taken apart into its
// fields: of a whole principal, the first 200 bytes would say little.
func newSpots(v *view, paths []Path) (all []spot) {
	for _, path := range paths {
		at := &document
		for i := 0; i < len(path.Ref) && at != nil && at.get == nil; i++ {
			at = at.lookup(path.Ref[i])
		}
		if at == nil || at.get != nil || path.ShapeOnly {
			all = append(all, newSpot(v, path, false))
			continue
		}
		all = appendFields(all, v, at, path.Ref)
	}
	// What the gateway saw comes after what Postern made of it.
	slices.SortStableFunc(all, func(a, b spot) int { return cmp.Compare(a.late(), b.late()) })
	return all
}

func appendFields(all []spot, v *view, at *field, ref []string) []spot {
	if at.get != nil {
		return append(all, newSpot(v, Path{Ref: ref}, true))
	}
	for i := range at.fields {
		all = appendFields(all, v, &at.fields[i], append(slices.Clip(ref), at.fields[i].name))
	}
	return all
}

func newSpot(v *view, path Path, ofMany bool) spot {
	p := spot{text: path.String(), ref: path.Ref, shape: path.ShapeOnly, secret: isSecret(path.Ref) || v.secret[last(path.Ref)], ofMany: ofMany}
	for _, step := range path.Ref {
		p.names = append(p.names, ast.StringTerm(step))
	}
	return p
}

func (p *spot) late() int {
	if p.ofMany && p.ref[0] == "attributes" {
		return 1
	}
	return 0
}

// readings are up to most of what stands at the places of an input document, the values
// not longer than room together, and how many more there are.
func (p *plan) readings(input ast.Value, most, room int) (all []Reading, more int) {
	all = make([]Reading, 0, min(len(p.spots), most))
	for i := range p.spots {
		found := p.reading(input, &p.spots[i], room)
		switch {
		case p.spots[i].ofMany && (found.Absent || slices.Contains(emptyValues, found.Value) && !found.Masked):
		case len(all) == most:
			more++
		default:
			all = append(all, found)
			room -= len(found.Value)
		}
	}
	return all, more
}

var emptyValues = []string{`""`, "[]", "{}", "0", "false", "null"}

func (p *plan) reading(at ast.Value, place *spot, room int) Reading {
	found := Reading{Path: place.text}
	for i := range place.ref {
		if at = below(at, place.ref[i], place.names[i]); at == nil {
			found.Absent = true
			return found
		}
	}
	switch {
	case place.shape:
		found.Value = ast.ValueName(at)
	case place.secret:
		found.Masked = true
	default:
		found.Value = p.view.shown(at, min(room, maxShownValue))
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
func below(at ast.Value, step string, name *ast.Term) ast.Value {
	switch at := at.(type) {
	case ast.Object:
		if t := at.Get(name); t != nil {
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
var secretWords = []string{
	"password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "accesskey", "_key", "-key", "authorization", "cookie", "private", "certificate",
	"assertion", "jwt", "dpop", "signature",
}

// isSecret reports whether the place holds what must not be shown: a body or a query,
// in which clients put anything, or a name that says so.
func isSecret(steps []string) bool {
	for i, step := range steps {
		if i == 0 && step == "parsed_body" || i == 0 && step == "parsed_query" || isSecretName(step) {
			return true
		}
	}
	if len(steps) > 2 && steps[0] == "target" && steps[1] == "tools" {
		return true // the arguments are the body's
	}
	switch strings.Join(steps, "/") {
	case "attributes/request/http/body", "attributes/request/http/query", "request/query":
		return true
	}
	return false
}

// unshown are the members that are not shown in any object.
var unshown = map[string]bool{"body": true, "parsed_body": true, "query": true, "parsed_query": true, "arguments": true}

func isSecretName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// shown is a value as JSON without what is secret in it, cut after most bytes. No more
// than that is looked at.
func (v *view) shown(value ast.Value, most int) string {
	w := shower{view: v, most: most, text: make([]byte, 0, min(most, 64))}
	w.show(value)
	return cut(string(w.text), most)
}

type shower struct {
	view *view
	most int
	text []byte
}

// full reports that nothing more will be seen.
func (w *shower) full() bool { return len(w.text) > w.most }

func (w *shower) add(text string) { w.text = append(w.text, text...) }

func (w *shower) show(v ast.Value) {
	switch v := v.(type) {
	case ast.Object:
		w.add("{")
		comma := ""
		v.Until(func(key, value *ast.Term) bool {
			w.add(comma)
			comma = ", "
			w.member(textOf(key), value.Value)
			return w.full()
		})
		w.add("}")
	case *ast.Array:
		w.add("[")
		for i := 0; i < v.Len() && !w.full(); i++ {
			if i > 0 {
				w.add(", ")
			}
			w.show(v.Elem(i).Value)
		}
		w.add("]")
	case ast.String:
		w.quote(string(v))
	default:
		w.add(v.String())
	}
}

func (w *shower) member(name string, value ast.Value) {
	w.quote(name)
	w.add(": ")
	if isSecretName(name) || w.view.secret[name] || unshown[name] {
		value = ast.String("***")
	}
	w.show(value)
}

// quote writes a text, without the query in it if it is the target of a request.
func (w *shower) quote(s string) {
	if target, query, found := strings.Cut(s, "?"); found && query != "" {
		s = target + "?***"
	}
	w.text = strconv.AppendQuote(w.text, cut(s, w.most+1))
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
			step.Failed, step.FailedLine = firstLine(f.failed.Location, maxShownSource), f.failed.Location.Row
		}
		steps = append(steps, step)
	}
	return steps
}

// Bounds of the grounds of a deny, which are kept with the decision: about 5 KiB.
const (
	maxReads       = 32
	maxReadBytes   = 1536
	maxFailed      = 12
	maxFailedBytes = 160
)

// grounds are those of a deny, to be kept. Without a trace, they are what was read.
func (s *Snapshot) grounds(input *ast.Term, t *trace, v *policy.Verdict) *policy.Grounds {
	g := &policy.Grounds{}
	g.Reads, g.MoreReads = s.plan.readings(input.Value, maxReads, maxReadBytes)
	if t != nil {
		g.Failed, g.MoreFailed = t.failures(v)
	}
	return g
}

// failures are the expressions that had no answer, each once, that of the verdict first.
func (t *trace) failures(v *policy.Verdict) (all []policy.Failure, more int) {
	seen := make(map[*ast.Expr]bool, len(t.rules))
	var first int
	for _, f := range t.rules {
		if f.answered || f.failed == nil || f.failed.Location == nil || seen[f.failed] {
			continue
		}
		seen[f.failed] = true
		at := f.failed.Location
		decided := f.name == v.Rule && at.File == v.File && at.Row == v.Line
		if len(all) == maxFailed && !decided {
			more++
			continue
		}
		failure := policy.Failure{Rule: f.name, File: at.File, Line: at.Row, Expression: firstLine(at, maxFailedBytes)}
		switch {
		case decided && len(all) == maxFailed:
			all[maxFailed-1] = failure
			first, more = maxFailed-1, more+1
		default:
			if decided {
				first = len(all)
			}
			all = append(all, failure)
		}
	}
	if first > 0 {
		decided := all[first]
		copy(all[1:first+1], all[:first])
		all[0] = decided
	}
	return all, more
}

// firstLine is the first line of what stands at a place of the policy.
func firstLine(at *ast.Location, most int) string {
	text := at.Text[:min(len(at.Text), most+1)]
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return cut(string(line), most)
}
