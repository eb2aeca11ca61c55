package rego_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// growing are functions by which a few lines make a lot.
const growing = `
texts(s) := concat("", [s, s, s, s])
big(s) := texts(texts(texts(texts(texts(s))))) # 1024 times
lists(a) := array.concat(a, a)
long(a) := lists(lists(lists(lists(lists(lists(lists(a))))))) # 128 times
same(x) := [x, x]
deep(x) := same(same(same(same(same(same(same(x)))))))
numbered(n) := [sprintf("n%d", [i]) | some i in numbers.range(1, n)]
squares(x) := x * x
`

// bombs are policies that want too much time or memory.
var bombs = map[string]string{
	"a loop":              `decision if { some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); some k in numbers.range(1, 3000); i * j * k == -1 }`,
	"a huge range":        `decision if count(numbers.range(1, 10000000)) == 1`,
	"a range of 2^64":     `decision if count(numbers.range(-9223372036854775808, 9223372036854775807)) == 1`,
	"a range of big ints": `decision if count(numbers.range(1, 100000000000000000000)) == 1`,
	"range in steps":      `decision if count(numbers.range_step(1, 1000000000, 2)) == 1`,
	"a network":           `decision if count(net.cidr_expand("10.0.0.0/8")) == 1`,
	"a network of IPv6":   `decision if count(net.cidr_expand("2001:db8::/32")) == 1`,
	"networks by pairs":   `decision if { a := [sprintf("10.%d.%d.0/24", [i, j]) | some i in numbers.range(1, 50); some j in numbers.range(1, 50)]; count(net.cidr_contains_matches(a, a)) == 1 }`,
	"a text of 2^30":      `decision if count(big(big(big("a")))) == 1`,
	"texts side by side":  `decision if count([big(big("a")) | some _ in numbers.range(1, 10000)]) == 1`,
	"split of a megabyte": `decision if count(split(big(big("a")), "")) == 1`,
	"split at each byte":  `decision if count(split(big(big("a")), "a")) == 1`,
	"replace":             `decision if { x := big("aaaaaaaa"); count(replace(x, "a", x)) == 1 }`,
	"replace nothing":     `decision if { x := big("aaaaaaaa"); count(replace(x, "", x)) == 1 }`,
	"replace all":         `decision if { x := big("aaaaaaaaaaaaaaaaa"); count(strings.replace_n({"a": x}, x)) == 1 }`,
	"all positions":       `decision if count(indexof_n(big(big("a")), "a")) == 1`,
	"a width":             `decision if count(sprintf(concat("", ["%999999d" | some _ in numbers.range(1, 500)]), numbers.range(1, 500))) == 1`,
	"a precision":         `decision if count(sprintf("%.999999f%.999999f%.999999f%.999999f%.999999f%.999999f%.999999f%.999999f", [1, 1, 1, 1, 1, 1, 1, 1])) == 1`,
	"a width from a list": `decision if count(sprintf("%*d%*d%*d%*d%*d%*d%*d", [999999, 1, 999999, 1, 999999, 1, 999999, 1, 999999, 1, 999999, 1, 999999, 1])) == 1`,
	"one value often":     `decision if count(sprintf(big("%[1]v"), [big("x")])) == 1`,
	"a shift":             `decision if bits.lsh(1, 1000000000) == 1`,
	"shifts":              `decision if bits.lsh(bits.lsh(bits.lsh(1, 16000), 16000), 16000) == 1`,
	"a number of 2^20":    `decision if squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(squares(3)))))))))))))))))))) == 1`,
	"a factorial":         `decision if product(numbers.range(1, 20000)) == 1`,
	"a slow pattern":      `decision if regex.match("(a*)*(a|aa){1,400}$b", big(big("a")))`,
	"all matches":         `decision if count(regex.find_all_string_submatch_n("(a)", big(big("a")), -1)) == 1`,
	"a growing rewrite":   `decision if count(regex.replace(big(big("a")), "a", big("$0"))) == 1`,
	"paths of a graph":    `decision if count(graph.reachable_paths({x: numbered(14) | some x in numbered(14)}, {"n1"})) == 1`,
	"a lattice":           `decision if count(graph.reachable({format_int(i, 10): [format_int(i + 1, 10), format_int(i + 7, 10)] | some i in numbers.range(1, 5000)}, {"1"})) == 1`,
	"fields of a query":   `decision if graphql.is_valid(sprintf("{%s}", [big("a{b a{b}} ")]), "type Query { a: Query b: Int }")`,
	"a schema in circles": `decision if json.match_schema({"a": 1}, {"allOf": [{"$ref": "#"}, {"$ref": "#"}]})[0]`,
	"the same as text":    `decision if json.match_schema({"a": 1}, "{\"allOf\": [{\"\\u0024ref\": \"#\"}]}")[0]`,
	"aliases of YAML":     "decision if count(yaml.unmarshal(\"a: &a [x,x,x,x,x,x,x,x,x]\\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\")) == 1",
	"a giant array":       `decision if count(long(long(long(long([1]))))) == 1`,
	"a giant object":      `decision if count({i: j | some i in numbers.range(1, 60000); some j in numbers.range(1, 60000); j == i}) == 1`,
	"a giant set":         `decision if count({[i, j] | some i in numbers.range(1, 10000); some j in numbers.range(1, 10000)}) == 1`,
	"one value in many":   `decision := {"allow": true, "dynamic_metadata": {"a": deep(deep(deep(1)))}}`,
	"the same as JSON":    `decision if count(json.marshal(deep(deep(deep(1))))) == 1`,
	"a wide indent":       `decision if count(json.marshal_with_options(numbers.range(1, 10000), {"pretty": true, "indent": big(" ")})) == 1`,
	"walking everywhere":  `decision if count([p | walk([numbers.range(1, 3000) | some _ in numbers.range(1, 1000)], [p, -1])]) == 1`,
	"unions":              `decision if { o := {x: x | some x in numbered(20000)}; count(object.union_n([o | some _ in numbers.range(1, 1000)])) == 1 }`,
	"sorting":             `decision if count(sort([[i % 7, i] | some i in numbers.range(1, 60000)])) == 1`,
}

// REGO-04 REGO-05: whatever wants too much is stopped by its deadline or by its
// memory, and denies; nothing of it is cached.
func TestBombs(t *testing.T) {
	// Not parallel: it counts the memory that is allocated meanwhile.
	const mostMiB = 400
	for _, name := range slices.Sorted(maps.Keys(bombs)) {
		t.Run(name, func(t *testing.T) {
			s := compile(t, module(growing+bombs[name]), rego.Config{AllowBuiltins: []string{"json.match_schema"}, Timeout: 50 * time.Millisecond})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			ended := make(chan error, 1)
			var v *policy.Verdict
			go func() {
				var err error
				v, _, err = s.Decide(t.Context(), input())
				ended <- err
			}()
			var err error
			select {
			case err = <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("it runs and runs")
			}
			runtime.ReadMemStats(&after)
			made := (after.TotalAlloc - before.TotalAlloc) >> 20
			t.Logf("%v after %v and %d MiB", err, time.Since(began).Round(time.Millisecond), made)
			if v != nil && v.Allow || made > mostMiB {
				t.Errorf("%+v, %v, %d MiB", v, err, made)
			}
			if _, isFault := errors.AsType[*rego.Fault](err); err != nil && !isFault && !errors.Is(err, rego.ErrTimeout) {
				t.Error(err)
			}
			if err != nil && s.Stats().Entries != 0 {
				t.Error("it is cached")
			}
		})
	}
}

// A call that is refused for its size is no `undefined`, also where other failures of
// functions are: `not` would turn it into an allow.
func TestLimitIsNotUndefined(t *testing.T) {
	t.Parallel()
	for _, envoy := range []bool{false, true} {
		s := compile(t, module(`decision if not count(numbers.range(1, 1000000000)) == 1`), rego.Config{OPAEnvoy: envoy})
		v, _, err := s.Decide(t.Context(), input())
		f, ok := errors.AsType[*rego.Fault](err)
		if !ok || v != nil || f.What != "postern_limit_error in numbers.range" || f.Line == 0 {
			t.Errorf("%+v, %v", v, err)
		}
	}
}

// Every function has a row that says how its work grows. One that a later OPA adds is
// bounded by a guess until somebody has written its row.
func TestCostsKnowEveryBuiltin(t *testing.T) {
	t.Parallel()
	known := rego.CostNames()
	for _, b := range ast.Builtins {
		if !known[b.Name] {
			t.Errorf("%s is new: see how its work grows and write its row", b.Name)
		}
		delete(known, b.Name)
	}
	for name := range known {
		t.Errorf("%s is no builtin any more", name)
	}
}

// Ordinary policies come nowhere near the bounds.
func TestOrdinaryWork(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if {
	regex.match("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", "123e4567-e89b-12d3-a456-426614174000")
	regex.find_n("[a-z]+", input.request.host, -1) == ["api", "example", "com"]
	glob.match("/orders/*/{items,notes}", ["/"], "/orders/7/items")
	split("a/b/c", "/") == ["a", "b", "c"]
	sprintf("%-10s|%5d|%v", ["a", 7, [1]]) == "a         |    7|[1]"
	concat(",", {"b", "a"}) == "a,b"
	count(numbers.range(1, 10000)) == 10000
	count(net.cidr_expand("192.0.2.0/24")) == 256
	bits.lsh(1, 64) == 18446744073709551616
	json.unmarshal(json.marshal({"a": [1, {"b": 2}]})).a[1].b == 2
	yaml.unmarshal("a: [1, 2]").a[1] == 2
	json.match_schema({"a": 1}, {"type": "object", "properties": {"a": {"type": "number"}}})[0]
	graph.reachable({"a": ["b"], "b": {"c"}, "c": []}, ["a"]) == {"a", "b", "c"}
	graph.reachable_paths({"a": ["b"], "b": []}, {"a"}) == {["a", "b"]}
	count(sort([x | some i in numbers.range(1, 5000); x := 5000 - i])) == 5000
	1e100 * 1e100 == 1e200
	time.format(0) == "1970-01-01T00:00:00Z"
}`), rego.Config{Timeout: time.Minute, AllowBuiltins: []string{"json.match_schema"}})
	if v := decide(t, s, input()); !v.Allow {
		t.Errorf("%+v", v)
	}
}

// Our graph.reachable finds what OPA's finds.
func TestReachableAsOPA(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		node := func() *ast.Term { return ast.StringTerm(string(rune('a' + r.IntN(6)))) }
		collection := func() *ast.Term {
			var terms []*ast.Term
			for range r.IntN(4) {
				terms = append(terms, node())
			}
			return [](*ast.Term){ast.ArrayTerm(terms...), ast.SetTerm(terms...), ast.NullTerm()}[r.IntN(8)%3]
		}
		graph := ast.NewObject()
		for range r.IntN(6) {
			graph.Insert(node(), collection())
		}
		operands := []*ast.Term{ast.NewTerm(graph), collection()}
		want, wantErr := call(rego.OPAReachable, operands)
		got, err := call(topdown.GetBuiltin("graph.reachable"), operands)
		if (err == nil) != (wantErr == nil) || err == nil && got.Value.Compare(want.Value) != 0 {
			t.Fatalf("%v: %v (%v), want %v (%v)", operands, got, err, want, wantErr)
		}
	}
}

func call(f topdown.BuiltinFunc, operands []*ast.Term) (out *ast.Term, err error) {
	err = f(topdown.BuiltinContext{}, operands, func(t *ast.Term) error { out = t; return nil })
	return out, err
}

// Slow evaluations make room for quick ones: with as many of them as there are places,
// and more, every other request is still answered.
func TestSlowOnesMakeRoom(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if input.request.path == "/quick"
decision if { input.request.path == "/slow"; some i in numbers.range(1, 60000); some j in numbers.range(1, 60000); i * j == -1 }`),
		rego.Config{MaxEvaluations: 2, Timeout: time.Second, Cache: rego.CacheConfig{Size: -1}})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	began := make(chan struct{}, 6)
	for range 6 {
		all.Go(func() {
			began <- struct{}{}
			for ctx.Err() == nil {
				if _, _, err := s.Decide(ctx, at("/slow")); err == nil {
					t.Error("a slow one came to an end")
				}
			}
		})
	}
	for range 6 {
		<-began
	}
	for range 50 {
		if v, _, err := s.Decide(t.Context(), at("/quick")); err != nil || !v.Allow {
			t.Errorf("%v %v", v, err)
		}
	}
	stop()
	all.Wait()
	if n := rego.PlacesTaken(s); n != 0 {
		t.Errorf("%d places are lost", n)
	}
}

// The figures of docs/performance.md for the neighbours of a request whose policy
// runs until its deadline.
func BenchmarkNeighbours(b *testing.B) {
	s := compile(b, module(growing+`decision if input.request.path == "/quick"
decision if { input.request.path == "/loop"; some i in numbers.range(1, 60000); some j in numbers.range(1, 60000); i * j == -1 }
decision if { input.request.path == "/text"; count(split(big(big("a")), "")) == 1 }
decision if { input.request.path == "/object"; count({i: j | some i in numbers.range(1, 60000); some j in numbers.range(1, 60000); j == i}) == 1 }`),
		rego.Config{Cache: rego.CacheConfig{Size: -1}, Timeout: 50 * time.Millisecond})
	heap := make([]byte, 64<<20) // about what a server holds: without, the collector runs all the time
	defer runtime.KeepAlive(heap)
	for _, path := range []string{"", "/loop", "/text", "/object"} {
		b.Run("beside"+strings.ReplaceAll(path, "/", "="), func(b *testing.B) {
			ctx, stop := context.WithCancel(b.Context())
			var slow sync.WaitGroup
			if path != "" {
				slow.Go(func() {
					for ctx.Err() == nil {
						_, _, _ = s.Decide(ctx, at(path))
					}
				})
			}
			var took []time.Duration
			in := at("/quick")
			for b.Loop() {
				began := time.Now()
				if v, _, err := s.Decide(b.Context(), in); err != nil || !v.Allow {
					b.Fatal(v, err)
				}
				took = append(took, time.Since(began))
				time.Sleep(100 * time.Microsecond) // as if the next request had to arrive
			}
			stop()
			slow.Wait()
			slices.Sort(took)
			for _, q := range []float64{50, 99, 99.9} {
				b.ReportMetric(float64(took[int(float64(len(took)-1)*q/100)].Microseconds()), fmt.Sprintf("p%v-µs", q))
			}
		})
	}
}

// Lines of which each doubles what the one before holds are refused at load: no
// deadline stops the step that writes them out.
func TestGrowth(t *testing.T) {
	t.Parallel()
	doubling := func(n int, format string) string {
		var b strings.Builder
		b.WriteString("decision if {\n\tx0 := input.principal.id\n")
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, "\t"+format+"\n", i, i-1, i-1)
		}
		fmt.Fprintf(&b, "\tcount(x%d) == 3\n}", n)
		return b.String()
	}
	for name, text := range map[string]string{
		"arrays":  doubling(30, "x%d := [x%d, x%d]"),
		"objects": doubling(30, `x%d := {"a": x%d, "b": x%d}`),
		"nested":  doubling(30, `x%d := [[x%d], {{"b": x%d}}]`),
		"unified": doubling(30, `x%d = [x%d, x%d]`),
		"head":    "decision := {\"allow\": true, \"dynamic_metadata\": {\"a\": [" + strings.Repeat("x, ", 40) + "x]}} if x := input.principal.claims",
		"else":    "decision if false\nelse := x if {\n y := input.principal.claims\n x := [" + strings.Repeat("y, ", 40) + "y] }",
		"inside":  "decision if { y := input.principal.claims; count([1 | [" + strings.Repeat("y, ", 40) + "y] == input.context]) > 1 }",
	} {
		bundle, err := rego.LoadFS(module(text), rego.Config{})
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		_, err = rego.Compile(t.Context(), bundle, rego.Config{})
		problems, ok := errors.AsType[rego.Problems](err)
		if !ok || problems[0].Line < 2 || !strings.Contains(problems[0].Text, "more than 32 times") {
			t.Errorf("%s: %v", name, err)
		}
	}
	compile(t, module(doubling(4, "x%d := [x%d, x%d]")), rego.Config{})
	compile(t, module("admins := [\"a\"]\ndecision := x[input.request.path] if { y := \"b\"; x := {"+strings.Repeat("y: admins, ", 40)+"\"/\": [input.principal.id"+strings.Repeat(", input.principal.id", 40)+"]} }"), rego.Config{})
}

// What is left when more evaluations are asked for than there is room for, all of which
// take their time: goodput is the part of the processor's time that ends in answers.
func BenchmarkOverloaded(b *testing.B) {
	for _, size := range []int{3, 30, 60, 90} {
		b.Run(fmt.Sprint("size=", size), func(b *testing.B) {
			s := compile(b, module(fmt.Sprintf(`decision if { some i in numbers.range(1, %d); some j in numbers.range(1, %d); i * j == -1 }
decision if true`, size, size)), rego.Config{Cache: rego.CacheConfig{Size: -1}, Timeout: 50 * time.Millisecond})
			var good, refused, late atomic.Int64
			ask := func() {
				switch _, _, err := s.Decide(b.Context(), at("/")); {
				case err == nil:
					good.Add(1)
				case errors.Is(err, rego.ErrOverloaded):
					refused.Add(1)
					time.Sleep(10 * time.Millisecond)
				default:
					late.Add(1)
				}
			}
			began := processorTime()
			for good.Load() < 50 {
				ask()
			}
			alone := (processorTime() - began) / 50
			good.Store(0)
			refused.Store(0)
			late.Store(0)
			began = processorTime()
			until := time.Now().Add(2 * time.Second)
			var all sync.WaitGroup
			for range 64 {
				all.Go(func() {
					for time.Now().Before(until) {
						ask()
					}
				})
			}
			all.Wait()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(alone.Microseconds()), "alone-µs")
			b.ReportMetric(100*float64(good.Load())*float64(alone)/float64(processorTime()-began), "goodput-%")
			b.ReportMetric(float64(refused.Load()), "refused")
			b.ReportMetric(float64(late.Load()), "late")
		})
	}
}

// processorTime is what this process has had of the processors.
func processorTime() time.Duration {
	var all syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &all)
	return time.Duration(all.Utime.Nano() + all.Stime.Nano())
}
