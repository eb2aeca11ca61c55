package author

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	opa "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-auth/postern/policy/rego"
)

// Tests are what lies beside a policy to test it: rules named test_… in *_test.rego,
// as `opa test` runs them, and tables in *_test.yaml.
type Tests struct {
	modules map[string]*ast.Module
	tables  []*Table
}

// Bounds of a test file and of their number.
const (
	maxTestFile  = 4 << 20
	maxTestFiles = 4096
)

// LoadTests reads the tests in a directory; more names further tables in it. The error
// holds all that is wrong with them.
func LoadTests(fsys fs.FS, config rego.Config, more ...string) (*Tests, error) {
	t := &Tests{modules: map[string]*ast.Module{}}
	var errs []error
	n := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		hidden := strings.HasPrefix(path.Base(name), ".") && name != "."
		switch {
		case err != nil:
			return err
		case d.IsDir() && hidden:
			return fs.SkipDir
		case d.IsDir() || hidden || !isTestFile(name) && !slices.Contains(more, name):
			return nil
		}
		if n++; n > maxTestFiles {
			return fmt.Errorf("there are more than %d files of tests", maxTestFiles)
		}
		errs = append(errs, t.add(fsys, name, config))
		return nil
	})
	return t, errors.Join(append(errs, err)...)
}

func isTestFile(name string) bool {
	base, ext := strings.TrimSuffix(name, path.Ext(name)), path.Ext(name)
	return strings.HasSuffix(base, "_test") && (ext == ".rego" || ext == ".yaml" || ext == ".yml")
}

func (t *Tests) add(fsys fs.FS, name string, config rego.Config) error {
	info, err := fs.Stat(fsys, name)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() > maxTestFile:
		return fmt.Errorf("%s is no regular file of up to %d MiB", name, maxTestFile>>20)
	}
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	if path.Ext(name) != ".rego" {
		table, err := ReadTable(name, text)
		if err == nil {
			t.tables = append(t.tables, table)
		}
		return err
	}
	module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: versionOf(config)})
	if err != nil {
		return rego.ProblemsOf(err)
	}
	if module != nil {
		t.modules[name] = module
	}
	return nil
}

func versionOf(config rego.Config) ast.RegoVersion {
	if v := config.RegoVersion; v != nil && *v == 0 {
		return ast.RegoV0
	}
	return ast.RegoV1
}

// AddTable adds a table that lies elsewhere.
func (t *Tests) AddTable(table *Table) { t.tables = append(t.tables, table) }

// Tables are the tables of the tests, in the order of their files.
func (t *Tests) Tables() []*Table { return t.tables }

// withPolicy are the modules of the policy and those of its tests.
func (t *Tests) withPolicy(b *rego.Bundle) map[string]*ast.Module {
	all := b.Modules()
	maps.Copy(all, t.modules)
	return copies(all)
}

// compiles reports what is wrong with the tests.
func (t *Tests) compiles(b *rego.Bundle, config rego.Config) error {
	if len(t.modules) == 0 {
		return nil
	}
	compiler := newCompiler(config).WithEnablePrintStatements(true)
	if compiler.Compile(t.withPolicy(b)); compiler.Failed() {
		return rego.ProblemsOf(compiler.Errors)
	}
	return nil
}

// Outcome is how a test ended: a closed set.
type Outcome string

// The outcomes. A test that could not be run is an Error, which is no fail: nobody
// knows what the policy would have said.
const (
	Pass  Outcome = "pass"
	Fail  Outcome = "fail"
	Skip  Outcome = "skip"
	Error Outcome = "error"
)

// Result is one test that was run.
type Result struct {
	// Name is the rule's path, or "FILE/NAME" of a case in a table.
	Name string `json:"name" yaml:"name"`
	// File and Line are where it stands.
	File    string        `json:"file" yaml:"file"`
	Line    int           `json:"line" yaml:"line"`
	Outcome Outcome       `json:"outcome" yaml:"outcome"`
	Took    time.Duration `json:"took_ns" yaml:"took_ns"`
	// Why says what was other than wanted, a line each.
	Why []string `json:"why,omitempty" yaml:"why,omitempty"`
	// Output is what the test printed.
	Output string `json:"output,omitempty" yaml:"output,omitempty"`
}

// Run runs the tests whose name matches, or all if match is nil. Done is told of each
// as it ends; the results come in the order of the files. Coverage is counted if seen
// is not nil.
func (t *Tests) Run(ctx context.Context, p *Policy, match *regexp.Regexp, seen *Coverage, done func(Result)) ([]Result, error) {
	all, err := t.runRego(ctx, p, match, seen, done)
	if err != nil {
		return nil, err
	}
	for _, table := range t.tables {
		all = append(all, table.run(ctx, p, match, seen, done)...)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	slices.SortStableFunc(all, func(a, b Result) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (t *Tests) runRego(ctx context.Context, p *Policy, match *regexp.Regexp, seen *Coverage, done func(Result)) ([]Result, error) {
	modules := t.withPolicy(p.bundle)
	runner := tester.NewRunner().
		SetCompiler(newCompiler(p.config).WithEnablePrintStatements(true)).
		SetStore(p.inside.Store).
		SetModules(modules).
		SetParallel(1). // one after the other: what they print and cover is told apart
		SetTimeout(p.config.Timeout).
		RaiseBuiltinErrors(!p.config.OPAEnvoy).
		CapturePrintOutput(true).
		AddCustomBuiltins(p.testBuiltins())
	if match != nil {
		runner = runner.Filter(match.String())
	}
	if seen != nil {
		runner = runner.SetCoverageQueryTracer(seen.lines).SetCoverageRuns([]cover.Kind{})
	}
	transaction, err := p.inside.Store.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	found, err := runner.RunTests(ctx, transaction)
	if err != nil {
		return nil, rego.ProblemsOf(err)
	}
	var all []Result
	for r := range found {
		if r == nil {
			continue
		}
		result := resultOfRego(r)
		done(result)
		all = append(all, result)
	}
	return all, ctx.Err()
}

// testBuiltins are Postern's own functions as OPA's test runner takes them.
func (p *Policy) testBuiltins() (all []*tester.Builtin) {
	for _, name := range slices.Sorted(maps.Keys(p.inside.Builtins)) {
		b := p.inside.Builtins[name]
		if ast.BuiltinMap[name] != nil {
			continue // one of OPA's, which the runner has
		}
		call := func(bctx topdown.BuiltinContext, operands []*ast.Term) (out *ast.Term, err error) {
			err = b.Func(bctx, operands, func(t *ast.Term) error { out = t; return nil })
			return out, err
		}
		all = append(all, &tester.Builtin{Decl: b.Decl, Func: opa.FunctionDyn(&opa.Function{Name: name, Decl: b.Decl.Decl}, call)})
	}
	return all
}

func resultOfRego(r *tester.Result) Result {
	out := Result{Name: r.Package + "." + r.Name, Outcome: Pass, Took: r.Duration, Output: string(r.Output)}
	if r.Location != nil {
		out.File, out.Line = r.Location.File, r.Location.Row
	}
	switch {
	case r.Skip:
		out.Outcome = Skip
	case r.Error != nil:
		out.Outcome, out.Why = Error, []string{oneText(r.Error)}
	case r.Fail:
		out.Outcome, out.Why = Fail, []string{"the rule is not true"}
		for names, sub := range r.SubResults.Iter {
			if sub.Fail {
				out.Why = append(out.Why, "case "+strings.Join(names, "/")+" fails")
			}
		}
	}
	return out
}

// oneText is an error without line breaks.
func oneText(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// Coverage counts which lines of a policy were evaluated.
type Coverage struct{ lines *cover.Cover }

// NewCoverage counts from nothing.
func NewCoverage() *Coverage { return &Coverage{lines: cover.New()} }

// FileCoverage is how much of one file was evaluated.
type FileCoverage struct {
	File string `json:"file" yaml:"file"`
	// Percent is of the lines that can be evaluated.
	Percent float64 `json:"percent" yaml:"percent"`
	// Covered and Missed count them; Lines are the missed ones, as first and last.
	Covered int      `json:"covered" yaml:"covered"`
	Missed  int      `json:"missed" yaml:"missed"`
	Lines   [][2]int `json:"missed_lines" yaml:"missed_lines"`
}

// Report says of each file of the policy, its tests and the library left out, what was
// evaluated, and of all together.
func (c *Coverage) Report(p *Policy) (files []FileCoverage, percent float64) {
	modules := map[string]*ast.Module{}
	for _, name := range p.ownFiles() {
		modules[name] = p.bundle.Modules()[name]
	}
	report := c.lines.Report(modules)
	covered, missed := 0, 0
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		f := report.Files[name]
		if f == nil {
			continue
		}
		own := FileCoverage{File: name, Covered: f.CoveredLines, Missed: f.NotCoveredLines, Lines: [][2]int{}, Percent: share(f.CoveredLines, f.NotCoveredLines)}
		for _, r := range f.NotCovered {
			own.miss(r.Start.Row, r.End.Row)
		}
		files = append(files, own)
		covered, missed = covered+own.Covered, missed+own.Missed
	}
	return files, share(covered, missed)
}

// miss adds lines that were not reached; those of a rule's head and of its body may be
// the same.
func (f *FileCoverage) miss(first, last int) {
	if n := len(f.Lines); n > 0 && first <= f.Lines[n-1][1] {
		f.Lines[n-1][1] = max(last, f.Lines[n-1][1])
		return
	}
	f.Lines = append(f.Lines, [2]int{first, last})
}

// share is a part in percent; all of nothing is all.
func share(part, rest int) float64 {
	if part+rest == 0 {
		return 100
	}
	return 100 * float64(part) / float64(part+rest)
}
