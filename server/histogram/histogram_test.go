package histogram

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What is read from a histogram is the truth, or at most 1/32 more.
func TestHistogram(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 2000).Draw(t, "times")
		var h, part Histogram
		for i, ns := range all {
			if i%2 == 0 {
				h.Add(time.Duration(ns))
			} else {
				part.Add(time.Duration(ns))
			}
		}
		h.Merge(&part)
		slices.Sort(all)
		for tenths := range 11 {
			got := h.Quantile(float64(tenths) / 10)
			want := time.Duration(all[max(1, (len(all)*tenths+9)/10)-1]) // nearest rank
			if got < want || got > want+want/32 {
				t.Fatalf("%d/10 of %d: %d, and it is %d", tenths, len(all), got, want)
			}
		}
		if h.Max() != time.Duration(all[len(all)-1]) || h.Quantile(1) != h.Max() || h.Count() != uint64(len(all)) {
			t.Fatal(h.Max(), h.Quantile(1), h.Count())
		}
	})
}

// Buckets leave no gap, and hold all that there is.
func TestBuckets(t *testing.T) {
	t.Parallel()
	last := bucketOf(math.MaxInt64)
	for i := range last {
		if end := uint64(top(i)); bucketOf(end) != i || bucketOf(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d; the next is in %d", i, end, bucketOf(end), bucketOf(end+1))
		}
	}
	var h Histogram
	if h.Quantile(.5) != 0 || h.Quantile(1) != 0 {
		t.Error("nothing took", h.Quantile(.5))
	}
	h.Add(-1)
	h.Add(math.MaxInt64)
	if h.Quantile(0) != 0 || h.Quantile(1) != math.MaxInt64 {
		t.Error(h.Quantile(0), h.Quantile(1))
	}
}
