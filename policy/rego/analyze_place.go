package rego

import (
	"maps"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
)

// place is a place of the input: a node in the tree of those that the policy
// mentions. Equal paths are the same node.
type place struct {
	below   map[string]*place
	reading reading
}

// reading is how much of a place the decision reads.
type reading uint8

const (
	notRead reading = iota
	shapeRead
	valueRead
)

// at is the place that the steps lead to.
func (p *place) at(steps []string) *place {
	for _, step := range steps {
		next := p.below[step]
		if next == nil {
			next = &place{}
			if p.below == nil {
				p.below = map[string]*place{}
			}
			p.below[step] = next
		}
		p = next
	}
	return p
}

func (p *place) readShape() { p.reading = max(p.reading, shapeRead) }
func (p *place) readValue() { p.reading = valueRead }

// charged appends the paths that are read at and below a place. Nothing below a
// value that is read whole adds anything. The shape of the input itself is not
// worth a path: it is always an object.
func (p *place) charged(prefix []string, out []Path) []Path {
	if p.reading == valueRead {
		return append(out, Path{Ref: slices.Clone(prefix)})
	}
	if p.reading == shapeRead && len(prefix) > 0 {
		out = append(out, Path{Ref: slices.Clone(prefix), ShapeOnly: true})
	}
	for _, step := range slices.Sorted(maps.Keys(p.below)) {
		out = p.below[step].charged(append(prefix, step), out)
	}
	return out
}

// places are those that one name can stand for, without duplicates.
type places []*place

// maxPlaces bounds the places of one parameter. Without a bound, n functions that
// call each other twice would make 2^n places.
const maxPlaces = 32

// add adds a place unless it is known (added is false) or there are too many
// (fits is false as well).
func (ps *places) add(p *place) (added, fits bool) {
	if slices.Contains(*ps, p) {
		return false, true
	}
	if len(*ps) >= maxPlaces {
		return false, false
	}
	*ps = append(*ps, p)
	return true, true
}

func (ps places) at(steps []string) places {
	out := make(places, len(ps))
	for i, p := range ps {
		out[i] = p.at(steps)
	}
	return out
}

func (ps places) readShape() {
	for _, p := range ps {
		p.readShape()
	}
}

func (ps places) readValue() {
	for _, p := range ps {
		p.readValue()
	}
}

// constantSteps are the steps that follow the head of a reference, up to the
// first that is not constant; all says that there is none such. An empty
// reference has no steps and is not constant.
func constantSteps(ref ast.Ref) (steps []string, all bool) {
	if len(ref) == 0 {
		return nil, false
	}
	for _, term := range ref[1:] {
		step, ok := constantStep(term)
		if !ok {
			return steps, false
		}
		steps = append(steps, step)
	}
	return steps, true
}

// constantStep reads a term as a step of a Path. Numbers that are no position
// (-1, 1.0, 1e3) count as not constant: the value before them is read instead.
func constantStep(term *ast.Term) (step string, ok bool) {
	switch v := term.Value.(type) {
	case ast.String:
		return string(v), true
	case ast.Number:
		return string(v), isPosition(string(v))
	}
	return "", false
}

// isPosition: the step can select an element of an array.
func isPosition(step string) bool {
	n, err := strconv.ParseUint(step, 10, 31)
	return err == nil && strconv.FormatUint(n, 10) == step
}
