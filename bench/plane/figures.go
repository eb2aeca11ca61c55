package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// times are durations, of which quantiles are wanted.
type times []time.Duration

func (t times) sorted() times { return slices.Sorted(slices.Values(t)) }

// at returns a quantile; the times have to be sorted.
func (t times) at(q float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	return t[min(len(t)-1, int(float64(len(t))*q))]
}

// String is the distribution in milliseconds.
func (t times) String() string {
	if len(t) == 0 {
		return "none"
	}
	t = t.sorted()
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	return fmt.Sprintf("p50 %.1f, p99 %.1f, max %.1f ms (n %d)", ms(t.at(.5)), ms(t.at(.99)), ms(t[len(t)-1]), len(t))
}

// micros is the distribution in microseconds.
func (t times) micros() string {
	t = t.sorted()
	return fmt.Sprintf("p50 %.0f, p99 %.0f µs", float64(t.at(.5))/1e3, float64(t.at(.99))/1e3)
}

func (t times) max() time.Duration {
	if len(t) == 0 {
		return 0
	}
	return slices.Max(t)
}

// sample holds enough of many values for their mean and variance.
type sample struct{ n, sum, squares float64 }

func (s *sample) add(v float64) { s.n, s.sum, s.squares = s.n+1, s.sum+v, s.squares+v*v }

func (s *sample) mean() float64 { return s.sum / s.n }

func (s *sample) variance() float64 {
	return (s.squares - s.sum*s.sum/s.n) / (s.n - 1)
}

// welch is Welch's t of two samples: how many standard errors their means are apart.
func welch(a, b *sample) float64 {
	return (a.mean() - b.mean()) / math.Sqrt(a.variance()/a.n+b.variance()/b.n)
}
