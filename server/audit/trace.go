package audit

import (
	"encoding/hex"
	"time"
)

// TraceID names a distributed trace, and SpanID one part of it (W3C Trace Context). The
// zero value of both is none.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// String is the id as it stands in headers and logs.
func (id TraceID) String() string { return hex.EncodeToString(id[:]) }

// String is the id as it stands in headers and logs.
func (id SpanID) String() string { return hex.EncodeToString(id[:]) }

// Step is a part of a check that can take long.
type Step uint8

// The steps, in order. What is not among them is work of a microsecond.
const (
	StepNone   Step = iota
	StepProve       // keys of issuers, introspection, vaults, passwords, signatures
	StepDecide      // the policy
	StepSign        // a token for the upstream
	StepSpend       // rates and budgets
	StepAgree       // an approval is used up
	StepRecord      // the journal is synced
	Steps           // how many there are
)

var stepNames = [Steps]string{"none", "prove", "decide", "sign", "spend", "agree", "record"}

// String returns the name of the step.
func (s Step) String() string { return stepNames[min(s, Steps-1)] }

// Lap is when a step was entered and left, since Record.Time. One that was never entered
// is zero.
type Lap struct{ From, To time.Duration }

// Trace is the span that a check is of a distributed trace.
type Trace struct {
	ID   TraceID
	Span SpanID
	// Parent is the span of whoever asked; zero if the trace begins here. State is what
	// else is passed on of the trace (tracestate).
	Parent SpanID
	State  string
	// Sampled says that the span is kept, and so that steps are timed.
	Sampled bool
	// Linked and LinkedSpan name another trace that this one is about, by somebody who is
	// not believed enough for the check to be a part of it.
	Linked     TraceID
	LinkedSpan SpanID
	// Baggage is what the gateway's trace carries along, as it was sent.
	Baggage []string
	// Laps are when each step was taken.
	Laps [Steps]Lap

	in Step
}

// Enter begins a step and ends the one before it; StepNone only does the latter.
func (t *Trace) Enter(s Step, at time.Duration) {
	if t.in != StepNone {
		t.Laps[t.in].To = at
	}
	if t.in = s; s != StepNone {
		t.Laps[s].From = at
	}
}
