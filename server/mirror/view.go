package mirror

import "time"

// Freshness says how far a view can be relied on.
type Freshness uint8

// The zero Freshness is blind.
const (
	// Blind says that revocations may have been missed: nothing that rests on the
	// store may be allowed.
	Blind Freshness = iota
	// Stale says the same, and that the configuration wants an answer all the same
	// (Available).
	Stale
	// Fresh says that all changes are known that are older than the bound.
	Fresh
)

var freshness = [...]string{"blind", "stale", "fresh"}

// String returns the name of the state.
func (f Freshness) String() string {
	if int(f) >= len(freshness) {
		return "unknown"
	}
	return freshness[f]
}

// View is how far the mirror had seen at some moment. It does not change.
//
// Who wants no gap between what was read and how old it was takes the view first,
// then reads, and asks for the view's state last: the answer is then as good as
// that view or better, even if the process was stopped in between.
type View struct {
	// Number is the last change that it holds; 0 if it holds none.
	Number int64
	// Epoch names the store; empty if nothing has been read yet.
	Epoch string
	// Since is when the last poll began that found nothing more to read. The view
	// holds all that had been committed by then.
	Since time.Time
	// Snapshot says that it was read from disk, because the store did not answer.
	Snapshot bool

	// witness is what the change Number wrote; nil if that is not known.
	witness *witness

	mode            Mode
	bound, maxStale time.Duration
	always          bool
}

// State says how fresh the view is at an instant, which has to be one that the
// clock has just shown. Age counts by the monotonic clock, so that setting the
// clock back makes nothing young; where the wall clock says more, because the
// machine slept, it counts.
func (v *View) State(now time.Time) Freshness {
	switch age := v.Age(now); {
	case v.always:
		return Fresh
	case v.Epoch == "":
		return Blind
	case age <= v.bound && !v.Snapshot:
		return Fresh
	case v.mode == Available && age <= v.maxStale:
		return Stale
	}
	return Blind
}

// Age is how long ago the view was complete.
func (v *View) Age(now time.Time) time.Duration {
	return max(now.Sub(v.Since), now.Round(0).Sub(v.Since.Round(0)))
}
