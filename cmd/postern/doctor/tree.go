package doctor

import (
	"fmt"
	"maps"
	"slices"
)

// node is a JSON value of a configuration, which is read without trust in its form.
type node map[string]any

func (n node) object(name string) node { m, _ := n[name].(map[string]any); return m }

func (n node) list(name string) (all []node) {
	list, _ := n[name].([]any)
	for _, one := range list {
		if m, ok := one.(map[string]any); ok {
			all = append(all, m)
		}
	}
	return all
}

func (n node) texts(name string) (all []string) {
	list, _ := n[name].([]any)
	for _, one := range list {
		if s, ok := one.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

func (n node) text(name string) string { s, _ := n[name].(string); return s }
func (n node) truth(name string) bool  { b, _ := n[name].(bool); return b }

// number is a number, which protobuf's JSON may write as a text.
func (n node) number(name string) float64 {
	switch v := n[name].(type) {
	case float64:
		return v
	case int:
		return float64(v)
	case string:
		var f float64
		_, _ = fmt.Sscanf(v, "%g", &f)
		return f
	}
	return 0
}

// eachObject calls do for all objects, the outer ones first.
func eachObject(v any, do func(node)) {
	switch v := v.(type) {
	case map[string]any:
		do(v)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			eachObject(v[name], do)
		}
	case []any:
		for _, one := range v {
			eachObject(one, do)
		}
	}
}
