package rego

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// maxCopies is how often one literal may hold one variable, counted through the
// variables in between.
const maxCopies = 32

// growthProblems finds rules that make gigabytes of a few lines: a := [x, x],
// b := [a, a], c := [b, b] and so on. Evaluation keeps such values short for as long as
// they are held by variables, and writes them out in one step when a function or
// the result wants them. That step looks at no deadline, so it must not be large.
//
// Through calls such a value can grow only by so much a call, and between calls the
// deadline counts.
func growthProblems(modules map[string]*ast.Module) (found Problems) {
	for _, file := range sortedKeys(modules) {
		for _, rule := range modules[file].Rules {
			for r := rule; r != nil; r = r.Else {
				if at := newGrowth(r).find(r); at != nil {
					found = append(found, Problem{File: at.File, Line: at.Row, Column: at.Col, Text: fmt.Sprintf(
						"a value holds another one more than %d times; written out it may fill the memory. Refer to it once", maxCopies)})
				}
			}
		}
	}
	return found
}

// growth knows the literals of one rule and what they hold.
type growth struct {
	// literals are what a variable is set to or compared with.
	literals map[ast.Var][]*ast.Term
	holds    map[ast.Var]copies
}

// copies counts how often something holds each variable that is no literal itself.
type copies map[ast.Var]int

func newGrowth(r *ast.Rule) *growth {
	g := &growth{literals: map[ast.Var][]*ast.Term{}, holds: map[ast.Var]copies{}}
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if e.IsEquality() || e.IsAssignment() {
			g.note(e.Operand(0), e.Operand(1))
			g.note(e.Operand(1), e.Operand(0))
		}
		return false
	})
	return g
}

func (g *growth) note(name, literal *ast.Term) {
	if v, ok := name.Value.(ast.Var); ok && isCollection(literal) {
		g.literals[v] = append(g.literals[v], literal)
	}
}

func isCollection(t *ast.Term) bool {
	switch t.Value.(type) {
	case *ast.Array, ast.Object, ast.Set:
		return true
	}
	return false
}

// find returns where the rule holds a variable too often; nil if nowhere.
func (g *growth) find(r *ast.Rule) (at *ast.Location) {
	ast.WalkTerms(r, func(t *ast.Term) bool {
		if at == nil && isCollection(t) && g.of(t).most() > maxCopies {
			if at = t.Location; at == nil {
				at = r.Location
			}
		}
		return at != nil
	})
	return at
}

func (c copies) most() (n int) {
	for _, m := range c {
		n = max(n, m)
	}
	return n
}

// of counts what a literal holds.
func (g *growth) of(literal *ast.Term) copies {
	sum := copies{}
	ast.WalkTerms(literal, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			for held, n := range g.ofVar(v) {
				sum[held] = min(sum[held]+n, maxCopies+1)
			}
		case ast.Ref, ast.Call, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true // a value of its own
		}
		return false
	})
	return sum
}

func (g *growth) ofVar(v ast.Var) copies {
	if known := g.holds[v]; known != nil {
		return known
	}
	own := copies{v: 1}
	g.holds[v] = own // for literals that hold themselves, which nothing equals
	for _, literal := range slices.Clone(g.literals[v]) {
		for held, n := range g.of(literal) {
			own[held] = max(own[held], n)
		}
	}
	return own
}
