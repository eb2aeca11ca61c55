package rego

import (
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
)

// maxTraceEvents bounds what an explanation looks at. A policy that makes more
// is explained by what came first.
const maxTraceEvents = 50_000

// explain finds the rule, file and line that decided a deny, and its grounds, by asking
// once more with a tracer. Allows never pay for it, and a cached deny paid once. Where
// nothing is found, or time runs out, the verdict only names the entrypoint.
//
// If `deny` is not empty, it is the rule that filled it. Else it is the
// expression at which the rules that could have allowed failed: of several rules,
// the one that came furthest, and where the expression asks another rule that has
// no answer, the expression that failed there.
func (s *Snapshot) explain(e *evaluation, input *ast.Term, now time.Time, result ast.Value, v *policy.Verdict) {
	s.blameEntrypoint(v)
	if !s.Analysis.Cacheable() { // asking again could mean calling another service again
		v.Grounds = s.grounds(input, nil, v)
		return
	}
	t := &trace{frames: map[uint64]*frame{}}
	_, _ = s.run(e, input, now, t)
	s.blame(t, result, v)
	v.Grounds = s.grounds(input, t, v)
}

func (s *Snapshot) blameEntrypoint(v *policy.Verdict) {
	v.Rule = s.Entrypoint
	if rules := s.compiler.GetRulesExact(s.entry); len(rules) > 0 && rules[0].Location != nil {
		v.File, v.Line = rules[0].Location.File, rules[0].Location.Row
	}
}

// blame names the place that a trace shows to have denied, if it shows one.
func (s *Snapshot) blame(t *trace, result ast.Value, v *policy.Verdict) {
	b := blame{trace: t, seen: map[string]bool{}}
	if object, ok := result.(ast.Object); ok && (&output{object: object}).denies() {
		b.explicitDeny(s.entry)
	}
	if b.rule == nil {
		b.decision(s.entry)
	}
	if b.rule == nil {
		return
	}
	v.Rule = ruleName(b.rule)
	if b.at != nil {
		v.File, v.Line = b.at.File, b.at.Row
	}
}

// ruleName is the path of what the rule defines, for example data.app.allow.
func ruleName(r *ast.Rule) string { return r.Ref().GroundPrefix().String() }

func lastName(ref string) string { return ref[strings.LastIndexByte(ref, '.')+1:] }

// trace notes which rules were tried, which had an answer and where the others
// failed.
type trace struct {
	frames map[uint64]*frame
	rules  []*frame // in the order in which they were entered
	events int
}

// frame is one evaluation of one rule body.
type frame struct {
	rule     *ast.Rule
	name     string
	answered bool
	// failed is the expression furthest into the body that had no answer.
	failed *ast.Expr
}

// Enabled implements topdown.QueryTracer.
func (t *trace) Enabled() bool { return t.events < maxTraceEvents }

// Config implements topdown.QueryTracer.
func (t *trace) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *trace) TraceEvent(e topdown.Event) {
	if t.events++; t.events > maxTraceEvents {
		return
	}
	switch e.Op {
	case topdown.EnterOp:
		if rule, ok := e.Node.(*ast.Rule); ok && !rule.Default {
			f := &frame{rule: rule, name: ruleName(rule)}
			t.frames[e.QueryID] = f
			t.rules = append(t.rules, f)
		}
	case topdown.ExitOp:
		if f := t.frames[e.QueryID]; f != nil && e.HasRule() {
			f.answered = true
		}
	case topdown.FailOp:
		expr, ok := e.Node.(*ast.Expr)
		if f := t.frames[e.QueryID]; ok && f != nil && (f.failed == nil || expr.Index >= f.failed.Index) {
			f.failed = expr
		}
	}
}

// of returns the evaluations of the rules of that name, or of the rule that the
// name leads into, as data.app.result.allow leads into data.app.result.
func (t *trace) of(name string) (frames []*frame, answered bool) {
	for _, f := range t.rules {
		if f.name == name || strings.HasPrefix(name, f.name+".") {
			frames = append(frames, f)
			answered = answered || f.answered
		}
	}
	return frames, answered
}

// blame follows a deny down to the place that caused it.
type blame struct {
	trace *trace
	seen  map[string]bool
	rule  *ast.Rule
	at    *ast.Location
}

// explicitDeny looks for a rule named deny that had an answer: below or beside the
// entrypoint first, then anywhere.
func (b *blame) explicitDeny(entry ast.Ref) {
	near := entry[:len(entry)-1].String() + "."
	for _, anywhere := range []bool{false, true} {
		for _, f := range b.trace.rules {
			if f.answered && lastName(f.name) == "deny" && (anywhere || strings.HasPrefix(f.name, near)) {
				b.rule, b.at = f.rule, f.rule.Location
				return
			}
		}
	}
}

// decision explains why the entrypoint did not allow.
func (b *blame) decision(entry ast.Ref) {
	frames, answered := b.trace.of(entry.String())
	if !answered {
		b.missing(entry.String())
		return
	}
	for _, f := range frames {
		if !f.answered {
			continue
		}
		// A rule that hands on what another one said: ask that one.
		for _, name := range referred(f.rule.Head, f.rule.Body) {
			if last := lastName(name); (last == "allow" || last == "allowed" || last == "decision") && !b.seen[name] {
				b.seen[name] = true
				if below, has := b.trace.of(name); len(below) > 0 && !has {
					b.missing(name)
				} else if has {
					b.decision(ast.MustParseRef(name))
				}
			}
		}
		if b.rule == nil {
			b.rule, b.at = f.rule, f.rule.Location
		}
		return
	}
}

// missing explains why no rule of that name had an answer.
func (b *blame) missing(name string) {
	b.seen[name] = true
	var furthest *frame
	frames, _ := b.trace.of(name)
	for _, f := range frames {
		if f.failed != nil && (furthest == nil || f.failed.Index >= furthest.failed.Index) {
			furthest = f
		}
	}
	if furthest == nil {
		return
	}
	b.rule, b.at = furthest.rule, furthest.failed.Location
	for _, below := range referred(furthest.failed) {
		frames, answered := b.trace.of(below)
		switch {
		case len(frames) == 0 || b.seen[below]:
		case !answered:
			b.missing(below)
		case isNegated(furthest.failed):
			b.rule, b.at = answeredBy(frames)
		}
	}
}

func isNegated(e *ast.Expr) bool {
	_, isNot := e.Terms.(*ast.Not)
	return isNot || e.Negated
}

func answeredBy(frames []*frame) (*ast.Rule, *ast.Location) {
	for _, f := range frames {
		if f.answered {
			return f.rule, f.rule.Location
		}
	}
	return nil, nil
}

// referred lists the paths under data that the nodes mention.
func referred(nodes ...any) (names []string) {
	for _, n := range nodes {
		ast.WalkRefs(n, func(ref ast.Ref) bool {
			if ref.HasPrefix(ast.DefaultRootRef) {
				names = append(names, ref.GroundPrefix().String())
			}
			return false
		})
	}
	return names
}
