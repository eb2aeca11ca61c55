package jose

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/vectortest"
)

// decode is what encoding/json makes of a text, numbers as they are written.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// J-12: texts that have one reading, and what they are.
func TestParseJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`null`, `true`, `false`, `0`, `-0`, `1.5e3`, `12345678901234567890`, `""`, `"x"`,
		`[]`, `{}`, `[[],{}]`, ` { "a" : [ 1 , "b" , null ] } `,
		`{"a":{"b":1},"b":{"a":2}}`,
		`"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00\u0000"`,
		`{"\u0061":1,"\u0061\n":2}`, `"\uFFFF\uFFFD"`, "\"\u007f\ufeff\"", `"\n"`,
	} {
		v, err := ParseJSON([]byte(text), Limits{})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		want, err := decode([]byte(text))
		if got := v.Any(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v, %v", text, got, want, err)
		}
	}
}

// J-12: texts that readers disagree about, or that are none.
func TestParseJSONRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, ` `, `nul`, `nulll`, `True`, `01`, `-`, `+1`, `1.`, `.5`, `1e`, `1e+`, `0x1`, `NaN`, `Infinity`, `1e400`, `-1e400`,
		`"`, `"\"`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\u+123"`, "\"\n\"", "\"\x00\"", "\"\xff\"", "\"\xed\xa0\x80\"", `'a'`,
		`"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\ud800x"`, `"\ud800\n"`, `"\ud800\u0041"`, `"\udc00\ud800"`,
		`[`, `]`, `[1`, `[1,]`, `[,1]`, `[1 2]`, `[1}`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a" 1}`, `{1:1}`, `{"a":1]`,
		`{"a":1}{}`, `{} x`, `null null`, "{}\x00", "\ufeff{}", `{}//`, `/**/{}`,
		`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `[{"b":{"a":1,"c":2,"a":3}}]`,
	} {
		if v, err := ParseJSON([]byte(text), Limits{}); err == nil || v.Exists() || !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got %v, %v", text, v.Any(), err)
		}
	}
}

// J-08: depth, members and digits are bounded before they cost anything.
func TestParseJSONLimits(t *testing.T) {
	t.Parallel()
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(`,"`)
			b.WriteString(strings.Repeat("x", i))
			b.WriteString(`":0`)
		}
		return "{" + strings.TrimPrefix(b.String(), ",") + "}"
	}
	limits := Limits{Bytes: 1 << 20, Depth: 3, Members: 5}
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"depth 3", `[[[]]]`, true},
		{"depth 4", `[[[[]]]]`, false},
		{"depth 3 beside", `[[[]],[[]]]`, true},
		{"depth of objects", `{"a":{"a":{"a":{}}}}`, false},
		{"hostile depth", strings.Repeat("[", 1<<20), false},
		{"hostile depth of objects", strings.Repeat(`[{"":`, 1<<17), false},
		{"5 members", members(5), true},
		{"6 members", members(6), false},
		{"100 digits", strings.Repeat("1", 100), true},
		{"101 digits", strings.Repeat("1", 101), false},
		{"bytes", strings.Repeat(" ", 1<<20) + "1", false},
	} {
		_, err := ParseJSON([]byte(c.text), limits)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParseJSONKeepsTheText(t *testing.T) {
	t.Parallel()
	text := []byte(`{"\u0061":"\u0062"}`)
	before := string(text)
	v, err := ParseJSON(text, Limits{})
	if err != nil || string(text) != before || !v.Get("a").Is("b") {
		t.Fatalf("%q, %v", text, err)
	}
	text[2] = 'x'
	if !v.Get("a").Is("b") {
		t.Error("the value shares its text with the caller")
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	v, err := ParseJSON([]byte(`{"s":"x","n":1.0,"b":true,"z":null,"a":[1,[2,3],"y"],"o":{"s":"inner"}}`), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if v.Get("S").Exists() || v.Get("inner").Exists() || v.Get("s").Get("s").Exists() || v.Get("a").Get("").Exists() {
		t.Error("a member that is not there was found")
	}
	if s, ok := v.Get("s").Text(); s != "x" || !ok {
		t.Error(s, ok)
	}
	if s, ok := v.Get("n").Text(); s != "" || ok {
		t.Error("a number is no string")
	}
	if n, ok := v.Get("n").Number(); n != "1.0" || !ok {
		t.Error(n, ok)
	}
	if b, ok := v.Get("b").Bool(); !b || !ok {
		t.Error("true")
	}
	if v.Get("z").Kind() != Null || !v.Get("z").Exists() || v.Get("q").Kind() != Absent {
		t.Error("null is a value, absent is none")
	}
	if v.Len() != 6 || v.Get("a").Len() != 3 || v.Get("s").Len() != 0 {
		t.Error(v.Len(), v.Get("a").Len())
	}
	var none Value
	if none.Any() != nil || none.Len() != 0 || none.Is("") || none.Get("x").Exists() || none.Kind().String() != "absent" {
		t.Error("the zero Value holds something")
	}
}

// J-04: the dates of RFC 7519 section 2, and what is none.
func TestNumericDate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		`1704067200`:     time.Unix(1704067200, 0),
		`1704067200.5`:   time.Unix(1704067200, 5e8),
		`1.7040672e9`:    time.Unix(1704067200, 0),
		`17040672E+2`:    time.Unix(1704067200, 0),
		`0`:              time.Unix(0, 0),
		`-0`:             time.Unix(0, 0),
		`253402300799`:   time.Unix(253402300799, 0),
		`253402300800`:   {},
		`999999999999`:   {},
		`-1`:             {},
		`-0.5`:           {},
		`1e19`:           {},
		`1e300`:          {},
		`99999999999999`: {},
		`"1704067200"`:   {},
		`null`:           {},
		`true`:           {},
		`[1704067200]`:   {},
		`{}`:             {},
	} {
		v, err := ParseJSON([]byte(text), Limits{})
		if err != nil {
			t.Fatal(text, err)
		}
		got, ok := v.NumericDate()
		if ok == want.IsZero() || ok && !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
}

// J-12, G-13: all of JSONTestSuite. What must parse does, but for duplicate
// members, which are valid JSON (RFC 8259 section 4) and refused here.
func TestJSONTestSuite(t *testing.T) {
	t.Parallel()
	type row struct {
		Name, Expect, B64, Recipe string
		Size                      int
	}
	counts := map[string]int{}
	for _, c := range vectortest.Lines[row](t, "json/JSONTestSuite.jsonl") {
		text, err := base64.StdEncoding.DecodeString(c.B64)
		if err != nil {
			t.Fatal(c.Name, err)
		}
		if c.Recipe == "repeat" {
			opener := "["
			if strings.Contains(c.Name, "object") {
				opener = `[{"":`
			}
			text = []byte(strings.Repeat(opener, c.Size)[:c.Size])
		}
		v, err := ParseJSON(text, Limits{Bytes: 1 << 20, Depth: 600})
		counts[c.Expect]++
		switch {
		case strings.HasPrefix(c.Name, "y_object_duplicated_key"):
			if err == nil {
				t.Errorf("%s: duplicate members accepted", c.Name)
			}
		case c.Expect == "y" && err != nil, c.Expect == "n" && err == nil:
			t.Errorf("%s: %v", c.Name, err)
		case err == nil:
			if want, err := decode(text); err != nil || !reflect.DeepEqual(v.Any(), want) {
				t.Errorf("%s: got %v, want %v, %v", c.Name, v.Any(), want, err)
			}
		}
	}
	t.Log(counts)
}

// FuzzJSON: whatever is accepted, encoding/json accepts with the same value.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e2,"\ud83d\ude00",null,true,{}]}`, `{"\u0061":1,"a":2}`, `"\ud800"`, `[[[[`, "\ufeff1", ` 1 `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		v, err := ParseJSON(text, Limits{})
		if !bytes.Equal(before, text) {
			t.Fatal("the text was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		want, err := decode(text)
		if err != nil {
			t.Fatalf("%q accepted, but encoding/json says %v", text, err)
		}
		if got := v.Any(); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q read as %#v, not %#v", text, got, want)
		}
		if canonical, err := json.Marshal(v.Any()); err != nil {
			t.Fatal(err)
		} else if again, err := ParseJSON(canonical, Limits{Bytes: 1 << 20}); err != nil || !reflect.DeepEqual(again.Any(), want) {
			t.Fatalf("%q written as %q is read as %v, %v", text, canonical, again.Any(), err)
		}
	})
}

// An object may be large; a name that stands in it twice is found wherever it is, and a
// name in another object is another one.
func TestManyMembers(t *testing.T) {
	t.Parallel()
	const n = 20_000
	limits := Limits{Bytes: 1 << 20, Members: n + 2, Depth: 4}
	object := func(more ...string) string {
		var b strings.Builder
		b.WriteString(`{"inner":{`)
		for i := range 100 {
			fmt.Fprintf(&b, `"m%d":0,`, i)
		}
		b.WriteString(`"last":1}`)
		for i := range n {
			fmt.Fprintf(&b, `,"m%d":%d`, i, i)
		}
		for _, m := range more {
			b.WriteString(m)
		}
		b.WriteString("}")
		return b.String()
	}
	v, err := ParseJSON([]byte(object()), limits)
	if err != nil || !v.Get("m19999").Exists() {
		t.Fatal(err)
	}
	for _, twice := range []string{`,"m0":1`, `,"m31":1`, `,"m32":1`, `,"m33":1`, `,"m19999":1`, `,"inner":1`, `,"\u006d7":1`} {
		if _, err := ParseJSON([]byte(object(twice)), limits); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", twice, err)
		}
	}
}
