package main

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// What is read from the histogram is the truth, or at most 3 % more.
func TestLatencies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 100, 2000).Draw(t, "times")
		var l, part latencies
		for i, ns := range all {
			if i%2 == 0 {
				l.add(time.Duration(ns))
			} else {
				part.add(time.Duration(ns))
			}
		}
		l.merge(&part)
		slices.Sort(all)
		for _, p := range []float64{0.5, 0.9} {
			got, known := l.at(p)
			want := time.Duration(all[(len(all)*int(p*10)+9)/10-1])
			if !known || got < want || float64(got) > float64(want)*1.04+1 {
				t.Fatalf("%g of %d: %d, and it is %d", p, len(all), got, want)
			}
		}
		if l.longest != time.Duration(all[len(all)-1]) || l.n != uint64(len(all)) {
			t.Fatal(l.longest, l.n)
		}
	})
	for step := range 64<<stepBits - 1 {
		if top := topOf(step); top >= 0 && stepOf(uint64(top)) != step {
			t.Fatalf("step %d ends at %d, which is in step %d", step, top, stepOf(uint64(top)))
		}
		if topOf(step) < 0 {
			break
		}
	}
	var few latencies
	for range 999 {
		few.add(1)
	}
	if _, known := few.at(0.99); known {
		t.Error("a tail of nine is called a percentile")
	}
	if few.add(1); few.n != 1000 {
		t.Error(few.n)
	}
	if _, known := few.at(0.99); !known {
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
		if began.Load() != 1 || m.answers["ok"] < 1990 || m.answers["ok"] > 2002 || m.times.n != m.answers["ok"] || m.took < 10*time.Second {
			t.Errorf("%d, %v, %s", began.Load(), m.answers, m.took)
		}
		if p, _ := m.times.at(0.5); p < 10*time.Millisecond || p > 10400*time.Microsecond {
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
		late := uint64(0)
		for step, n := range m.times.counts {
			if topOf(step) > 10*time.Millisecond {
				late += n
			}
		}
		if m.times.n < 999 || m.times.n > 1001 || late < 95 || late > 101 || m.times.longest < 990*time.Millisecond {
			t.Errorf("%d answers, %d late, the longest %s", m.times.n, late, m.times.longest)
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
