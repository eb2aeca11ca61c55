package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// roles measures in process what a decision costs by tables of roles, from the cache
// and without one. All sizes take turns, so that they can be compared.
func roles(ctx context.Context, _ *lab, s settings, out *rig.Report) error {
	sizes := []int{10, 100, 1000, 10_000}
	rounds, samples := 15, 2000
	if s.quick {
		rounds, samples = 3, 200
	}
	for _, how := range []struct {
		name  string
		cache int
		most  float64 // ns
		wants string
	}{
		{"cached", 0, 1000, "1 µs, no allocation, flat"},
		{"evaluated", -1, 40_000, "40 µs, flat"},
	} {
		asks := make([]*asking, len(sizes))
		for i, n := range sizes {
			a, err := newAsking(ctx, n, how.cache)
			if err != nil {
				return err
			}
			asks[i] = a
		}
		for range rounds {
			for _, a := range asks {
				if err := a.round(ctx, samples); err != nil {
					return err
				}
			}
		}
		least := asks[0].median()
		for i, a := range asks {
			ns := a.median()
			out.Add(rig.Row{
				Part: "roles", What: fmt.Sprintf("%s, %d roles", how.name, sizes[i]), Figure: fmt.Sprintf("%.2f µs, %.2f allocations", ns/1e3, a.allocs), Wanted: how.wants,
				// One hit of 1,024 is evaluated again, to see that the cache is right.
				Verdict: rig.Goal(ns <= how.most && (how.cache < 0 || a.allocs < .5)), Remark: fmt.Sprintf("%.2f × that of %d roles", ns/least, sizes[0]),
			})
		}
	}
	return nil
}

// asking is a policy of some roles that is asked over and over.
type asking struct {
	snapshot *rego.Snapshot
	inputs   []*policy.Input
	took     []float64 // ns a decision, of each round
	allocs   float64   // a decision, in the last round
}

func newAsking(ctx context.Context, n, cache int) (*asking, error) {
	files, err := policyFiles(n, nil)
	if err != nil {
		return nil, err
	}
	config := rego.Config{Timeout: time.Second, Cache: rego.CacheConfig{Size: cache}}
	read, err := rego.LoadFS(files, config)
	if err != nil {
		return nil, err
	}
	a := &asking{}
	for i := range 8 {
		a.inputs = append(a.inputs, inputOf(i*n/8))
	}
	if a.snapshot, err = rego.Compile(ctx, read, config); err != nil {
		return nil, err
	}
	return a, a.round(ctx, len(a.inputs)) // fills the cache
}

func (a *asking) round(ctx context.Context, n int) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for i := range n {
		if v, _, err := a.snapshot.Decide(ctx, a.inputs[i%len(a.inputs)]); err != nil || !v.Allow {
			return fmt.Errorf("the policy answers %+v, %w", v, err)
		}
	}
	a.took = append(a.took, float64(time.Since(began))/float64(n))
	runtime.ReadMemStats(&after)
	a.allocs = float64(after.Mallocs-before.Mallocs) / float64(n)
	return nil
}

// median leaves out the round that filled the cache.
func (a *asking) median() float64 { return rig.Median(append([]float64(nil), a.took[1:]...)) }
