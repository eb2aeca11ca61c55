package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/histogram"
)

// load is questions put one after the other, by several askers at once, for a time.
type load struct {
	// askers is how many ask at the same time, and rate how many questions they begin in
	// a second, all together; 0 for as many as get answers.
	askers int
	rate   float64
	// lead is how long is asked before anything counts, and time how long after that.
	lead, time time.Duration
	// ask puts the nth question of one asker and says under which name it is counted.
	ask func(ctx context.Context, asker, n int) (name string)
}

// loaded is what came of a load.
type loaded struct {
	took    time.Duration
	answers map[string]uint64 // by name
	times   histogram.Histogram
	// behind is how many questions were not begun in time, at a rate.
	behind uint64
}

// asker is one of those who ask. Each has its own, so that counting costs no lock.
type asker struct {
	answers map[string]uint64
	times   histogram.Histogram
	behind  uint64
}

// run asks until the time is over, or ctx ends. Counted is called when it begins to
// count.
//
// At a rate, a question's time begins when it should have been asked: a server that
// stands still for a second makes all of that second's questions late, and not only the
// one that was under way.
func (l *load) run(ctx context.Context, counted func()) *loaded {
	all := make([]asker, l.askers)
	var wait sync.WaitGroup
	var counting atomic.Bool
	start := time.Now()
	begin := start.Add(l.lead)
	end := begin.Add(l.time)
	var once sync.Once
	for i := range all {
		me := &all[i]
		me.answers = map[string]uint64{}
		wait.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				from, inTime := l.begin(ctx, me, start, n*l.askers+i)
				if !inTime || from.After(end) {
					return
				}
				if from.After(begin) && !counting.Load() {
					once.Do(func() { counted(); counting.Store(true) })
				}
				name := l.ask(ctx, i, n)
				if from.After(begin) && ctx.Err() == nil {
					me.answers[name]++
					me.times.Add(time.Since(from))
				}
			}
		})
	}
	wait.Wait()
	m := &loaded{took: max(time.Since(begin), time.Nanosecond), answers: map[string]uint64{}}
	for i := range all {
		m.behind += all[i].behind
		m.times.Merge(&all[i].times)
		for name, n := range all[i].answers {
			m.answers[name] += n
		}
	}
	return m
}

// begin waits until the nth question is due, and says from when its answer's time counts.
// It is false if the question is not asked any more.
func (l *load) begin(ctx context.Context, me *asker, start time.Time, n int) (from time.Time, ok bool) {
	now := time.Now()
	if l.rate == 0 {
		return now, true
	}
	due := start.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	switch {
	case due.After(start.Add(l.lead + l.time)):
		return due, false
	case due.After(now):
		ok = sleep(ctx, due.Sub(now))
		return time.Now(), ok // a timer that is late is no fault of whoever is asked
	case now.Sub(due) > time.Second:
		me.behind++
	}
	return due, true
}

// sleep reports whether the time was over before ctx ended.
func sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// at returns the time within which a part of all answers came. It does not know unless
// ten answers took longer: a tail of one is chance.
func (m *loaded) at(part float64) (_ time.Duration, known bool) {
	if float64(m.times.Count())*(1-part) < 10-1e-9 {
		return 0, false
	}
	return m.times.Quantile(part), true
}
