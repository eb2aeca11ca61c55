package rego

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/postern-auth/postern/policy/lib"
)

// permitsDecl declares postern.permits(tables, question). It exists for the
// compilers that are given it, and nowhere else.
var permitsDecl = &ast.Builtin{
	Name:        "postern.permits",
	Description: "Decides a question by tables of roles, permissions, routes and scopes.",
	Decl: types.NewFunction(
		types.Args(types.NewObject(nil, types.NewDynamicProperty(types.S, types.A)),
			types.NewObject(nil, types.NewDynamicProperty(types.S, types.A))),
		types.NewObject(nil, types.NewDynamicProperty(types.S, types.A)),
	),
}

// ownBuiltins says what the answers of our functions depend on.
var ownBuiltins = map[string]Purity{permitsDecl.Name: Pure}

// permits is the function. Its answer depends on its arguments alone; that it
// remembers the last tables, by identity, only saves compiling them again: data
// does not change within a snapshot, so its tables are the same objects in every
// evaluation, while `with data.roles as …` in a test makes others.
type permits struct {
	last atomic.Pointer[compiledTables]
}

type compiledTables struct {
	source tableValues
	rbac   *rbac
}

// tableValues are the values that tables were compiled from, in the order of
// lib.Tables.
type tableValues [len(lib.Tables)]ast.Value

func valuesOf(tables ast.Object) (values tableValues) {
	for i, name := range lib.Tables {
		values[i] = member(tables, name)
	}
	return values
}

// same compares by identity, and only what has one.
func (a *tableValues) same(b *tableValues) bool {
	for i := range a {
		switch x := a[i].(type) {
		case nil:
			if b[i] != nil {
				return false
			}
		case ast.Object:
			if y, ok := b[i].(ast.Object); !ok || x != y {
				return false
			}
		case *ast.Array:
			if y, ok := b[i].(*ast.Array); !ok || x != y {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// compiled returns the compiled tables.
func (p *permits) compiled(tables ast.Object, e *evaluation) (*rbac, error) {
	source := valuesOf(tables)
	if last := p.last.Load(); last != nil && last.source.same(&source) {
		return last.rbac, nil
	}
	if !e.charge(deeply(8)([]*ast.Term{{Value: tables}}, e.most)) {
		return nil, errTooLarge
	}
	t, err := compileTables(source)
	if err == nil {
		p.last.Store(&compiledTables{source, t})
	}
	return t, err
}

func compileTables(source tableValues) (*rbac, error) {
	tables := map[string]any{}
	for i, v := range source {
		if v == nil {
			continue
		}
		j, err := ast.JSON(v)
		if err != nil {
			return nil, err
		}
		tables[lib.Tables[i]] = j
	}
	return compileRBAC(tables)
}

// tablesAnswer is what lib.RBAC said last in one evaluation, and where it is. If that
// is the whole decision, as it is for data without Rego, it is its own explanation.
type tablesAnswer struct {
	value ast.Value
	at    *ast.Location
}

// is reports whether the result is the answer itself, not one that is like it.
func (a *tablesAnswer) is(result ast.Value) bool { return a.at != nil && a.value == result }

func (a *tablesAnswer) note(value ast.Value, at *ast.Location) {
	if at != nil && at.File == rbacFile {
		a.value, a.at = value, at
	}
}

// rbacFile is the file of lib.RBAC, the only rule in it that asks the tables.
const rbacFile = libraryPrefix + "rbac.rego"

// call implements topdown.BuiltinFunc.
func (p *permits) call(b topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	e := evaluationOf(b)
	a, err := p.ask(e, operands)
	if errors.Is(err, errTooLarge) {
		return tooMuch(permitsDecl.Name, b.Location)
	}
	if err != nil {
		return &topdown.Error{Code: topdown.BuiltinErr, Message: permitsDecl.Name + ": " + err.Error(), Location: b.Location}
	}
	term := a.term()
	e.said.note(term.Value, b.Location)
	return iter(term)
}

func (p *permits) ask(e *evaluation, operands []*ast.Term) (answer, error) {
	tables, ok := operands[0].Value.(ast.Object)
	asked, ok2 := operands[1].Value.(ast.Object)
	if !ok || !ok2 {
		return answer{}, errors.New("both arguments are objects")
	}
	t, err := p.compiled(tables, e)
	if err != nil {
		return answer{}, err
	}
	q, err := questionOf(asked)
	if err != nil {
		return answer{}, err
	}
	return t.ask(q), nil
}

func questionOf(asked ast.Object) (*question, error) {
	r := questionReader{object: asked}
	q := &question{
		roles: r.list("roles"), permissions: r.list("permissions"), scopes: r.list("scopes"),
		narrowed: r.list("narrowed"), userRoles: r.list("user_roles"), userPermissions: r.list("user_permissions"),
		method: r.text("method"), path: r.text("path"), folded: r.text("folded"), action: r.text("action"),
		permission: r.text("required_permission"), requiredScopes: r.list("required_scopes"),
	}
	return q, r.err
}

type questionReader struct {
	object ast.Object
	err    error
}

func (r *questionReader) text(name string) string {
	switch v := member(r.object, name).(type) {
	case nil:
		return ""
	case ast.String:
		return string(v)
	}
	r.err = fmt.Errorf("%s is a string", name)
	return ""
}

func (r *questionReader) list(name string) []string {
	var all []string
	add := func(t *ast.Term) {
		s, ok := t.Value.(ast.String)
		if !ok {
			r.err = fmt.Errorf("%s holds strings", name)
		}
		all = append(all, string(s))
	}
	switch v := member(r.object, name).(type) {
	case nil:
	case *ast.Array:
		all = make([]string, 0, v.Len())
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	default:
		r.err = fmt.Errorf("%s is a list", name)
	}
	return all
}

var (
	allowTerm   = ast.NewTerm(ast.MustInterfaceToValue(map[string]any{"allow": true}))
	nothingTerm = ast.NewTerm(ast.MustInterfaceToValue(map[string]any{"allow": false}))
)

// term returns the answer as a decision that result.go understands.
func (a *answer) term() *ast.Term {
	if a.allow {
		return allowTerm
	}
	items := [][2]*ast.Term{ast.Item(ast.InternedTerm("allow"), ast.InternedTerm(false))}
	add := func(name string, t *ast.Term) { items = append(items, ast.Item(ast.InternedTerm(name), t)) }
	if a.denied != "" {
		add("deny", ast.NewTerm(ast.NewArray(ast.StringTerm(a.denied))))
	}
	if len(a.missingPermissions) > 0 {
		add("missing_permissions", stringsTerm(a.missingPermissions))
	}
	if len(a.missingScopes) > 0 {
		add("missing_scopes", stringsTerm(a.missingScopes))
	}
	if len(items) == 1 {
		return nothingTerm
	}
	return ast.ObjectTerm(items...)
}

func stringsTerm(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = ast.StringTerm(s)
	}
	return ast.NewTerm(ast.NewArray(terms...))
}

// bindBuiltins makes the functions of one snapshot. The tables are compiled now if
// the decision can ask them, so that a mistake in them is found at load.
func (s *Snapshot) bindBuiltins(data map[string]any) (map[string]*topdown.Builtin, error) {
	p := &permits{}
	if s.reaches(lib.RBAC) {
		t, err := compileRBAC(data) // the same as s.store.root, which would have to be turned into it again
		if err != nil {
			return nil, err
		}
		p.last.Store(&compiledTables{valuesOf(s.store.root), t})
	}
	return map[string]*topdown.Builtin{permitsDecl.Name: {Decl: permitsDecl, Func: p.call}}, nil
}

// reaches reports whether the entrypoint can ask a rule of that path.
func (s *Snapshot) reaches(path string) bool {
	target := ast.MustParseRef(path)
	todo := s.compiler.GetRulesWithPrefix(s.entry)
	seen := map[*ast.Rule]bool{}
	for len(todo) > 0 {
		rule := todo[0]
		todo = todo[1:]
		if seen[rule] {
			continue
		}
		seen[rule] = true
		if rule.Ref().HasPrefix(target) {
			return true
		}
		for below := range s.compiler.Graph.Dependencies(rule) {
			todo = append(todo, below.(*ast.Rule))
		}
	}
	return false
}
