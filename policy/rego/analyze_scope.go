package rego

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// scope walks one rule, or the query, and charges every read in it. All that a
// variable can mean lies inside of one scope.
type scope struct {
	*analyzer
	rule *ast.Rule // nil in the query
	// aliases are the variables that stand for places.
	aliases map[ast.Var]places
	// binds are the expressions that only give an alias its place.
	binds map[*ast.Expr]ast.Var
	// near is the last location seen on the way down.
	near *ast.Location
}

func newScope(a *analyzer, rule *ast.Rule) *scope {
	return &scope{analyzer: a, rule: rule, aliases: map[ast.Var]places{}, binds: map[*ast.Expr]ast.Var{}}
}

// walk charges what the rule reads.
func (s *scope) walk() {
	s.near = s.rule.Location
	s.nameParameters()
	s.nameLocals()
	s.head(s.rule.Head)
	s.body(s.rule.Body)
	if s.rule.Else != nil {
		s.reach(s.rule.Else)
	}
}

// nameParameters makes aliases of the parameters that call sites pass places to.
func (s *scope) nameParameters() {
	for i, ps := range s.passed[s.rule] {
		if len(ps) > 0 {
			s.aliases[s.rule.Head.Args[i].Value.(ast.Var)] = ps
		}
	}
}

// nameLocals makes aliases of the locals that are bound to places, and of those
// bound to places below these, until there are no more. The compiler puts
// bindings before uses, so that more than two rounds are rare.
func (s *scope) nameLocals() {
	isParameter := map[ast.Var]bool{}
	ast.WalkVars(s.rule.Head.Args, func(v ast.Var) bool {
		isParameter[v] = true
		return false
	})
	var candidates []*ast.Expr
	ast.WalkExprs(s.rule.Body, func(e *ast.Expr) bool {
		if v, _ := binding(e); v != "" && !isParameter[v] {
			candidates = append(candidates, e)
		}
		return false
	})
	for grew := true; grew; {
		grew = false
		for _, e := range candidates {
			v, ref := binding(e)
			if s.aliases[v] != nil {
				continue
			}
			if ps := s.placesOfRef(ref); ps != nil {
				s.aliases[v], s.binds[e] = ps, v
				grew = true
			}
		}
	}
}

// binding reads an expression `v = reference` or `reference = v`. The variable is
// empty if it is none.
func binding(e *ast.Expr) (ast.Var, ast.Ref) {
	if e.Negated || len(e.With) > 0 || !e.IsEquality() && !e.IsAssignment() {
		return "", nil
	}
	left, right := e.Operand(0), e.Operand(1)
	if v, ok := left.Value.(ast.Var); ok {
		if ref, ok := right.Value.(ast.Ref); ok {
			return v, ref
		}
	}
	if v, ok := right.Value.(ast.Var); ok {
		if ref, ok := left.Value.(ast.Ref); ok {
			return v, ref
		}
	}
	return "", nil
}

// placesOfRef are the places that a constant reference stands for; nil if it
// stands for none.
func (s *scope) placesOfRef(ref ast.Ref) places {
	steps, constant := constantSteps(ref)
	if !constant {
		return nil
	}
	base, used := s.placesOfHead(ref)
	if base == nil {
		return nil
	}
	return base.at(steps[used-1:])
}

// placesOfHead are the places that the front of a reference stands for, and the
// number of its terms that make up this front. What comes after may be anything.
func (s *scope) placesOfHead(ref ast.Ref) (ps places, used int) {
	head, ok := ref[0].Value.(ast.Var)
	switch {
	case !ok:
		return nil, 0
	case head.Equal(ast.InputRootDocument.Value):
		return places{s.input}, 1
	case head.Equal(ast.DefaultRootDocument.Value):
		if p, used := s.standIn(ref); p != nil {
			return places{p}, used
		}
		return nil, 0
	}
	return s.aliases[head], 1
}

// placesOfTerm are the places that a term stands for; nil if it stands for none.
func (s *scope) placesOfTerm(t *ast.Term) places {
	switch v := t.Value.(type) {
	case ast.Var:
		if v.Equal(ast.InputRootDocument.Value) {
			return places{s.input}
		}
		return s.aliases[v]
	case ast.Ref:
		return s.placesOfRef(v)
	}
	return nil
}

// read charges the values of places. Why says in what way, should one of them be
// the whole input.
func (s *scope) read(ps places, why string) {
	ps.readValue()
	for _, p := range ps {
		if p == s.input {
			s.unbounded[s.cause(why)] = true
		}
	}
}

func (s *scope) cause(why string) Cause {
	c := Cause{Rule: queryName, Why: why}
	if s.rule != nil {
		c.Rule = s.rule.Ref().ConstantPrefix().String()
	}
	if s.near != nil {
		c.File, c.Line = s.near.File, s.near.Row
	}
	return c
}

// unknown is for what the walk does not understand.
func (s *scope) unknown(what string) {
	s.impure[s.cause("has "+what+", which the analysis does not know")] = true
}

// callsBuiltin charges what a builtin depends on besides its arguments.
func (s *scope) callsBuiltin(name string) {
	purity, why := purityOf(name, s.own)
	switch purity {
	case Pure:
	case TimeBound:
		s.clock[s.cause("calls "+name+": "+why)] = true
	default:
		s.impure[s.cause("calls "+name+": "+why)] = true
	}
}

func (s *scope) head(h *ast.Head) {
	for _, arg := range h.Args {
		if _, plain := arg.Value.(ast.Var); !plain {
			s.term(arg)
		}
	}
	if h.Key != nil {
		s.term(h.Key)
	}
	if h.Value != nil {
		s.term(h.Value)
	}
	for i, t := range h.Reference {
		if i > 0 {
			s.term(t)
		}
	}
}

func (s *scope) body(b ast.Body) {
	for _, e := range b {
		s.expr(e)
	}
}

func (s *scope) expr(e *ast.Expr) {
	defer s.moveTo(e.Location)()
	for _, w := range e.With {
		s.with(w)
	}
	if v, ok := s.binds[e]; ok {
		s.aliases[v].readShape()
		return
	}
	s.node(e.Terms)
}

// moveTo sets the location for causes, and returns what sets it back.
func (s *scope) moveTo(l *ast.Location) func() {
	was := s.near
	if l != nil && l.Row > 0 {
		s.near = l
	}
	return func() { s.near = was }
}

// node charges what can stand in an expression, and nodes below.
func (s *scope) node(x any) {
	switch x := x.(type) {
	case *ast.Term:
		s.term(x)
	case []*ast.Term:
		s.call(x)
	case *ast.SomeDecl:
		s.terms(x.Symbols)
	case *ast.Every:
		if x.Key != nil {
			s.term(x.Key)
		}
		s.term(x.Value)
		s.term(x.Domain)
		s.body(x.Body)
	case *ast.Not:
		s.body(x.Body)
	case *ast.LogicalAnd:
		s.body(x.Lhs)
		s.body(x.Rhs)
	case *ast.LogicalOr:
		s.body(x.Lhs)
		s.body(x.Rhs)
	case *ast.Expr:
		s.expr(x)
	default:
		s.unknown(fmt.Sprintf("syntax of the kind %T", x))
	}
}

func (s *scope) terms(ts []*ast.Term) {
	for _, t := range ts {
		s.term(t)
	}
}

func (s *scope) term(t *ast.Term) {
	defer s.moveTo(t.Location)()
	switch v := t.Value.(type) {
	case ast.Null, ast.Boolean, ast.Number, ast.String:
	case ast.Var:
		s.ref(ast.Ref{t})
	case ast.Ref:
		s.ref(v)
	case *ast.Array:
		v.Foreach(s.term)
	case ast.Object:
		v.Foreach(func(key, value *ast.Term) { s.term(key); s.term(value) })
	case ast.Set:
		v.Foreach(s.term)
	case *ast.ArrayComprehension:
		s.term(v.Term)
		s.body(v.Body)
	case *ast.SetComprehension:
		s.term(v.Term)
		s.body(v.Body)
	case *ast.ObjectComprehension:
		s.term(v.Key)
		s.term(v.Value)
		s.body(v.Body)
	case ast.Call:
		s.call(v)
	case *ast.TemplateString:
		for _, part := range v.Parts {
			s.node(part)
		}
	default:
		s.node(v)
	}
}

// ref charges a reference that is read for its value.
func (s *scope) ref(ref ast.Ref) {
	s.terms(ref[1:])
	if ps, used := s.placesOfHead(ref); ps != nil {
		steps, _ := constantSteps(ref[used-1:])
		s.read(ps.at(steps), wholeInput(ref[used-1:]))
		return
	}
	switch head := ref[0].Value.(type) {
	case ast.Var:
		if head.Equal(ast.DefaultRootDocument.Value) {
			for _, rule := range s.rulesAt(ref) {
				s.reach(rule)
			}
		}
	default:
		s.term(ref[0])
	}
}

// wholeInput says how a reference that begins at the input reads all of it.
func wholeInput(ref ast.Ref) string {
	if len(ref) > 1 {
		return "reads a member of input whose name is only known at run time"
	}
	return "uses input as a whole"
}

// with charges one `with target as value`.
func (s *scope) with(w *ast.With) {
	s.term(w.Value)
	s.mayCall(w.Value)
	target, ok := w.Target.Value.(ast.Ref)
	switch {
	case !ok:
		s.unknown("a `with` that replaces neither input nor data nor a function")
	case target[0].Equal(ast.InputRootDocument):
		s.replaceInput(target)
	case target[0].Equal(ast.DefaultRootDocument):
		for _, rule := range s.rulesAt(target) {
			s.sawMock = s.sawMock || len(rule.Head.Args) > 0
		}
	default:
		s.sawMock = true
		s.callsBuiltin(target.String())
	}
}

// mayCall charges a replacement that is the name of a builtin. A name of a rule
// or function was charged as a reference.
func (s *scope) mayCall(replacement *ast.Term) {
	ref, ok := replacement.Value.(ast.Ref)
	if !ok || ref[0].Equal(ast.InputRootDocument) || ref[0].Equal(ast.DefaultRootDocument) {
		return
	}
	if s.compiler.GetArity(ref) >= 0 {
		s.callsBuiltin(ref.String())
	}
}

// replaceInput: objects on the way to the target keep their other members,
// anything else on the way is replaced by an object that holds the target alone.
func (s *scope) replaceInput(target ast.Ref) {
	steps, constant := constantSteps(target)
	if !constant {
		s.read(places{s.input.at(steps)}, "replaces a member of input whose name is only known at run time")
		return
	}
	for i := range steps {
		s.input.at(steps[:i]).readShape()
	}
}

// call charges an operator or function and its operands.
func (s *scope) call(terms []*ast.Term) {
	operator, ok := terms[0].Value.(ast.Ref)
	switch {
	case !ok:
		s.unknown("a call of something without a name")
	case operator[0].Equal(ast.DefaultRootDocument):
		s.callFunction(operator, terms[1:])
	default:
		s.callBuiltin(operator.String(), terms[1:])
	}
}

func (s *scope) callBuiltin(name string, operands []*ast.Term) {
	s.callsBuiltin(name)
	if name == ast.ObjectGet.Name && !s.mocked && s.objectGet(operands) {
		return
	}
	why := "hands all of input to " + name
	if b := ast.BuiltinMap[name]; b != nil && b.Infix != "" {
		why = "uses input as a whole"
	}
	for _, t := range operands {
		if ps := s.placesOfTerm(t); ps != nil {
			s.read(ps, why)
		} else {
			s.term(t)
		}
	}
}

// objectGet charges object.get(object, key, default) if the object stands for
// places. It reads whether that is an object, for else it fails, and the value
// under the key; a key may be an array of steps, and no steps are the object
// itself. Steps from the first one on that is not constant can lead anywhere.
func (s *scope) objectGet(operands []*ast.Term) bool {
	if len(operands) < 3 {
		return false
	}
	object, key := s.placesOfTerm(operands[0]), operands[1]
	if object == nil {
		return false
	}
	path := ast.Ref{operands[0], key}
	if keys, ok := key.Value.(*ast.Array); ok {
		path = path[:1]
		keys.Foreach(func(k *ast.Term) { path = append(path, k) })
	}
	steps, _ := constantSteps(path)
	object.readShape()
	s.read(object.at(steps), wholeInput(path))
	s.terms(operands[1:])
	return true
}

// callFunction charges a call of a function that the policy defines. An operand
// that stands for places reads whether they are defined, and what the function
// reads of them. Operands after the last parameter receive the result.
func (s *scope) callFunction(name ast.Ref, operands []*ast.Term) {
	functions := s.rulesAt(name)
	if len(functions) == 0 {
		s.unknown("a call of " + name.String())
	}
	passed := make([]places, parameterCount(functions))
	for i, t := range operands {
		if ps := s.placesOfTerm(t); ps != nil && i < len(passed) && !s.mocked {
			ps.readShape()
			passed[i] = ps
		} else {
			s.term(t)
		}
	}
	for _, function := range functions {
		s.pass(function, passed)
		s.reach(function)
	}
}

// parameterCount is the number of parameters that all functions of a name have.
func parameterCount(functions []*ast.Rule) int {
	if len(functions) == 0 {
		return 0
	}
	n := len(functions[0].Head.Args)
	for _, f := range functions {
		n = min(n, len(f.Head.Args))
	}
	return n
}

// pass records what a call hands to the parameters of a function and of its
// `else` branches. If that is news, the function is walked again.
func (s *scope) pass(function *ast.Rule, operands []places) {
	params := s.passed[function]
	if params == nil {
		params = make([]places, len(function.Head.Args))
		s.passed[function] = params
	}
	why := "hands all of input to " + function.Ref().String()
	for i, operand := range operands {
		if i >= len(params) || !isPlainParameter(function.Head.Args, i) {
			s.read(operand, why)
			continue
		}
		for _, p := range operand {
			added, fits := params[i].add(p)
			if !fits {
				s.read(places{p}, why)
			}
			if added && s.known[function] {
				s.enqueue(function)
			}
		}
	}
	if function.Else != nil {
		s.pass(function.Else, operands)
	}
}

// isPlainParameter: the parameter is a variable that occurs once, so that it binds
// and compares nothing.
func isPlainParameter(params ast.Args, i int) bool {
	v, ok := params[i].Value.(ast.Var)
	mentions := 0
	ast.WalkVars(params, func(x ast.Var) bool {
		if x == v {
			mentions++
		}
		return false
	})
	return ok && mentions == 1
}
