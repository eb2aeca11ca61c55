package strictyaml

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// What the decoder says of a file: each complaint is put where it belongs, and the
// lines are shown at the end, when it is known what in them is a secret.

// nodeOf returns the node for the path, or for the nearest one around it.
func (d *decoder) nodeOf(path string) *yaml.Node {
	for {
		if p, ok := d.places[path]; ok {
			if p.value.Kind == yaml.ScalarNode {
				return p.value
			}
			return p.key
		}
		path = parent(path)
	}
}

// markFaulty notes that something is wrong at the path, and so also within
// whatever is around it.
func (d *decoder) markFaulty(path string) {
	for ; path != "" && !d.faulty[path]; path = parent(path) {
		d.faulty[path] = true
	}
}

// enough reports whether to stop looking: a file with so many errors is not of
// the kind that was expected, and the quick pass needs one only.
func (d *decoder) enough() bool {
	return len(d.errs) > maxErrors || d.quick && len(d.errs) > 0
}

// fail adds an error about the value at the path.
func (d *decoder) fail(n *yaml.Node, path, message, suggestion string) {
	if d.quick {
		d.errs = append(d.errs, nil)
		return
	}
	d.markFaulty(path)
	if path != "" {
		message = path + ": " + message
	}
	d.errs = append(d.errs, d.errorAt(n, path, message, suggestion))
}

// add adds an error whose message names what it is about.
func (d *decoder) add(n *yaml.Node, path, message, suggestion string) {
	d.errs = append(d.errs, d.errorAt(n, path, message, suggestion))
}

func (d *decoder) errorAt(n *yaml.Node, path, message, suggestion string) *Error {
	return &Error{
		File: d.name, Line: n.Line, Column: n.Column,
		Path: path, Message: message, Suggestion: suggestion,
	}
}

// finish sorts the errors, gives each its line with the secrets masked, and
// bounds their number.
func (d *decoder) finish() error {
	slices.SortStableFunc(d.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	if len(d.errs) > maxErrors {
		d.maskAll() // nobody looked for secrets in the rest
		last := *d.errs[maxErrors]
		last.Message, last.Suggestion, last.Path = "and more errors from here", "", ""
		d.errs = append(d.errs[:maxErrors:maxErrors], &last)
	}
	line := d.showLine(0)
	for _, e := range d.errs {
		if len(d.order) == 0 { // without a tree, nobody knows where secrets are
			continue
		}
		if line.number != e.Line {
			line = d.showLine(e.Line)
		}
		e.Source, e.caret = line.window(e.Column)
	}
	return d.errs
}
