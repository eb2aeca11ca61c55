package rego_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/test/cases/testdata"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
)

// OPA's own cases have the answers that they have in OPA, with the bounded functions
// in place of OPA's.
func TestConformance(t *testing.T) {
	t.Parallel()
	nothingShared(t)
	ran, skipped := 0, 0
	err := fs.WalkDir(testdata.V1, "v1", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(file) != ".yaml" {
			return err
		}
		text, err := testdata.V1.ReadFile(file)
		if err != nil {
			return err
		}
		var set cases.Set
		if err := util.Unmarshal(text, &set); err != nil {
			return err
		}
		for _, c := range set.Cases {
			if len(c.Env) > 0 || strings.Contains(strings.Join(c.Modules, ""), "test.sleep") {
				skipped++ // the environment is the process's, and OPA's tests bring test.sleep along
				continue
			}
			ran++
			if wrong := conforms(t, c); wrong != "" {
				t.Errorf("%s: %s: %s", file, c.Note, wrong)
			}
		}
		return nil
	})
	if t.Logf("%d cases, %d skipped", ran, skipped); err != nil || ran < 2000 {
		t.Errorf("%d cases ran, %v", ran, err)
	}
}

// conforms returns what is wrong with the answer to a case.
func conforms(t *testing.T, c cases.TestCase) string {
	modules := map[string]string{}
	for i, text := range c.Modules {
		modules[fmt.Sprintf("test-%d.rego", i)] = text
	}
	options := ast.CompileOpts{ParserOptions: ast.ParserOptions{RegoVersion: ast.RegoV1}}
	if c.ExperimentalKeywords {
		options.ParserOptions.Capabilities = ast.CapabilitiesForThisVersion(ast.CapabilitiesExperimentalKeywords(true))
	}
	compiler, err := ast.CompileModulesWithOpt(modules, options)
	if err != nil {
		return err.Error()
	}
	query, err := compiler.QueryCompiler().Compile(ast.MustParseBody(c.Query))
	if err != nil {
		return err.Error()
	}
	data := map[string]any{}
	if c.Data != nil {
		data = *c.Data
	}
	store := inmem.NewFromObject(data)
	txn := storage.NewTransactionOrDie(t.Context(), store)
	defer store.Abort(t.Context(), txn)
	q := topdown.NewQuery(query).WithCompiler(compiler).WithStore(store).WithTransaction(txn).
		WithStrictBuiltinErrors(c.StrictError).WithCancel(topdown.NewCancel())
	switch {
	case c.InputTerm != nil:
		q = q.WithInput(ast.MustParseTerm(*c.InputTerm))
	case c.Input != nil:
		q = q.WithInput(ast.NewTerm(ast.MustInterfaceToValue(*c.Input)))
	}
	results, err := q.Run(t.Context())
	return compareCase(c, results, err)
}

func compareCase(c cases.TestCase, results topdown.QueryResultSet, err error) string {
	switch {
	case c.WantError != nil && (err == nil || !strings.Contains(err.Error(), *c.WantError)):
		return fmt.Sprintf("the error is %v, want %s", err, *c.WantError)
	case c.WantErrorCode != nil:
		if e, ok := errors.AsType[*topdown.Error](err); !ok || e.Code != *c.WantErrorCode {
			return fmt.Sprintf("the error is %v, want %s", err, *c.WantErrorCode)
		}
	case c.WantError == nil && err != nil:
		return err.Error()
	case c.WantResult != nil:
		got, err := resultSet(c, results)
		if want := wantedSet(c); err != nil || got.Compare(want) != 0 {
			return fmt.Sprintf("%v, %v, want %v", got, err, want)
		}
	case c.WantDefined != nil && *c.WantDefined != (len(results) > 0):
		return fmt.Sprintf("%d answers", len(results))
	}
	return ""
}

func resultSet(c cases.TestCase, results topdown.QueryResultSet) (ast.Set, error) {
	set := ast.NewSet()
	for _, bindings := range results {
		object := ast.NewObject()
		for name, term := range bindings {
			if c.IgnoreGeneratedVars && strings.HasPrefix(string(name), "__localq") {
				continue
			}
			v, err := ast.JSON(term.Value)
			if err != nil {
				return nil, err
			}
			object.Insert(ast.StringTerm(string(name)), caseTerm(c, v))
		}
		set.Add(ast.NewTerm(object))
	}
	return set, nil
}

func wantedSet(c cases.TestCase) ast.Set {
	set := ast.NewSet()
	for _, bindings := range *c.WantResult {
		object := ast.NewObject()
		for name, v := range bindings {
			object.Insert(ast.StringTerm(name), caseTerm(c, v))
		}
		set.Add(ast.NewTerm(object))
	}
	return set
}

// caseTerm sorts lists where the case does not care for their order.
func caseTerm(c cases.TestCase, v any) *ast.Term {
	value := ast.MustInterfaceToValue(v)
	if list, ok := value.(*ast.Array); ok && c.SortBindings {
		value = list.Sorted()
	}
	return ast.NewTerm(value)
}
