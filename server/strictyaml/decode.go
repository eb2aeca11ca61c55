// Package strictyaml reads YAML files that people write by hand and programs
// depend on: configuration, lists of keys. It refuses whatever could be read in
// two ways or silently ignored, and it says everything that is wrong at once.
//
// Decode works in five steps, each of which only runs on what the one before
// let through:
//
//  1. bytes: size, UTF-8, control characters, tabs, before any parsing
//  2. nodes: go.yaml.in/yaml/v3 parses one document into positioned nodes
//  3. tree: depth; anchors, aliases, merge keys and explicit tags refused
//  4. values: nodes into Go values by reflection and `yaml:"name"` tags;
//     unknown and repeated fields, wrong types, secrets
//  5. hooks: the values check themselves, and their complaints are put back
//     at the line that caused them
//
// Steps 4 and 5 go on after an error, so one run reports all of them, each with
// line, column, the line itself, what is allowed and, where one is near, a
// suggestion. Nothing reaches the caller's value unless all five steps succeed.
//
// # Tags
//
// A field is part of the file if it has a tag: `yaml:"name"` with options after
// commas. "required" refuses a mapping without it, "scalar" accepts one value
// where a list is meant, "blank" takes a name with nothing behind it for an empty
// list, "empty" takes [] for one that is meant, "inline" puts a struct's fields beside
// its own.
//
// # Secrets
//
// A policy.Secret must be a reference, ${file:/path} or ${env:NAME}; it is
// resolved while decoding, and a file or variable that is missing or empty is an
// error at that line. A literal is refused, and no message shows it: the spans of
// the source that stand where a secret belongs are masked before any line is
// printed, whatever the error on that line is about.
package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Checker is implemented by types that find faults in themselves.
// Check calls report for each: path is relative to the value ("keys.refresh",
// "audiences[1]", "" for the value itself), and suggestion says what to do, or is
// empty. Messages must not hold secrets. Check runs after all values are decoded
// and must cope with fields that are unset because they were wrong.
type Checker interface {
	Check(report func(path, message, suggestion string))
}

// Defaulter is implemented by types that do not start as their zero value where
// they stand in lists, maps and behind pointers.
type Defaulter interface {
	SetDefaults()
}

// Enum is implemented by named string types with a closed set of values.
type Enum interface {
	Values() []string
}

// Decode reads the YAML document src into the value that into points to. Fields
// that the document does not name keep what they hold; lists and maps that it
// names are replaced whole. The name stands for the file in messages. The error
// is of type Errors, and into is unchanged if there is one.
func Decode(name string, src []byte, into any, opts ...Option) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("%s: nothing to decode into", name)
	}
	d := newDecoder(name, src, opts)
	root, ok := d.parse()
	if !ok {
		return d.finish()
	}
	// Most files are right, and some are long: the first pass only looks whether
	// anything is wrong, and the second, if it is, finds out where.
	if d.references == nil {
		d.quick = true
		if v := d.decode(root, target.Elem()); len(d.errs) == 0 {
			target.Elem().Set(v)
			return nil
		}
		d.quick, d.errs, d.hooks, d.empty, d.faulty = false, nil, nil, nil, map[string]bool{}
	}
	if v := d.decode(root, target.Elem()); len(d.errs) == 0 {
		target.Elem().Set(v)
		return nil
	}
	return d.finish()
}

// decode is steps 3 to 5. It returns a new value that starts as a copy of the
// old one.
func (d *decoder) decode(root *yaml.Node, old reflect.Value) reflect.Value {
	fresh := reflect.New(old.Type()).Elem()
	fresh.Set(old)
	if d.inspect(root, 1) {
		d.setPlace("", root, root)
		d.value(root, fresh, "", false)
		d.runHooks()
		d.refuseEmpty()
	}
	return fresh
}

// refuseEmpty comes after the hooks, which may have said it better.
func (d *decoder) refuseEmpty() {
	for _, l := range d.empty {
		if !d.faulty[l.path] {
			d.fail(l.node, l.path, "the list is empty", "say what is meant, or leave the field out for its default")
		}
	}
}

// Option changes how Decode works.
type Option func(*options)

// WithMaxSize bounds the source in bytes instead of 1 MiB.
func WithMaxSize(n int) Option { return func(o *options) { o.maxSize = n } }

// WithEnv looks up ${env:NAME} instead of the process's environment.
func WithEnv(lookup func(name string) (string, bool)) Option {
	return func(o *options) { o.env = lookup }
}

// WithFiles reads ${file:/path} instead of the file system. Errors are shown to
// the user and must not hold the content.
func WithFiles(read func(path string) ([]byte, error)) Option {
	return func(o *options) { o.file = read }
}

// WithBase resolves relative paths, those of ${file:…} and those of type Path,
// against the directory instead of the working directory.
func WithBase(dir string) Option { return func(o *options) { o.base = dir } }

// WithReferences notes for each secret's path the reference that was written
// there, so that Encode can show it.
func WithReferences(into map[string]string) Option {
	return func(o *options) { o.references = into }
}

// RefuseEmptyLists refuses lists that are written and hold nothing. For most
// settings that lack of limits is the default, no item means every item; who
// writes [] means none.
func RefuseEmptyLists() Option { return func(o *options) { o.noEmptyLists = true } }

type options struct {
	maxSize    int
	env        func(string) (string, bool)
	file       func(string) ([]byte, error)
	references map[string]string
	base       string

	noEmptyLists bool
}

// maxDepth bounds the nesting of a document. Ours need less than ten.
const maxDepth = 32

type decoder struct {
	options
	name  string
	src   []byte
	lines []string

	errs Errors
	// quick leaves out what only messages need: paths, places and masks.
	quick bool
	// order holds every node as the document has them, and span for each its own
	// place in order and the first place behind its subtree.
	order []*yaml.Node
	span  map[*yaml.Node][2]int
	// places maps paths to the nodes that hold key and value.
	places map[string]place
	// faulty holds the paths at which or below which something is wrong already.
	faulty map[string]bool
	masks  []mask
	hooks  []hook
	// empty are the lists that hold nothing.
	empty []emptyList
}

type emptyList struct {
	node *yaml.Node
	path string
}

type place struct{ key, value *yaml.Node }

type hook struct {
	path  string
	value Checker
}

func newDecoder(name string, src []byte, opts []Option) *decoder {
	d := &decoder{
		options: defaultOptions(),
		name:    name,
		src:     src,
		span:    map[*yaml.Node][2]int{},
		places:  map[string]place{},
		faulty:  map[string]bool{},
	}
	for _, o := range opts {
		o(&d.options)
	}
	return d
}

// inspect is step 3: it notes every node's place and refuses what makes a
// document mean something else than what stands there.
func (d *decoder) inspect(n *yaml.Node, depth int) bool {
	at, ok := len(d.order), true
	if !d.quick {
		d.order = append(d.order, n)
	}
	refuse := func(message, suggestion string) {
		if ok = false; !d.enough() {
			d.add(n, "", message, suggestion)
		}
	}
	switch {
	case depth > maxDepth:
		d.setSpan(n, at, at+1)
		refuse(fmt.Sprintf("the document is nested deeper than %d levels", maxDepth), "")
		return false
	case n.Kind == yaml.AliasNode:
		refuse("aliases are not allowed", "write the value out, and quote texts that start with *")
	case n.Anchor != "":
		refuse("anchors are not allowed", "write the value out, and quote texts that start with &")
	case n.Style&yaml.TaggedStyle != 0:
		refuse("tags are not allowed", "quote texts that start with !")
	case n.Kind == yaml.ScalarNode && n.Tag == "!!merge":
		refuse("merge keys are not allowed", "write the fields out")
	}
	for _, c := range n.Content {
		if !d.inspect(c, depth+1) {
			ok = false
		}
	}
	d.setSpan(n, at, len(d.order))
	if !ok && depth == 1 {
		d.maskAll()
	}
	return ok
}

func (d *decoder) setSpan(n *yaml.Node, from, to int) {
	if !d.quick {
		d.span[n] = [2]int{from, to}
	}
}

// setPlace notes where the value at the path stands. List items and the root
// have no key of their own.
func (d *decoder) setPlace(path string, key, value *yaml.Node) {
	if !d.quick {
		d.places[path] = place{key, value}
	}
}

// join and item return the path of a member and of a list's item.
func (d *decoder) join(path, name string) string {
	if d.quick {
		return ""
	}
	return join(path, name)
}

func (d *decoder) item(path string, i int) string {
	if d.quick {
		return ""
	}
	return path + "[" + strconv.Itoa(i) + "]"
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	enumType        = reflect.TypeFor[Enum]()
)

// value is step 4 for one node. It reports whether it set v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, scalar bool) bool {
	t := v.Type()
	if !d.quick && holdsSecret(t) && (n.Kind == yaml.ScalarNode || t == secretType) {
		d.mask(n, "[redacted]")
	}
	before := len(d.errs)
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null" && !isAny(t):
		d.fail(n, path, "needs a value", "write "+want(t)+", or leave the field out")
	case t.Kind() == reflect.Pointer:
		d.pointer(n, v, path, scalar)
		return len(d.errs) == before
	case d.known(n, v, path):
	case isAny(t):
		d.any(n, v, path)
	case t.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case t.Kind() == reflect.Map:
		d.mapping(n, v, path)
	case t.Kind() == reflect.Slice:
		d.list(n, v, path, scalar)
	default:
		d.basic(n, v, path)
	}
	d.hook(v, path)
	return len(d.errs) == before
}

func (d *decoder) pointer(n *yaml.Node, v reflect.Value, path string, scalar bool) {
	fresh := reflect.New(v.Type().Elem())
	if v.IsNil() {
		setDefaults(fresh)
	} else {
		fresh.Elem().Set(v.Elem())
	}
	d.value(n, fresh.Elem(), path, scalar)
	v.Set(fresh)
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if !d.isKind(n, yaml.MappingNode, v.Type(), path) {
		return
	}
	fields := fieldsOf(v.Type())
	seen := make([]*yaml.Node, len(fields))
	for i := 0; i+1 < len(n.Content) && !d.enough(); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := fields.index(key.Value)
		switch {
		case !d.isKey(key, val, path):
		case at < 0:
			d.unknown(key, val, path, fields)
		case seen[at] != nil:
			d.repeated(key, val, seen[at])
		default:
			f := &fields[at]
			seen[at] = key
			at := d.join(path, key.Value)
			d.setPlace(at, key, val)
			meant := f.empty && val.Kind == yaml.SequenceNode && len(val.Content) == 0
			if field := v.FieldByIndex(f.index); meant || f.blank && isEmpty(val) {
				field.Set(reflect.MakeSlice(field.Type(), 0, 0))
			} else {
				d.value(val, field, at, f.scalar)
			}
		}
	}
	for i, f := range fields {
		if at := d.join(path, f.name); f.required && seen[i] == nil && !d.faulty[at] {
			d.fail(d.keyOf(path, n), path, fmt.Sprintf("field %q is missing", f.name), "it must be "+want(v.FieldByIndex(f.index).Type()))
			d.markFaulty(at)
		}
	}
}

// keyOf returns the node that names the value, or the value's own.
func (d *decoder) keyOf(path string, n *yaml.Node) *yaml.Node {
	if p, ok := d.places[path]; ok {
		return p.key
	}
	return n
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		d.fail(n, path, "cannot be set from a file", "")
		return
	}
	if !d.isKind(n, yaml.MappingNode, t, path) {
		return
	}
	fresh := reflect.MakeMapWithSize(t, len(n.Content)/2)
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content) && !d.enough(); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if !d.isKey(key, val, path) {
			continue
		}
		if first := seen[key.Value]; first != nil {
			d.repeated(key, val, first)
			continue
		}
		seen[key.Value] = key
		at := d.join(path, key.Value)
		d.setPlace(at, key, val)
		k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem())
		setDefaults(e)
		if !d.text(key, k, at) {
			d.mask(val, "…")
		} else if d.value(val, e.Elem(), at, false) {
			fresh.SetMapIndex(k, e.Elem())
		}
	}
	v.Set(fresh)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string, scalar bool) {
	items := n.Content
	if scalar && n.Kind != yaml.SequenceNode {
		items = []*yaml.Node{n}
	} else if !d.isKind(n, yaml.SequenceNode, v.Type(), path) {
		return
	}
	fresh := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		if d.enough() {
			break
		}
		e := fresh.Index(i)
		setDefaults(e.Addr())
		at := d.item(path, i)
		d.setPlace(at, item, item)
		d.value(item, e, at, false)
	}
	v.Set(fresh)
	if len(items) == 0 && d.noEmptyLists && !isAny(v.Type().Elem()) {
		d.empty = append(d.empty, emptyList{n, path})
	}
}

// isKind reports whether the node is of the kind, and complains if it is not.
func (d *decoder) isKind(n *yaml.Node, kind yaml.Kind, t reflect.Type, path string) bool {
	if n.Kind == kind {
		return true
	}
	if holdsSecret(t) {
		d.mask(n, "[redacted]")
	}
	message, suggestion := "is "+describe(n, t)+"; it must be "+want(t), ""
	if kind == yaml.SequenceNode && n.Kind == yaml.ScalarNode && n.Value != "" && isScalar(t.Elem()) {
		suggestion = "write [" + asWritten(n) + "]"
	}
	d.fail(n, path, message, suggestion)
	return false
}

// isKey reports whether a mapping's key is a plain text.
func (d *decoder) isKey(key, val *yaml.Node, path string) bool {
	switch {
	case key.Kind != yaml.ScalarNode:
		d.maskPair(key, val)
		d.fail(key, path, "a field's name must be a text", "")
	case key.Tag != "!!str":
		d.maskPair(key, val)
		d.fail(key, path, fmt.Sprintf("a field's name must be a text, not %s", describe(key, nil)), `put it in quotes`)
	default:
		return true
	}
	return false
}

func (d *decoder) unknown(key, val *yaml.Node, path string, fields fields) {
	d.mask(val, "…")
	message, suggestion := fmt.Sprintf("unknown field %q", clip(key.Value)), Suggest(key.Value, fields.names())
	if near, ok := nearest(key.Value, fields.names()); ok {
		// What the misspelt field would have said is not missing as well.
		d.markFaulty(join(path, near))
	} else {
		suggestion = "allowed here: " + strings.Join(fields.names(), ", ")
	}
	d.errs = append(d.errs, d.errorAt(key, join(path, key.Value), message, suggestion))
}

func (d *decoder) repeated(key, val, first *yaml.Node) {
	d.mask(val, "…")
	d.add(key, key.Value, fmt.Sprintf("field %q is repeated", clip(key.Value)),
		fmt.Sprintf("it stands in line %d already", first.Line))
}

// hook remembers values that check themselves, inner ones first.
func (d *decoder) hook(v reflect.Value, path string) {
	if !v.CanAddr() || !v.Addr().CanInterface() {
		return
	}
	if c, ok := v.Addr().Interface().(Checker); ok {
		d.hooks = append(d.hooks, hook{path, c})
	}
}

// runHooks is step 5. A complaint about a path that is wrong already would only
// repeat it in other words, and is dropped.
func (d *decoder) runHooks() {
	report := func(base, path, message, suggestion string) {
		at := base
		if path != "" && strings.HasPrefix(path, "[") {
			at += path
		} else if path != "" {
			at = joinPath(base, path)
		}
		if !d.faulty[at] {
			d.fail(d.nodeOf(at), at, message, suggestion)
		}
	}
	if d.quick {
		report = func(string, string, string, string) { d.errs = append(d.errs, nil) }
	}
	for _, h := range d.hooks {
		if d.enough() {
			return
		}
		h.value.Check(func(path, message, suggestion string) { report(h.path, path, message, suggestion) })
	}
}

func setDefaults(pointer reflect.Value) {
	if v, ok := pointer.Interface().(Defaulter); ok {
		v.SetDefaults()
	}
}

func isAny(t reflect.Type) bool { return t.Kind() == reflect.Interface && t.NumMethod() == 0 }
