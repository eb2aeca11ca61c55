package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
)

func record(id string, allowed bool) *audit.Record {
	d := policy.Decision{ID: id, Allowed: allowed, Reason: policy.ReasonPolicyDenied, State: policy.StateMirror}
	if allowed {
		d.Reason = policy.ReasonAllowed
	}
	return &audit.Record{
		Time: time.Unix(1, 0), Latency: time.Millisecond, Decision: d,
		Door: "grpc", Method: "GET", Host: "api.test", Path: "/" + id, RequestID: "req-" + id, Caller: "envoy", Found: "header:x-api-key",
	}
}

// The ring keeps the last decisions, whole, and no memory of the request.
func TestRing(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(3)
	for i := range 5 {
		r := record(fmt.Sprint(i), i%2 == 0)
		ring.Record(r)
		r.Path, r.Host = "changed", "changed" // the request's memory is used again
	}
	if _, ok := ring.Find("1"); ok {
		t.Error("a decision that was pushed out is still there")
	}
	if r, ok := ring.Find("3"); !ok || r.Path != "/3" || r.Host != "api.test" || r.RequestID != "req-3" || r.Caller != "envoy" || r.Found != "header:x-api-key" || r.Method != "GET" {
		t.Errorf("%v %+v", ok, r)
	}
	if all := ring.Last(10, nil); len(all) != 3 || all[0].Path != "/4" || all[2].Path != "/2" {
		t.Errorf("%+v", all)
	}
	if denies := ring.Last(10, func(d *policy.Decision) bool { return !d.Allowed }); len(denies) != 1 || denies[0].Path != "/3" {
		t.Errorf("%+v", denies)
	}
	if _, ok := ring.Find(""); ok {
		t.Error("an empty id finds something")
	}
}

// A Tail reads each decision once and in order, and counts what it came too late for.
func TestTail(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(4)
	say := func(from, to int) {
		for i := from; i <= to; i++ {
			ring.Record(record(fmt.Sprint(i), i%2 == 0))
		}
	}
	said := func(tail *audit.Tail, n int, match func(*policy.Decision) bool) string {
		records, lost := tail.Read(n, match)
		var b strings.Builder
		for i := range records {
			b.WriteString(records[i].Path)
		}
		return fmt.Sprint(b.String(), " -", lost)
	}
	denies := func(d *policy.Decision) bool { return !d.Allowed }
	say(1, 2)
	made := 2
	fresh, recent, all := ring.Tail(0, nil), ring.Tail(1, nil), ring.Tail(9, nil)
	for _, step := range []struct {
		tail        *audit.Tail
		n           int
		match       func(*policy.Decision) bool
		more        int // decisions that are made before
		want, about string
	}{
		{fresh, 9, nil, 2, " -0", "a new one begins with what comes"},
		{recent, 9, nil, 2, "/2 -0", "or with the last ones"},
		{all, 1, nil, 2, "/1 -0", "as many as fit"},
		{all, 9, nil, 2, "/2 -0", "and then the others"},
		{all, 9, nil, 2, " -0", "each once"},
		{fresh, 2, nil, 5, "/3/4 -0", "news"},
		{fresh, 9, nil, 8, "/5/6/7/8 -0", "the ring is full"},
		{recent, 9, nil, 8, "/5/6/7/8 -2", "two were overwritten"},
		{all, 9, denies, 9, "/7/9 -3", "a filter"},
		{all, 9, denies, 9, " -0", "which does not see them again"},
		{fresh, 9, nil, 30, "/27/28/29/30 -18", "laps later"},
	} {
		say(made+1, step.more)
		made = max(made, step.more)
		if got := said(step.tail, step.n, step.match); got != step.want {
			t.Errorf("%s: %q, want %q", step.about, got, step.want)
		}
	}
	if got := said(ring.Tail(1, denies), 9, denies); got != "/29 -0" {
		t.Errorf("the last deny: %q", got)
	}
	if records, lost := audit.NewRing(0).Tail(5, nil).Read(5, nil); records != nil || lost != 0 {
		t.Error("a ring of nothing has something", records, lost)
	}
}

// However fast decisions are made, a Tail has read or lost each of them in the end.
func TestTailConcurrent(t *testing.T) {
	t.Parallel()
	const makers, each = 4, 500
	ring := audit.NewRing(16)
	tail := ring.Tail(0, nil)
	var made sync.WaitGroup
	for range makers {
		made.Go(func() {
			for range each {
				ring.Record(record("x", true))
			}
		})
	}
	done := make(chan struct{})
	go func() { made.Wait(); close(done) }()
	seen := uint64(0)
	for over := false; ; {
		records, lost := tail.Read(5, nil)
		seen += uint64(len(records)) + lost
		if over && len(records) == 0 && lost == 0 {
			break
		}
		select {
		case <-done:
			over = true
		default:
		}
	}
	if seen != makers*each {
		t.Errorf("%d of %d", seen, makers*each)
	}
}

func TestRingOfNothing(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(0)
	ring.Record(record("1", true))
	if _, ok := ring.Find("1"); ok || len(ring.Last(1, nil)) != 0 {
		t.Error("a ring of nothing keeps something")
	}
}

func TestRingConcurrent(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(8)
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range 1000 {
				ring.Record(record(fmt.Sprintf("%d-%d", w, i), true))
				for _, r := range ring.Last(8, nil) {
					if r.Path != "/"+r.Decision.ID {
						t.Errorf("mixed: %s %s", r.Path, r.Decision.ID)
						return
					}
				}
			}
		})
	}
	group.Wait()
}

func TestRingDoesNotAllocate(t *testing.T) {
	ring := audit.NewRing(4)
	r := record("1", true)
	for range 8 {
		ring.Record(r)
	}
	if n := testing.AllocsPerRun(100, func() { ring.Record(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// One line a decision, in JSON that a forged path cannot break out of, long
// texts cut, denies only unless asked for more.
func TestLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := audit.NewLog(slog.New(slog.NewJSONHandler(&out, nil)), false)
	r := record("1", false)
	r.Path = "/x\n{\"decision\":\"allow\"}" + strings.Repeat("ä", 300)
	r.RequestID = "\u009b31m\x7f\u202e"
	r.Decision.Verdict = &policy.Verdict{Rule: "data.a.b", File: "a.rego", Line: 7}
	r.Decision.Principal = &policy.Principal{ID: "alice", Method: "api_key", Tenant: "acme"}
	log.Record(r)
	log.Record(record("2", true))
	fault := record("3", false)
	fault.Decision.Reason = policy.ReasonUnavailable
	log.Record(fault)
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	log.Record(record("4", false)) // after the end: left out, no panic

	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"decision_id": "1", "reason": "policy_denied", "principal": "alice", "tenant": "acme", "file": "a.rego", "line": 7.0, "caller": "envoy", "request_id": `\u009b31m\u007f\u202e`} {
		if line[name] != want {
			t.Errorf("%s is %v, want %v", name, line[name], want)
		}
	}
	if path := line["path"].(string); len(path) > 256 || !strings.HasPrefix(path, "/x\n{") || strings.Contains(path, "\uFFFD") {
		t.Errorf("path of %d bytes: %q", len(path), path)
	}
	if !strings.Contains(lines[1], `"level":"ERROR"`) {
		t.Errorf("a fault is not an error: %s", lines[1])
	}
}

// blocked is a writer that takes nothing until it is let go.
type blocked struct{ release chan struct{} }

func (b blocked) Write(p []byte) (int, error) { <-b.release; return len(p), nil }

// A log that cannot keep up never holds up a decision; what is lost is counted.
func TestLogNeverBlocks(t *testing.T) {
	t.Parallel()
	w := blocked{make(chan struct{})}
	log := audit.NewLog(slog.New(slog.NewJSONHandler(w, nil)), true)
	for range 10_000 {
		log.Record(record("1", true))
	}
	if log.Dropped() == 0 {
		t.Error("nothing was dropped")
	}
	close(w.release)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := log.Close(ctx); err != nil {
		t.Error(err)
	}
}

// the metrics say which state a decision needed.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := audit.NewMetrics(reg)
	r := record("1", true)
	r.Decision.Principal = &policy.Principal{Method: "api_key"}
	m.Record(r)
	m.Record(r)
	r.Found = "query:api_key"
	m.Record(r)
	const want = `
# HELP postern_decisions_total Decisions by door, method of authentication, reason, state that they needed (none, mirror, store) and whether the decision cache answered.
# TYPE postern_decisions_total counter
postern_decisions_total{cached="false",door="grpc",method="api_key",reason="allowed",state="mirror"} 3
# HELP postern_query_credentials_total Credentials accepted from a query parameter, on routes that opted in. Each is in somebody's access log.
# TYPE postern_query_credentials_total counter
postern_query_credentials_total 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "postern_decisions_total", "postern_query_credentials_total"); err != nil {
		t.Error(err)
	}
	if n := testing.AllocsPerRun(100, func() { m.Record(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTee(t *testing.T) {
	t.Parallel()
	a, b := audit.NewRing(1), audit.NewRing(1)
	audit.Tee{a, b}.Record(record("1", true))
	_, inA := a.Find("1")
	_, inB := b.Find("1")
	if !inA || !inB {
		t.Error("not recorded everywhere")
	}
}

// The process's own log never holds anybody up either, and keeps order and
// attributes.
func TestAsync(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := audit.NewAsync(slog.NewJSONHandler(&out, nil))
	log := slog.New(a).With("part", "x").WithGroup("g")
	for i := range 3 {
		log.Info("line", "n", i)
	}
	log.Debug("not enabled")
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	log.Info("after the end")
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 3 || !strings.Contains(lines[2], `"part":"x","g":{"n":2}`) {
		t.Errorf("%q", lines)
	}

	w := blocked{make(chan struct{})}
	a = audit.NewAsync(slog.NewJSONHandler(w, nil))
	for range 10_000 {
		slog.New(a).Info("line")
	}
	if a.Dropped() == 0 {
		t.Error("nothing was dropped")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := a.Close(ctx); err == nil {
		t.Error("a blocked log was closed in time")
	}
	close(w.release)
}
