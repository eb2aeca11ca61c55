package authn_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/authn"
)

// RFC 9449 section 11.1: a thing is good once, and known for as long as it is good.
func TestOnce(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	o := authn.NewOnce(1000, time.Minute, func() time.Time { return now })
	until := now.Add(time.Minute)
	for _, tt := range []struct {
		after time.Duration
		until time.Time
		parts []string
		want  error
	}{
		{0, until, []string{"a", "1"}, nil},
		{0, until, []string{"a", "1"}, authn.ErrUsed},
		{0, until, []string{"a1"}, nil}, // other parts of the same text
		{0, until, []string{"", "a1"}, nil},
		{time.Second, until, []string{"a", "2"}, nil},
		{time.Minute, until, []string{"a", "1"}, authn.ErrUsed}, // at its last instant
	} {
		now = time.Unix(1_000_000, 0).Add(tt.after)
		if err := o.Use(tt.until, tt.parts...); !errors.Is(err, tt.want) {
			t.Errorf("%q after %s: %v, want %v", tt.parts, tt.after, err, tt.want)
		}
	}
	now = until.Add(1)
	if err := o.Use(until, "late"); err == nil || errors.Is(err, authn.ErrUsed) {
		t.Errorf("what is over: %v", err)
	}
	if err := o.Use(now.Add(time.Minute+1), "long"); err == nil || errors.Is(err, authn.ErrUsed) {
		t.Errorf("what would be forgotten too early: %v", err)
	}
}

// A full memory forgets nothing: it refuses to take more until something is over.
func TestOnceFull(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	o := authn.NewOnce(6400, time.Minute, func() time.Time { return now })
	var good []string
	full := 0
	for i := range 20_000 {
		name := fmt.Sprint(i)
		switch err := o.Use(now.Add(time.Minute), name); {
		case err == nil:
			good = append(good, name)
		case errors.Is(err, authn.ErrOverloaded):
			full++
		default:
			t.Fatal(err)
		}
	}
	if len(good) > 6400 || len(good) < 6000 || full != 20_000-len(good) || o.Len() != len(good) {
		t.Errorf("%d are remembered, %d were too many", len(good), full)
	}
	for _, name := range good {
		if err := o.Use(now.Add(time.Minute), name); !errors.Is(err, authn.ErrUsed) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	now = now.Add(time.Minute + 1)
	for i := range 300 {
		if err := o.Use(now.Add(time.Minute), "again", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// A new size or window makes nothing good again that was used.
func TestOnceResize(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	o := authn.NewOnce(1000, time.Minute, func() time.Time { return now })
	if err := o.Use(now.Add(time.Minute), "a"); err != nil {
		t.Fatal(err)
	}
	o.Resize(10, time.Hour)
	now = now.Add(30 * time.Second)
	if err := o.Use(now.Add(time.Minute), "a"); !errors.Is(err, authn.ErrUsed) {
		t.Error(err)
	}
}

// Of many who use the same at once, one wins.
func TestOnceConcurrent(t *testing.T) {
	t.Parallel()
	o := authn.NewOnce(10_000, time.Minute, nil)
	var wins atomic.Int64
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for i := range 200 {
				if o.Use(time.Now().Add(30*time.Second), fmt.Sprint(i)) == nil {
					wins.Add(1)
				}
			}
		})
	}
	group.Wait()
	if wins.Load() != 200 {
		t.Errorf("%d won, not 200", wins.Load())
	}
}

// Over any history, the memory says what a list of all uses would say.
func TestOnceModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		o := authn.NewOnce(1<<20, time.Minute, func() time.Time { return now })
		type credential struct {
			until time.Time
			made  int
		}
		known := map[int]credential{}
		for i := range rapid.IntRange(1, 200).Draw(t, "uses") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "later")) * time.Second)
			who := rapid.IntRange(0, 30).Draw(t, "who")
			c, again := known[who]
			if !again || now.After(c.until) { // a new one is needed
				c, again = credential{now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "good for")) * time.Second), i}, false
				known[who] = c
			}
			if err := o.Use(c.until, fmt.Sprint(who), fmt.Sprint(c.made)); again != errors.Is(err, authn.ErrUsed) || !again && err != nil {
				t.Fatalf("%d, used before %v: %v", who, again, err)
			}
		}
	})
}

func BenchmarkOnceUse(b *testing.B) {
	now := time.Now()
	o := authn.NewOnce(1<<30, time.Minute, func() time.Time { now = now.Add(time.Microsecond); return now })
	names := make([]string, 1<<16)
	for i := range names {
		names[i] = fmt.Sprintf("%022d", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_ = o.Use(now, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", names[i%len(names)], fmt.Sprint(i/len(names)))
	}
}

// The memory of an entry, for the documentation.
func BenchmarkOnceMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		o := authn.NewOnce(2*n, time.Hour, nil)
		until := time.Now().Add(30 * time.Minute)
		for i := range n {
			if err := o.Use(until, fmt.Sprint(i)); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(o.Len()), "B/entry")
	}
}
