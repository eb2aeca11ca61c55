package rego

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// evaluation is one asking of a policy. It is bounded in three ways.
//
// In time: topdown asks Cancelled before every expression, and there the clock is
// looked at every so often. A timer would not do: where evaluations keep all
// processors busy, timers fire late, 10 to 60 ms late on two processors.
//
// In work: what a built-in function is asked to do is added up before it does it
// (costs.go), because most of them do not look at the clock until they are done:
// splitting a text of 1 MB, or shifting a bit far to the left, takes seconds and
// gigabytes. One call may take a sixteenth of Config.MaxMemory, all together the
// whole. The error halts the evaluation even where other errors of built-in
// functions are taken as undefined, as `not` would make an allow of that.
//
// In what it keeps from others: an evaluation that takes longer than quick gives its
// place back, goes on as one of few slow ones, and yields the processor every
// time it looks at the clock. So slow requests wait for each other, and others do
// not wait for them.
type evaluation struct {
	context.Context
	snapshot *Snapshot
	// yielded is when it last let others run.
	started, deadline, yielded time.Time
	// left is what the built-in functions may still do, most what one call may.
	left, most int
	// ticks count up to the next look at the clock.
	ticks int
	place standing
	// entered is when it got its place.
	entered time.Time
	// cancel ends the context, where it is one of the evaluation's own.
	cancel context.CancelFunc
	// stopped is set by whoever stops it; all else belongs to the evaluating
	// goroutine.
	stopped atomic.Bool
	// over says that it did not find a place among the slow ones.
	over bool
	said tablesAnswer
}

// standing says among which evaluations one counts.
type standing uint8

const (
	nowhere standing = iota
	amongQuick
	amongSlow
)

const (
	// quick is how long an evaluation may take before it counts as slow, at least: fifty
	// times what RBAC takes.
	quick = 2 * time.Millisecond
	// quickMedians is the same in medians of what evaluations of this policy take. Where
	// all of them take 5 ms, none is slow.
	quickMedians = 4
	// quickShare is which part of the time of an evaluation is quick at most, whatever the
	// others take: bombs that come in numbers make the median longer.
	quickShare = 4
	// ticksPerLook is how many expressions there are to a look at the clock: mostly
	// some 5 µs, but one expression can copy all that those before it have made.
	ticksPerLook = 8
	// workPerTick is how much work of built-in functions counts as one expression.
	workPerTick = 1 << 10
	// turn is how long a slow evaluation runs before it lets others run.
	turn = 100 * time.Microsecond
	// shareOfCall is which part of the work of an evaluation one call may take.
	shareOfCall = 16
)

type evaluationKey struct{}

// Value implements context.Context, so that built-in functions find the evaluation
// that calls them.
func (e *evaluation) Value(key any) any {
	if _, ok := key.(evaluationKey); ok {
		return e
	}
	return e.Context.Value(key)
}

// evaluationOf returns the evaluation that calls a built-in function. Others, such
// as those of OPA's test runner, get one of their own for each call.
func evaluationOf(b topdown.BuiltinContext) *evaluation {
	if b.Context != nil {
		if e, ok := b.Context.Value(evaluationKey{}).(*evaluation); ok {
			return e
		}
	}
	return &evaluation{left: defaultMemory, most: defaultMemory / shareOfCall}
}

// Cancel implements topdown.Cancel.
func (e *evaluation) Cancel() { e.stopped.Store(true) }

// Cancelled implements topdown.Cancel.
func (e *evaluation) Cancelled() bool {
	if e.ticks++; e.ticks >= ticksPerLook {
		e.ticks = 0
		e.look()
	}
	return e.stopped.Load()
}

func (e *evaluation) look() {
	now := time.Now()
	switch {
	case !now.Before(e.deadline), e.Err() != nil:
		e.Cancel()
	case e.place == amongQuick:
		if now.Sub(e.entered) >= e.snapshot.quick() { // to wait for a place is not to be slow
			e.slowDown(now)
		}
	case now.Sub(e.yielded) >= turn:
		runtime.Gosched()
		e.yielded = now
	}
}

// quick is how long an evaluation may take before it counts as slow.
func (s *Snapshot) quick() time.Duration {
	typical := quickMedians * time.Duration(s.slots.held.Load())
	return min(max(quick, typical), max(quick, s.config.Timeout/quickShare))
}

// slowDown moves the evaluation from the quick to the slow ones.
func (e *evaluation) slowDown(now time.Time) {
	s := e.snapshot
	e.leave()
	if !take(e, s.slow, e.deadline.Sub(now)) {
		e.over = true
		e.Cancel()
		return
	}
	e.place = amongSlow
}

// end gives everything back.
func (e *evaluation) end() {
	e.leave()
	if e.cancel != nil {
		e.cancel()
	}
}

// leave gives the place back.
func (e *evaluation) leave() {
	switch e.place {
	case amongQuick:
		e.snapshot.slots.leave(e.entered)
	case amongSlow:
		e.snapshot.slow.leave(e.entered)
	}
	e.place = nowhere
}

// take waits for one of the places.
func take(e *evaluation, a *admission, patience time.Duration) bool {
	ok := a.enter(e, patience)
	e.entered = time.Now()
	return ok
}

// charge counts work that is about to be done, in bytes read or made, about. It
// reports false if that is too much.
func (e *evaluation) charge(work int) bool {
	if work > e.most || work > e.left {
		return false
	}
	e.left -= work
	e.ticks += work / workPerTick
	return true
}

// limitErr is the code of the error of a call that is asked for too much.
const limitErr = "postern_limit_error"

func tooMuch(name string, at *ast.Location) error {
	return topdown.Halt{Err: &topdown.Error{Code: limitErr, Message: name + ": more than policy.max_memory allows", Location: at}}
}

// The built-in functions of OPA are replaced by bounded ones, for the whole process and
// before anything is evaluated: topdown looks its own functions up first, so that a
// query cannot bring others of their names along.
//
// opaReachable is what reachable replaced; tests compare them.
var opaReachable = boundBuiltins()

func boundBuiltins() (replaced topdown.BuiltinFunc) {
	for _, b := range ast.Builtins {
		work, known := costs[b.Name]
		call := topdown.GetBuiltin(b.Name)
		if known && work == nil || call == nil {
			continue
		}
		if !known {
			work = deeply(64) // new in OPA; a test asks for its row
		}
		replace(b, bind(b.Name, work, call))
	}
	replaced = topdown.GetBuiltin(ast.ReachableBuiltin.Name)
	replace(ast.ReachableBuiltin, reachable)
	return replaced
}

func replace(b *ast.Builtin, call topdown.BuiltinFunc) {
	b.CanSkipBctx = false // the bounds of an evaluation come with its context
	topdown.RegisterBuiltinFunc(b.Name, call)
}

func bind(name string, work cost, call topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(b topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		e := evaluationOf(b)
		if !e.charge(work(operands, e.most)) {
			return tooMuch(name, b.Location)
		}
		return call(b, operands, iter)
	}
}
