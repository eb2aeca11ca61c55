// Package author is the desk of somebody who writes a policy: it checks, tests,
// measures and compares policies before they decide anything.
//
//	Check     is it right, and does it read only what there is?
//	Tests     do its tests pass, those in Rego and those in tables?
//	Eval      what does it say to this, and which rules had a part in it?
//	Cover     which lines did no test reach?
//	Bench     how long does a decision take, remembered and not?
//	Format    is it written as `opa fmt` writes it?
//	Replay    which recorded decisions would a new policy change?
//
// All of them look at a rego.Snapshot that was compiled as the server compiles it: the
// same functions are refused, the same library is there, and the answer is read in the
// same way. What differs is said where it does. Table tests go the whole way of a
// request: canonical reads it, and Snapshot.Decide decides, cache and explanation
// included. Evaluations with a trace go around the cache and without the index of
// rules, so that a rule that the index skips is seen to fail.
//
// Nothing here is on the way of a request, and nothing is fetched.
package author

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-auth/postern/policy/rego"
)

// least is the time that an evaluation gets here at least: whether a policy is fast
// enough for a server is for Bench to say, not for a machine that is busy.
const least = 5 * time.Second

// Policy is a compiled policy that can be looked into.
type Policy struct {
	*rego.Snapshot
	bundle *rego.Bundle
	config rego.Config
	inside rego.Inside
	clock  *time.Time
}

// Compile makes a policy ready. The error is rego.Problems if it is wrong.
func Compile(ctx context.Context, b *rego.Bundle, config rego.Config) (*Policy, error) {
	config.Timeout = max(config.Timeout, least)
	p := &Policy{bundle: b, config: config, clock: new(time.Time)}
	var err error
	if p.Snapshot, err = rego.Compile(ctx, b, config, rego.WithClock(p.now)); err != nil {
		return nil, err
	}
	p.inside = p.Inside()
	return p, nil
}

// now is the time of the test that runs, or the time.
func (p *Policy) now() time.Time {
	if p.clock.IsZero() {
		return time.Now()
	}
	return *p.clock
}

// query compiles a question to the policy.
func (p *Policy) query(text string) (ast.Body, ast.QueryCompiler, error) {
	body, err := ast.ParseBodyWithOpts(text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, nil, problems(err)
	}
	compiler := p.inside.Compiler.QueryCompiler()
	body, err = compiler.Compile(captured(open(body)))
	if err != nil {
		return nil, nil, problems(err)
	}
	return body, compiler, nil
}

// open lets `x := data.y` say what x is: strict mode would call x unused, and it is
// what is asked for.
func open(body ast.Body) ast.Body {
	for _, e := range body {
		if e.IsAssignment() && len(e.With) == 0 {
			e.SetOperator(ast.NewTerm(ast.Equality.Ref()))
		}
	}
	return body
}

// problems are the mistakes in a query, without the name of a file.
func problems(err error) error {
	all := rego.ProblemsOf(err)
	for i := range all {
		if all[i].File == "" && all[i].Line > 0 {
			all[i].File = "query"
		}
	}
	return all
}

// run evaluates a compiled query. Each is called for each of its results.
func (p *Policy) run(ctx context.Context, body ast.Body, compiler ast.QueryCompiler, input *ast.Term, now time.Time, look topdown.QueryTracer, each func(topdown.QueryResult) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	stop := topdown.NewCancel()
	defer context.AfterFunc(ctx, stop.Cancel)()
	q := topdown.NewQuery(body).
		WithQueryCompiler(compiler).
		WithCompiler(p.inside.Compiler).
		WithStore(p.inside.Store).
		WithBuiltins(p.inside.Builtins).
		WithInput(input).
		WithTime(now.Truncate(time.Second)).
		WithStrictBuiltinErrors(!p.config.OPAEnvoy).
		WithCancel(stop)
	transaction, err := p.inside.Store.NewTransaction(ctx)
	if err != nil {
		return err
	}
	q = q.WithTransaction(transaction)
	if look != nil {
		_, explains := look.(*tracer)
		q = q.WithQueryTracer(look).WithIndexing(!explains)
	}
	err = q.Iter(ctx, each)
	if topdown.IsCancel(err) {
		return fmt.Errorf("%w: more than %s", rego.ErrTimeout, p.config.Timeout)
	}
	return err
}

// ownFiles are the names of the files that the author wrote, in order.
func (p *Policy) ownFiles() (names []string) {
	for name := range p.bundle.Modules() {
		if !rego.InLibrary(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
