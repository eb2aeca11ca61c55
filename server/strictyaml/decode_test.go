package strictyaml_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files")

type colour string

func (colour) Values() []string { return []string{"red", "green", "blue"} }

type service struct {
	Name    string        `yaml:"name,required"`
	Timeout time.Duration `yaml:"timeout"`
	Use     []string      `yaml:"use,scalar"`
	Port    uint16        `yaml:"port"`
}

func (s *service) SetDefaults() { s.Timeout = time.Second }

func (s *service) Check(report func(path, message, suggestion string)) {
	if s.Port == 1 {
		report("port", "1 is taken", "use another")
	}
	for i, u := range s.Use {
		if u == "" {
			report(fmt.Sprintf("use[%d]", i), "is empty", "")
		}
	}
}

type even int

func (e *even) Check(report func(path, message, suggestion string)) {
	if *e%2 != 0 {
		report("", "is odd", "")
	}
}

type limits struct {
	Rate float64         `yaml:"rate"`
	Size strictyaml.Size `yaml:"size"`
}

type document struct {
	Limits  limits                   `yaml:",inline"`
	Title   string                   `yaml:"title"`
	Count   int                      `yaml:"count"`
	Small   int8                     `yaml:"small"`
	On      bool                     `yaml:"enabled"`
	Colour  colour                   `yaml:"colour"`
	Even    even                     `yaml:"even"`
	Items   []service                `yaml:"services"`
	Labels  map[string]string        `yaml:"labels"`
	Colours map[colour]bool          `yaml:"colours"`
	Since   time.Time                `yaml:"since"`
	Net     netip.Prefix             `yaml:"net"`
	Nets    []netip.Prefix           `yaml:"nets"`
	Addr    netip.Addr               `yaml:"addr"`
	Socket  netip.AddrPort           `yaml:"socket"`
	Route   policy.PathPattern       `yaml:"route"`
	File    strictyaml.Path          `yaml:"file"`
	Free    any                      `yaml:"free"`
	Main    *service                 `yaml:"main"`
	Pepper  policy.Secret            `yaml:"pepper"`
	Peppers map[string]policy.Secret `yaml:"peppers"`
	Hidden  string
}

// The files and variables that the tests may name.
var lookups = []strictyaml.Option{
	strictyaml.WithBase("/base"),
	strictyaml.WithEnv(func(name string) (string, bool) {
		v, ok := map[string]string{"PEPPER": "from the environment", "EMPTY": "", "BLANK": " \n"}[name]
		return v, ok
	}),
	strictyaml.WithFiles(func(path string) ([]byte, error) {
		switch path {
		case "/pepper", "/base/pepper":
			return []byte("from a file\r\n"), nil
		case "/empty":
			return []byte("\n"), nil
		case "/dir":
			return nil, errors.New("it is a directory")
		case "/mine":
			return nil, fs.ErrPermission
		}
		return nil, fs.ErrNotExist
	}),
}

func decode(src string, opts ...strictyaml.Option) (document, error) {
	var d document
	err := strictyaml.Decode("a.yaml", []byte(src), &d, append(lookups, opts...)...)
	return d, err
}

func TestDecode(t *testing.T) {
	t.Parallel()
	got, err := decode(`--- # one document
title: "A title"
rate: 1_000.5
size: 8KiB
count: -10_000
enabled: true
colour: green
services:
  - {name: a, use: x}
  - name: b
    timeout: 1m
    use: [x, y]
    port: 65_535
labels: {a.b: c, "1": two}
colours: {red: true}
since: 2026-01-31T12:00:00Z
net: 10.0.0.0/8
nets: [192.0.2.1, "2001:db8::1"]
addr: 2001:db8::1
socket: "[::1]:80"
route: /orders/*
file: ./policy
free: {list: [1, 2.50, "x", true, null, 2026-01-01], n: 10_000}
main: {name: m}
pepper: ${file:pepper}
peppers: {v1: "${env:PEPPER}"}
`)
	if err != nil {
		t.Fatal(err)
	}
	route, _ := policy.ParsePathPattern("/orders/*")
	want := document{
		Limits: limits{1000.5, 8 * strictyaml.KiB}, Title: "A title", Count: -10000, On: true, Colour: "green",
		Items:   []service{{"a", time.Second, []string{"x"}, 0}, {"b", time.Minute, []string{"x", "y"}, 65535}},
		Labels:  map[string]string{"a.b": "c", "1": "two"},
		Colours: map[colour]bool{"red": true},
		Since:   time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		Net:     netip.MustParsePrefix("10.0.0.0/8"),
		Nets:    []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128")},
		Addr:    netip.MustParseAddr("2001:db8::1"), Socket: netip.MustParseAddrPort("[::1]:80"),
		Route: route, File: "/base/policy",
		Free: map[string]any{
			"list": []any{json.Number("1"), json.Number("2.50"), "x", true, nil, "2026-01-01"},
			"n":    json.Number("10000"),
		},
		Main:    &service{Name: "m", Timeout: time.Second},
		Pepper:  policy.NewSecret("from a file"),
		Peppers: map[string]policy.Secret{"v1": policy.NewSecret("from the environment")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestMessages holds every message against its golden file: cases of input,
// "----" and output. It carries FAILOPEN-06 and FAILOPEN-07 for the reader.
func TestMessages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) { golden(t, name) })
	}
}

func golden(t *testing.T, name string) {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, c := range strings.Split(strings.TrimSuffix(string(text), "\n\n"), "\n\n") {
		input, want, _ := strings.Cut(c, "\n----\n")
		_, err := decode(unescape(input))
		if err == nil {
			t.Errorf("accepted:\n%s", input)
			continue
		}
		got := err.Error()
		fmt.Fprintf(&out, "%s\n----\n%s\n\n", input, got)
		if !*update && got != strings.TrimSuffix(want, "\n") {
			t.Errorf("%s\ngot\n%s\nwant\n%s", input, got, want)
		}
		if leak := secretIn(got); leak != "" {
			t.Errorf("%s\nshows %q:\n%s", input, leak, got)
		}
		for _, word := range []string{"uint", "int8", "struct", "reflect", "strictyaml", "netip", "float64", "[]"} {
			if strings.Contains(got, word) && !strings.Contains(input, word) {
				t.Errorf("%s\nspeaks Go: %q in\n%s", input, word, got)
			}
		}
	}
	if *update {
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// unescape lets golden files hold what an editor would not show.
func unescape(s string) string {
	return strings.NewReplacer("<TAB>", "\t", "<FF>", "\xff", "<NUL>", "\x00", "<CR>", "\r", "<RLO>", "\u202e", "<LS>", "\u2028", "<EMPTY>", "").Replace(s)
}

// secretIn returns what of a text is a planted secret. G-15
func secretIn(s string) string {
	for _, planted := range []string{"hunter2", "from the environment", "from a file"} {
		if strings.Contains(s, planted) {
			return planted
		}
	}
	return ""
}

// A name with nothing behind it is an empty list where its field says so, and
// still that field: it cannot be written again.
func TestBlankList(t *testing.T) {
	t.Parallel()
	type file struct {
		Lax    []string `yaml:"lax,blank"`
		Strict []string `yaml:"strict"`
	}
	for src, ok := range map[string]bool{"lax:\n": true, "lax: []\n": true, "lax: ''\n": false, "lax:\nlax: [a]\n": false, "strict:\n": false} {
		var f file
		if err := strictyaml.Decode("a.yaml", []byte(src), &f); (err == nil) != ok {
			t.Errorf("%q: %v", src, err)
		} else if ok && (f.Lax == nil || len(f.Lax) > 0) {
			t.Errorf("%q: %#v", src, f.Lax)
		}
	}
}

// An empty list is meant only where its field says that it can be.
func TestEmptyList(t *testing.T) {
	t.Parallel()
	type file struct {
		Lax    []string `yaml:"lax,empty"`
		Strict []string `yaml:"strict"`
	}
	for src, ok := range map[string]bool{"lax: []\n": true, "lax:\n": false, "lax: ''\n": false, "lax: {}\n": false, "lax: []\nlax: [a]\n": false, "strict: []\n": false} {
		f := file{Lax: []string{"default"}}
		if err := strictyaml.Decode("a.yaml", []byte(src), &f, strictyaml.RefuseEmptyLists()); (err == nil) != ok {
			t.Errorf("%q: %v", src, err)
		} else if ok && (f.Lax == nil || len(f.Lax) > 0) {
			t.Errorf("%q: %#v", src, f.Lax)
		}
	}
}
