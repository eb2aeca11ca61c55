package rego_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/postern-auth/postern/policy/rego"
)

var rewrite = flag.Bool("rewrite", false, "write what the analysis finds into testdata/tricky")

// Each file of testdata/tricky is a policy, package test, and below a line
// "# ----" what the analysis is to find in it for the query data.test, or for that
// of a first line "# query". Every finding must also survive the experiment.
func TestAnalyzeTricky(t *testing.T) {
	files, err := filepath.Glob("testdata/tricky/*.rego")
	if err != nil || len(files) == 0 {
		t.Fatalf("no policies: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source, want, _ := strings.Cut(string(text), "\n# ----\n")
			module, err := ast.ParseModule(filepath.Base(file), source)
			if err != nil {
				t.Fatal(err)
			}
			query := "data.test"
			if first, _, _ := strings.Cut(source, "\n"); strings.HasPrefix(first, "# query ") {
				query = strings.TrimPrefix(first, "# query ")
			}
			s, err := newSubject(map[string]*ast.Module{"policy": module}, query, nil, trickySamples...)
			if err != nil {
				t.Fatal(err)
			}
			got := findings(s.analysis)
			if *rewrite {
				if err := os.WriteFile(file, []byte(source+"\n# ----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("found\n%swant\n%s", got, want)
			}
			s.mustBeSound(t, 1, 150)
		})
	}
}

// findings writes an analysis as comment lines.
func findings(a *rego.Analysis) string {
	var b strings.Builder
	for _, p := range a.Paths {
		b.WriteString("# reads " + p.String() + "\n")
	}
	list := func(title string, causes []rego.Cause) {
		for _, c := range causes {
			b.WriteString("# " + title + ": " + c.String() + "\n")
		}
	}
	list("whole", a.Unbounded)
	list("time", a.Clock)
	list("impure", a.Impure)
	return b.String()
}

var trickySamples = []ast.Value{
	ast.MustParseTerm(`{"attributes": {"request": {"http": {"method": "GET", "path": "/people", "headers": {"authorization": "Basic YWxpY2U6cGFzc3dvcmQ="}}}}}`).Value,
	ast.MustParseTerm(`{"a": {"b": {"c": 1, "d": [1, 2]}, "q": 1}, "b": 2, "list": ["a", "b"], "roles": ["a", "b"], "k": "a", "key": "b", "user": "alice", "x": {"a": {"z": 2}, "b": {"z": 1}}, "method": "GET"}`).Value,
	ast.MustParseTerm(`{"a": [{"b": 1}], "b": {"c": 1}, "list": [1, {"a": 2}], "roles": ["y"], "k": "b", "z": 1, "context": {"request": {"http": {"method": "POST", "body": "{\"request\": {\"x\": 1}}"}}}}`).Value,
}

// Policies as people write them, with sensible inputs: testdata/focus holds each
// as .rego and beside it the query, data, values by path, and what the analysis is
// to find. Here nothing that it finds may be superfluous: leaving out any one path
// must let the experiment find a difference.
func TestAnalyzeFocus(t *testing.T) {
	files, err := filepath.Glob("testdata/focus/*.rego")
	if err != nil || len(files) < 6 {
		t.Fatalf("policies are missing: %v %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".rego"), func(t *testing.T) {
			t.Parallel()
			s, want := loadFocus(t, file)
			if got := pathStrings(s.analysis.Paths); !slices.Equal(got, want.Reads) {
				t.Errorf("reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want.Reads, "\n"))
			}
			if !s.analysis.Cacheable() || s.analysis.TimeBound != want.Time {
				t.Errorf("impure %v, time %v", s.analysis.Impure, s.analysis.Clock)
			}
			s.mustBeSound(t, 2, 400)
			for i, p := range s.analysis.Paths {
				others := slices.Delete(slices.Clone(s.analysis.Paths), i, i+1)
				if _, difference := s.experiment(others, 3, 3000); difference == "" && !slices.Contains(want.Superfluous, p.String()) {
					t.Errorf("the experiment does not miss %v", p)
				}
			}
		})
	}
}

// focusCase is the file beside a policy.
type focusCase struct {
	Query string
	Data  map[string]any
	// Inputs are values by path; the steps are separated by dots.
	Inputs map[string][]json.RawMessage
	// Reads and Time are what the analysis is to find.
	Reads []string
	Time  bool
	// Superfluous are paths of Reads that no input shows to matter.
	Superfluous []string
}

func loadFocus(t testing.TB, file string) (*subject, focusCase) {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(strings.TrimSuffix(file, ".rego") + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var c focusCase
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	s := mustSubject(t, c.Query, c.Data, string(source))
	for _, path := range slices.Sorted(maps.Keys(c.Inputs)) {
		d := domain{path: strings.Split(path, ".")}
		for _, value := range c.Inputs[path] {
			d.values = append(d.values, ast.MustParseTerm(string(value)).Value)
		}
		s.domains = append(s.domains, d)
	}
	return s, c
}

func pathStrings(paths []rego.Path) []string {
	list := make([]string, len(paths))
	for i, p := range paths {
		list[i] = p.String()
	}
	return list
}

// CACHE-07, E-01: a policy that reads a header depends on that header and on no
// other, so that two requests that differ there never share a decision.
func TestAnalyzeHeader_CACHE07(t *testing.T) {
	t.Parallel()
	s := mustSubject(t, "x = data.app.allow", nil, `package app
allow if input.attributes.request.http.headers["x-region"] == "eu"`)
	want := []string{`input.attributes.request.http.headers["x-region"]`}
	if got := pathStrings(s.analysis.Paths); !slices.Equal(got, want) || !s.analysis.Cacheable() {
		t.Errorf("reads %v", got)
	}
	if s.mustBeSound(t, 1, 100) == 0 {
		t.Error("nothing was compared")
	}
}

// CACHE-08: what the outside decides is never cached, and the author is told why;
// the clock is in TimeBound, so that its second goes into the key.
func TestAnalyzeOutside_CACHE08(t *testing.T) {
	t.Parallel()
	for call, why := range map[string]string{
		`rand.intn("x", 2) == 1`:   "random",
		`uuid.rfc4122("x") == "1"`: "random",
		`http.send({"method": "get", "url": "http://x"}).status_code == 200`: "network",
		`opa.runtime().env.HOME == "/"`:                                      "environment",
		`count(net.lookup_ip_addr("x")) == 1`:                                "network",
	} {
		s := mustSubject(t, "x = data.app.allow", nil, "package app\n\nallow if deep(input.user)\n\ndeep(_) if {\n\t"+call+"\n}")
		a := s.analysis
		if a.Cacheable() || len(a.Impure) != 1 {
			t.Fatalf("%s: %v", call, a.Impure)
		}
		if c := a.Impure[0]; c.Rule != "data.app.deep" || c.File != "module0.rego" || c.Line != 6 || !strings.Contains(c.Why, why) {
			t.Errorf("%s: %v", call, c)
		}
	}
	clock := mustSubject(t, "x = data.app.allow", nil, "package app\n\nallow if time.now_ns() > input.at").analysis
	if !clock.Cacheable() || !clock.TimeBound || len(clock.Clock) != 1 || clock.Clock[0].Line != 3 {
		t.Errorf("%v %v", clock.Impure, clock.Clock)
	}
}

// CACHE-06: values that look alike are different values of the same path; whether
// a key tells them apart is the key's business, that it must is the analysis's.
func TestAnalyzeLookalikes_CACHE06(t *testing.T) {
	t.Parallel()
	s := mustSubject(t, "x = data.app.kind", nil, `package app
kind := json.marshal(input.a)`)
	answers := map[string]string{}
	for _, text := range []string{`["a", "b"]`, `["a,b"]`, `"a,b"`, `{"a": 1}`, `{"a": "1"}`, `{"a": true}`, `{"a": null}`, `{}`, `1`, `1.0`} {
		input := ast.NewObject(ast.Item(ast.StringTerm("a"), ast.MustParseTerm(text)))
		answer, ok := s.decide(input, true)
		if !ok {
			t.Fatal("no answer")
		}
		if other, seen := answers[answer]; seen {
			t.Errorf("%s and %s decide alike", text, other)
		}
		answers[answer] = text
		for _, other := range answers {
			rival := ast.NewObject(ast.Item(ast.StringTerm("a"), ast.MustParseTerm(other)))
			if other != text && agree(s.analysis.Paths, input, rival) {
				t.Errorf("%s and %s agree", text, other)
			}
		}
	}
}

func TestAnalyzeWholeInputSaysWhy(t *testing.T) {
	t.Parallel()
	a := mustSubject(t, "x = data.app.allow", nil, `package app

allow if {
	some key
	input[key] == 1
}

allow if count(input) == 2

allow if helper(input)

helper(x) if {
	y := x
	y == {}
}

helper({}) if true
`).analysis
	want := []string{
		"module0.rego:5: data.app.allow reads a member of input whose name is only known at run time",
		"module0.rego:8: data.app.allow hands all of input to count",
		"module0.rego:10: data.app.allow hands all of input to data.app.helper",
		"module0.rego:13: data.app.helper uses input as a whole",
	}
	var got []string
	for _, c := range a.Unbounded {
		got = append(got, c.String())
	}
	if !a.Whole || !slices.Equal(got, want) {
		t.Errorf("whole %v\n%s", a.Whole, strings.Join(got, "\n"))
	}
	if len(a.Paths) != 1 || len(a.Paths[0].Ref) != 0 || a.Paths[0].ShapeOnly {
		t.Errorf("paths %v", a.Paths)
	}
}

// Functions that call each other twice with different members stand for 2^n
// places; the analysis must stay small and sound.
func TestAnalyzeBoundsPlaces(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("package app\n\nallow if f0(input.start)\n")
	for i := range 40 {
		fmt.Fprintf(&b, "f%d(x) if f%d(x.a)\nf%d(x) if f%d(x.b)\n", i, i+1, i, i+1)
	}
	b.WriteString("f40(x) if x.ok\n")
	s := mustSubject(t, "x = data.app.allow", nil, b.String())
	if n := len(s.analysis.Paths); n == 0 || n > 40*64 {
		t.Errorf("%d paths", n)
	}
	if again := mustSubject(t, "x = data.app.allow", nil, b.String()); !slices.Equal(pathStrings(s.analysis.Paths), pathStrings(again.analysis.Paths)) {
		t.Error("a second analysis finds other paths")
	}
}

// A fault of the analysis, a policy that did not compile and a builtin that nobody
// declared are all reasons not to cache.
func TestAnalyzeFailsClosed(t *testing.T) {
	t.Parallel()
	if rego.Analyze(nil, ast.MustParseBody("true"), nil).Cacheable() {
		t.Error("without a compiler")
	}
	broken := ast.NewCompiler()
	broken.Compile(parsedModules(t, "package app\nallow if x"))
	if rego.Analyze(broken, ast.MustParseBody("true"), nil).Cacheable() {
		t.Error("without a policy that compiles")
	}
	strange := ast.Body{&ast.Expr{Terms: 7}}
	if a := rego.Analyze(ast.NewCompiler(), strange, nil); a.Cacheable() || len(a.Impure) != 1 {
		t.Errorf("with syntax from the future: %v", a.Impure)
	}
	if (&rego.Analysis{}).Cacheable() {
		t.Error("the zero Analysis")
	}
}

// Builtins of our own count as declared, in a call and as a replacement.
func TestAnalyzeOwnBuiltins(t *testing.T) {
	t.Parallel()
	const name = "postern.permits"
	capabilities := ast.CapabilitiesForThisVersion()
	capabilities.Builtins = append(capabilities.Builtins, &ast.Builtin{
		Name: name,
		Decl: types.NewFunction(types.Args(types.A, types.A), types.B),
	})
	for _, source := range []string{
		`allow if postern.permits(input.principal, input.request.method)`,
		`allow if { x := input.principal; postern.permits(x, input.request.method) }`,
		`allow if inner with object.remove as postern.permits
		 inner if object.remove(input.principal, input.request.method)`,
	} {
		c := ast.NewCompiler().WithCapabilities(capabilities)
		if c.Compile(parsedModules(t, "package app\n"+source)); c.Failed() {
			t.Fatal(c.Errors)
		}
		query, err := c.QueryCompiler().Compile(ast.MustParseBody("x = data.app.allow"))
		if err != nil {
			t.Fatal(err)
		}
		a := rego.Analyze(c, query, map[string]rego.Purity{name: rego.Pure})
		if got := pathStrings(a.Paths); !a.Cacheable() || !slices.Equal(got, []string{"input.principal", "input.request.method"}) {
			t.Errorf("%s\nreads %v, impure %v", source, got, a.Impure)
		}
		if a := rego.Analyze(c, query, nil); a.Cacheable() || !strings.Contains(a.Impure[0].Why, name) {
			t.Errorf("%s\nundeclared: %v", source, a.Impure)
		}
	}
}

func TestPathString(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]rego.Path{
		`input`:                      {},
		`type of input`:              {ShapeOnly: true},
		`input.a_1.B`:                {Ref: []string{"a_1", "B"}},
		`input.list[0].x`:            {Ref: []string{"list", "0", "x"}},
		`type of input["x-y"]`:       {Ref: []string{"x-y"}, ShapeOnly: true},
		`input["01"][""]["a.b"]`:     {Ref: []string{"01", "", "a.b"}},
		`input["é"]["\x00"]["\""]`:   {Ref: []string{"é", "\x00", `"`}},
		`input["99999999999"]["-1"]`: {Ref: []string{"99999999999", "-1"}},
	} {
		if got := p.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := (rego.Cause{Rule: "data.a", Why: "does x"}).String(); got != "data.a does x" {
		t.Error(got)
	}
}

func manyRules(n int) string {
	var b strings.Builder
	b.WriteString("package app\n\nhttp := input.attributes.request.http\n\ndefault allow := false\n\n")
	for i := range n {
		fmt.Fprintf(&b, "allow if {\n\thttp.method == \"GET\"\n\tstartswith(http.path, \"/svc%d/\")\n\trole(input.principal, \"r%d\")\n\tlimit%d > input.context.used\n}\n\n", i, i, i)
		fmt.Fprintf(&b, "limit%d := data.limits[input.principal.tenant].n%d\n\n", i, i)
	}
	b.WriteString("role(p, name) if name in p.roles\n")
	return b.String()
}

func BenchmarkAnalyze(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("rules=%d", 2*n), func(b *testing.B) {
			c := ast.NewCompiler()
			if c.Compile(parsedModules(b, manyRules(n))); c.Failed() {
				b.Fatal(c.Errors)
			}
			query, err := c.QueryCompiler().Compile(ast.MustParseBody("x = data.app.allow"))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if a := rego.Analyze(c, query, nil); len(a.Paths) != 6 {
					b.Fatal(pathStrings(a.Paths))
				}
			}
		})
	}
}
