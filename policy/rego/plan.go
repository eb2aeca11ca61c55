package rego

import (
	"encoding/binary"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy"
)

// plan is what one snapshot reads of a request: the parts of its cache key and
// the shape of its input document. Both are made once, at activation, from the
// same table and the same dependencies.
type plan struct {
	view  view
	parts []part
	input *branch
	// spots are what is read, for people.
	spots []spot
}

// part is one piece of the key.
type part struct {
	// has are the objects on the way that may be missing; then the part is absent.
	has []func(*policy.Input) bool
	// get is the leaf; nil if only the presence of the objects counts.
	get getter
	// below are the steps below the leaf.
	below []string
	// shape says that only the type counts.
	shape bool
}

// newPlan derives the plan from what a policy can read.
func newPlan(v view, paths []Path) *plan {
	p := &plan{view: v, input: &branch{field: &document}}
	for _, path := range paths {
		p.add(path)
	}
	p.spots = newSpots(&p.view, paths)
	return p
}

func (p *plan) add(path Path) {
	at, node, has := &document, p.input, []func(*policy.Input) bool(nil)
	for i, step := range path.Ref {
		below := at.lookup(step)
		if below == nil {
			return // no such field: undefined whatever the request
		}
		at, node = below, node.child(below)
		if at.has != nil {
			has = append(slices.Clip(has), at.has)
		}
		if at.get != nil {
			p.addLeaf(part{has: has, get: at.get, below: path.Ref[i+1:], shape: path.ShapeOnly}, node)
			return
		}
	}
	if path.ShapeOnly {
		p.addPresence(has)
		return
	}
	p.addAll(at, node, has)
}

func (p *plan) addLeaf(leaf part, node *branch) {
	p.parts = append(p.parts, leaf)
	switch {
	case len(leaf.below) > 0:
		node.only = append(node.only, leaf.below[0])
	case !leaf.shape:
		node.whole = true
	}
}

// addPresence adds whether an object is there, where that can vary.
func (p *plan) addPresence(has []func(*policy.Input) bool) {
	if len(has) > 0 {
		p.parts = append(p.parts, part{has: has, shape: true})
	}
}

// addAll adds everything below an object.
func (p *plan) addAll(at *field, node *branch, has []func(*policy.Input) bool) {
	if at.get != nil {
		p.addLeaf(part{has: has, get: at.get}, node)
		return
	}
	p.addPresence(has)
	for i := range at.fields {
		below := &at.fields[i]
		under := has
		if below.has != nil {
			under = append(slices.Clip(has), below.has)
		}
		p.addAll(below, node.child(below), under)
	}
}

func (f *field) lookup(name string) *field {
	for i := range f.fields {
		if f.fields[i].name == name {
			return &f.fields[i]
		}
	}
	return nil
}

// appendKey appends the key of the request to r.buf. Timed policies add the
// second of the evaluation.
func (p *plan) appendKey(r *reader, in *policy.Input) {
	for i := range p.parts {
		p.parts[i].appendKey(r, in)
	}
}

func (p *part) appendKey(r *reader, in *policy.Input) {
	for _, has := range p.has {
		if !has(in) {
			r.appendTag(tagAbsent)
			return
		}
	}
	if p.get == nil {
		r.appendTag(tagObject)
		return
	}
	v := p.get(r.view, in)
	for _, step := range p.below {
		if isPosition(step) {
			// a["0"] of an object and a[0] of an array are one path and two answers.
			r.appendShape(v)
		}
		v = v.at(r, step)
	}
	if p.shape {
		r.appendShape(v)
		return
	}
	r.appendKey(v)
}

func (r *reader) appendTime(second int64) {
	r.buf = binary.BigEndian.AppendUint64(r.buf, uint64(second))
}

// branch is one field of the pruned input document.
type branch struct {
	field    *field
	name     *ast.Term
	children []*branch
	// whole asks for all of a leaf, only for some of its members. With neither,
	// just its type counts.
	whole bool
	only  []string
}

func (b *branch) child(f *field) *branch {
	for _, c := range b.children {
		if c.field == f {
			return c
		}
	}
	c := &branch{field: f, name: ast.StringTerm(f.name)}
	b.children = append(b.children, c)
	return c
}

// document returns the request's input document, pruned to what the policy reads.
func (p *plan) document(r *reader, in *policy.Input) *ast.Term { return p.input.term(r, in) }

func (b *branch) term(r *reader, in *policy.Input) *ast.Term {
	if b.field.get != nil {
		return b.leaf(r, b.field.get(r.view, in))
	}
	items := make([][2]*ast.Term, 0, len(b.children))
	for _, c := range b.children {
		if c.field.has != nil && !c.field.has(in) {
			continue
		}
		if t := c.term(r, in); t != nil {
			items = append(items, ast.Item(c.name, t))
		}
	}
	return ast.ObjectTerm(items...)
}

func (b *branch) leaf(r *reader, v value) *ast.Term {
	tag := r.tagOf(v)
	switch {
	case b.whole:
		return r.term(v)
	case tag == tagObject:
		return b.members(r, v)
	case tag == tagArray && len(b.only) == 0:
		return emptyArray
	}
	return r.term(v)
}

var emptyArray = ast.NewTerm(ast.NewArray())

func (b *branch) members(r *reader, v value) *ast.Term {
	items := make([][2]*ast.Term, 0, len(b.only))
	for i, name := range b.only {
		if slices.Contains(b.only[:i], name) {
			continue
		}
		below := v.at(r, name)
		if below.kind == kindSpecial { // a value that covers more than the member
			return r.term(v)
		}
		if t := r.term(below); t != nil {
			items = append(items, ast.Item(ast.StringTerm(name), t))
		}
	}
	return ast.ObjectTerm(items...)
}
