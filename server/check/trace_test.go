package check_test

import (
	"context"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/check"
)

// tracer keeps every check, and what was recorded of it.
type tracer struct {
	keep  bool
	trace audit.Trace
	seen  int
}

func (t *tracer) Begin(_ context.Context, _ *policy.Attributes, into *audit.Trace) bool {
	into.ID, into.Span, into.Sampled = audit.TraceID{1}, audit.SpanID{2}, t.keep
	return true
}

func (t *tracer) Record(r *audit.Record) {
	t.seen++
	if t.trace = (audit.Trace{}); r.Trace != nil {
		t.trace = *r.Trace
	}
}

// Each step is timed where the check is kept, whether it is allowed or not, and however
// it ends.
func TestSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tr := &tracer{keep: true}
	w.cfg.Tracer, w.cfg.Recorder = tr, tr
	w.decider.takes = func() { w.now = w.now.Add(3 * time.Millisecond) }
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
	if l := tr.trace.Laps; l[audit.StepDecide] != (audit.Lap{To: 3 * time.Millisecond}) || l[audit.StepRecord] != (audit.Lap{From: 3 * time.Millisecond, To: 3 * time.Millisecond}) {
		t.Errorf("%v", l)
	}
	w.decider.panics = true
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonInternal, policy.PhaseDecide)
	if l := tr.trace.Laps; l[audit.StepDecide].To != 3*time.Millisecond || l[audit.StepSpend] != (audit.Lap{}) {
		t.Errorf("%v", l)
	}
	want(t, w.check(t, request("x-api-key", "bad")), policy.ReasonCredentialUnknown, policy.PhaseProve)
	if l := tr.trace.Laps; l[audit.StepDecide] != (audit.Lap{}) {
		t.Errorf("%v", l)
	}
	d := check.New(w.cfg).Authenticate(t.Context(), request("x-api-key", "key"))
	if !d.Allowed || tr.seen != 4 || tr.trace.ID != (audit.TraceID{1}) {
		t.Errorf("%v %d %v", d, tr.seen, tr.trace)
	}
	tr.keep, w.decider.panics = false, false
	w.check(t, request("x-api-key", "key"))
	if tr.trace.Laps != [audit.Steps]audit.Lap{} || tr.trace.ID != (audit.TraceID{1}) {
		t.Errorf("a check that nobody keeps is timed: %v", tr.trace)
	}
	w.cfg.Tracer = nil
	w.check(t, request("x-api-key", "key"))
	if tr.trace.ID != (audit.TraceID{}) {
		t.Errorf("a trace of nobody: %v", tr.trace)
	}
}
