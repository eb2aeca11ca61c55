package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postern-auth/postern/server/audit"
)

// exposed is what a Prometheus that knows OpenMetrics is given.
func exposed(reg *prometheus.Registry) string {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
	return w.Body.String()
}

func traced(id string, t *audit.Trace) *audit.Record {
	r := record(id, true)
	r.Time, r.Trace = time.Unix(1_000_000, 0), t
	return r
}

// A bucket names the last traced decision, or else one that is not too new; and an
// example that somebody may be about to look at stays.
func TestExemplars(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := audit.NewMetrics(reg)
	m.Record(traced("first", nil))
	m.Record(traced("second", nil))
	if text := exposed(reg); !strings.Contains(text, `postern_decision_seconds_bucket{door="grpc",le="0.001"} 2 # {decision_id="first"} 0.001`) {
		t.Errorf("%s", text)
	}
	m.Record(traced("third", &audit.Trace{ID: audit.TraceID{1}, Span: audit.SpanID{2}, Sampled: true}))
	m.Record(traced("fourth", &audit.Trace{ID: audit.TraceID{9}, Span: audit.SpanID{2}})) // nobody keeps it
	slow := traced("slow", nil)
	slow.Latency = 2 * time.Second
	m.Record(slow)
	text := exposed(reg)
	for _, want := range []string{
		`trace_id="01000000000000000000000000000000"`, `decision_id="third"`,
		`postern_decision_seconds_bucket{door="grpc",le="+Inf"} 5 # {decision_id="slow"} 2`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if strings.Contains(text, "fourth") {
		t.Error("an example was replaced too early")
	}
	later := traced("later", nil)
	later.Time = later.Time.Add(16 * time.Second)
	if m.Record(later); !strings.Contains(exposed(reg), `decision_id="later"`) {
		t.Error("an example stays forever")
	}
}

// A decision costs no allocation, but for those few that are an example.
func TestExemplarsCost(t *testing.T) {
	m := audit.NewMetrics(prometheus.NewRegistry())
	r := traced("d", nil)
	m.Record(r)
	if n := testing.AllocsPerRun(1000, func() { m.Record(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Lines of the log, and those of the journal, name the trace.
func TestLogNamesTrace(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := audit.NewLog(slog.New(slog.NewJSONHandler(&b, nil)), true)
	tr := &audit.Trace{ID: audit.TraceID{1}, Span: audit.SpanID{2}, State: "a=b"}
	l.Record(traced("d1", tr))
	*tr = audit.Trace{} // the check is over
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["trace_id"] != "01000000000000000000000000000000" || line["span_id"] != "0200000000000000" {
		t.Errorf("%v %v", err, line)
	}
}

// A step ends where the next one begins.
func TestLaps(t *testing.T) {
	t.Parallel()
	var tr audit.Trace
	tr.Enter(audit.StepProve, 1)
	tr.Enter(audit.StepDecide, 5)
	tr.Enter(audit.StepNone, 9)
	tr.Enter(audit.StepNone, 20)
	if tr.Laps[audit.StepProve] != (audit.Lap{From: 1, To: 5}) || tr.Laps[audit.StepDecide] != (audit.Lap{From: 5, To: 9}) || tr.Laps[audit.StepNone] != (audit.Lap{}) {
		t.Errorf("%v", tr.Laps)
	}
}

// Every step has a name of its own. What is no step has the last one's, and panics nowhere.
func TestStepNames(t *testing.T) {
	t.Parallel()
	var names []string
	for s := audit.StepNone; s < audit.Steps; s++ {
		names = append(names, s.String())
	}
	if want := []string{"none", "prove", "decide", "sign", "spend", "agree", "record"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if got := audit.Step(200).String(); got != "record" {
		t.Error(got)
	}
}

func BenchmarkMetrics(b *testing.B) {
	for name, tr := range map[string]*audit.Trace{"not traced": nil, "traced": {Sampled: true}} {
		b.Run(name, func(b *testing.B) {
			m := audit.NewMetrics(prometheus.NewRegistry())
			r := traced("d", tr)
			b.ReportAllocs()
			for b.Loop() {
				m.Record(r)
			}
		})
	}
}
