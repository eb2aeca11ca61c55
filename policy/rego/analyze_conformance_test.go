package rego_test

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/test/cases/testdata"
	"github.com/open-policy-agent/opa/v1/util"
)

// OPA's own conformance cases come with OPA and use all of the language. Most
// read data and constants, so each is also run in a form that reads the input
// instead: base documents move from data to input, and constants out of the
// policy.
func TestAnalyzeConformance(t *testing.T) {
	t.Parallel()
	nothingShared(t)
	var files []string
	err := fs.WalkDir(testdata.V1, "v1", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && path.Ext(file) == ".yaml" {
			files = append(files, file)
		}
		return err
	})
	if err != nil || len(files) < 1000 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	const sample = 5 // every fifth file, unless more rounds are asked for
	run := &conformance{}
	for i, file := range files {
		if i%sample == 0 || rounds(1) > 1 {
			run.file(t, file)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%+v", *run)
	if run.Policies < 400 || run.Pairs < 1500 {
		t.Error("too little was compared")
	}
}

// conformance counts.
type conformance struct {
	Cases, Policies, Pairs int
	// Omitted policies cannot be compared: no input read, impure, or they do not
	// compile in the form that reads the input.
	Omitted int
}

func (run *conformance) file(t *testing.T, file string) {
	text, err := testdata.V1.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var set cases.Set
	if err := util.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	for i, c := range set.Cases {
		run.Cases++
		for form := range 3 {
			s, err := conformanceSubject(c, form)
			if err != nil || !s.analysis.Cacheable() || len(s.analysis.Paths) == 0 {
				run.Omitted++
				continue
			}
			run.Policies++
			if run.Pairs += s.mustBeSound(t, uint64(i), rounds(3)); t.Failed() {
				t.Fatalf("%s: %s, form %d", file, c.Note, form)
			}
		}
	}
}

// conformanceSubject makes a subject of a case: form 0 as it is, 1 with data moved
// to the input, 2 with constants moved as well.
func conformanceSubject(c cases.TestCase, form int) (*subject, error) {
	modules := map[string]*ast.Module{}
	for i, source := range c.Modules {
		m, err := ast.ParseModule(fmt.Sprint("module", i), source)
		if err != nil {
			return nil, err
		}
		modules[fmt.Sprint("module", i)] = m
	}
	data := map[string]any{}
	if c.Data != nil {
		data = *c.Data
	}
	input := ast.Value(ast.NewObject())
	switch {
	case c.InputTerm != nil:
		term, err := ast.ParseTerm(*c.InputTerm)
		if err != nil {
			return nil, err
		}
		input = term.Value
	case c.Input != nil:
		value, err := ast.InterfaceToValue(*c.Input)
		if err != nil {
			return nil, err
		}
		input = value
	}
	if _, ok := input.(ast.Object); !ok {
		return nil, fmt.Errorf("the input is no object: %v", input)
	}
	var err error
	if form > 0 {
		if input, err = dataToInput(modules, data, input); err != nil {
			return nil, err
		}
	}
	if form > 1 {
		input = constantsToInput(modules, input)
	}
	return newSubject(modules, c.Query, data, input)
}

// dataToInput makes references to base documents read the input, and puts these
// documents there.
func dataToInput(modules map[string]*ast.Module, data map[string]any, input ast.Value) (ast.Value, error) {
	virtual := map[string]bool{}
	for _, m := range modules {
		if len(m.Package.Path) > 1 {
			virtual[string(m.Package.Path[1].Value.(ast.String))] = true
		}
	}
	for name, document := range data {
		if virtual[name] {
			continue
		}
		value, err := ast.InterfaceToValue(document)
		if err != nil {
			return nil, err
		}
		input = replaceAt(input, []string{name}, value)
	}
	for _, m := range modules {
		_, err := ast.TransformRefs(m, func(ref ast.Ref) (ast.Value, error) {
			if len(ref) > 1 && ref[0].Equal(ast.DefaultRootDocument) {
				if name, ok := ref[1].Value.(ast.String); ok && !virtual[string(name)] && data[string(name)] != nil {
					ref = ref.Copy()
					ref[0] = ast.InputRootDocument.Copy() // terms are transformed in place
				}
			}
			return ref, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return input, nil
}

// constantsToInput replaces three in four constants by references to the input,
// and puts the constants there. It leaves alone what must be constant: parameters,
// the steps of references, and elements of what is not constant as a whole.
func constantsToInput(modules map[string]*ast.Module, input ast.Value) ast.Value {
	r := rand.New(rand.NewPCG(1, 2))
	n := 0
	lift := func(t *ast.Term) {
		if t == nil || !ast.IsConstant(t.Value) || r.IntN(4) == 0 {
			return
		}
		step := fmt.Sprint("c", n)
		n++
		input = replaceAt(input, []string{"lifted", step}, t.Value)
		t.Value = ast.Ref{ast.InputRootDocument.Copy(), ast.StringTerm("lifted"), ast.StringTerm(step)}
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name].Copy() // the parser shares terms
		modules[name] = m
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.Head:
				if len(x.Reference) == 1 {
					lift(x.Key)
				}
				lift(x.Value)
			case *ast.With:
				lift(x.Value)
				return true
			case *ast.Term:
				lift(x)
			case ast.Ref, ast.Args, *ast.Array, ast.Object, ast.Set, *ast.Package, *ast.Import, *ast.TemplateString:
				return true
			case *ast.Rule:
				return x.Default
			}
			return false
		}).Walk(m)
	}
	return input
}
