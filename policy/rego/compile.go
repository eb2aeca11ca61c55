package rego

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	topdowncache "github.com/open-policy-agent/opa/v1/topdown/cache"
)

// refusedBuiltins need Config.AllowBuiltins: they reach out of the decision, and
// a policy that anybody may send in a bundle should not be able to. The last one
// runs a language of its own, whose loops nothing stops.
var refusedBuiltins = []string{
	"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "uuid.rfc4122",
	"io.jwt.encode_sign", "io.jwt.encode_sign_raw", "trace", "rego.parse_module",
	"strings.render_template", "json.match_schema", "json.verify_schema",
}

// maxInterQueryValues bounds the compiled globs, regular expressions and the like
// that built-in functions keep between evaluations of one snapshot.
const maxInterQueryValues = 4096

// maxProblems bounds how many compile errors are reported at once.
const maxProblems = 100

// Snapshot is one policy, ready to decide. It never changes, but for its caches.
type Snapshot struct {
	// Revision is the bundle's.
	Revision string
	// Entrypoint is the rule that is asked.
	Entrypoint string
	// Analysis says what its decisions can depend on.
	Analysis *Analysis
	// Warnings are things that load but that the policy's author should look at.
	Warnings []Problem
	// Activated is when it was compiled.
	Activated time.Time

	config   Config
	compiler *ast.Compiler
	prepared ast.QueryCompiler
	query    ast.Body
	entry    ast.Ref
	store    *frozen
	builtins map[string]*topdown.Builtin
	values   topdowncache.InterQueryValueCache
	plan     *plan
	cache    *cache
	readers  sync.Pool
	// slots and slow are the places of evaluations.
	slots, slow *admission
	now         func() time.Time
	alarm       func(Mismatch)
}

// Compile checks a bundle and makes it ready to decide. The error is Problems if
// the policy is wrong: all that is wrong with it, each with file and line.
func Compile(ctx context.Context, b *Bundle, config Config, options ...Option) (*Snapshot, error) {
	c := config.withDefaults()
	entry, err := parseEntrypoint(c.Entrypoint)
	if err != nil {
		return nil, err
	}
	// 1. Rules and data, checked together.
	store, err := newFrozen(b.data)
	if err != nil {
		return nil, err
	}
	compiler := ast.NewCompiler().SetErrorLimit(maxProblems).WithStrict(c.Strict || !c.OPAEnvoy).WithCapabilities(capabilities(c)).
		WithPathConflictsCheck(storage.NonEmpty(ctx, store, theTransaction))
	if compiler.Compile(b.modules); compiler.Failed() { // it works on copies
		return nil, problemsOf(compiler.Errors, "")
	}
	if err := growthProblems(compiler.Modules).orNil(); err != nil {
		return nil, err
	}
	// 2. The question.
	if len(compiler.GetRulesWithPrefix(entry)) == 0 {
		return nil, Problems{{Text: noEntrypoint(entry, b.modules)}}
	}
	prepared := compiler.QueryCompiler()
	query, err := prepared.Compile(ast.NewBody(ast.Equality.Expr(resultTerm, ast.NewTerm(entry))))
	if err != nil {
		return nil, problemsOf(err, "")
	}
	found := warnings(compiler, entry, b.modules, c)
	if c.Strict && len(found) > 0 {
		return nil, Problems(found)
	}
	s := &Snapshot{
		Revision: b.Revision, Entrypoint: entry.String(), Warnings: found,
		Analysis: Analyze(compiler, query, ownBuiltins),
		config:   c, compiler: compiler, prepared: prepared, query: query, entry: entry, store: store,
		values: interQueryValues(ctx),
		slots:  newAdmission(max(1, c.MaxEvaluations), manyWaiting),
		slow:   newAdmission(max(1, c.MaxEvaluations/2), waitingPerSlot*max(1, c.MaxEvaluations)),
		now:    time.Now,
		alarm:  func(Mismatch) {},
	}
	for _, option := range options {
		option(s)
	}
	s.Activated = s.now()
	// 3. The tables of RBAC, if the question can reach them.
	if s.builtins, err = s.bindBuiltins(b.data); err != nil {
		return nil, err
	}
	// 4. What of a request is read, and so what is in the key of the cache.
	view := newView(c)
	if view.rpcs, err = readRPCs(string(c.ProtoDescriptor)); err != nil {
		return nil, Problems{{Text: err.Error()}}
	}
	s.plan = newPlan(view, s.Analysis.Paths)
	s.readers.New = func() any { return &reader{view: &s.plan.view} }
	if s.Analysis.Cacheable() {
		s.cache = newCache(c.Cache)
	}
	return s, nil
}

// resultVar is the variable of the query that holds the decision.
const resultVar = ast.Var("result")

var resultTerm = ast.NewTerm(resultVar)

// Option changes what Compile makes. Options are for the assembly and for tests;
// what users may change is in Config.
type Option func(*Snapshot)

// WithClock makes a snapshot read the time from now.
func WithClock(now func() time.Time) Option { return func(s *Snapshot) { s.now = now } }

// WithAlarm has the function called when a cached decision was found to be wrong.
// It is called on the path of a request and must not block.
func WithAlarm(alarm func(Mismatch)) Option { return func(s *Snapshot) { s.alarm = alarm } }

// parseEntrypoint reads "data.a.b" and, as the OPA-Envoy plugin writes it, "a/b".
func parseEntrypoint(text string) (ast.Ref, error) {
	dotted := text
	if !strings.HasPrefix(text, "data.") {
		dotted = "data." + strings.ReplaceAll(strings.Trim(text, "/"), "/", ".")
	}
	ref, err := ast.ParseRef(dotted)
	if err != nil || !ref.IsGround() || len(ref) < 2 || !ref.HasPrefix(ast.DefaultRootRef) {
		return nil, fmt.Errorf(`the policy's entrypoint is a rule such as %s, not %q`, DefaultEntrypoint, text)
	}
	return ref, nil
}

// noEntrypoint says which rules there are instead.
func noEntrypoint(entry ast.Ref, modules map[string]*ast.Module) string {
	var candidates []string
	for _, file := range sortedKeys(modules) {
		if strings.HasPrefix(file, libraryPrefix) {
			continue
		}
		for _, rule := range modules[file].Rules {
			if name := rule.Ref().GroundPrefix().String(); !slices.Contains(candidates, name) && len(candidates) < 8 {
				candidates = append(candidates, name)
			}
		}
	}
	text := fmt.Sprintf("there is no rule %s to decide", entry)
	if len(candidates) > 0 {
		text += "; set entrypoint to one of " + strings.Join(candidates, ", ")
	}
	return text
}

// capabilities are what a policy may call. A function that is not among them does
// not exist for the compiler, so that no `with` can bring it back.
func capabilities(c Config) *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(slices.Clone(caps.Builtins), func(b *ast.Builtin) bool {
		return slices.Contains(refusedBuiltins, b.Name) && !slices.Contains(c.AllowBuiltins, b.Name)
	})
	caps.Builtins = append(caps.Builtins, permitsDecl)
	caps.AllowNet = append([]string{}, c.AllowHosts...) // empty is none, nil would be all
	return caps
}

func interQueryValues(ctx context.Context) topdowncache.InterQueryValueCache {
	limit := maxInterQueryValues
	return topdowncache.NewInterQueryValueCache(ctx, &topdowncache.Config{
		InterQueryBuiltinValueCache: topdowncache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &limit},
	})
}

var undefinedFunction = regexp.MustCompile(`undefined function (\S+)`)

// problemsOf turns OPA's errors into ours.
func problemsOf(err error, hint string) Problems {
	list, ok := errors.AsType[ast.Errors](err)
	if !ok {
		if one, ok := errors.AsType[*ast.Error](err); ok {
			list = ast.Errors{one}
		} else {
			return Problems{{Text: err.Error() + hint}}
		}
	}
	problems := make(Problems, len(list))
	for i, e := range list {
		p := Problem{Text: e.Message + hint}
		if e.Location != nil {
			p.File, p.Line, p.Column = e.Location.File, e.Location.Row, e.Location.Col
		}
		if m := undefinedFunction.FindStringSubmatch(e.Message); m != nil && slices.Contains(refusedBuiltins, m[1]) {
			p.Text = m[1] + " is not allowed in policies: " + refusal(m[1]) + ". Name it in allow_builtins to allow it"
		}
		problems[i] = p
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return problems
}

func refusal(name string) string {
	if name == ast.RenderTemplate.Name {
		return "it runs loops that no deadline stops"
	}
	return "it reaches outside of the decision"
}

// warnings finds what compiles and is probably not meant.
func warnings(compiler *ast.Compiler, entry ast.Ref, modules map[string]*ast.Module, c Config) (found []Problem) {
	warn := func(at *ast.Location, text string) {
		found = append(found, Problem{File: at.File, Line: at.Row, Column: at.Col, Text: text})
	}
	for _, file := range sortedKeys(modules) {
		if strings.HasPrefix(file, libraryPrefix) {
			continue
		}
		for _, rule := range modules[file].Rules {
			if rule.Default && (isAllowName(rule.Ref()) || rule.Ref().Equal(entry)) && rule.Head.Value != nil && rule.Head.Value.Equal(ast.InternedTerm(true)) {
				warn(rule.Location, "`default … := true` allows whatever no rule denies; a policy should deny by default")
			}
		}
	}
	if c.OPAEnvoy {
		return found
	}
	for _, rule := range compiler.GetRulesWithPrefix(entry) {
		if rule.Head.Value == nil {
			continue
		}
		object, ok := rule.Head.Value.Value.(ast.Object)
		if ok && object.Get(ast.InternedTerm("allowed")) != nil && object.Get(ast.InternedTerm("allow")) == nil {
			warn(rule.Location, "an object allows with `allow`; `allowed` counts only with opa_envoy: true")
		}
	}
	return found
}

func isAllowName(ref ast.Ref) bool {
	last, ok := ref[len(ref)-1].Value.(ast.String)
	if !ok {
		return len(ref) == 1
	}
	return last == "allow" || last == "allowed"
}
