package rego

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
)

// KeyOf returns the cache key of a request.
func KeyOf(s *Snapshot, in *policy.Input) (string, error) {
	r := &reader{view: &s.plan.view}
	s.plan.appendKey(r, in)
	return string(r.buf), r.err
}

// DocumentOf returns the input document that the policy is shown.
func DocumentOf(s *Snapshot, in *policy.Input) (any, error) {
	r := &reader{view: &s.plan.view}
	doc := s.plan.document(r, in)
	if r.err != nil {
		return nil, r.err
	}
	v, err := ast.JSON(doc.Value)
	return v, err
}

// Evaluate asks without the cache and without pruning the input.
func Evaluate(ctx context.Context, s *Snapshot, in *policy.Input) (*policy.Verdict, error) {
	whole := &Snapshot{
		Revision: s.Revision, Entrypoint: s.Entrypoint, Analysis: s.Analysis,
		config: s.config, compiler: s.compiler, prepared: s.prepared, query: s.query, entry: s.entry,
		store: s.store, builtins: s.builtins, values: s.values, slots: s.slots, slow: s.slow, now: s.now,
		plan: newPlan(s.plan.view, []Path{{}}),
	}
	whole.plan.spots = s.plan.spots // the same grounds, read off the whole input
	v, _, err := whole.evaluate(ctx, in, s.now())
	return v, err
}

// Poison puts a wrong verdict into the cache and makes the next hit an audit.
func Poison(s *Snapshot, in *policy.Input, v *policy.Verdict) {
	key, _ := KeyOf(s, in)
	now := s.now()
	s.cache.put(s.cache.hash([]byte(key)), []byte(key), v, now.UnixNano(), now.UnixNano()+1e9)
	s.cache.hits.Store(auditEvery - 1)
}

// BreakBuiltins makes every call of postern.permits panic.
func BreakBuiltins(s *Snapshot) { s.builtins[permitsDecl.Name].Func = nil }

// CountPermits counts the calls of postern.permits from now on.
func CountPermits(s *Snapshot) *atomic.Int64 {
	var n atomic.Int64
	b := s.builtins[permitsDecl.Name]
	call := b.Func
	b.Func = func(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		n.Add(1)
		return call(bctx, operands, iter)
	}
	return &n
}

// Slots is how many evaluations may run at once.
func Slots(s *Snapshot) int { return cap(s.slots.taken) }

// OccupySlots takes all places of evaluations.
func OccupySlots(s *Snapshot) {
	for range cap(s.slots.taken) {
		s.slots.taken <- struct{}{}
	}
}

// Cache is the decision cache by itself.
type Cache = cache

// NewCache, Get, Put and Len test it with hashes of the test's choice.
func NewCache(c CacheConfig) *Cache { return newCache(c) }

// Get looks up.
func (c *cache) Get(hash uint64, key string, now int64) *policy.Verdict {
	v, _ := c.get(hash, []byte(key), now)
	return v
}

// Put keeps.
func (c *cache) Put(hash uint64, key string, v *policy.Verdict, now, expires int64) {
	c.put(hash, []byte(key), v, now, expires)
}

// Stats counts.
func (c *cache) Stats() CacheStats { return c.stats() }

// DecodeJSON and DecodeYAML are the readers of data and bodies.
var (
	DecodeJSON = decodeJSON
	DecodeYAML = decodeYAML
	// HasOneReading is the quick look at data.
	HasOneReading = hasOneReading
)

// PathIndexFirst looks up the first of some patterns.
func PathIndexFirst(patterns []policy.PathPattern, path string) int {
	x := &pathIndex{}
	for i, p := range patterns {
		x.add(p, i)
	}
	return x.first(path, func(int) bool { return true })
}

// PermitsBuiltin is the declaration and a fresh implementation of
// postern.permits, for OPA's test runner.
func PermitsBuiltin() (*ast.Builtin, func(operands []*ast.Term) (*ast.Term, error)) {
	p := &permits{}
	return permitsDecl, func(operands []*ast.Term) (out *ast.Term, err error) {
		err = p.call(topdown.BuiltinContext{}, operands, func(t *ast.Term) error { out = t; return nil })
		return out, err
	}
}

// ForgetPaths takes everything out of the key, as a defective analysis would.
func ForgetPaths(s *Snapshot) { s.plan.parts = nil }

// CostNames are the names of all built-in functions whose cost is known.
func CostNames() map[string]bool {
	names := map[string]bool{}
	for name := range costs {
		names[name] = true
	}
	return names
}

// PlacesTaken is how many places of evaluations are in use.
func PlacesTaken(s *Snapshot) int {
	return len(s.slots.taken) + len(s.slow.taken) + int(s.slots.waiting.Load()+s.slow.waiting.Load())
}

// Admission is that to places by itself.
type Admission = admission

// NewAdmission is to n places, for which any number may wait.
func NewAdmission(n int) *Admission { return newAdmission(n, manyWaiting) }

// Enter and Leave are those of an evaluation.
func (a *admission) Enter(ctx context.Context, patience time.Duration) bool {
	return a.enter(ctx, patience)
}

// Leave gives a place back that was taken at an instant.
func (a *admission) Leave(entered time.Time) { a.leave(entered) }

// OPAReachable is OPA's graph.reachable.
var OPAReachable = opaReachable
