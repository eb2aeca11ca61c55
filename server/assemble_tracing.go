package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/trace"
)

// tracer sends spans of checks to an OpenTelemetry receiver.
type tracer struct {
	*trace.Tracer
	cfg trace.Config
}

// flushTime is how long a tracer that ends may go on sending what waits.
const flushTime = 2 * time.Second

// assembleTracer keeps the tracer if nothing about it changed.
func assembleTracer(cfg *Config, prev *parts, env surroundings) (*tracer, error) {
	switch {
	case cfg.Tracing == nil || env.offline:
		return nil, nil
	case prev.tracer != nil && reflect.DeepEqual(prev.tracer.cfg, *cfg.Tracing):
		return prev.tracer, nil
	}
	if names := unreadVariables(os.Environ()); len(names) > 0 && prev.tracer == nil {
		env.log.Warn("the environment's settings of OpenTelemetry are not read: the section `tracing` says it all", "variables", names)
	}
	t, err := trace.New(*cfg.Tracing, trace.Deps{
		Now: env.now, Version: version(), Instance: rand.Text(),
		Complain: func(err error, lost uint64) { complainOfReceiver(env.log, err, lost) },
	})
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return &tracer{t, *cfg.Tracing}, nil
}

// verifyTracing reads the files that the section names.
func verifyTracing(cfg *Config) error {
	if cfg.Tracing == nil {
		return nil
	}
	if err := trace.Verify(*cfg.Tracing); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}

func complainOfReceiver(log *slog.Logger, err error, lost uint64) {
	if err == nil {
		log.Info("traces are sent again", "lost", lost)
		return
	}
	log.Warn("traces cannot be sent; decisions do not depend on them", "error", err, "lost", lost)
}

// unreadVariables are the names of the environment variables that would configure
// tracing elsewhere.
func unreadVariables(environ []string) (names []string) {
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		for _, prefix := range []string{"OTEL_EXPORTER_OTLP_", "OTEL_TRACES_", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_BSP_", "OTEL_PROPAGATORS", "OTEL_SDK_DISABLED"} {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
				break
			}
		}
	}
	slices.Sort(names)
	return names
}

// tracerOrNone is the tracer in the words of the checker.
func (p *parts) tracerOrNone() check.Tracer {
	if p.tracer == nil {
		return nil
	}
	return p.tracer
}

// recorder adds the tracer to what is told of decisions.
func (t *tracer) recorder(others audit.Recorder) audit.Recorder {
	switch {
	case t == nil:
		return others
	case others == nil:
		return t.Tracer
	}
	return audit.Tee{others, t.Tracer}
}

// close sends what waits.
func (t *tracer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	t.Close(ctx)
}

// condition never makes a replica unready: its answers do not depend on who hears of
// them.
func (t *tracer) condition() admin.Condition {
	c := admin.Condition{Name: "tracing", Ready: true}
	if err := t.Stats().Err; err != nil {
		c.Detail = err.Error()
	}
	return c
}
