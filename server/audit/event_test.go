package audit

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func eventOf(t testing.TB, input string) *Event {
	t.Helper()
	e := &Event{Postern: map[string]any{"reason": "allowed"}, Result: map[string]any{"allow": true, "message": "m"}}
	if err := json.Unmarshal([]byte(input), &e.Input); err != nil {
		t.Fatal(err)
	}
	return e
}

func value(t testing.TB, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Masks work as OPA's: pointers remove, objects remove or upsert, what is not there is
// left alone; and what Postern's part of the input repeats goes with it.
func TestMask(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ input, mask, want, erased, masked string }{
		"remove":         {`{"a":{"b":1,"c":2}}`, `["/input/a/b"]`, `{"a":{"c":2}}`, `["/input/a/b"]`, `null`},
		"remove object":  {`{"a":1}`, `[{"op":"remove","path":"/input/a"}]`, `{}`, `["/input/a"]`, `null`},
		"op defaults":    {`{"a":1}`, `[{"path":"/input/a"}]`, `{}`, `["/input/a"]`, `null`},
		"not there":      {`{"a":1}`, `["/input/b","/input/a/b/c","/nd_builtin_cache/x"]`, `{"a":1}`, `null`, `null`},
		"upsert":         {`{"a":{"b":1}}`, `[{"op":"upsert","path":"/input/a/b","value":"***"}]`, `{"a":{"b":"***"}}`, `null`, `["/input/a/b"]`},
		"upsert new":     {`{"a":{}}`, `[{"op":"upsert","path":"/input/a/x/y","value":null}]`, `{"a":{"x":{"y":null}}}`, `null`, `["/input/a/x/y"]`},
		"all":            {`{"a":1}`, `["/input"]`, `null`, `["/input"]`, `null`},
		"element":        {`{"a":[1,2,3]}`, `["/input/a/1"]`, `{"a":[1,3]}`, `["/input/a/1"]`, `null`},
		"in an element":  {`{"a":[{"p":1},{"p":2}]}`, `["/input/a/1/p"]`, `{"a":[{"p":1},{}]}`, `["/input/a/1/p"]`, `null`},
		"set an element": {`{"a":[1,2]}`, `[{"op":"upsert","path":"/input/a/0","value":9}]`, `{"a":[9,2]}`, `null`, `["/input/a/0"]`},
		"no element":     {`{"a":[1]}`, `["/input/a/1","/input/a/x","/input/a/-1"]`, `{"a":[1]}`, `null`, `null`},
		"pointer escape": {`{"a/b":1,"c~d":2}`, `["/input/a~1b","/input/c~0d"]`, `{}`, `["/input/a~1b","/input/c~0d"]`, `null`},
		"percent escape": {`{"a/b":1}`, `["/input/a%2Fb"]`, `{}`, `["/input/a%2Fb"]`, `null`},
		"both readings":  {`{"a~1b":1,"a/b":2}`, `["/input/a~1b"]`, `{}`, `["/input/a~1b"]`, `null`},
		"copies": {`{"attributes":{"request":{"http":{"path":"/p/7","host":"h","headers":{":path":"/p/7","x":"y"}}}},"parsed_path":["p","7"],"request":{"path":"/p/7","host":"h","segments":["p","7"]},"target":{"http":{"path":"/p/7"}}}`,
			`["/input/attributes/request/http/path"]`,
			`{"attributes":{"request":{"http":{"host":"h","headers":{"x":"y"}}}},"request":{"host":"h"},"target":{"http":{}}}`,
			`["/input/attributes/request/http/path","/input/attributes/request/http/headers/:path","/input/parsed_path","/input/request/path","/input/request/segments","/input/target/http/path"]`, `null`},
		"copies of a part":       {`{"attributes":{"source":{"address":{"socketAddress":{"address":"192.0.2.1"}}}},"request":{"client_ip":"192.0.2.1"}}`, `["/input/attributes/source/address/socketAddress/address"]`, `{"attributes":{"source":{"address":{"socketAddress":{}}}},"request":{}}`, `["/input/attributes/source/address/socketAddress/address","/input/request/client_ip"]`, `null`},
		"copies of a whole":      {`{"attributes":{"source":{"principal":"p"}},"source_principal":"p"}`, `["/input/attributes"]`, `{}`, `["/input/attributes","/input/source_principal"]`, `null`},
		"an upsert takes copies": {`{"parsed_body":{"a":1},"attributes":{"request":{"http":{"body":"a=1"}}}}`, `[{"op":"upsert","path":"/input/parsed_body/a","value":0}]`, `{"parsed_body":{"a":0},"attributes":{"request":{"http":{}}}}`, `["/input/attributes/request/http/body"]`, `["/input/parsed_body/a"]`},
	} {
		e := eventOf(t, tt.input)
		rules, err := parseMask(value(t, tt.mask))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		e.apply(rules)
		for what, pair := range map[string][2]any{"input": {e.Input, tt.want}, "erased": {e.Erased, tt.erased}, "masked": {e.Masked, tt.masked}} {
			if got, _ := json.Marshal(pair[0]); !reflect.DeepEqual(value(t, string(got)), value(t, pair[1].(string))) {
				t.Errorf("%s: %s is %s, want %s", name, what, got, pair[1])
			}
		}
	}
}

// The result can be masked as the input can, and Postern's own part.
func TestMaskOfTheResult(t *testing.T) {
	t.Parallel()
	e := eventOf(t, `{}`)
	rules, err := parseMask(value(t, `["/result/message", "/postern/reason", {"op":"upsert","path":"/result/allow","value":"?"}]`))
	if err != nil {
		t.Fatal(err)
	}
	e.apply(rules)
	if got, _ := json.Marshal([]any{e.Result, e.Postern, e.Erased, e.Masked}); string(got) != `[{"allow":"?"},{},["/result/message","/postern/reason"],["/result/allow"]]` {
		t.Errorf("%s", got)
	}
}

// What is not understood may be what was to be hidden.
func TestMaskThatIsNone(t *testing.T) {
	t.Parallel()
	for _, mask := range []string{
		`true`, `"/input/a"`, `{"a":1}`, `[1]`, `[null]`, `[""]`, `["input/a"]`, `["/other/a"]`, `["/"]`, `[{"op":"replace","path":"/input/a"}]`,
		`[{"op":1,"path":"/input/a"}]`, `[{"op":"remove"}]`, `[{"path":7}]`, `["/input/a", {}]`,
	} {
		if _, err := parseMask(value(t, mask)); err == nil {
			t.Errorf("%s is taken for a mask", mask)
		}
	}
	if _, err := parseMask(make([]any, maxMasks+1)); err == nil {
		t.Error("a mask without end")
	}
}

// Whatever a mask says about whatever input: nothing panics, and a place that was to be
// removed is gone in each reading of its name.
func TestMaskProperty(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{"a", "b", "a/b", "a~1b", "0", "1", "", "attributes", "source", "address"})
	var tree func(depth int) *rapid.Generator[any]
	tree = func(depth int) *rapid.Generator[any] {
		return rapid.Custom(func(t *rapid.T) any {
			switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
			case depth > 0 && kind == 0:
				return mapOf(rapid.MapOfN(names, tree(depth-1), 0, 4).Draw(t, "object"))
			case depth > 0 && kind == 1:
				return rapid.SliceOfN(tree(depth-1), 0, 3).Draw(t, "list")
			}
			return rapid.StringN(0, 3, 8).Draw(t, "text")
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		e := &Event{Input: rapid.MapOfN(names, tree(3), 0, 4).Draw(t, "input"), Postern: map[string]any{}}
		path := rapid.SliceOfN(names, 1, 4).Draw(t, "path")
		rules, err := parseMask([]any{"/input/" + strings.Join(path, "/")})
		if err != nil {
			t.Fatal(err)
		}
		e.apply(rules)
		steps := strings.Split(strings.Join(path, "/"), "/")
		at := any(e.Input)
		for _, step := range steps[:len(steps)-1] {
			object, ok := at.(map[string]any)
			if !ok {
				return
			}
			at = object[step]
		}
		if object, ok := at.(map[string]any); ok {
			if _, there := object[steps[len(steps)-1]]; there {
				t.Fatalf("%v is still in %v", steps, e.Input)
			}
		}
	})
}

func mapOf(m map[string]any) any { return m }

func FuzzMask(f *testing.F) {
	f.Add(`["/input/a"]`, `{"a":{"b":[1]}}`)
	f.Add(`[{"op":"upsert","path":"/input/a/b/0","value":{"x":1}}]`, `{"a":{"b":[1]}}`)
	f.Fuzz(func(t *testing.T, mask, input string) {
		var m any
		e := &Event{Postern: map[string]any{}}
		if json.Unmarshal([]byte(mask), &m) != nil || json.Unmarshal([]byte(input), &e.Input) != nil {
			return
		}
		rules, err := parseMask(m)
		if err != nil {
			return
		}
		e.apply(rules)
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	})
}

// G-11: queries, bodies and what has a secret's name are left out unless they are
// wanted, the names always, and the event says so.
func TestWithhold(t *testing.T) {
	t.Parallel()
	input := `{"attributes":{"request":{"http":{"path":"/p?q=hunter1&token=hunter2","query":"q=hunter1&token=hunter2","body":"hunter3","headers":{":path":"/p?q=hunter1&token=hunter2","referer":"https://a/?token=hunter2","x-auth-token":"hunter4","accept":"*/*"}}}},
		"parsed_query":{"q":["hunter1"],"token":["hunter2"]},"parsed_body":{"a":[{"password":"hunter5","b":"hunter6"}]},"request":{"query":"q=hunter1&%74oken=hunter2"},"principal":{"metadata":{"api_key":"hunter7","team":"x"}},"context":{"secret":"hunter8"}}`
	secret := func(name string) bool {
		return strings.Contains(name, "token") || strings.Contains(name, "password") || strings.Contains(name, "key") || strings.Contains(name, "secret")
	}
	for name, tt := range map[string]struct {
		query, body bool
		has         string
	}{"none": {false, false, ""}, "query": {true, false, "1"}, "body": {false, true, "6"}, "both": {true, true, "16"}} {
		e := eventOf(t, input)
		e.withhold(tt.query, tt.body, secret)
		text, _ := json.Marshal(e)
		for _, n := range "12345678" {
			if has := strings.Contains(string(text), "hunter"+string(n)); has != strings.ContainsRune(tt.has, n) {
				t.Errorf("%s: hunter%c: %v in %s", name, n, has, text)
			}
		}
		for _, place := range []string{"/input/attributes/request/http/body", "/input/attributes/request/http/headers/x-auth-token", "/input/principal/metadata/api_key", "/input/context/secret"} {
			if !strings.Contains(string(text), `"`+place+`"`) {
				t.Errorf("%s: %s is not told", name, place)
			}
		}
	}
}

// Secrets of our own form and bytes that are no text end nowhere.
func TestScrubbed(t *testing.T) {
	t.Parallel()
	key := "pst_key_live_0123456789ab_0123456789012345678901234567890123456789012abcdef"
	v := scrubbed(map[string]any{key: []any{"a " + key, "\xff"}, "n": 1})
	if text, _ := json.Marshal(v); strings.Contains(string(text), "0123456789012345678901") || !strings.Contains(string(text), "[secret]") {
		t.Errorf("%s", text)
	}
}

// G-11: a key is not in an event as a name either, nor in the list of what was taken out,
// nor in lower case as the names of header fields are, nor percent-encoded.
func TestScrubbedNames(t *testing.T) {
	t.Parallel()
	const key = "pst_key_live_0123456789AB_0123456789012345678901234567890123456789012ABCDEF"
	lower, escaped := strings.ToLower(key), strings.ReplaceAll(key, "_", "%5F")
	input := fmt.Sprintf(`{"attributes":{"request":{"http":{"path":"/m/%[3]s?%[1]s=1","query":"%[1]s=1","headers":{":path":"/m/%[3]s?%[1]s=1","%[2]s":"x","x-foo":"%[3]s"}}}},
		"parsed_query":{"%[1]s":["1"]},"request":{"path":"/m/%[1]s","query":"%[3]s=1"}}`, key, lower, escaped)
	for _, query := range []bool{true, false} {
		for _, named := range []bool{true, false} {
			e := eventOf(t, input)
			e.withhold(query, true, func(name string) bool { return named && strings.Contains(name, "_key_") })
			scrubbed(e.Input)
			e.apply([]maskRule{{path: []string{partInput, "request", "path"}}})
			text, _ := json.Marshal(e)
			if shown := strings.ToLower(string(text)); strings.Contains(shown, "01234567890123") || !strings.Contains(shown, "[secret]") {
				t.Errorf("query %v: %s", query, text)
			}
			if named && !strings.Contains(string(text), `"/input/attributes/request/http/headers/pst_key_live_[secret]"`) {
				t.Errorf("query %v: what was taken out is not told: %s", query, text)
			}
		}
	}
}
