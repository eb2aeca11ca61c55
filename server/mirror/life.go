package mirror

import (
	"math"
	"time"

	"github.com/postern-auth/postern/policy"
)

const (
	never  = math.MaxInt64
	always = math.MinInt64
)

// life is when something counts: in Unix nanoseconds, the second exclusive, with
// the reason from then on. What was revoked or disabled does not count from the
// moment at which that is known, whatever time is written there: clocks differ.
type life struct {
	notBefore, notAfter int64
	end, over           policy.Reason
	// damaged says that the record cannot be read. Then it does not count.
	damaged bool
}

// lost is the life of what cannot be read.
var lost = life{over: policy.ReasonRevoked, damaged: true}

// endAt brings the end forward.
func (l *life) endAt(at int64, reason policy.Reason) {
	if at < l.notAfter {
		l.notAfter, l.end = at, reason
	}
}

// reason says why it does not count at an instant.
func (l *life) reason(now int64) policy.Reason {
	switch {
	case l.over == policy.ReasonRevoked:
		return l.over
	case now >= l.notAfter:
		return l.end
	case l.over != policy.ReasonUnspecified:
		return l.over
	case now < l.notBefore:
		return policy.ReasonNotYetValid
	}
	return policy.ReasonAllowed
}

func nanos(t time.Time, unset int64) int64 {
	switch {
	case t.IsZero():
		return unset
	case t.Before(earliest):
		return always
	case t.After(latest):
		return never
	}
	return t.UnixNano()
}

// earliest and latest bound what nanoseconds since 1970 in 64 bits can say.
var earliest, latest = time.Unix(0, math.MinInt64).UTC(), time.Unix(0, math.MaxInt64).UTC()

// instant is the way back; both ends of time are the zero time.
func instant(ns int64) time.Time {
	if ns == never || ns == always {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
