package server

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/jose"
)

// eventLog is the decision log in OPA's format.
type eventLog struct {
	*audit.Events
	inForce func() *policySource
	cfg     *DecisionEvents
	log     *slog.Logger

	// What was last asked, of the one goroutine that makes events.
	snapshot *rego.Snapshot
	scribe   audit.Policy
}

// newEventLog opens the sinks. In force is the policy in force, nil before there is one.
func newEventLog(cfg *DecisionEvents, inForce func() *policySource, log *slog.Logger, now func() time.Time) (*eventLog, error) {
	var sinks []audit.Sink
	if cfg.Service != nil {
		to, err := bundle.NewUploader(*cfg.Service)
		if err != nil {
			return nil, fmt.Errorf("decisions.events.service: %w", err)
		}
		sinks = append(sinks, audit.NewService(audit.ServiceConfig{Limit: int(cfg.Service.ChunkSize), Delay: cfg.Service.Delay}, to))
	}
	if f := cfg.File; f != nil {
		file, err := audit.NewFile(audit.FileConfig{Path: string(f.Path), MaxSize: int64(f.MaxSize), MaxAge: f.MaxAge, Keep: f.Keep, Now: now})
		if err != nil {
			return nil, fmt.Errorf("decisions.events.file: %w", err)
		}
		sinks = append(sinks, file)
	}
	if cfg.Stdout {
		sinks = append(sinks, audit.NewStream("stdout", os.Stdout))
	}
	l := &eventLog{inForce: inForce, cfg: cfg, log: log}
	l.Events = audit.NewEvents(audit.EventsConfig{
		Allows: cfg.Which != EventsDenies, Query: cfg.Query, Body: cfg.Body,
		Labels: audit.NewLabels(cfg.Labels, rand.Text(), version()), LooksSecret: looksSecret,
		Policy: l.policy, Bundles: l.bundles, Logger: log,
	}, sinks...)
	return l, nil
}

// looksSecret also knows the header fields that carry credentials under names of their
// own.
func looksSecret(name string) bool {
	switch name = strings.ToLower(name); name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "dpop", "x-forwarded-client-cert", "client-cert", "client-cert-chain", "sec-websocket-key":
		return true
	}
	return jose.LooksSecret(name)
}

// policy answers for the policy in force. It is asked by one goroutine.
func (l *eventLog) policy() audit.Policy {
	source := l.inForce()
	if source == nil || source.Snapshot() == nil {
		return nil
	}
	if s := source.Snapshot(); s != l.snapshot {
		l.snapshot, l.scribe = s, nil
		scribe, err := s.Scribe(l.cfg.Mask, l.cfg.Drop)
		if err != nil {
			l.log.Error("the policy's rules for the decision log cannot be asked; decisions are logged without their input", "error", err)
			return nil
		}
		l.scribe = scribe
	}
	return l.scribe // nil, if it could not be made
}

func (l *eventLog) bundles() map[string]string {
	source := l.inForce()
	if source == nil || source.bundles == nil {
		return nil
	}
	all := map[string]string{}
	for _, b := range source.bundles.Status() {
		all[b.Name] = b.Revision
	}
	return all
}

// condition never makes a replica unready: its answers do not depend on who reads
// about them.
func (l *eventLog) condition() admin.Condition {
	c := admin.Condition{Name: "decision log", Ready: true}
	for _, sink := range l.Stats().Sinks {
		if sink.Err != nil {
			c.Detail = fmt.Sprintf("%s: %v", sink.Name, sink.Err)
		}
	}
	return c
}

func (s *Server) policyInForce() *policySource {
	if p := s.current.Load(); p != nil {
		return p.policy
	}
	return nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}
