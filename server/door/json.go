package door

import (
	"encoding/json"
	"math"
)

// MaxDepth is how deep the JSON of an answer may be nested. A level is up to three
// messages, and parsers stop at 100: a gateway's would take the whole answer for
// garbage and, where it fails open, let the request through. What is deeper becomes
// null.
const MaxDepth = 24

// JSON returns a JSON value in one of the six forms that encoding/json decodes
// into: nil, bool, float64, string, []any and map[string]any. It looks at the
// outermost level only. What is no JSON value becomes nil, and so do numbers
// that JSON cannot say.
func JSON(v any) any {
	switch v := v.(type) {
	case bool, string, []any, map[string]any:
		return v
	case float64:
		return finite(v)
	case json.Number:
		if n, err := v.Float64(); err == nil {
			return finite(n)
		}
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case []string:
		return anySlice(v)
	case map[string]string:
		m := make(map[string]any, len(v))
		for name, s := range v {
			m[name] = s
		}
		return m
	}
	return nil
}

func finite(n float64) any {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return nil
	}
	return n
}

func anySlice(list []string) []any {
	all := make([]any, len(list))
	for i, s := range list {
		all[i] = s
	}
	return all
}
