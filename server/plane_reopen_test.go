package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// hanging is a database that does not answer until it is let go, and counts how often
// somebody tries to reach it.
type hanging struct {
	tries  atomic.Int32
	answer chan error
	opened store.Store
}

func newHanging() *hanging { return &hanging{answer: make(chan error), opened: memory.New(time.Now)} }

func (h *hanging) open(ctx context.Context) (store.Store, error) {
	h.tries.Add(1)
	select {
	case err := <-h.answer:
		return h.opened, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func head(ctx context.Context, st store.Store) error {
	return st.View(ctx, func(from store.Reader) error { _, err := from.Head(); return err })
}

// G-06: a database that hangs holds up a start for a second, and nobody after that; once
// it answers, everybody has it.
func TestOpenPatiently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, began := newHanging(), time.Now()
		st, err := openPatiently(t.Context(), h.open)
		if err != nil || time.Since(began) != openPatience {
			t.Fatalf("%v after %s", err, time.Since(began))
		}
		if err := head(t.Context(), st); !errors.Is(err, errOpening) || time.Since(began) != openPatience {
			t.Errorf("%v after %s: the first call waits again", err, time.Since(began))
		}
		var all sync.WaitGroup
		for range 10 { // all at once, one of whom gives up
			all.Go(func() { _ = head(t.Context(), st) })
		}
		all.Wait()
		if n := h.tries.Load(); n != 1 {
			t.Errorf("%d tries at once", n)
		}
		h.answer <- nil
		synctest.Wait()
		if err := head(t.Context(), st); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if err := head(t.Context(), st); !errors.Is(err, store.ErrClosed) {
			t.Error(err)
		}
	})
}

// Who gives up, or has no time, does not end the try for the others, and nobody is
// kept by a lock.
func TestReopenedWaitsAsLongAsItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		r := &reopened{open: h.open, err: errors.New("down")}
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := head(short, r); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := head(over, r); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		done := make(chan error)
		go func() { done <- head(t.Context(), r) }()
		synctest.Wait()
		h.answer <- nil
		if err := <-done; err != nil || h.tries.Load() != 1 {
			t.Errorf("%v, %d tries", err, h.tries.Load())
		}
	})
}

// After a try that failed, the next is made a second later, and not by each caller.
func TestReopenedPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		down := errors.New("connection refused")
		r := &reopened{open: func(context.Context) (store.Store, error) {
			if tries++; tries > 2 {
				return memory.New(time.Now), nil
			}
			return nil, down
		}}
		for range 5 {
			if err := head(t.Context(), r); !errors.Is(err, down) {
				t.Error(err)
			}
		}
		time.Sleep(openPause)
		if err := head(t.Context(), r); !errors.Is(err, down) || tries != 2 {
			t.Errorf("%v, %d tries", err, tries)
		}
		time.Sleep(openPause)
		if err := head(t.Context(), r); err != nil || tries != 3 {
			t.Errorf("%v, %d tries", err, tries)
		}
	})
}

// What no further try would mend ends the start, as does who no longer wants one. A
// store that is opened too late is closed.
func TestOpenPatientlyGivesUp(t *testing.T) {
	t.Parallel()
	for _, fatal := range []error{store.ErrNewer, store.ErrCorrupt, store.ErrReadOnly} {
		st, err := openPatiently(t.Context(), func(context.Context) (store.Store, error) { return nil, fatal })
		if st != nil || !errors.Is(err, fatal) {
			t.Errorf("%v: %v, %v", fatal, st, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if st, err := openPatiently(over, h.open); st != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", st, err)
		}
		synctest.Wait() // the try has ended too, or the bubble would not

		late := make(chan struct{})
		st, err := openPatiently(t.Context(), func(context.Context) (store.Store, error) { <-late; return h.opened, nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		close(late)
		synctest.Wait()
		if err := head(t.Context(), h.opened); !errors.Is(err, store.ErrClosed) {
			t.Errorf("a store that nobody has is still open: %v", err)
		}
	})
}
