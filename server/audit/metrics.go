package audit

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-auth/postern/policy"
)

// Metrics counts decisions for Prometheus. The handle of each combination of
// labels is looked up once and then found without a lock or an allocation.
//
// Each bucket of the latencies names a decision as its example (an exemplar, which only
// OpenMetrics shows), so that from a slow one it is one step to `postern explain` and to
// the trace. Those cost an allocation or two, so a decision that is part of no trace
// becomes one only where the bucket's last is exampleAge old; how many traces there are
// in a second is bounded elsewhere.
type Metrics struct {
	decisions *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	inQuery   prometheus.Counter

	handles atomic.Pointer[map[labels]*handles] // copied on write
	mu      sync.Mutex                          // held to write
	doors   map[string]*timing
}

type labels struct {
	door, method string
	reason       policy.Reason
	state        policy.State
	cached       bool
}

type handles struct {
	count   prometheus.Counter
	latency *timing
}

// buckets are the upper bounds of the latencies, in seconds.
var buckets = [...]float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1}

// exampleAge is how long an example of a bucket stays at least, unless a traced decision
// takes its place: a trace that is scraped can be looked at.
const exampleAge = 15 * time.Second

// timing is the histogram of one door, and when each bucket got its last example.
type timing struct {
	prometheus.Observer
	exampled [len(buckets) + 1]atomic.Int64 // Unix nanoseconds
}

// record observes one decision.
func (t *timing) record(r *Record) {
	seconds := float64(r.Latency) / float64(time.Second)
	at := 0
	for at < len(buckets) && seconds > buckets[at] {
		at++
	}
	traced := r.Trace != nil && r.Trace.Sampled
	now, last := r.Time.UnixNano(), t.exampled[at].Load()
	if !traced && now-last < int64(exampleAge) || !t.exampled[at].CompareAndSwap(last, now) {
		t.Observe(seconds)
		return
	}
	example := prometheus.Labels{"decision_id": r.Decision.ID}
	if traced {
		example["trace_id"] = r.Trace.ID.String()
	}
	t.Observer.(prometheus.ExemplarObserver).ObserveWithExemplar(seconds, example)
}

// NewMetrics registers the decision metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_decisions_total",
			Help: "Decisions by door, method of authentication, reason, state that they needed (none, mirror, store) and whether the decision cache answered.",
		}, []string{"door", "method", "reason", "state", "cached"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postern_decision_seconds",
			Help:    "Time from reading a request to the answer, without the wire.",
			Buckets: buckets[:],
		}, []string{"door"}),
		inQuery: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_query_credentials_total",
			Help: "Credentials accepted from a query parameter, on routes that opted in. Each is in somebody's access log.",
		}),
	}
	m.handles.Store(&map[labels]*handles{})
	m.doors = map[string]*timing{}
	reg.MustRegister(m.decisions, m.latency, m.inQuery)
	return m
}

// Record implements Recorder.
func (m *Metrics) Record(r *Record) {
	d := &r.Decision
	l := labels{door: r.Door, reason: d.Reason, state: d.State, cached: d.Cached}
	if d.Principal != nil {
		l.method = string(d.Principal.Method)
	}
	h := (*m.handles.Load())[l]
	if h == nil {
		h = m.add(l)
	}
	h.count.Inc()
	h.latency.record(r)
	if strings.HasPrefix(r.Found, "query:") {
		m.inQuery.Inc()
	}
}

// add makes the handles of a combination that is new. There are few: doors,
// methods and reasons are closed sets of the configuration.
func (m *Metrics) add(l labels) *handles {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.handles.Load()
	if h := old[l]; h != nil {
		return h
	}
	h := m.lookup(l)
	next := maps.Clone(old)
	next[l] = h
	m.handles.Store(&next)
	return h
}

func (m *Metrics) lookup(l labels) *handles {
	cached := "false"
	if l.cached {
		cached = "true"
	}
	if m.doors[l.door] == nil {
		m.doors[l.door] = &timing{Observer: m.latency.WithLabelValues(l.door)}
	}
	return &handles{
		count:   m.decisions.WithLabelValues(l.door, l.method, l.reason.String(), string(l.state), cached),
		latency: m.doors[l.door],
	}
}
