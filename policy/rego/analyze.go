package rego

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Analysis says what the answer to one query over one compiled policy can
// depend on. The zero Analysis is not Cacheable.
type Analysis struct {
	// Paths are all places of the input that the decision can read: sorted, and
	// none lies below another whose whole value is read. Two inputs that agree
	// on all of them get the same decision, or fail in the same way. So does one
	// that was pruned to them.
	Paths []Path
	// Whole says that the decision can read all of the input. Paths then holds
	// the empty path and nothing else.
	Whole bool
	// Unbounded says where and why the whole input is read; empty unless Whole.
	Unbounded []Cause
	// TimeBound says that the decision can read the time of the evaluation. It
	// may be reused only where that time, as the engine pins it, is the same.
	TimeBound bool
	// Clock says where and why the time is read; empty unless TimeBound.
	Clock []Cause
	// Impure says what else the decision can depend on. Unless it is empty the
	// decision must never be reused.
	Impure []Cause

	finished bool
}

// Cacheable reports whether decisions may be reused at all.
func (a *Analysis) Cacheable() bool { return a != nil && a.finished && len(a.Impure) == 0 }

// Path is a place in the input: the steps that lead to it from the root. A step
// selects the member of that name from an object, and from an array the element
// at that position if the step is a decimal number without sign or leading zero.
// It selects nothing from anything else.
type Path struct {
	Ref []string
	// ShapeOnly says that only the type of the value matters: null, boolean,
	// number, string, array, object, or that there is none. Otherwise the whole
	// value matters, down to the spelling of its numbers: 1 and 1.0 are equal,
	// but a policy can print them.
	ShapeOnly bool
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// String writes the path as a policy would, for example
// `input.request.headers["x-region"][0]` or `type of input.principal`.
func (p Path) String() string {
	var b strings.Builder
	if p.ShapeOnly {
		b.WriteString("type of ")
	}
	b.WriteString("input")
	for _, step := range p.Ref {
		switch {
		case identifier.MatchString(step):
			b.WriteString("." + step)
		case isPosition(step):
			b.WriteString("[" + step + "]")
		default:
			fmt.Fprintf(&b, "[%q]", step)
		}
	}
	return b.String()
}

// Cause is one place of the policy and what it does there, in words for the
// policy's author.
type Cause struct {
	// Rule is the rule's path, for example "data.app.authz.allow"; "the query"
	// outside of rules.
	Rule string
	// File and Line are where it stands; empty and 0 if unknown.
	File string
	Line int
	// Why is what it does: "calls http.send: the answer comes from the network".
	Why string
}

// String is "file:line: rule why".
func (c Cause) String() string {
	s := c.Rule + " " + c.Why
	if c.File != "" {
		s = fmt.Sprintf("%s:%d: %s", c.File, c.Line, s)
	}
	return s
}

// Analyze finds what the answer to a compiled query can depend on. Own declares
// the builtins that are registered besides OPA's; any other name is Impure. It
// never fails: whatever it does not understand makes the result not Cacheable.
//
// # What it assumes
//
// The input is a JSON object: no sets, and only strings as keys. The base
// documents under data do not change for as long as the result is used, nor do
// the rules. Query and rules went through the compiler, so that locals have
// unique names, imports are resolved and nested calls are taken apart.
//
// # Why it is right
//
// Evaluation is deterministic: what it does next depends on the policy, on data
// and on what it has read so far. So two inputs give the same decision if every
// read of the one gives the same result in the other. The analysis walks every
// expression that the query can reach and charges each possible read to a place
// of the input, either for its value or, less, for its shape: its type, where
// "undefined" is one more type. Charging too much costs only hits.
//
// Reached is every rule that a reference into data can touch, a variable in it
// matching anything, then whatever those rules reach. A `with` can redirect a
// reference only to values and functions that stand in the `with`, and these are
// walked too; reads of the callee are charged to the input even if `with` had
// replaced it there. What `else`, `not`, `every`, comprehensions and the like hold
// is walked as if it always ran. A reference `input.a.b[x].c` is charged with the value of
// input.a.b: the constant steps up to the first one that is only known at run
// time. `input` alone is the value of the whole input. A builtin is charged with
// the values of all its arguments, and with what purityOf says of it.
//
// # Where it is finer
//
// That alone would make nearly every policy depend on whole subtrees, because
// policies give names to parts of the input. So some names are known to stand
// for places, and a name alone reads nothing but whether the place is defined:
//
//   - A local in `x := input.a` (or `x = input.a`) is an alias. The expression is
//     charged with the shape of input.a, and each further mention of x with what
//     it reads: `x.b` the value of input.a.b, a bare `x` the value of input.a.
//     One expression for each variable may be its binding; any other, such as a
//     second `x = input.c`, which compares, is a mention and charged in full. So
//     it does not matter whether the binding is where x gets its value: if it
//     gets it elsewhere, that is a mention. A variable that is an argument in the
//     rule's head gets its value from the call and never has a binding.
//   - A parameter of a function is an alias of what its call sites pass; what else
//     they pass was charged there. A function is walked again when a call site
//     adds a place. A pattern in the head (`f({"b": x})`, `f("GET")`, `f(x, x)`)
//     reads the whole value, and so does every place beyond the first maxPlaces.
//   - A rule whose only job is `http := input.attributes.request.http` is an alias
//     wherever it is mentioned, and is not walked for it. That it may be undefined
//     needs no charge: then what lies below is undefined in either reading.
//   - `object.get(x, "b", default)` reads the shape of x and the value of x.b.
//
// The query itself gets no aliases, because its variables are its result.
//
// # What breaks it, and how that is caught
//
//   - `with f as g` makes any call go elsewhere, to a function that may read more
//     of its arguments. If such a `with` is reachable, all is walked once more
//     with every argument charged in full.
//   - `with input.a.b as v` leaves the rest of input.a in place only if input.a is
//     an object: the shapes on the way are charged.
//   - Syntax that a later OPA adds is unknown to the walk: Impure.
//   - A defect here that ends in a panic: Impure.
func Analyze(c *ast.Compiler, query ast.Body, own map[string]Purity) (result *Analysis) {
	defer func() {
		if p := recover(); p != nil {
			result = &Analysis{Impure: []Cause{{Rule: queryName, Why: "cannot be analyzed"}}}
		}
	}()
	if len(c.Errors) > 0 {
		return &Analysis{Impure: []Cause{{Rule: queryName, Why: "does not compile"}}}
	}
	a := newAnalyzer(c, own)
	a.run(query)
	if a.sawMock {
		a = newAnalyzer(c, own)
		a.mocked = true
		a.run(query)
	}
	return a.result()
}

const queryName = "the query"

// analyzer is one run over one query.
type analyzer struct {
	compiler *ast.Compiler
	own      map[string]Purity
	// mocked makes any call site reach any function; sawMock says that some
	// reachable `with` replaces a function.
	mocked, sawMock bool

	input                    *place
	impure, clock, unbounded causes

	// passed are the places that each parameter of a function can stand for.
	passed map[*ast.Rule][]places
	// standIns remembers for rules whether they only stand for a place.
	standIns map[*ast.Rule]*place
	// known are all rules reached; waiting those to walk, again or for the
	// first time.
	known   map[*ast.Rule]bool
	waiting []*ast.Rule
	queued  map[*ast.Rule]bool
}

func newAnalyzer(c *ast.Compiler, own map[string]Purity) *analyzer {
	return &analyzer{
		compiler: c,
		own:      own,
		input:    &place{},
		impure:   causes{}, clock: causes{}, unbounded: causes{},
		passed:   map[*ast.Rule][]places{},
		standIns: map[*ast.Rule]*place{},
		known:    map[*ast.Rule]bool{},
		queued:   map[*ast.Rule]bool{},
	}
}

// run walks the query, then rules until no call site teaches anything new. It
// ends because a parameter can only gain places, and at most maxPlaces.
func (a *analyzer) run(query ast.Body) {
	newScope(a, nil).body(query)
	for len(a.waiting) > 0 {
		rule := a.waiting[0]
		a.waiting = a.waiting[1:]
		delete(a.queued, rule)
		newScope(a, rule).walk()
	}
}

// reach makes a rule part of the analysis.
func (a *analyzer) reach(rule *ast.Rule) {
	if !a.known[rule] {
		a.known[rule] = true
		a.enqueue(rule)
	}
}

func (a *analyzer) enqueue(rule *ast.Rule) {
	if !a.queued[rule] {
		a.queued[rule] = true
		a.waiting = append(a.waiting, rule)
	}
}

// rulesAt are all rules that a reference into data can touch, in a stable order.
func (a *analyzer) rulesAt(ref ast.Ref) []*ast.Rule {
	rules := a.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})
	if len(rules) > 1 {
		slices.SortFunc(rules, func(x, y *ast.Rule) int { return x.Location.Compare(y.Location) })
	}
	return rules
}

// standIn finds the longest-named rule at the front of a reference whose only job
// is to stand for a place of the input, and says how many terms of the reference
// name it. Nil if there is none.
func (a *analyzer) standIn(ref ast.Ref) (p *place, used int) {
	for n := 2; n <= len(ref); n++ {
		if _, ok := ref[n-1].Value.(ast.String); !ok {
			return nil, 0
		}
		name := ref[:n]
		if rules := a.compiler.GetRulesExact(name); len(rules) > 0 {
			if len(rules) > 1 || len(a.compiler.GetRulesWithPrefix(name)) > 1 {
				return nil, 0
			}
			return a.placeOfRule(rules[0], name), n
		}
	}
	return nil, 0
}

func (a *analyzer) placeOfRule(rule *ast.Rule, name ast.Ref) *place {
	if p, ok := a.standIns[rule]; ok {
		return p
	}
	a.standIns[rule] = nil
	if !rule.Ref().Equal(name) {
		return nil
	}
	ref := soleValue(rule)
	steps, constant := constantSteps(ref)
	if !constant {
		return nil
	}
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		a.standIns[rule] = a.input.at(steps)
	case ref[0].Equal(ast.DefaultRootDocument):
		if p, used := a.standIn(ref); p != nil {
			a.standIns[rule] = p.at(steps[used-1:])
		}
	}
	return a.standIns[rule]
}

// soleValue is the reference that a rule of the form `name := reference` has as
// its value; nil for any other rule. The compiler may have moved the reference
// into the body: `name := x { x = reference }`.
func soleValue(rule *ast.Rule) ast.Ref {
	head := rule.Head
	if rule.Default || rule.Else != nil || len(head.Args) > 0 || head.Key != nil || head.RuleKind() != ast.SingleValue {
		return nil
	}
	if len(rule.Body) != 1 {
		return nil
	}
	switch value := head.Value.Value.(type) {
	case ast.Ref:
		if rule.Body[0].Equal(alwaysTrue) {
			return value
		}
	case ast.Var:
		if bound, ref := binding(rule.Body[0]); bound == value {
			return ref
		}
	}
	return nil
}

var alwaysTrue = ast.NewExpr(ast.BooleanTerm(true))

// result turns what was charged into an Analysis.
func (a *analyzer) result() *Analysis {
	return &Analysis{
		Paths:     a.input.charged(nil, nil),
		Whole:     a.input.reading == valueRead,
		Unbounded: a.unbounded.sorted(),
		TimeBound: len(a.clock) > 0,
		Clock:     a.clock.sorted(),
		Impure:    a.impure.sorted(),
		finished:  true,
	}
}

// causes is a set of Cause.
type causes map[Cause]bool

func (set causes) sorted() []Cause {
	if len(set) == 0 {
		return nil
	}
	list := make([]Cause, 0, len(set))
	for c := range set {
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y Cause) int {
		return cmp.Or(
			strings.Compare(x.File, y.File),
			cmp.Compare(x.Line, y.Line),
			strings.Compare(x.Rule, y.Rule),
			strings.Compare(x.Why, y.Why))
	})
	return list
}
