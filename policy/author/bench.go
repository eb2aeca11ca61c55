package author

import (
	"context"
	"runtime"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// Measure is what one decision costs.
type Measure struct {
	// What is measured: "miss" for a decision that is evaluated, "hit" for one that is
	// remembered.
	What string `json:"what" yaml:"what"`
	// N decisions were made.
	N           int     `json:"n" yaml:"n"`
	NsPerOp     float64 `json:"ns_per_op" yaml:"ns_per_op"`
	AllocsPerOp float64 `json:"allocs_per_op" yaml:"allocs_per_op"`
	BytesPerOp  float64 `json:"bytes_per_op" yaml:"bytes_per_op"`
}

// Bench measures a request: decided each time, and, if such decisions can be
// remembered, from the cache. Each takes about so long. A verdict that is an error ends
// it.
func (p *Policy) Bench(ctx context.Context, in *policy.Input, d time.Duration) (v *policy.Verdict, all []Measure, err error) {
	without := p.config
	without.Cache.Size = -1
	for _, c := range []struct {
		what   string
		config rego.Config
		skip   bool
	}{
		{"miss", without, false},
		{"hit", remembering(p.config), !p.Analysis.Cacheable() || p.config.Cache.Size < 0},
	} {
		if c.skip {
			continue
		}
		s, err := rego.Compile(ctx, p.bundle, c.config, rego.WithClock(standing(time.Now())))
		if err != nil {
			return nil, nil, err
		}
		if v, _, err = s.Decide(ctx, in); err != nil {
			return nil, nil, err
		}
		m, err := measure(ctx, s, in, d)
		if err != nil {
			return nil, nil, err
		}
		m.What = c.what
		all = append(all, m)
	}
	return v, all, nil
}

// remembering keeps decisions for as long as anybody measures.
func remembering(c rego.Config) rego.Config {
	c.Cache.MaxTTL = 24 * time.Hour
	return c
}

// standing is a clock that does not go: a decision that depends on the second would
// else be forgotten in between.
func standing(at time.Time) func() time.Time { return func() time.Time { return at } }

// batch is how many decisions are made between two looks at the clock.
const batch = 64

func measure(ctx context.Context, s *rego.Snapshot, in *policy.Input, d time.Duration) (m Measure, err error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	took := time.Duration(0)
	for took < d && err == nil {
		for range batch {
			if _, _, err = s.Decide(ctx, in); err != nil {
				break
			}
			m.N++
		}
		took = time.Since(begin)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
	}
	runtime.ReadMemStats(&after)
	n := float64(max(m.N, 1))
	m.NsPerOp = float64(took.Nanoseconds()) / n
	m.AllocsPerOp = float64(after.Mallocs-before.Mallocs) / n
	m.BytesPerOp = float64(after.TotalAlloc-before.TotalAlloc) / n
	return m, err
}
