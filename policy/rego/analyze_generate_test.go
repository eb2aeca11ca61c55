package rego_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// rounds multiplies the random tests: POSTERN_ANALYZE_ROUNDS=100 runs for minutes.
func rounds(n int) int {
	if more, err := strconv.Atoi(os.Getenv("POSTERN_ANALYZE_ROUNDS")); err == nil && more > 0 {
		return n * more
	}
	return n
}

// nothingShared skips what takes minutes under the race detector and has nothing for
// it to find: an analysis is one goroutine's.
func nothingShared(t *testing.T) {
	if raceEnabled {
		t.Skip("runs without the race detector")
	}
}

// Random policies that read the input in every way that Rego has, in places where
// an analysis is tempted to look away.
func TestAnalyzeGenerated(t *testing.T) {
	t.Parallel()
	nothingShared(t)
	policies, pairs, narrow := 0, 0, 0
	for seed := range uint64(rounds(800)) {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, 5))}
		s, err := g.subject()
		if err != nil {
			continue
		}
		policies++
		if !s.analysis.Whole {
			narrow++
		}
		if pairs += s.mustBeSound(t, seed, 12); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d policies compiled, %d of them do not read the whole input, %d pairs compared", policies, narrow, pairs)
	if policies < 200 || narrow < 150 || pairs < 3000 {
		t.Error("the generator makes too few policies that say anything")
	}
}

// The experiment must be able to find a path that the analysis forgot.
func TestAnalyzeGeneratedNoticesOmissions(t *testing.T) {
	t.Parallel()
	nothingShared(t)
	omitted, noticed := 0, 0
	for seed := range uint64(120) {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, 5))}
		s, err := g.subject()
		if err != nil || s.analysis.Whole || !s.analysis.Cacheable() {
			continue
		}
		for i := range s.analysis.Paths {
			paths := append(s.analysis.Paths[:i:i], s.analysis.Paths[i+1:]...)
			omitted++
			if _, difference := s.experiment(paths, seed, 30); difference != "" {
				noticed++
			}
		}
	}
	t.Logf("%d of %d omissions noticed", noticed, omitted)
	if omitted < 100 || noticed*4 < omitted {
		t.Error("the experiment overlooks too much")
	}
}

// generator writes policies at random. Rules only mention rules written before
// them, so that there is no recursion.
type generator struct {
	*rand.Rand
	values    []string // names of rules to refer to, with the package where they need it
	functions []string // names of functions of one argument
	pairs     []string // names of functions of two arguments
	locals    []string
	fresh     int
}

func (g *generator) subject() (*subject, error) {
	lib := "package test.lib\n\nimport input.a.b as imported\n\n" + g.rules(2, "data.test.lib.")
	main := "package test\n\nimport input.a.b as imported\n\n" + g.rules(3+g.IntN(4), "data.test.")
	modules := map[string]*ast.Module{}
	for name, source := range map[string]string{"lib": lib, "main": main} {
		m, err := ast.ParseModule(name, source)
		if err != nil {
			return nil, fmt.Errorf("%w\n%s", err, source)
		}
		modules[name] = m
	}
	query := "data.test"
	if g.IntN(3) > 0 {
		query += ".last"
	}
	data := map[string]any{"base": map[string]any{"a": map[string]any{"b": 1}, "b": []any{"a", "b"}, "k": "a"}}
	return newSubject(modules, query, data, trickySamples...)
}

func (g *generator) pick(options ...string) string { return options[g.IntN(len(options))] }

func (g *generator) name(prefix string) string {
	g.fresh++
	return fmt.Sprintf("%s%d", prefix, g.fresh)
}

func (g *generator) rules(n int, pkg string) string {
	var b strings.Builder
	for range n {
		b.WriteString(g.rule(pkg))
	}
	if pkg == "data.test." {
		g.locals = nil
		b.WriteString("last := " + g.expr(0) + " if {\n" + g.body(0, 3) + "}\n")
		if g.IntN(2) == 0 {
			b.WriteString("default last := 7\n")
		}
	}
	return b.String()
}

func (g *generator) rule(pkg string) string {
	g.locals = nil
	name := g.name("r")
	known := func(list *[]string, name string) { *list = append(*list, pkg+name) }
	switch g.IntN(12) {
	case 0, 1:
		known(&g.values, name)
		return name + " := " + g.input() + "\n"
	case 2:
		text := fmt.Sprintf("%s := %s if {\n%s}\n", name, g.expr(0), g.body(0, 3))
		if g.IntN(2) == 0 {
			g.locals = nil
			text = fmt.Sprintf("%s else := %s if {\n%s}\n", strings.TrimSuffix(text, "\n"), g.expr(0), g.body(0, 2))
		}
		if g.IntN(2) == 0 {
			text += "default " + name + " := " + g.scalar() + "\n"
		}
		known(&g.values, name)
		return text
	case 3:
		body := g.body(0, 3)
		text := fmt.Sprintf("%s contains %s if {\n%s}\n", name, g.expr(0), body)
		known(&g.values, name)
		return text
	case 4:
		body := g.body(0, 3)
		text := fmt.Sprintf("%s[%s] := %s if {\n%s}\n", name, g.expr(0), g.expr(0), body)
		known(&g.values, name)
		return text
	case 5:
		body := g.body(0, 2)
		text := fmt.Sprintf("%s[k].%s := %s if {\n%sk := %s\n}\n", name, g.step(), g.expr(0), body, g.input())
		known(&g.values, name)
		return text
	case 6:
		text := fmt.Sprintf("%s.%s := %s\n%s.%s := %s\n", name, "a", g.expr(0), name, "b", g.input())
		known(&g.values, name)
		return text
	case 7, 8, 9:
		return g.function(name, known)
	case 10:
		g.locals = []string{"p", "q"}
		text := fmt.Sprintf("%s(p, q) := %s if {\n%s}\n", name, g.expr(0), g.body(0, 2))
		if g.IntN(3) == 0 {
			text += fmt.Sprintf("%s(p, p) := 1\n", name)
		}
		if g.IntN(3) == 0 {
			text += fmt.Sprintf("%s([q, _], {\"b\": p}) := [p, q]\n", name)
		}
		known(&g.pairs, name)
		return text
	}
	text := name + " if {\n" + g.body(0, 4) + "}\n"
	known(&g.values, name)
	return text
}

func (g *generator) function(name string, known func(*[]string, string)) string {
	g.locals = []string{"p"}
	text := fmt.Sprintf("%s(p) := %s if {\n%s}\n", name, g.expr(0), g.body(0, 2))
	switch g.IntN(6) {
	case 0:
		g.locals = []string{"p"}
		text = fmt.Sprintf("%s else := %s\n", strings.TrimSuffix(text, "\n"), g.expr(0))
	case 1:
		text += fmt.Sprintf("%s(%s) := 2\n", name, g.scalar())
	case 2:
		text += fmt.Sprintf("default %s(_) := 3\n", name)
	case 3:
		text = fmt.Sprintf("%s(p) := %s\n", name, g.pick("p.a", "p.b.c", "p", "[p.a, p.b]", "object.get(p, \"b\", 0)"))
	}
	known(&g.functions, name)
	return text
}

func (g *generator) step() string { return g.pick("a", "b", "c", "d", "k", "q") }

func (g *generator) scalar() string {
	return g.pick(`1`, `2`, `"a"`, `"b"`, `true`, `null`, `1.0`)
}

// input is a reference that begins at the input.
func (g *generator) input() string {
	ref := g.pick("input.a", "input.b", "input.k", "input.list", "input.x", "input.a.b", "input.a.b.c", "imported", "input.user", "input.roles")
	for g.IntN(4) == 0 {
		ref += g.pick(".a", ".b", `["a"]`, "[0]", "[1]", ".c", ".z")
	}
	if g.IntN(12) == 0 {
		ref += "[" + g.pick("input.k", "input.key", `"a"`, "1") + "]"
	}
	if g.IntN(40) == 0 {
		return g.pick("input", "input[input.k]", "input[_]")
	}
	return ref
}

func (g *generator) local() string {
	if len(g.locals) == 0 {
		return g.input()
	}
	v := g.locals[g.IntN(len(g.locals))]
	for g.IntN(2) == 0 {
		v += g.pick(".a", ".b", ".c", "[0]", `["b"]`, "[input.k]")
	}
	return v
}

func (g *generator) value() string {
	if len(g.values) == 0 {
		return g.input()
	}
	v := g.values[g.IntN(len(g.values))]
	for g.IntN(3) == 0 {
		v += g.pick(".a", ".b", "[input.k]")
	}
	return v
}

func (g *generator) expr(depth int) string {
	if depth > 2 {
		return g.pick(g.input(), g.local(), g.scalar())
	}
	switch g.IntN(20) {
	case 0, 1, 2:
		return g.input()
	case 3, 4, 5:
		return g.local()
	case 6, 7:
		return g.value()
	case 8, 9:
		if len(g.functions) > 0 {
			return g.pick(g.functions...) + "(" + g.expr(depth+1) + ")"
		}
	case 10:
		if len(g.pairs) > 0 {
			return g.pick(g.pairs...) + "(" + g.expr(depth+1) + ", " + g.expr(depth+1) + ")"
		}
	case 11:
		key := g.pick(`"a"`, `"b"`, `["a", "b"]`, `["b", "c"]`, `[]`, `["b", input.k]`, `["list", 0]`, g.expr(depth+1))
		return "object.get(" + g.pick(g.input(), g.local(), g.value()) + ", " + key + ", " + g.scalar() + ")"
	case 12:
		return g.pick("count", "type_name", "is_object", "json.marshal", "object.keys", "sum", "to_number", "is_null") + "(" + g.expr(depth+1) + ")"
	case 13:
		return `sprintf("%v %v", [` + g.expr(depth+1) + ", " + g.scalar() + "])"
	case 14:
		return g.comprehension(depth)
	case 15:
		return "{" + g.pick(`"a"`, g.expr(depth+1)) + ": " + g.expr(depth+1) + "}"
	case 16:
		return "[" + g.expr(depth+1) + ", " + g.expr(depth+1) + "]"
	case 17:
		return `$"-{` + g.pick(g.input(), g.local()) + `}-"`
	case 18:
		return "data.base" + g.pick(".a", "[input.k]", "[input.k].b", ".b[input.b]", "")
	case 19:
		return "{" + g.expr(depth+1) + ", " + g.scalar() + "}"
	}
	return g.scalar()
}

func (g *generator) comprehension(depth int) string {
	saved := g.locals
	defer func() { g.locals = saved }()
	body := g.body(depth+1, 2)
	body = strings.ReplaceAll(strings.TrimSuffix(body, "\n"), "\n", "; ")
	switch g.IntN(3) {
	case 0:
		return "[" + g.expr(depth+1) + " | " + body + "]"
	case 1:
		return "{" + g.expr(depth+1) + " | " + body + "}"
	}
	return "{" + g.pick(`"a"`, g.local()) + ": " + g.expr(depth+1) + " | " + body + "}"
}

func (g *generator) body(depth, n int) string {
	var b strings.Builder
	for range 1 + g.IntN(n) {
		with := g.with() // first, so that it mentions nothing that the statement declares
		b.WriteString(g.statement(depth) + with + "\n")
	}
	return b.String()
}

func (g *generator) statement(depth int) string {
	switch g.IntN(16) {
	case 0, 1, 2, 3:
		e := g.pick(g.input(), g.local(), g.value(), g.expr(depth))
		v := g.name("v")
		g.locals = append(g.locals, v)
		return v + g.pick(" := ", " := ", " = ") + e
	case 4:
		return g.local() + " = " + g.expr(depth)
	case 5:
		return g.expr(depth) + g.pick(" == ", " != ", " > ") + g.expr(depth)
	case 6, 7:
		return "not " + g.pick(g.local(), g.input(), g.value(), g.local()+" == "+g.scalar())
	case 8:
		e, v := g.expr(depth), g.name("e")
		g.locals = append(g.locals, v)
		return "some " + v + " in " + e
	case 9:
		e, k, v := g.local(), g.name("k"), g.name("e")
		g.locals = append(g.locals, k, v)
		return "some " + k + ", " + v + " in " + e
	case 10:
		domain, saved := g.pick(g.local(), g.input()), g.locals
		g.locals = append(g.locals[:len(g.locals):len(g.locals)], "m")
		inner := g.pick("m", "m.a", "m == "+g.input(), "m == "+g.local(), "not m.b")
		g.locals = saved
		return "every m in " + domain + " { " + inner + " }"
	case 11:
		e := g.pick(g.local(), g.input())
		return `{"b": ` + g.declare() + `} = ` + e
	case 12:
		e := g.pick(g.local(), g.input(), "["+g.input()+", 1]")
		return `[` + g.declare() + `, _] = ` + e
	case 13:
		e := g.pick(g.local(), g.input())
		return `walk(` + e + `, [` + g.declare() + `, ` + g.scalar() + `])`
	case 14:
		return g.expr(depth) + " in " + g.expr(depth)
	}
	return g.expr(depth)
}

func (g *generator) declare() string {
	v := g.name("d")
	g.locals = append(g.locals, v)
	return v
}

// with is a modifier, mostly none.
func (g *generator) with() string {
	switch g.IntN(16) {
	case 0:
		return " with " + g.pick("input.a", "input.a.b", "input.b", "input.k", "input.a.b.c", "input.list") + " as " + g.pick(g.input(), g.local(), g.scalar())
	case 1:
		return " with input as " + g.pick(g.input(), `{"a": `+g.input()+`}`, `{"b": `+g.local()+`, "k": "a"}`)
	case 2:
		if len(g.functions) > 1 {
			return " with " + g.pick(g.functions...) + " as " + g.pick(g.pick(g.functions...), g.scalar(), "count")
		}
	case 3:
		if len(g.functions) > 0 {
			return " with " + g.pick("count", "type_name", "is_object", "json.marshal") + " as " + g.pick(g.functions...)
		}
	case 4:
		if len(g.values) > 0 {
			v := g.values[g.IntN(len(g.values))]
			return " with " + v + " as " + g.pick(g.input(), g.local(), g.scalar())
		}
	case 5:
		return " with data.base" + g.pick("", ".a", ".k", ".b") + " as " + g.pick(g.input(), g.local())
	}
	return ""
}
