package strictyaml

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// field is one tagged field of a struct, those of inlined structs included.
type field struct {
	name     string
	index    []int
	required bool
	scalar   bool
	blank    bool
	empty    bool
}

type fields []field

// index returns the place of the field with the name, or -1.
func (f fields) index(name string) int {
	return slices.IndexFunc(f, func(f field) bool { return f.name == name })
}

func (f fields) names() []string {
	all := make([]string, len(f))
	for i := range f {
		all[i] = f[i].name
	}
	return all
}

var fieldCache sync.Map // reflect.Type to fields

func fieldsOf(t reflect.Type) fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(fields)
	}
	f := collectFields(t, nil)
	fieldCache.Store(t, f)
	return f
}

func collectFields(t reflect.Type, index []int) fields {
	var all fields
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("yaml")
		if !ok || tag == "-" || !sf.IsExported() {
			continue
		}
		name, rest, _ := strings.Cut(tag, ",")
		options := strings.Split(rest, ",")
		at := append(slices.Clone(index), i)
		if slices.Contains(options, "inline") {
			all = append(all, collectFields(sf.Type, at)...)
			continue
		}
		all = append(all, field{
			name: name, index: at,
			required: slices.Contains(options, "required"),
			scalar:   slices.Contains(options, "scalar"),
			blank:    slices.Contains(options, "blank") && sf.Type.Kind() == reflect.Slice,
			empty:    slices.Contains(options, "empty") && sf.Type.Kind() == reflect.Slice,
		})
	}
	return all
}

// want says in the user's words what a value of the type is.
func want(t reflect.Type) string {
	switch t {
	case secretType:
		return "a reference to a secret, ${file:/path} or ${env:NAME}"
	case durationType:
		return "a duration such as 30s"
	case timeType:
		return "a time such as 2026-01-31T12:00:00Z"
	case prefixType:
		return "a network such as 10.0.0.0/8"
	case addrType, addrPortType:
		return "an address"
	case pathType:
		return "a path"
	case sizeType:
		return "a size such as 8KiB"
	}
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return "a text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return want(t.Elem())
	case reflect.Struct:
		return "a mapping with " + someOf(fieldsOf(t).names())
	case reflect.Map:
		return "a mapping"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		if t.Implements(enumType) {
			return orList(reflect.Zero(t).Interface().(Enum).Values())
		}
		return "a text"
	case reflect.Interface:
		return "a value"
	}
	return "a whole number"
}

// describe says what a node is, with its value unless that may be a secret.
func describe(n *yaml.Node, t reflect.Type) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	kind := map[string]string{
		"!!str": "the text", "!!int": "the number", "!!float": "the number",
		"!!bool": "the truth value", "!!timestamp": "the date", "!!null": "empty",
	}[n.Tag]
	switch {
	case kind == "":
		return "a value of another kind"
	case n.Tag == "!!null" || t != nil && holdsSecret(t):
		return strings.Replace(kind, "the ", "a ", 1)
	case n.Tag == "!!str":
		return kind + " " + quoted(n)
	}
	return kind + " " + clip(n.Value)
}

func quoted(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!str" {
		return clip(n.Value)
	}
	return strconv.Quote(clip(n.Value))
}

// asWritten is the value as it can stand in a list: with quotes if it had some.
func asWritten(n *yaml.Node) string {
	if isPlain(n) {
		return clip(n.Value)
	}
	return quoted(n)
}

// isPlain reports whether the scalar stands without quotes.
func isPlain(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// isScalar reports whether values of the type are written as one word, and may
// be shown.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer:
		return isScalar(t.Elem())
	case reflect.Slice, reflect.Map, reflect.Interface:
		return false
	case reflect.Struct:
		return t != secretType && reflect.PointerTo(t).Implements(textUnmarshaler)
	}
	return true
}

func someOf(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func orList(values []string) string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = strconv.Quote(v)
	}
	if n := len(all); n > 1 {
		return strings.Join(all[:n-1], ", ") + " or " + all[n-1]
	}
	return strings.Join(all, "")
}

// join appends a field's name or a map's key to a path; keys that are not plain
// names stand in brackets, quoted, so that parent can take paths apart.
func join(path, name string) string {
	if !isName(name) {
		return fmt.Sprintf("%s[%q]", path, clip(name))
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func isName(s string) bool {
	for _, r := range s {
		if !(r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return false
		}
	}
	return s != ""
}

// joinPath appends a relative path.
func joinPath(base, path string) string {
	if base == "" {
		return path
	}
	return base + "." + path
}

// parent returns the path around the path; that of a top field is "".
func parent(path string) string {
	if strings.HasSuffix(path, `"]`) {
		return path[:max(0, strings.LastIndex(path, `["`))]
	}
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}
