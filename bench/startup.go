package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
)

// StartupResult is what it takes to be there.
type StartupResult struct {
	Name          string
	FirstAnswerMS float64 // from exec to the first answer, milliseconds
	RSSMiB        float64 // resident memory when idle
}

// startup starts Postern with few and with many keys.
func (l *lab) startup(ctx context.Context) ([]StartupResult, error) {
	var results []StartupResult
	for _, keys := range []int{fewKeys, 100_000, 1_000_000} {
		name := fmt.Sprintf("%d keys", keys)
		f, err := newFixture(filepath.Join(l.dir, "startup", fmt.Sprint(keys)), keys)
		if err != nil {
			return nil, err
		}
		var times, sizes []float64
		for range 5 {
			ms, mib, err := l.startOnce(ctx, f)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			times, sizes = append(times, ms), append(sizes, mib)
		}
		results = append(results, StartupResult{Name: name, FirstAnswerMS: rig.Median(times), RSSMiB: rig.Median(sizes)})
	}
	return results, nil
}

func (l *lab) startOnce(ctx context.Context, f *fixture) (ms, mib float64, err error) {
	p, err := l.startPostern(ctx, f)
	if err != nil {
		return 0, 0, err
	}
	defer p.Stop()
	conn, err := p.Dial()
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	question := rig.Request(map[string]string{"x-api-key": f.key})
	var out []byte
	if err := rig.Call(ctx, conn, question, &out, grpc.WaitForReady(true)); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, p.Said())
	}
	took := time.Since(p.Started)
	if err := rig.Verify(ctx, conn, question, true); err != nil {
		return 0, 0, err
	}
	time.Sleep(2 * time.Second) // idle: let the runtime give back what starting needed
	mib, err = rig.Memory(p.PID(), "VmRSS")
	return float64(took) / 1e6, mib, err
}
