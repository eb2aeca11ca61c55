package author

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// Step is one rule that had a part in an answer.
type Step struct {
	// Rule is what it defines; File and Line where it stands.
	Rule string `json:"rule" yaml:"rule"`
	File string `json:"file" yaml:"file"`
	Line int    `json:"line" yaml:"line"`
	// Answered says that it had a value; else FailedAt is the line at which it had
	// none, and Expression what stands there.
	Answered   bool   `json:"answered" yaml:"answered"`
	FailedAt   int    `json:"failed_at,omitempty" yaml:"failed_at,omitempty"`
	Expression string `json:"expression,omitempty" yaml:"expression,omitempty"`
}

// Answer is what came of a query.
type Answer struct {
	// Results are one for each way in which it is true: the value of the one term that it
	// is, the values of its variables by name, or true. None: undefined.
	Results []any `json:"results" yaml:"results"`
	// Took is how long the evaluation took, without the trace.
	Took time.Duration `json:"took_ns" yaml:"took_ns"`
	// Cacheable says that a decision like this may be remembered; else Causes say why
	// not.
	Cacheable bool     `json:"cacheable" yaml:"cacheable"`
	Causes    []string `json:"causes,omitempty" yaml:"causes,omitempty"`
	// Steps are the rules that were tried, in the order in which they were entered.
	Steps []Step `json:"trace" yaml:"trace"`
}

// Eval asks a query about an input document, which is what decoding JSON gives. Text
// is Rego; the entrypoint if it is empty.
func (p *Policy) Eval(ctx context.Context, text string, input any) (*Answer, error) {
	v, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, err
	}
	return p.eval(ctx, text, ast.NewTerm(v))
}

// EvalRequest asks a query about a request.
func (p *Policy) EvalRequest(ctx context.Context, text string, in *policy.Input) (*Answer, error) {
	document, err := p.Document(in)
	if err != nil {
		return nil, err
	}
	return p.eval(ctx, text, document)
}

func (p *Policy) eval(ctx context.Context, text string, input *ast.Term) (*Answer, error) {
	if text == "" {
		text = p.Entrypoint
	}
	body, compiler, err := p.query(text)
	if err != nil {
		return nil, err
	}
	a := &Answer{Results: []any{}}
	found := func(r topdown.QueryResult) error {
		v, err := resultOf(r, compiler.RewrittenVars())
		a.Results = append(a.Results, v)
		return err
	}
	now, begin := p.now(), time.Now()
	if err := p.run(ctx, body, compiler, input, now, nil, found); err != nil {
		return nil, err
	}
	a.Took = time.Since(begin)
	analysis := p.AnalyzeQuery(body)
	a.Cacheable = analysis.Cacheable()
	for _, c := range analysis.Impure {
		a.Causes = append(a.Causes, c.String())
	}
	t := newTracer()
	_ = p.run(ctx, body, compiler, input, now, t, func(topdown.QueryResult) error { return nil })
	a.Steps = t.steps()
	return a, nil
}

// capture is the variable that holds the value of a query that is one expression.
const capture = ast.Var("__postern_value__")

// captured makes a query that is a term or a call alone, such as data.app.allow, give
// its value.
func captured(body ast.Body) ast.Body {
	if len(body) != 1 || body[0].Negated || len(body[0].With) > 0 {
		return body
	}
	term, ok := body[0].Terms.(*ast.Term)
	if call, is := body[0].Terms.([]*ast.Term); is && !body[0].IsEquality() && !body[0].IsAssignment() {
		term, ok = ast.NewTerm(ast.Call(call)), true
	}
	if _, free := variable(term); !ok || free {
		return body
	}
	return ast.NewBody(ast.Equality.Expr(ast.NewTerm(capture), term))
}

// variable reports whether a term is a variable alone, which has no value to capture.
func variable(term *ast.Term) (ast.Var, bool) {
	if term == nil {
		return "", false
	}
	v, ok := term.Value.(ast.Var)
	return v, ok && v != ast.InputRootDocument.Value.(ast.Var) && v != ast.DefaultRootDocument.Value.(ast.Var)
}

// resultOf is one result as JSON values.
func resultOf(r topdown.QueryResult, written map[ast.Var]ast.Var) (any, error) {
	values := map[string]any{}
	var whole any
	for name, term := range r {
		if original, ok := written[name]; ok {
			name = original
		}
		if name.IsWildcard() || name.IsGenerated() {
			continue
		}
		v, err := ast.JSON(term.Value)
		if err != nil {
			return nil, err
		}
		if name == capture {
			whole = v
			continue
		}
		values[string(name)] = v
	}
	_, captured := r[capture]
	switch {
	case len(values) == 0 && captured:
		return whole, nil
	case len(values) == 0:
		return true, nil
	case captured:
		values["result"] = whole
	}
	return values, nil
}

// maxSteps bounds a trace; what comes first says most.
const (
	maxSteps  = 200
	maxEvents = 200_000
)

// tracer notes which rules were tried, which had an answer and where others failed.
type tracer struct {
	frames map[uint64]*frame
	order  []*frame
	events int
}

type frame struct {
	rule     *ast.Rule
	answered bool
	failed   *ast.Expr
}

func newTracer() *tracer { return &tracer{frames: map[uint64]*frame{}} }

// Enabled implements topdown.QueryTracer.
func (t *tracer) Enabled() bool { return t.events < maxEvents }

// Config implements topdown.QueryTracer.
func (*tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *tracer) TraceEvent(e topdown.Event) {
	t.events++
	f := t.frames[e.QueryID]
	switch e.Op {
	case topdown.EnterOp:
		if rule, ok := e.Node.(*ast.Rule); ok {
			f = &frame{rule: rule}
			t.frames[e.QueryID] = f
			t.order = append(t.order, f)
		}
	case topdown.ExitOp:
		if f != nil && e.HasRule() {
			f.answered = true
		}
	case topdown.FailOp:
		expr, ok := e.Node.(*ast.Expr)
		if ok && f != nil && (f.failed == nil || expr.Index >= f.failed.Index) {
			f.failed = expr
		}
	}
}

// steps are the rules, each once: one that was tried for many values had an answer if
// it had one for any.
func (t *tracer) steps() []Step {
	all := []Step{}
	for _, f := range t.order {
		s := stepOf(f)
		i := slices.IndexFunc(all, func(o Step) bool { return o.File == s.File && o.Line == s.Line && o.Rule == s.Rule })
		switch {
		case i < 0 && len(all) < maxSteps:
			all = append(all, s)
		case i >= 0 && s.Answered && !all[i].Answered:
			all[i] = s
		}
	}
	return all
}

func stepOf(f *frame) Step {
	s := Step{Rule: f.rule.Ref().GroundPrefix().String(), Answered: f.answered}
	if at := f.rule.Location; at != nil {
		s.File, s.Line = at.File, at.Row
	}
	if f.rule.Default {
		s.Rule = "default " + s.Rule
	}
	if !f.answered && f.failed != nil && f.failed.Location != nil {
		s.FailedAt, s.Expression = f.failed.Location.Row, firstLine(string(f.failed.Location.Text))
	}
	return s
}

func firstLine(text string) string {
	line, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	if more {
		return line + " …"
	}
	return line
}

// String is a step in one line.
func (s Step) String() string {
	at := fmt.Sprintf("%s:%d", s.File, s.Line)
	switch {
	case s.Answered:
		return at + " " + s.Rule + " has a value"
	case s.FailedAt > 0:
		return fmt.Sprintf("%s %s fails at line %d: %s", at, s.Rule, s.FailedAt, s.Expression)
	}
	return at + " " + s.Rule + " has no value"
}

// Decision is a request that was decided twice.
type Decision struct {
	Verdict *policy.Verdict
	// Took is how long it took the first time, and Again the second time, when it was
	// remembered if Cached says so.
	Took, Again time.Duration
	Cached      bool
}

// Decide decides a request twice, as a server would.
func (p *Policy) Decide(ctx context.Context, in *policy.Input) (*Decision, error) {
	begin := time.Now()
	v, _, err := p.Snapshot.Decide(ctx, in)
	d := &Decision{Verdict: v, Took: time.Since(begin)}
	if err != nil {
		return nil, err
	}
	begin = time.Now()
	_, d.Cached, err = p.Snapshot.Decide(ctx, in)
	d.Again = time.Since(begin)
	return d, err
}

// DecideInput decides an input document, which is what decoding JSON gives.
func (p *Policy) DecideInput(ctx context.Context, input any, now time.Time) (*policy.Verdict, error) {
	v, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, err
	}
	return p.DecideDocument(ctx, ast.NewTerm(v), now)
}

// Reads are the places of the input that the decision can depend on, in words.
func Reads(a *rego.Analysis) []string {
	paths := make([]string, len(a.Paths))
	for i, p := range a.Paths {
		paths[i] = p.String()
	}
	return paths
}
