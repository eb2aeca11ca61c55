package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/breaker"
)

var errDown = errors.New("connection refused")

// clock is a time that only the test moves.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time          { return c.now }
func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }

func open(t *testing.T, b *breaker.Breaker, failures int) {
	t.Helper()
	for range failures {
		if err := b.Allow(); err != nil {
			t.Fatal("it opened too early")
		}
		b.Done(errDown)
	}
	if err := b.Allow(); !errors.Is(err, breaker.ErrOpen) {
		t.Fatalf("after %d failures: %v, want it open", failures, err)
	}
}

// One story: three failures open it, pauses grow while the probes fail, and one
// success closes it and forgets all that.
func TestBreaker(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := breaker.New(breaker.Config{Failures: 3, Pause: time.Second, MaxPause: 3 * time.Second, Now: c.Now})
	open(t, b, 3)
	if s := b.Status(); !s.Open || s.Failures != 3 || !errors.Is(s.Err, errDown) || !s.Until.Equal(c.now.Add(time.Second)) {
		t.Errorf("status %+v", s)
	}
	for _, pause := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
		c.advance(pause - time.Nanosecond)
		if err := b.Allow(); !errors.Is(err, breaker.ErrOpen) {
			t.Fatalf("before a pause of %s was over: %v", pause, err)
		}
		c.advance(time.Nanosecond)
		if err := b.Allow(); err != nil {
			t.Fatalf("after a pause of %s: %v, want a probe", pause, err)
		}
		if err := b.Allow(); !errors.Is(err, breaker.ErrOpen) {
			t.Fatal("a second probe beside the first")
		}
		b.Done(fmt.Errorf("again: %w", errDown))
	}
	c.advance(3 * time.Second)
	if err := b.Allow(); err != nil {
		t.Fatal(err)
	}
	b.Done(nil)
	if s := b.Status(); s != (breaker.Status{}) {
		t.Errorf("closed, yet %+v", s)
	}
	open(t, b, 3)
}

func TestSuccessBetweenFailures(t *testing.T) {
	t.Parallel()
	b := breaker.New(breaker.Config{Failures: 2, Now: newClock().Now})
	for range 10 {
		b.Done(errDown)
		b.Done(nil)
	}
	if err := b.Allow(); err != nil {
		t.Error("it counted failures that were not in a row")
	}
}

func TestLateFailureDoesNotProlong(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := breaker.New(breaker.Config{Failures: 1, Pause: time.Second, Now: c.Now})
	for range 3 {
		_ = b.Allow()
	}
	for range 3 {
		b.Done(errDown) // one opens it, two began before that
		c.advance(100 * time.Millisecond)
	}
	c.advance(700 * time.Millisecond)
	if err := b.Allow(); err != nil {
		t.Error("failures of calls that began before it opened made the pause longer")
	}
}

func TestCallerGaveUp(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := breaker.New(breaker.Config{Failures: 1, Pause: time.Second, Now: c.Now})
	for range 10 {
		b.Done(context.Canceled)
	}
	open(t, b, 1)
	c.advance(time.Second)
	if err := b.Allow(); err != nil {
		t.Fatal(err)
	}
	b.Done(fmt.Errorf("asking: %w", context.Canceled))
	if err := b.Allow(); err != nil {
		t.Error("the probe taught nothing, so the next caller should probe")
	}
	b.Done(context.DeadlineExceeded)
	if err := b.Allow(); !errors.Is(err, breaker.ErrOpen) {
		t.Error("no answer in time is a failure")
	}
}

func TestForgottenProbe(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := breaker.New(breaker.Config{Failures: 1, Pause: time.Second, Now: c.Now})
	open(t, b, 1)
	c.advance(time.Second)
	if err := b.Allow(); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Second)
	if err := b.Allow(); err != nil {
		t.Error("a probe that nobody reported on keeps it open for good")
	}
}

func TestConcurrentProbe(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := breaker.New(breaker.Config{Failures: 1, Now: c.Now})
	open(t, b, 1)
	c.advance(time.Second)
	var wait sync.WaitGroup
	var mu sync.Mutex
	probes := 0
	for range 100 {
		wait.Go(func() {
			if b.Allow() == nil {
				mu.Lock()
				probes++
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if probes != 1 {
		t.Errorf("%d probes at once, want 1", probes)
	}
}

// Whatever happens, waiting for the longest pause lets a call through, and while it is
// open no more than one call passes per pause.
func TestAlwaysRecovers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		cfg := breaker.Config{Failures: rapid.IntRange(0, 4).Draw(t, "failures"), Pause: time.Second, MaxPause: 8 * time.Second, Now: c.Now}
		b := breaker.New(cfg)
		errs := []error{nil, errDown, context.Canceled, context.DeadlineExceeded}
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "do") {
			case 0:
				_ = b.Allow()
			case 1:
				b.Done(rapid.SampledFrom(errs).Draw(t, "err"))
			case 2:
				c.advance(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			}
		}
		c.advance(cfg.MaxPause)
		if b.Allow() != nil {
			t.Fatal("it never lets anything through again")
		}
		b.Done(nil)
		if b.Status().Open {
			t.Fatal("a success did not close it")
		}
	})
}
