package rego

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/lib"
)

// Engine holds the policy in force. The zero Engine has none, and decides
// nothing: ErrNoPolicy.
type Engine struct {
	current atomic.Pointer[Snapshot]
}

// Activate puts a snapshot in force. Requests that are being decided finish with
// the one that they began with.
func (e *Engine) Activate(s *Snapshot) { e.current.Store(s) }

// Snapshot returns the policy in force; nil if there is none.
func (e *Engine) Snapshot() *Snapshot { return e.current.Load() }

// Decide asks the policy in force. The Verdict is shared and must not change; the
// second result says that it came from the cache. Errors are ErrNoPolicy,
// ErrTimeout, ErrOverloaded or a *Fault.
func (e *Engine) Decide(ctx context.Context, in *policy.Input) (*policy.Verdict, bool, error) {
	s := e.current.Load()
	if s == nil {
		return nil, false, ErrNoPolicy
	}
	return s.Decide(ctx, in)
}

// Mismatch is a cached decision that a fresh evaluation of an equal request did
// not confirm: a defect of Postern. The snapshot's cache is off from then on.
type Mismatch struct {
	Revision      string
	Cached, Fresh *policy.Verdict
}

// Stats returns the counters of the decision cache.
func (s *Snapshot) Stats() CacheStats { return s.cache.stats() }

// Decide asks this policy, as Engine.Decide does.
func (s *Snapshot) Decide(ctx context.Context, in *policy.Input) (v *policy.Verdict, cached bool, err error) {
	defer s.survive(&v, &cached, &err)
	now := s.now()
	if s.cache == nil || s.cache.off.Load() || isOver(in.Principal, now) {
		v, _, err = s.evaluate(ctx, in, now)
		return v, false, err
	}
	r := s.readers.Get().(*reader)
	defer s.release(r)
	// 1. The key: what the policy can read of this request.
	s.plan.appendKey(r, in)
	if s.Analysis.TimeBound {
		r.appendTime(now.Unix())
	}
	if r.err != nil {
		return s.unreadable(r.err)
	}
	// 2. The answer to an equal request, if there is one.
	hash := s.cache.hash(r.buf)
	v, audit := s.cache.get(hash, r.buf, now.UnixNano())
	if v != nil && !audit {
		return v, true, nil
	}
	if v != nil {
		return s.audit(ctx, in, now, v)
	}
	// 3. The answer of the policy, kept if it may be.
	v, reusable, err := s.evaluate(ctx, in, now)
	if err == nil && reusable {
		s.cache.put(hash, r.buf, v, now.UnixNano(), s.expiry(in.Principal, now))
	}
	return v, false, err
}

// survive turns a panic into a fault. The value of a panic may hold a part of the
// request; its type does not.
func (s *Snapshot) survive(v **policy.Verdict, cached *bool, err *error) {
	if p := recover(); p != nil {
		*v, *cached, *err = nil, false, &Fault{Revision: s.Revision, What: fmt.Sprintf("panic of type %T", p)}
	}
}

// maxPooled bounds the buffers that readers keep between requests.
const maxPooled = 64 << 10

func (s *Snapshot) release(r *reader) {
	clear(r.names[:cap(r.names)]) // they point into the request
	r.buf, r.names, r.err = r.buf[:0], r.names[:0], nil
	if cap(r.buf) <= maxPooled {
		s.readers.Put(r)
	}
}

// isOver reports that the credential has expired. The authenticator's leeway may
// still let it pass, but nothing is served from memory for it.
func isOver(p *policy.Principal, now time.Time) bool {
	return p != nil && !p.ExpiresAt.IsZero() && !now.Before(p.ExpiresAt)
}

// expiry is the least of the cap and the credential's own end.
func (s *Snapshot) expiry(p *policy.Principal, now time.Time) int64 {
	end := now.Add(s.config.Cache.MaxTTL)
	if p != nil && !p.ExpiresAt.IsZero() && p.ExpiresAt.Before(end) {
		end = p.ExpiresAt
	}
	return end.UnixNano()
}

// audit evaluates a request that the cache has an answer for. Where the policy
// could not be asked, that says nothing against the answer.
func (s *Snapshot) audit(ctx context.Context, in *policy.Input, now time.Time, cached *policy.Verdict) (*policy.Verdict, bool, error) {
	fresh, reusable, err := s.evaluate(ctx, in, now)
	switch {
	case err != nil:
		return cached, true, nil //nolint:nilerr // no answer is no mismatch
	case !reusable || sameAnswer(fresh, cached):
		return cached, true, nil
	}
	s.cache.turnOff()
	s.alarm(Mismatch{Revision: s.Revision, Cached: cached, Fresh: fresh})
	return fresh, false, nil
}

// sameAnswer compares all but the grounds, which are less where time ran out.
func sameAnswer(a, b *policy.Verdict) bool {
	one, other := *a, *b
	for _, v := range []*policy.Verdict{&one, &other} {
		v.Grounds, v.Rule, v.File, v.Line = nil, "", "", 0
	}
	return reflect.DeepEqual(&one, &other)
}

// unreadable denies a request that holds something, where the policy looks, that
// is not handed to policies.
func (s *Snapshot) unreadable(err error) (*policy.Verdict, bool, error) {
	v := &policy.Verdict{Revision: s.Revision}
	switch {
	case errors.Is(err, errTooLarge):
		v.Reason = policy.ReasonRequestTooLarge
	case errors.Is(err, errUnreadable):
		v.Reason = policy.ReasonRequestInvalid
	default:
		return nil, false, s.fault(err)
	}
	return v, false, nil
}

// fault keeps of an error only what cannot hold a part of the request.
func (s *Snapshot) fault(err error) error {
	f := &Fault{Revision: s.Revision, What: fmt.Sprintf("error of type %T", err)}
	if e, ok := errors.AsType[noJSON](err); ok {
		f.What = e.Error()
	}
	if e, ok := errors.AsType[*topdown.Error](err); ok {
		f.What = e.Code
		// The text of a failed function begins with its name.
		if name, _, _ := strings.Cut(e.Message, ":"); s.isBuiltin(name) {
			f.What += " in " + name
		}
		if at := e.Location; at != nil {
			f.File, f.Line = at.File, at.Row
		}
	}
	return f
}

func (s *Snapshot) isBuiltin(name string) bool {
	return s.builtins[name] != nil || ast.BuiltinMap[name] != nil
}

// evaluate asks the policy without the cache. The second result says whether the
// answer follows from what the policy read, and so may be reused.
func (s *Snapshot) evaluate(ctx context.Context, in *policy.Input, now time.Time) (v *policy.Verdict, reusable bool, err error) {
	ctx, answered := policy.LeaveRoom(ctx)
	defer answered()
	if ctx.Err() != nil {
		return nil, false, s.failure(ctx, ctx.Err())
	}
	e := s.begin(ctx)
	defer e.end()
	if !take(e, s.slots, e.deadline.Sub(e.started)/2) {
		return nil, false, ErrOverloaded
	}
	e.place = amongQuick
	return s.ask(e, in, now)
}

// begin starts an evaluation. Its deadline is the policy's own or the caller's.
func (s *Snapshot) begin(ctx context.Context) *evaluation {
	e := &evaluation{Context: ctx, snapshot: s, started: time.Now(), left: s.config.MaxMemory, most: s.config.MaxMemory / shareOfCall}
	e.deadline = e.started.Add(s.config.Timeout)
	if end, ok := ctx.Deadline(); ok && end.Before(e.deadline) {
		e.deadline = end
	}
	if !s.Analysis.Cacheable() { // it may wait for the network, which only a context can end
		e.Context, e.cancel = context.WithDeadline(ctx, e.deadline)
	}
	return e
}

func (s *Snapshot) ask(e *evaluation, in *policy.Input, now time.Time) (v *policy.Verdict, reusable bool, err error) {
	r := &reader{view: &s.plan.view}
	input := s.plan.document(r, in)
	if r.err != nil {
		v, _, err = s.unreadable(r.err)
		return v, false, err
	}
	result, err := s.run(e, input, now, nil)
	if conflict, ok := errors.AsType[*topdown.Error](err); ok && conflict.Code == topdown.ConflictErr {
		v = s.conflict(conflict)
		v.Grounds = s.grounds(input, nil, v)
		return v, true, nil
	}
	switch {
	case err != nil && e.over:
		return nil, false, ErrOverloaded
	case err != nil:
		return nil, false, s.failure(e, err)
	}
	v = s.read(result)
	switch {
	case v.Allow:
	case e.said.is(result):
		v.Rule, v.File, v.Line = lib.RBAC, e.said.at.File, e.said.at.Row
		v.Grounds = s.grounds(input, nil, v)
		v.Grounds.Failed = []policy.Failure{{Rule: v.Rule, File: v.File, Line: v.Line, Expression: firstLine(e.said.at, maxFailedBytes)}}
	default:
		s.explain(e, input, now, result, v)
	}
	return v, true, nil
}

// failure says which error an evaluation's error is.
func (s *Snapshot) failure(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); topdown.IsCancel(err) || cause != nil {
		return fmt.Errorf("%w: policy %s, %w", ErrTimeout, s.Revision, cmp.Or(cause, context.DeadlineExceeded))
	}
	return s.fault(err)
}

// conflict is the answer of a policy that contradicts itself.
func (s *Snapshot) conflict(err *topdown.Error) *policy.Verdict {
	v := &policy.Verdict{Reason: policy.ReasonPolicyResult, Rule: s.Entrypoint, Revision: s.Revision}
	if at := err.Location; at != nil {
		v.File, v.Line = at.File, at.Row
	}
	return v
}

var noMetrics = metrics.NoOp()

// run evaluates the query; nil means undefined. The clock stands at the second, so
// that the cache can have it in its key.
func (s *Snapshot) run(e *evaluation, input *ast.Term, now time.Time, tracer topdown.QueryTracer) (result ast.Value, err error) {
	q := topdown.NewQuery(s.query).
		WithQueryCompiler(s.prepared).
		WithCompiler(s.compiler).
		WithStore(s.store).
		WithTransaction(theTransaction).
		WithInput(input).
		WithBuiltins(s.builtins).
		WithInterQueryBuiltinValueCache(s.values).
		WithMetrics(noMetrics).
		WithTime(now.Truncate(time.Second)).
		WithStrictBuiltinErrors(!s.config.OPAEnvoy).
		WithCancel(e)
	if tracer != nil {
		// Without the index, rules that it would have skipped are seen to fail.
		q = q.WithQueryTracer(tracer).WithIndexing(false)
	}
	err = q.Iter(e, func(found topdown.QueryResult) error {
		result = found[resultVar].Value
		return nil
	})
	return result, err
}
