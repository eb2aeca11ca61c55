package strictyaml

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/policy"
)

// Encode writes a value as Decode reads it. Every field is written out but those
// that are not set: a list that was never written, an empty secret, path or choice.
// A secret is shown as its reference if references has one for its path, and as
// "[redacted]" if not.
func Encode(value any, references map[string]string) ([]byte, error) {
	e := encoder{references}
	n, err := e.node(reflect.ValueOf(value), "")
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(n)
}

type encoder struct {
	references map[string]string
}

func (e *encoder) node(v reflect.Value, path string) (*yaml.Node, error) {
	switch {
	case !v.IsValid():
		return scalarNode("!!null", "null"), nil
	case v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface:
		return e.node(v.Elem(), path)
	}
	switch t := v.Interface().(type) {
	case policy.Secret:
		return e.secret(t, path), nil
	case time.Duration:
		return scalarNode("!!str", shortDuration(t)), nil
	case json.Number:
		return scalarNode("!!float", t.String()), nil
	case encoding.TextMarshaler:
		text, err := t.MarshalText()
		return scalarNode("!!str", string(text)), err
	}
	switch v.Kind() {
	case reflect.Struct:
		return e.structure(v, path)
	case reflect.Map:
		return e.mapping(v, path)
	case reflect.Slice:
		return e.list(v, path)
	case reflect.String:
		return scalarNode("!!str", v.String()), nil
	}
	var n yaml.Node
	err := n.Encode(v.Interface())
	return &n, err
}

func (e *encoder) secret(s policy.Secret, path string) *yaml.Node {
	if ref := e.references[path]; ref != "" {
		return scalarNode("!!str", ref)
	}
	return scalarNode("!!str", fmt.Sprint(s))
}

func (e *encoder) structure(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fieldsOf(v.Type()) {
		if isUnset(v.FieldByIndex(f.index)) {
			continue
		}
		if err := e.pair(n, f.name, v.FieldByIndex(f.index), path); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// isUnset reports whether a field holds nothing that could be written.
func isUnset(v reflect.Value) bool {
	if !v.IsZero() {
		return false
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Slice, reflect.Map:
		return true
	case reflect.Struct:
		m, ok := v.Interface().(encoding.TextMarshaler)
		if !ok || v.Type() == secretType || v.Type() == timeType {
			return ok
		}
		text, err := m.MarshalText()
		return err != nil || len(text) == 0
	case reflect.String:
		return v.Type() == pathType || v.Type().Implements(enumType)
	}
	return false
}

func (e *encoder) mapping(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	values := map[string]reflect.Value{}
	for i := v.MapRange(); i.Next(); {
		values[i.Key().String()] = i.Value()
	}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if err := e.pair(n, k, values[k], path); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (e *encoder) pair(n *yaml.Node, name string, v reflect.Value, path string) error {
	value, err := e.node(v, join(path, name))
	if err == nil {
		n.Content = append(n.Content, scalarNode("!!str", name), value)
	}
	return err
}

func (e *encoder) list(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for i := range v.Len() {
		item, err := e.node(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		if err != nil {
			return nil, err
		}
		if item.Kind != yaml.ScalarNode {
			n.Style = 0
		}
		n.Content = append(n.Content, item)
	}
	return n, nil
}

func scalarNode(tag, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}

// shortDuration writes 24h0m0s as 24h.
func shortDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}
