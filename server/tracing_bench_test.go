package server

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/trace"
	"github.com/postern-auth/postern/server/trace/tracetest"
)

// BenchmarkTracedCheck is a Check that the caches answer: without tracing, with checks
// that are not kept, with the hundred a second that are by default, and with all of them
// kept, to the receiver and what it does included.
func BenchmarkTracedCheck(b *testing.B) {
	run := func(b *testing.B, change func(*trace.Config)) {
		recorder := audit.Tee{audit.NewMetrics(prometheus.NewRegistry()), audit.NewRing(10_000)}
		to := tracetest.Start(b, &tracetest.Receiver{})
		ask, _ := warmChecker(b, recorder, func(cfg *Config) {
			if change != nil {
				cfg.Tracing = &trace.Config{}
				cfg.Tracing.SetDefaults()
				cfg.Tracing.Endpoint = to.GRPC
				change(cfg.Tracing)
			}
		})
		ask()
		b.ReportAllocs()
		for b.Loop() {
			ask()
		}
	}
	b.Run("off", func(b *testing.B) { run(b, nil) })
	b.Run("not kept", func(b *testing.B) { run(b, func(c *trace.Config) { c.SampleRatio = 0 }) })
	b.Run("100 a second", func(b *testing.B) { run(b, func(*trace.Config) {}) })
	b.Run("kept", func(b *testing.B) { run(b, func(c *trace.Config) { c.MaxPerSecond = 1_000_000_000 }) })
}
