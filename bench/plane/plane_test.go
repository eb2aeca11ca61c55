package main

import (
	"context"
	"math"
	"testing"
	"time"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/seal"
)

const (
	allowed = posternv1.Reason_REASON_ALLOWED
	revoked = posternv1.Reason_REASON_REVOKED
	unknow  = posternv1.Reason_REASON_CREDENTIAL_UNKNOWN
	away    = posternv1.Reason_REASON_DEPENDENCY_UNAVAILABLE
)

// said by a replica, in milliseconds from the acknowledgement.
type line struct {
	sent, received int
	reason         posternv1.Reason
	// begun and done are what the replica says of itself when it is asked.
	begun, done int
}

func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

func (l line) answer() answer {
	return answer{sent: at(l.sent), received: at(l.received), reason: l.reason, allowed: l.reason == allowed}
}

// The judge of revocations sees what it is there to see.
func TestTally(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lines []line
		holds bool
	}{
		"good":                {[]line{{-5, -3, allowed, 0, 0}, {2, 4, allowed, 0, 0}, {8, 9, revoked, 0, 0}}, true},
		"at the bound":        {[]line{{998, 1000, allowed, 0, 0}, {1001, 1002, revoked, 0, 0}}, true},
		"late":                {[]line{{1000, 1001, allowed, 1000, 1001}, {1010, 1011, revoked, 0, 0}}, false},
		"received late":       {[]line{{-5, 5000, allowed, -4, -3}, {5001, 5002, revoked, 0, 0}}, true},
		"complete late":       {[]line{{-5, 5000, allowed, -4, 4999}, {5001, 5002, revoked, 0, 0}}, false},
		"blind in between":    {[]line{{-5, -3, allowed, 0, 0}, {2, 4, away, 0, 0}, {8, 9, revoked, 0, 0}}, true},
		"blind for ever":      {[]line{{-5, -3, allowed, 0, 0}, {2, 4, away, 0, 0}}, false},
		"never denied":        {[]line{{-5, -3, allowed, 0, 0}, {2, 4, allowed, 0, 0}}, false},
		"never allowed":       {[]line{{2, 4, revoked, 0, 0}}, false},
		"allowed again":       {[]line{{-5, -3, allowed, 0, 0}, {2, 4, revoked, 0, 0}, {5, 6, allowed, 0, 0}}, false},
		"under way at a deny": {[]line{{-5, -3, allowed, 0, 0}, {2, 4, revoked, 0, 0}, {3, 6, allowed, 0, 0}}, true},
		"denied for nothing":  {[]line{{-5, -3, allowed, 0, 0}, {2, 4, unknow, 0, 0}, {8, 9, revoked, 0, 0}}, false},
		"nothing":             {nil, false},
	} {
		e, o := &event{kind: "revoke", ends: revoked}, &outcome{}
		e.ack.set(at(0))
		for _, l := range c.lines {
			o.note(t.Context(), l.answer(), e.ack.get(), e.ends, func(context.Context, string) (begun, done time.Time, ok bool) {
				return at(l.begun), at(l.done), true
			})
		}
		var found tally
		found.take(e, o)
		if found.holds() != c.holds {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// A replica that does not remember a decision is not believed.
func TestForgotten(t *testing.T) {
	t.Parallel()
	var o outcome
	o.note(t.Context(), line{sent: -5, received: 2000, reason: allowed}.answer(), at(0), revoked, func(context.Context, string) (begun, done time.Time, ok bool) {
		return begun, done, false
	})
	if o.lastAllow != at(2000) {
		t.Error(o.lastAllow)
	}
}

// So does the judge of outages: down at 0, up at 10 s.
func TestInterview(t *testing.T) {
	t.Parallel()
	good := &probe{name: "good", want: said{allowed: true, reason: allowed}}
	for name, c := range map[string]struct {
		strict              bool
		line                line
		blind, changed, too int
	}{
		"same":                  {line: line{sent: 5000, received: 5001, reason: allowed}},
		"changed":               {line: line{sent: 5000, received: 5001, reason: unknow}, changed: 1},
		"blind":                 {line: line{sent: 5000, received: 5001, reason: away}, changed: 1},
		"strict blind":          {strict: true, line: line{sent: 5000, received: 5001, reason: away}, blind: 1},
		"strict within 1 s":     {strict: true, line: line{sent: 900, received: 901, reason: allowed}},
		"strict late":           {strict: true, line: line{sent: 1500, received: 1501, reason: allowed}, too: 1},
		"strict late, received": {strict: true, line: line{sent: 900, received: 1501, reason: allowed}, too: 1},
		"strict, up again":      {strict: true, line: line{sent: 10_500, received: 10_501, reason: allowed}},
		"strict, other":         {strict: true, line: line{sent: 5000, received: 5001, reason: unknow}, changed: 1},
	} {
		v := interview{strict: c.strict}
		v.note(good, c.line.answer(), at(0), at(10_000))
		if late := len(v.late); v.blind != c.blind || v.changed != c.changed || c.strict && late != c.too {
			t.Errorf("%s: blind %d, changed %d, late %d", name, v.blind, v.changed, late)
		}
	}
}

// Unknown keys are well-formed, so that nothing but the look-up can refuse them.
func TestKeys(t *testing.T) {
	t.Parallel()
	for range 100 {
		key := stranger()
		wrong := wrongSecret(key)
		a, err := seal.Parse(key)
		b, err2 := seal.Parse(wrong)
		if err != nil || err2 != nil || a.ID != b.ID || key == wrong || !seal.ChecksumFits(key) || !seal.ChecksumFits(wrong) {
			t.Fatal(key, wrong, err, err2)
		}
	}
}

func TestWelch(t *testing.T) {
	t.Parallel()
	var a, b sample
	for _, v := range []float64{27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4} {
		a.add(v)
	}
	for _, v := range []float64{27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4} {
		b.add(v)
	}
	if got := welch(&a, &b); math.Abs(got+2.46) > .01 { // a worked example of textbooks
		t.Error(got)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	var d times
	for i := range 100 {
		d = append(d, time.Duration(100-i)*time.Millisecond)
	}
	if got, want := d.String(), "p50 51.0, p99 100.0, max 100.0 ms (n 100)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
