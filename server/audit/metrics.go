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
type Metrics struct {
	decisions *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	inQuery   prometheus.Counter

	handles atomic.Pointer[map[labels]*handles] // copied on write
	mu      sync.Mutex                          // held to write
}

type labels struct {
	door, method string
	reason       policy.Reason
	state        policy.State
	cached       bool
}

type handles struct {
	count   prometheus.Counter
	latency prometheus.Observer
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
			Buckets: []float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1},
		}, []string{"door"}),
		inQuery: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_query_credentials_total",
			Help: "Credentials accepted from a query parameter, on routes that opted in. Each is in somebody's access log.",
		}),
	}
	m.handles.Store(&map[labels]*handles{})
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
	h.latency.Observe(float64(r.Latency) / float64(time.Second))
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
	return &handles{
		count:   m.decisions.WithLabelValues(l.door, l.method, l.reason.String(), string(l.state), cached),
		latency: m.latency.WithLabelValues(l.door),
	}
}
