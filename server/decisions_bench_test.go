package server

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/strictyaml"
)

// warmChecker is a Checker in front of RBAC, and attributes that it allows from its
// caches.
func warmChecker(b *testing.B, recorder audit.Recorder, change func(*Config), shadow ...string) (func(), *parts) {
	dir := b.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("policy/data.yaml", "roles: {reader: [things.read]}\nroutes: [{methods: [GET], path: /public/*, public: true}]\n")
	write("policy/authz.rego", "package postern.authz\ndecision := {\"allow\": true} if input.request.path == \"/things/1\"\n")
	write("postern.yaml", "version: 1\nroutes: [{name: things, paths: [/things/*], anonymous: true}]\npolicy: {path: policy"+strings.Join(shadow, "")+"}\n")
	cfg, err := LoadConfig(filepath.Join(dir, "postern.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	if change != nil {
		change(cfg)
	}
	p, err := assemble(b.Context(), cfg, nil, surroundings{recorder: recorder, log: slog.New(slog.DiscardHandler), now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.closeUnlessIn(nil) })
	fields := policy.Headers{
		{Name: ":authority", Value: "api.example.com"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/things/1?page=2"}, {Name: ":scheme", Value: "https"},
		{Name: "accept", Value: "application/json"}, {Name: "accept-encoding", Value: "gzip, deflate, br"}, {Name: "user-agent", Value: "example-client/1.4.2 (linux)"},
		{Name: "x-forwarded-for", Value: "198.51.100.7"}, {Name: "x-forwarded-proto", Value: "https"}, {Name: "x-request-id", Value: "8e1f7fd2-1c5a-4f6e-9a0a-5f4f2d3b9c11"},
	}
	return func() {
		a := &policy.Attributes{Door: "extauthz", Method: "GET", Scheme: "https", Host: "api.example.com", Path: "/things/1?page=2", Size: -1, Headers: fields}
		if d := p.checker.Check(context.Background(), a); !d.Allowed {
			b.Fatal(d.Reason, d.Detail)
		}
	}, p
}

func warmly(b *testing.B, recorder audit.Recorder) {
	ask, _ := warmChecker(b, recorder, nil)
	ask()
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

// BenchmarkWarmCheck is a Check that the caches answer, with what is recorded of it.
func BenchmarkWarmCheck(b *testing.B) {
	usual := func() audit.Tee {
		return audit.Tee{audit.NewMetrics(prometheus.NewRegistry()), audit.NewRing(10_000)}
	}
	b.Run("events off", func(b *testing.B) { warmly(b, usual()) })
	// The whole, with the goroutine that makes events and the file beside it.
	b.Run("events to a file", func(b *testing.B) {
		cfg := &DecisionEvents{File: &EventFile{Path: strictyaml.Path(filepath.Join(b.TempDir(), "decisions.jsonl"))}}
		cfg.SetDefaults()
		cfg.File.SetDefaults()
		var inForce atomic.Pointer[policySource]
		events, err := newEventLog(cfg, inForce.Load, slog.New(slog.DiscardHandler), time.Now)
		if err != nil {
			b.Fatal(err)
		}
		ask, p := warmChecker(b, append(usual(), events), nil)
		inForce.Store(p.policy)
		ask()
		b.ReportAllocs()
		for b.Loop() {
			ask()
		}
		b.StopTimer()
		if err := events.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		stats := events.Stats()
		b.ReportMetric(float64(stats.Lost)/float64(b.N), "lost/op")
	})
}

// BenchmarkShadowedCheck is the same with a policy in the shadow: what the request pays,
// and, with all that was not left out, the machine.
func BenchmarkShadowedCheck(b *testing.B) {
	usual := audit.Tee{audit.NewMetrics(prometheus.NewRegistry()), audit.NewRing(10_000)}
	run := func(b *testing.B, keepUp bool) {
		ask, p := warmChecker(b, usual, nil, ", shadow: {path: policy}")
		ask()
		b.ReportAllocs()
		for n := uint64(1); b.Loop(); n++ {
			ask()
			for stats := p.shadow.Stats(); keepUp && n > 1000+stats.Compared+stats.Lost; stats = p.shadow.Stats() {
				runtime.Gosched()
			}
		}
		stats := p.shadow.Stats()
		b.ReportMetric(float64(stats.Lost)/float64(b.N), "lost/op")
		if stats.Different != 0 {
			b.Error(stats.Last[0])
		}
	}
	b.Run("as fast as it goes", func(b *testing.B) { run(b, false) })
	b.Run("all compared", func(b *testing.B) { run(b, true) })
}

// BenchmarkEvent is what one event costs, off the path of requests.
func BenchmarkEvent(b *testing.B) {
	var kept *audit.Record
	ask, p := warmChecker(b, recorderFunc(func(r *audit.Record) {
		own, in := *r, *r.Input
		attributes, request := *in.Attributes, *in.Request
		in.Attributes, in.Request = &attributes, &request
		own.Input, kept = &in, &own
	}), nil)
	ask()
	cfg := &DecisionEvents{File: &EventFile{Path: strictyaml.Path(filepath.Join(b.TempDir(), "decisions.jsonl"))}}
	cfg.SetDefaults()
	cfg.File.SetDefaults()
	events, err := newEventLog(cfg, func() *policySource { return p.policy }, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		events.Record(kept)
		for n > 1000+events.Stats().Made {
			time.Sleep(time.Millisecond)
		}
	}
	if err := events.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	if lost := events.Stats().Lost; lost > 0 {
		b.Error("lost", lost)
	}
}

type recorderFunc func(*audit.Record)

func (f recorderFunc) Record(r *audit.Record) { f(r) }
