package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
)

// scribe is a policy of a test.
type scribe struct {
	mask     any
	drop     bool
	inputErr error
	maskErr  error
	dropErr  error
	wait     chan struct{}
	panics   bool
	seen     map[string]any
	noInput  bool
}

func (s *scribe) Revision() string   { return "r7" }
func (s *scribe) Entrypoint() string { return "data.envoy.authz.allow" }
func (s *scribe) Silent() bool       { return false }

func (s *scribe) Input(in *policy.Input) (map[string]any, error) {
	if s.wait != nil {
		<-s.wait
	}
	if s.panics {
		panic("hunter2")
	}
	if s.noInput {
		return nil, errors.New("defective")
	}
	return map[string]any{"request": map[string]any{"path": in.Request.Path, "zones": fmt.Sprint(in.Request.Zones)}, "who": in.Principal.ID, "headers": fmt.Sprint(in.Attributes.Headers)}, s.inputErr
}

func (s *scribe) Mask(_ context.Context, event map[string]any) (any, error) {
	s.seen = event
	return s.mask, s.maskErr
}
func (s *scribe) Drop(context.Context, map[string]any) (bool, error) { return s.drop, s.dropErr }

// lines is a sink that keeps events.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (*lines) Name() string          { return "lines" }
func (*lines) Gather() time.Duration { return 0 }
func (*lines) Close() error          { return nil }
func (l *lines) Write(_ context.Context, events [][]byte) (int, int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		l.all = append(l.all, string(e))
	}
	return len(events), 0, nil
}

func never(string) bool { return false }

// asked is a record with an input, in memory that is used again.
func asked(id string, allowed bool) *audit.Record {
	r := record(id, allowed)
	r.Decision.Principal = &policy.Principal{ID: "ann"}
	r.Decision.Revision, r.Decision.Phase, r.Decision.Status = "r7", policy.PhaseRecord, 200
	r.Decision.Verdict = &policy.Verdict{
		Allow: allowed, Reason: r.Decision.Reason, Message: "m", Rule: "data.x", File: "x.rego", Line: 3, Status: 418,
		UpstreamHeaders: []policy.Header{{Name: "authorization", Value: "hunter2"}}, Metadata: map[string]any{"x": "hunter2"},
		MissingScopes: []string{"s"}, Obligations: []policy.Obligation{{Type: "o", Parameters: map[string]any{"x": "hunter2"}}},
	}
	r.Input = &policy.Input{
		Attributes: &policy.Attributes{Path: "/" + id, Headers: policy.Headers{{Name: "accept", Value: id}}},
		Request:    &policy.Request{Path: "/" + id, Zones: []string{"z" + id}, ClientIP: netip.MustParseAddr("192.0.2.1")},
		Principal:  r.Decision.Principal,
	}
	return r
}

// written runs decisions through a log, and returns its events.
func written(t *testing.T, cfg audit.EventsConfig, records ...*audit.Record) ([]map[string]any, audit.EventStats) {
	t.Helper()
	sink := &lines{}
	cfg.LooksSecret = never
	l := audit.NewEvents(cfg, sink)
	for _, r := range records {
		l.Record(r)
		r.Input.Request.Zones[0], r.Input.Request.Path = "overwritten", "/overwritten" // by the next check
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := make([]map[string]any, len(sink.all))
	for i, text := range sink.all {
		if err := json.Unmarshal([]byte(text), &all[i]); err != nil || strings.Contains(text, "\n") {
			t.Fatal(text, err)
		}
	}
	return all, l.Stats()
}

func policyOf(s *scribe) func() audit.Policy { return func() audit.Policy { return s } }

// G-11: an event is in OPA's format, holds the input as it was, and nothing of what a
// policy hands on to others.
func TestEvent(t *testing.T) {
	t.Parallel()
	cfg := audit.EventsConfig{
		Allows: true, Policy: policyOf(&scribe{}), Labels: audit.NewLabels(map[string]string{"region": "eu"}, "i", "v"),
		Bundles: func() map[string]string { return map[string]string{"shop": "7"} },
	}
	all, stats := written(t, cfg, asked("1", true), asked("2", false))
	if len(all) != 2 || stats.Made != 2 || stats.Sinks[0].Written != 2 {
		t.Fatal(all, stats)
	}
	text, _ := json.Marshal(all[0])
	want := `{"bundles":{"shop":{"revision":"7"}},"decision_id":"1","erased":["/result/headers","/result/dynamic_metadata"],` +
		`"input":{"headers":"[{accept 1}]","request":{"path":"/1","zones":"[z1]"},"who":"ann"},"labels":{"id":"i","region":"eu","version":"v"},` +
		`"metrics":{"timer_server_handler_ns":1000000},"path":"envoy/authz/allow",` +
		`"postern":{"allowed":true,"cached":false,"caller":"envoy","door":"grpc","file":"x.rego","found":"header:x-api-key","http_status":200,"line":3,"phase":"record","reason":"allowed","rule":"data.x","state":"mirror"},` +
		`"result":{"allow":true,"http_status":418,"message":"m","missing_scopes":["s"],"obligations":["o"]},"revision":"r7","timestamp":"1970-01-01T00:00:01Z"}`
	if string(text) != want {
		t.Errorf("%s\n%s", text, want)
	}
	if all[1]["result"].(map[string]any)["reason"] != "policy_denied" {
		t.Error(all[1]["result"])
	}
	if only, _ := written(t, audit.EventsConfig{Policy: policyOf(&scribe{})}, asked("1", true), asked("2", false)); len(only) != 1 || only[0]["decision_id"] != "2" {
		t.Error(only)
	}
}

// A decision that the policy was not asked about has neither path nor result, and a
// fault says so as OPA does.
func TestEventWithoutPolicy(t *testing.T) {
	t.Parallel()
	r := asked("1", false)
	r.Decision.Verdict, r.Decision.Reason, r.Decision.Phase = nil, policy.ReasonUnavailable, policy.PhaseProve
	all, _ := written(t, audit.EventsConfig{Policy: policyOf(&scribe{})}, r)
	e := all[0]
	if e["result"] != nil || e["path"] != nil || e["error"].(map[string]any)["code"] != "dependency_unavailable" || e["postern"].(map[string]any)["phase"] != "prove" {
		t.Error(e)
	}
}

// The policy sees the whole event, and what it masks or drops is masked and dropped.
func TestEventMasked(t *testing.T) {
	t.Parallel()
	s := &scribe{mask: []any{"/input/who", map[string]any{"op": "upsert", "path": "/input/headers", "value": "***"}}}
	all, stats := written(t, audit.EventsConfig{Policy: policyOf(s)}, asked("1", false))
	in := all[0]["input"].(map[string]any)
	if _, there := in["who"]; there || in["headers"] != "***" || stats.Withheld != 0 {
		t.Error(all[0])
	}
	if s.seen["decision_id"] != "1" || s.seen["path"] != "envoy/authz/allow" || s.seen["result"].(map[string]any)["allow"] != false {
		t.Error(s.seen)
	}
	all, stats = written(t, audit.EventsConfig{Policy: policyOf(&scribe{drop: true})}, asked("1", false))
	if len(all) != 0 || stats.Dropped != 1 || stats.Lost != 0 {
		t.Error(all, stats)
	}
}

// If the mask fails, in whatever way, the event is there without what it would have
// hidden; it is counted, and the log says why, once.
func TestEventThatCannotBeMasked(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*scribe{
		"error":     {maskErr: errors.New("too slow")},
		"no mask":   {mask: "yes"},
		"bad rule":  {mask: []any{"/input/who", "oops"}},
		"no input":  {noInput: true},
		"no policy": nil,
	} {
		var log strings.Builder
		cfg := audit.EventsConfig{Policy: func() audit.Policy {
			if s == nil {
				return nil
			}
			return s
		}, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		all, stats := written(t, cfg, asked("1", false), asked("2", false))
		if len(all) != 2 || stats.Withheld != 2 || stats.Lost != 0 {
			t.Errorf("%s: %v %+v", name, all, stats)
			continue
		}
		e := all[1]
		if e["input"] != nil || e["result"] != nil || fmt.Sprint(e["erased"]) != "[/input /result]" || e["decision_id"] != "2" || e["postern"].(map[string]any)["withheld"] != true {
			t.Errorf("%s: %v", name, e)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%s: %d lines: %s", name, n, log.String())
		}
	}
	// A drop rule that fails keeps the event, masked.
	all, stats := written(t, audit.EventsConfig{Policy: policyOf(&scribe{drop: true, dropErr: errors.New("x"), mask: []any{"/input/who"}})}, asked("1", false))
	if len(all) != 1 || all[0]["input"].(map[string]any)["who"] != nil || stats.Withheld != 0 {
		t.Error(all, stats)
	}
	// A body that cannot be read leaves the rest.
	all, _ = written(t, audit.EventsConfig{Policy: policyOf(&scribe{inputErr: errors.New("body")})}, asked("1", false))
	if all[0]["input"] == nil || all[0]["postern"].(map[string]any)["unreadable"] != true {
		t.Error(all)
	}
	// A panic loses one event, and is counted.
	if all, stats = written(t, audit.EventsConfig{Policy: policyOf(&scribe{panics: true})}, asked("1", false)); len(all) != 0 || stats.Lost != 1 {
		t.Error(all, stats)
	}
}

// A log that cannot keep up holds up nobody, holds no more memory than it may, and counts
// what it lost.
func TestEventsNeverBlock(t *testing.T) {
	t.Parallel()
	wait := make(chan struct{})
	l := audit.NewEvents(audit.EventsConfig{Allows: true, Policy: policyOf(&scribe{wait: wait}), LooksSecret: never})
	const many = 6000
	for i := range many {
		l.Record(asked(fmt.Sprint(i), true))
	}
	few := l.Stats().Lost
	if few < 1000 || few > many-4096 {
		t.Error(few)
	}
	large := asked("large", true)
	large.Input.Attributes.Body = make([]byte, 64<<20)
	l.Record(large)
	if l.Stats().Lost != few+1 {
		t.Error("a body of 64 MiB waits")
	}
	close(wait)
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if s := l.Stats(); s.Made+s.Lost != many+1 {
		t.Errorf("%+v", s)
	}
	l.Record(asked("late", true))
	without := asked("x", true)
	without.Input = nil
	l.Record(without)
	if s := l.Stats(); s.Made+s.Lost != many+1 {
		t.Errorf("%+v", s)
	}
}
