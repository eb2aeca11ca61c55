package audit

import (
	"testing"

	"github.com/postern-auth/postern/policy"
)

// BenchmarkEventsRecord is what a request pays for an event: the copy, and the hand-over
// to a goroutine that does nothing but give it back.
func BenchmarkEventsRecord(b *testing.B) {
	l := &Events{cfg: EventsConfig{Allows: true}, entries: newWaiting(1, func(*entry) {})}
	a := &policy.Attributes{Path: "/things/1?page=2", Headers: make(policy.Headers, 12)}
	r := &Record{Decision: policy.Decision{Allowed: true}, Input: &policy.Input{Attributes: a, Request: &policy.Request{Path: "/things/1"}}}
	b.ReportAllocs()
	for b.Loop() {
		l.Record(r)
	}
	b.ReportMetric(float64(l.entries.lost.Load())/float64(b.N), "lost/op")
}
