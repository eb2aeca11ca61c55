package strictyaml_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

func TestEncodeShowsReferencesAndNoSecret(t *testing.T) {
	t.Parallel()
	const src = "title: x\nmain: {name: m}\npepper: ${file:/pepper}\npeppers: {v1: \"${env:PEPPER}\", \"a b\": \"${env:PEPPER}\"}\n"
	references := map[string]string{}
	d, err := decode(src, strictyaml.WithReferences(references))
	if err != nil {
		t.Fatal(err)
	}
	out, err := strictyaml.Encode(d, references)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pepper: ${file:/pepper}", "v1: ${env:PEPPER}", "a b: ${env:PEPPER}", "timeout: 1s"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	again, err := decode(string(out))
	if err != nil || !reflect.DeepEqual(again, d) {
		t.Errorf("%v\n%s\n%+v\n%+v", err, out, again, d)
	}
	out, err = strictyaml.Encode(d, nil)
	if err != nil || secretIn(string(out)) != "" || !strings.Contains(string(out), "pepper: '[redacted]'") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestEncodeIsReadBack checks that whatever Encode writes, Decode reads as the
// same.
func TestEncodeIsReadBack(t *testing.T) {
	t.Parallel()
	text := rapid.StringMatching(`[ -~é✓]{0,12}`).Filter(func(s string) bool { return !strings.Contains(s, "${") && !strings.Contains(s, "://") })
	rapid.Check(t, func(t *rapid.T) {
		want := document{
			Title: text.Draw(t, "title"), Count: rapid.Int().Draw(t, "count"), Small: rapid.Int8().Draw(t, "small"),
			On: rapid.Bool().Draw(t, "on"), Colour: rapid.SampledFrom([]colour{"red", "green", "blue"}).Draw(t, "colour"),
			Labels:  rapid.MapOf(text, text).Draw(t, "labels"),
			Colours: map[colour]bool{},
			Limits:  limits{Size: strictyaml.Size(rapid.Int64Min(0).Draw(t, "size")), Rate: rapid.Float64().Draw(t, "rate")},
			Items: []service{{
				Name: text.Draw(t, "name"), Timeout: time.Duration(rapid.Int64Min(0).Draw(t, "timeout")),
				Use: rapid.SliceOf(text.Filter(func(s string) bool { return s != "" })).Draw(t, "use"), Port: 80,
			}},
			Nets:    []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, 0}), rapid.IntRange(8, 32).Draw(t, "bits"))},
			Free:    map[string]any{"s": text.Draw(t, "free"), "n": json.Number("1.50"), "l": []any{nil, false}},
			Peppers: map[string]policy.Secret{},
		}
		out, err := strictyaml.Encode(want, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got document
		if err := strictyaml.Decode("a.yaml", out, &got); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got\n%+v\nwant\n%+v\n%s", got, want, out)
		}
	})
}

func TestSchema(t *testing.T) {
	t.Parallel()
	doc := func(t reflect.Type, field string) string {
		if field == "Title" {
			return "What it is called."
		}
		return ""
	}
	raw := strictyaml.Schema("https://example.com/schema", "Test", document{Count: 3}, doc)
	var s struct {
		Schema     string `json:"$schema"`
		Additional bool   `json:"additionalProperties"`
		Properties map[string]map[string]any
		Defs       map[string]struct {
			Required   []string
			Properties map[string]map[string]any
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	p := s.Properties
	service := s.Defs["strictyaml_test.service"]
	for what, ok := range map[string]bool{
		"draft":       s.Schema == "https://json-schema.org/draft/2020-12/schema",
		"closed":      !s.Additional,
		"description": p["title"]["description"] == "What it is called.",
		"default":     p["count"]["default"] == 3.0,
		"inlined":     p["rate"]["type"] == "number" && p["size"]["type"] == "string",
		"choice":      reflect.DeepEqual(p["colour"]["enum"], []any{"red", "green", "blue"}),
		"secret":      p["pepper"]["pattern"] != nil && p["pepper"]["default"] == nil,
		"required":    reflect.DeepEqual(service.Required, []string{"name"}),
		"set default": service.Properties["timeout"]["default"] == "1s",
		"scalar":      service.Properties["use"]["anyOf"] != nil,
		"untagged":    p["Hidden"] == nil && p["hidden"] == nil,
	} {
		if !ok {
			t.Errorf("%s is wrong in\n%s", what, raw)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]strictyaml.Size{"0B": 0, "1B": 1, "1024B": 1 << 10, "8KiB": 8 << 10, "1_000MiB": 1000 << 20, "2GiB": 2 << 30} {
		var s strictyaml.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
	}
}
