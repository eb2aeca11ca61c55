// Package histogram counts how long things took, in a fixed amount of memory: for what
// happens millions of times a second. Between a power of 2 and the next there are 32
// buckets, so what is read from it is at most 1/32 too high.
package histogram

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Histogram counts durations. Its zero value is empty. It is not safe for concurrent use:
// each who counts has one, and they are merged.
type Histogram struct {
	buckets [64 << fine]uint64
	n       uint64
	max     time.Duration
}

// fine is the logarithm of how many buckets there are between a power of 2 and the next.
const fine = 5

// Add counts a duration. One below 0 is counted as 0.
func (h *Histogram) Add(d time.Duration) {
	v := uint64(max(0, d))
	h.buckets[bucketOf(v)]++
	h.n++
	h.max = max(h.max, d)
}

// Merge counts what another has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

func bucketOf(v uint64) int {
	if v < 1<<fine {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - fine
	return (shift+1)<<fine + int(v>>shift) - 1<<fine
}

// top is the highest value of a bucket.
func top(bucket int) time.Duration {
	if bucket < 1<<fine {
		return time.Duration(bucket)
	}
	shift := bucket>>fine - 1
	return time.Duration((uint64(bucket&(1<<fine-1))+1<<fine+1)<<shift - 1)
}

// Quantile is the duration within which a share of them is, at most 1/32 too high; 0 if
// there are none.
func (h *Histogram) Quantile(share float64) time.Duration {
	rank, seen := max(1, uint64(math.Ceil(share*float64(h.n)))), uint64(0)
	for i, n := range h.buckets {
		if seen += n; seen >= rank {
			return min(top(i), h.max)
		}
	}
	return h.max
}

// Count is how many there are.
func (h *Histogram) Count() uint64 { return h.n }

// Max is the longest.
func (h *Histogram) Max() time.Duration { return h.max }

// String implements fmt.Stringer.
func (h *Histogram) String() string {
	micros := func(share float64) float64 { return float64(h.Quantile(share)) / 1e3 }
	return fmt.Sprintf("p50 %.2f, p99 %.2f, p99.9 %.1f µs (n %d)", micros(.5), micros(.99), micros(.999), h.n)
}
