package main

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A percentile is known if ten answers took longer.
func TestTailIsKnown(t *testing.T) {
	t.Parallel()
	var few loaded
	for range 999 {
		few.times.Add(1)
	}
	if _, known := few.at(0.99); known {
		t.Error("a tail of nine is called a percentile")
	}
	few.times.Add(1)
	if d, known := few.at(0.99); !known || d != 1 {
		t.Error("a tail of ten is none")
	}
}

// Without a rate, each asker waits for its answer; what comes in the warm-up does not
// count.
func TestClosedLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var began atomic.Int64
		l := &load{askers: 2, lead: time.Second, time: 10 * time.Second}
		l.ask = func(context.Context, int, int) string { time.Sleep(10 * time.Millisecond); return "ok" }
		m := l.run(t.Context(), func() { began.Add(1) })
		if began.Load() != 1 || m.answers["ok"] < 1990 || m.answers["ok"] > 2002 || m.times.Count() != m.answers["ok"] || m.took < 10*time.Second {
			t.Errorf("%d, %v, %s", began.Load(), m.answers, m.took)
		}
		if p, _ := m.at(0.5); p < 10*time.Millisecond || p > 10400*time.Microsecond {
			t.Error(p)
		}
	})
}

// At a rate, a server that stands still for a second makes the whole second's questions
// late, not only those under way.
func TestOpenLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &load{askers: 4, rate: 100, time: 10 * time.Second}
		start := time.Now()
		l.ask = func(context.Context, int, int) string {
			if since := time.Since(start); since > 5*time.Second && since < 6*time.Second {
				time.Sleep(6*time.Second - since)
			}
			return "ok"
		}
		m := l.run(t.Context(), func() {})
		n := m.times.Count()
		late := func(rank float64) bool { // is the one of this rank, from the longest down?
			return m.times.Quantile(1-(rank-.5)/float64(n)) > 10*time.Millisecond
		}
		if n < 999 || n > 1001 || !late(95) || late(102) || m.times.Max() < 990*time.Millisecond {
			t.Errorf("%d answers, %s, the longest %s", n, &m.times, m.times.Max())
		}
	})
	synctest.Test(t, func(t *testing.T) { // one that is far too slow for the rate
		l := &load{askers: 1, rate: 100, time: 5 * time.Second}
		l.ask = func(context.Context, int, int) string { time.Sleep(100 * time.Millisecond); return "ok" }
		if m := l.run(t.Context(), func() {}); m.behind == 0 {
			t.Error("nobody is told")
		}
	})
}

// Whoever stops it waits for nobody: neither for answers, nor until a question is due.
func TestLoadStops(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 0.1} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			l := &load{askers: 3, rate: rate, time: time.Hour}
			l.ask = func(ctx context.Context, _, _ int) string { sleep(ctx, 10*time.Millisecond); return "" }
			l.run(ctx, func() {})
			if took := time.Since(began); took != time.Second {
				t.Errorf("at the rate %g it stops after %s", rate, took)
			}
		})
	}
}
