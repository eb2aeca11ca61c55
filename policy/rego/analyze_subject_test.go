package rego_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-auth/postern/policy/rego"
)

// The tests of Analyze rest on one experiment. Take an input; change it in as
// many ways as can be without changing anything at the analyzed paths; the
// decision must not change. This file holds what the experiment needs: a
// subject (policy, data and query, analyzed and ready to evaluate), random
// inputs for it, and the reading of Path against which inputs are compared.

// subject is one policy under the experiment.
type subject struct {
	analysis *rego.Analysis
	modules  map[string]*ast.Module
	compiler *ast.Compiler
	queries  ast.QueryCompiler
	query    ast.Body
	store    storage.Store
	txn      storage.Transaction
	words    []ast.Value // what the policy mentions, and some oddities: to build inputs from
	spots    [][]string  // paths that the policy mentions, and their parents
	samples  []ast.Value // inputs to start from
	domains  []domain    // sensible values for some paths
}

// domain is a path of the input and the values that it has in practice.
type domain struct {
	path   []string
	values []ast.Value
}

// newSubject compiles and analyzes. Data may be nil.
func newSubject(modules map[string]*ast.Module, query string, data map[string]any, samples ...ast.Value) (*subject, error) {
	c := ast.NewCompiler()
	if c.Compile(modules); c.Failed() {
		return nil, c.Errors
	}
	parsed, err := ast.ParseBody(query)
	if err != nil {
		return nil, err
	}
	queries := c.QueryCompiler()
	compiled, err := queries.Compile(parsed)
	if err != nil {
		return nil, err
	}
	if data == nil {
		data = map[string]any{}
	}
	s := &subject{
		analysis: rego.Analyze(c, compiled, nil),
		modules:  modules, compiler: c, queries: queries, query: compiled,
		store:   inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true)),
		samples: samples,
	}
	s.txn = storage.NewTransactionOrDie(context.Background(), s.store)
	s.collect()
	return s, nil
}

func parsedModules(t testing.TB, sources ...string) map[string]*ast.Module {
	t.Helper()
	modules := map[string]*ast.Module{}
	for i, source := range sources {
		name := fmt.Sprintf("module%d.rego", i)
		m, err := ast.ParseModule(name, source)
		if err != nil {
			t.Fatalf("%v\n%s", err, source)
		}
		modules[name] = m
	}
	return modules
}

func mustSubject(t testing.TB, query string, data map[string]any, sources ...string) *subject {
	t.Helper()
	s, err := newSubject(parsedModules(t, sources...), query, data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var evaluationTime = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// decide evaluates and writes the answer, or the kind of failure, as text. It
// gives up after some seconds, and then ok is false. There are policies over which
// OPA panics; that has to depend on the same paths.
func (s *subject) decide(input ast.Value, strict bool) (answer string, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			answer, ok = "panic", true
		}
	}()
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(3*time.Second, cancel.Cancel)
	defer timer.Stop()
	q := topdown.NewQuery(s.query).WithQueryCompiler(s.queries).WithCompiler(s.compiler).
		WithStore(s.store).WithTransaction(s.txn).WithMetrics(metrics.NoOp()).
		WithTime(evaluationTime).WithSeed(rand.NewChaCha8([32]byte{})).
		WithStrictBuiltinErrors(strict).WithCancel(cancel).WithInput(ast.NewTerm(input))
	results, err := q.Run(context.Background())
	if err != nil {
		var failure *topdown.Error
		if errors.As(err, &failure) {
			return "error " + failure.Code, failure.Code != topdown.CancelErr
		}
		return "error", true
	}
	var b strings.Builder
	for _, bindings := range results {
		vars := make([]string, 0, len(bindings))
		for v, term := range bindings {
			vars = append(vars, fmt.Sprintf("%s=%v", v, term.Value))
		}
		slices.Sort(vars)
		fmt.Fprintf(&b, "%v\n", vars)
	}
	return b.String(), true
}

// agree reports whether two inputs cannot be told apart at the paths.
func agree(paths []rego.Path, a, b ast.Value) bool {
	for _, p := range paths {
		if look(a, p.Ref, p.ShapeOnly) != look(b, p.Ref, p.ShapeOnly) {
			return false
		}
	}
	return true
}

// look writes what is at a path, injectively, as rego.Path defines it. Besides, it
// reads sets and keys that are not strings, which inputs do not have: there a step
// selects the string and the number.
func look(v ast.Value, ref []string, shapeOnly bool) string {
	if len(ref) == 0 {
		if shapeOnly {
			return ast.ValueName(v)
		}
		return v.String()
	}
	keys := []*ast.Term{ast.StringTerm(ref[0])}
	if isDecimal(ref[0]) {
		keys = append(keys, ast.NumberTerm(json.Number(ref[0])))
	}
	found := ""
	for _, key := range keys {
		if below := ast.NewTerm(v).Get(key); below != nil {
			found += look(below.Value, ref[1:], shapeOnly)
		}
		found += ";"
	}
	return found
}

// experiment draws inputs and compares each with variants that agree with it at
// the paths. It returns how many variants differed from their input, and the
// first pair whose decisions differ.
func (s *subject) experiment(paths []rego.Path, seed uint64, inputs int) (pairs int, difference string) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range inputs {
		strict := r.IntN(4) == 0
		input := s.draw(r)
		want, ok := s.decide(input, strict)
		if !ok {
			return pairs, ""
		}
		for _, variant := range []ast.Value{prune(input, paths), s.vary(r, paths, input), s.vary(r, paths, input)} {
			if variant.String() == input.String() || !agree(paths, input, variant) {
				continue
			}
			pairs++
			got, ok := s.decide(variant, strict)
			if !ok {
				return pairs, ""
			}
			if got != want {
				return pairs, fmt.Sprintf("the paths %v hide a difference\ninput   %v\nvariant %v\ninput   gives %s\nvariant gives %s", paths, input, variant, want, got)
			}
		}
	}
	return pairs, ""
}

// mustBeSound runs the experiment on the analyzed paths.
func (s *subject) mustBeSound(t testing.TB, seed uint64, inputs int) (pairs int) {
	t.Helper()
	if !s.analysis.Cacheable() {
		return 0
	}
	pairs, difference := s.experiment(s.analysis.Paths, seed, inputs)
	if difference != "" {
		t.Errorf("unsound: %s\n%s", difference, s.text())
	}
	return pairs
}

// text is the policy as it was compiled.
func (s *subject) text() string {
	var b strings.Builder
	for _, m := range s.modules {
		fmt.Fprintf(&b, "---- %v\n%v\n", m.Package.Location, m)
	}
	for _, m := range s.compiler.Modules {
		fmt.Fprintf(&b, "---- compiled\n%v\n", m)
	}
	return b.String()
}

// vary changes an input wherever that leaves it in agreement at the paths.
func (s *subject) vary(r *rand.Rand, paths []rego.Path, input ast.Value) ast.Value {
	for range 3 + r.IntN(10) {
		spot, value := s.spot(r), s.value(r, 0)
		if len(s.domains) > 0 && r.IntN(2) == 0 {
			d := s.domains[r.IntN(len(s.domains))]
			spot, value = d.path, d.values[r.IntN(len(d.values))]
		}
		var changed ast.Value
		switch r.IntN(8) {
		case 0, 1:
			changed = replaceAt(input, spot, nil)
		case 2:
			changed = replaceAt(input, spot, respell(find(input, spot)))
		default:
			changed = replaceAt(input, spot, value)
		}
		if agree(paths, input, changed) {
			input = changed
		}
	}
	return input
}

// prune is an input with nothing in it but what is at the paths.
func prune(input ast.Value, paths []rego.Path) ast.Value {
	var out ast.Value = ast.NewObject()
	for _, p := range paths {
		ref := p.Ref
		for i := range ref {
			if _, ok := find(input, ref[:i]).(*ast.Array); ok {
				ref = ref[:i] // an element keeps its position only in the whole array
				break
			}
		}
		value := find(input, ref)
		if p.ShapeOnly && len(ref) == len(p.Ref) {
			value = emptied(value)
		}
		if value != nil {
			out = replaceAt(out, ref, value)
		}
	}
	return out
}

func emptied(v ast.Value) ast.Value {
	switch v.(type) {
	case ast.Object:
		return ast.NewObject()
	case *ast.Array:
		return ast.NewArray()
	}
	return v
}

// spot is a path to change: one that the policy mentions, or one beside, below
// or apart from it.
func (s *subject) spot(r *rand.Rand) []string {
	spot := slices.Clone(s.spots[r.IntN(len(s.spots))])
	switch r.IntN(6) {
	case 0:
		if len(spot) > 0 {
			spot[len(spot)-1] = s.step(r)
		}
	case 1:
		spot = append(spot, s.step(r))
	case 2:
		spot = []string{s.step(r)}
	}
	if len(spot) == 0 {
		spot = []string{s.step(r)}
	}
	return spot
}

func (s *subject) step(r *rand.Rand) string {
	if spot := s.spots[r.IntN(len(s.spots))]; len(spot) > 0 && r.IntN(2) == 0 {
		return spot[r.IntN(len(spot))]
	}
	if word, ok := s.words[r.IntN(len(s.words))].(ast.String); ok {
		return string(word)
	}
	return []string{"a", "b", "0", "1", "zz"}[r.IntN(5)]
}

// draw makes an input: a sample or nothing, with values at some of the spots.
func (s *subject) draw(r *rand.Rand) ast.Value {
	var input ast.Value = ast.NewObject()
	for _, d := range s.domains {
		if r.IntN(12) > 0 {
			input = replaceAt(input, d.path, d.values[r.IntN(len(d.values))])
		}
	}
	if len(s.domains) > 0 && r.IntN(4) > 0 {
		return input
	}
	density := 1 + r.IntN(4)
	if len(s.samples) > 0 && r.IntN(4) > 0 {
		input = s.samples[r.IntN(len(s.samples))]
		density = r.IntN(2)
	}
	for _, i := range r.Perm(len(s.spots)) {
		if len(s.spots[i]) > 0 && r.IntN(4) < density {
			input = replaceAt(input, s.spots[i], s.value(r, 0))
		}
	}
	return input
}

func (s *subject) value(r *rand.Rand, depth int) ast.Value {
	kind := r.IntN(12)
	if depth > 2 {
		kind = 0
	}
	switch {
	case kind < 7:
		return s.words[r.IntN(len(s.words))]
	case kind < 9:
		return ast.NewArray(s.valueTerms(r, depth)...)
	case kind < 10 && depth > 0:
		return ast.NewSet(s.valueTerms(r, depth)...)
	}
	o := ast.NewObject()
	for _, t := range s.valueTerms(r, depth) {
		o.Insert(ast.StringTerm(s.step(r)), t)
	}
	return o
}

func (s *subject) valueTerms(r *rand.Rand, depth int) []*ast.Term {
	terms := make([]*ast.Term, r.IntN(3))
	for i := range terms {
		terms[i] = ast.NewTerm(s.value(r, depth+1))
	}
	return terms
}

// oddities are values that sit close together: 1 and 1.0, "" and null and
// nothing, "1" and 1, [] and {}.
var oddities = []string{`null`, `true`, `false`, `0`, `1`, `1.0`, `""`, `"1"`, `"a"`, `[]`, `{}`, `["a"]`, `{"a": 1}`, `set()`, `[1, 2]`}

// collect finds the words and spots of a policy.
func (s *subject) collect() {
	words := map[string]ast.Value{}
	word := func(v ast.Value) {
		if v.IsGround() && len(words) < 400 {
			words[v.String()] = v
		}
	}
	spots := map[string][]string{"": {}}
	spot := func(path []string) {
		for i := range path {
			if i < 12 && len(spots) < 400 {
				spots[strings.Join(path[:i+1], "\x00")] = path[:i+1]
			}
		}
	}
	for _, text := range oddities {
		word(ast.MustParseTerm(text).Value)
	}
	mention := func(x any) {
		ast.WalkTerms(x, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.String, ast.Number:
				word(v)
			case ast.Ref:
				if v[0].Equal(ast.InputRootDocument) {
					spot(groundSteps(v))
				}
			}
			return false
		})
	}
	for _, m := range s.compiler.Modules {
		mention(m)
	}
	mention(s.query)
	for _, p := range s.analysis.Paths {
		spot(p.Ref)
	}
	for _, sample := range s.samples {
		eachSpot(sample, nil, func(path []string, v ast.Value) {
			spot(path)
			word(v)
		})
	}
	for _, key := range slices.Sorted(maps.Keys(words)) {
		s.words = append(s.words, words[key])
	}
	for _, key := range slices.Sorted(maps.Keys(spots)) {
		s.spots = append(s.spots, spots[key])
	}
	if len(s.spots) == 1 {
		s.spots = append(s.spots, []string{"a"})
	}
}

// groundSteps are the steps of a reference up to the first that is a variable.
func groundSteps(ref ast.Ref) (steps []string) {
	for _, t := range ref[1:] {
		switch v := t.Value.(type) {
		case ast.String:
			steps = append(steps, string(v))
		case ast.Number:
			steps = append(steps, string(v))
		default:
			return steps
		}
	}
	return steps
}

func eachSpot(v ast.Value, path []string, visit func([]string, ast.Value)) {
	visit(slices.Clone(path), v)
	switch v := v.(type) {
	case ast.Object:
		v.Foreach(func(k, x *ast.Term) {
			if key, ok := k.Value.(ast.String); ok {
				eachSpot(x.Value, append(path, string(key)), visit)
			}
		})
	case *ast.Array:
		for i := range v.Len() {
			eachSpot(v.Elem(i).Value, append(path, fmt.Sprint(i)), visit)
		}
	}
}

// find is the value at a path, nil if there is none.
func find(v ast.Value, path []string) ast.Value {
	for _, step := range path {
		key := ast.StringTerm(step)
		if _, ok := v.(*ast.Array); ok {
			if !isDecimal(step) {
				return nil
			}
			key = ast.NumberTerm(json.Number(step))
		}
		below := ast.NewTerm(v).Get(key)
		if below == nil {
			return nil
		}
		v = below.Value
	}
	return v
}

func isDecimal(s string) bool {
	return s == "0" || s != "" && len(s) < 4 && s[0] != '0' && strings.Trim(s, "0123456789") == ""
}

// respell writes a number in another way, and leaves other values alone.
func respell(v ast.Value) ast.Value {
	n, ok := v.(ast.Number)
	switch {
	case !ok:
		return v
	case strings.HasSuffix(string(n), ".0"):
		return n[:len(n)-2]
	case isDecimal(string(n)):
		return n + ".0"
	}
	return n
}

// replaceAt is a copy of v with x at the path, or without it if x is nil. Where
// the path needs an object it makes one.
func replaceAt(v ast.Value, path []string, x ast.Value) ast.Value {
	if len(path) == 0 {
		return x
	}
	if a, ok := v.(*ast.Array); ok && isDecimal(path[0]) {
		return replaceInArray(a, path, x)
	}
	o, ok := v.(ast.Object)
	if !ok {
		if x == nil && v != nil {
			return v
		}
		o = ast.NewObject()
	}
	out := ast.NewObject()
	var below ast.Value
	o.Foreach(func(k, old *ast.Term) {
		if k.Value.Compare(ast.String(path[0])) == 0 {
			below = old.Value
		} else {
			out.Insert(k, old)
		}
	})
	if below = replaceAt(below, path[1:], x); below != nil {
		out.Insert(ast.StringTerm(path[0]), ast.NewTerm(below))
	}
	return out
}

func replaceInArray(a *ast.Array, path []string, x ast.Value) ast.Value {
	var out []*ast.Term
	for i := range a.Len() {
		old := a.Elem(i)
		if fmt.Sprint(i) == path[0] {
			below := replaceAt(old.Value, path[1:], x)
			if below == nil {
				continue
			}
			old = ast.NewTerm(below)
		}
		out = append(out, old)
	}
	if path[0] == fmt.Sprint(a.Len()) && x != nil {
		out = append(out, ast.NewTerm(replaceAt(nil, path[1:], x)))
	}
	return ast.NewArray(out...)
}
