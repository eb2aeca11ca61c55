// Package trace tells an OpenTelemetry receiver (OTLP) about checks: one span for each
// that is sampled, and one below it for each step that took long.
//
// Everything that a span says is known when its check ends, so nothing of a span exists
// before. At the start, Begin only finds out of which trace the check is a part and
// whether it is kept; the conductor (server/check) then notes when each step begins, in
// a value that is a part of the check itself; and Record, a Recorder like the log and the
// metrics, copies what the span needs into a bounded queue. One goroutine makes the spans,
// in batches, and sends them. So a check that is not kept costs no allocation and no
// clock, and one that is kept costs one copy; what does not fit into the queue is dropped
// and counted, and nobody waits for the receiver.
//
//	Begin    traceparent of the gateway, else of the client  → adopt, link or ignore
//	         adopted: its flag; else: the ratio              → kept, at most so many a second
//	Record   kept                                            → queue, or dropped
//	sender   up to 512 checks or a second                    → one export
//
// Of the OpenTelemetry modules, it uses the generated types of the protocol alone. The
// SDK makes spans while a request waits, reads its settings from the environment, where
// nobody sees them, and reports errors to a handler of the process.
//
// # What is believed
//
// A trace that somebody names is joined (adopt) only where they are believed. Others are
// named in a link: the trace of the check begins here, and shows where it came from.
// Whoever asks, no more than MaxPerSecond are kept.
//
// # What is in a span
//
// Words of closed sets and of the configuration: the door, the decision and its reason,
// the route, the revision of the policy. Never a header field, a query, a body or the
// detail of a refusal; a path, a host or a name of somebody only where the configuration
// asks for it (Include), and then cut and scrubbed. Errors of the receiver are told by
// their number: its words are not repeated, since it has seen our headers.
package trace

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
)

// The header fields of W3C Trace Context and Baggage, which are also their names in the
// metadata of gRPC.
const (
	parentField  = "traceparent"
	stateField   = "tracestate"
	baggageField = "baggage"
)

// Fields are those header fields: whoever makes the metadata of a call out of an HTTP
// request of the gateway's own has to take them along.
func Fields() [3]string { return [...]string{parentField, stateField, baggageField} }

// Deps are what a Tracer needs besides its Config.
type Deps struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Version is that of the program, and Instance names this start of it.
	Version, Instance string
	// Complain is told when exports begin to fail, at most once a minute while they do,
	// and with a nil error when they work again; nil for nobody. It is called by one
	// goroutine.
	Complain func(err error, lost uint64)
}

// Stats count checks that were kept, by what became of them.
type Stats struct {
	// Sent were taken by the receiver. Refused, it did not want; its answer says so.
	Sent, Refused uint64
	// Dropped did not fit into the queue, and Lost could not be sent.
	Dropped, Lost uint64
	// Limited would have been kept, but for MaxPerSecond.
	Limited uint64
	// Err is what is wrong with the receiver; nil if nothing is.
	Err error
}

// Tracer decides which checks are kept, and sends them. It is safe for concurrent use.
type Tracer struct {
	cfg     Config
	now     func() time.Time
	bound   uint64 // random numbers below it are kept
	roots   pace
	adopted pace
	limited atomic.Uint64
	include map[Detail]bool
	sender  *sender
}

// New returns a Tracer and starts its goroutine. Close ends it. Nothing is connected to
// before there is something to send.
func New(cfg Config, deps Deps) (*Tracer, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	to, err := newReceiver(&cfg)
	if err != nil {
		return nil, err
	}
	t := &Tracer{cfg: cfg, now: deps.Now, bound: boundOf(cfg.SampleRatio), include: map[Detail]bool{}}
	for _, d := range cfg.Include {
		t.include[d] = true
	}
	each := int64(time.Second) / int64(max(cfg.MaxPerSecond, 1))
	t.roots.each, t.adopted.each = each, each
	t.sender = newSender(to, newBatch(&cfg, deps), cfg.Queue, cfg.Timeout, deps.Complain)
	return t, nil
}

// Verify reads the files that a Config names.
func Verify(cfg Config) error {
	to, err := newReceiver(&cfg)
	if err == nil {
		to.close()
	}
	return err
}

// boundOf is the number below which a ratio of all numbers of 63 bits lies.
func boundOf(ratio float64) uint64 {
	if ratio >= 1 {
		return 1 << 63
	}
	return uint64(max(ratio, 0) * math.MaxInt64)
}

// Stats returns the counts so far. A nil Tracer has none.
func (t *Tracer) Stats() Stats {
	if t == nil {
		return Stats{}
	}
	s := t.sender.stats()
	s.Limited = t.limited.Load()
	return s
}

// Close sends what waits and ends the goroutine, or gives up with ctx; what was not sent
// then is lost. Checks that end later are left out.
func (t *Tracer) Close(ctx context.Context) { t.sender.close(ctx) }

// Begin implements check.Tracer.
func (t *Tracer) Begin(ctx context.Context, a *policy.Attributes, into *audit.Trace) bool {
	from, belief := t.gatewayOf(ctx)
	gateway := belief != Ignore
	if !gateway {
		from, belief = t.clientOf(a)
	}
	if belief == Adopt {
		into.ID, into.Parent = from.trace, from.span
		into.Sampled = from.sampled && t.paced(&t.adopted)
		if into.Sampled {
			t.carry(ctx, a, gateway, into)
		}
		into.Span = newSpan()
		return true
	}
	low := rand.Uint64() // an id names, and proves nothing
	if low>>1 >= t.bound || !t.paced(&t.roots) {
		return false
	}
	binary.BigEndian.PutUint64(into.ID[:8], rand.Uint64()|1) // never zero
	binary.BigEndian.PutUint64(into.ID[8:], low)
	into.Span, into.Sampled = newSpan(), true
	into.Linked, into.LinkedSpan = from.trace, from.span
	return true
}

func newSpan() (id audit.SpanID) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1) // never zero
	return id
}

// gatewayOf is the trace of whoever asks, and what it counts for.
func (t *Tracer) gatewayOf(ctx context.Context) (remote, Belief) {
	if t.cfg.Gateways == Ignore {
		return remote{}, Ignore
	}
	return believe(metadata.ValueFromIncomingContext(ctx, parentField), t.cfg.Gateways)
}

// clientOf is the trace in the checked request, and what it counts for.
func (t *Tracer) clientOf(a *policy.Attributes) (remote, Belief) {
	if t.cfg.Clients == Ignore {
		return remote{}, Ignore
	}
	text, n := a.Headers.Get(parentField)
	if r, ok := parseParent(text); ok && n == 1 {
		return r, t.cfg.Clients
	}
	return remote{}, Ignore
}

// believe reads the one traceparent; of two, neither counts (section 3.2.1).
func believe(fields []string, b Belief) (remote, Belief) {
	if len(fields) == 1 {
		if r, ok := parseParent(fields[0]); ok {
			return r, b
		}
	}
	return remote{}, Ignore
}

// carry takes along what else comes with an adopted trace. Only gateways are asked for
// baggage: a client could write anything there.
func (t *Tracer) carry(ctx context.Context, a *policy.Attributes, gateway bool, into *audit.Trace) {
	if !gateway {
		if state, n := a.Headers.Get(stateField); n == 1 {
			into.State = cleanState(state)
		}
		return
	}
	into.State = cleanState(strings.Join(metadata.ValueFromIncomingContext(ctx, stateField), ","))
	if len(t.cfg.Baggage) > 0 {
		into.Baggage = metadata.ValueFromIncomingContext(ctx, baggageField)
	}
}

func (t *Tracer) paced(p *pace) bool {
	if p.take(t.now().UnixNano()) {
		return true
	}
	t.limited.Add(1)
	return false
}

// pace lets so many through in a second, at first as many at once (GCRA).
type pace struct {
	each int64 // nanoseconds
	next atomic.Int64
}

func (p *pace) take(now int64) bool {
	for {
		next := p.next.Load()
		at := max(next, now-int64(time.Second)+p.each)
		if at > now {
			return false
		}
		if p.next.CompareAndSwap(next, at+p.each) {
			return true
		}
	}
}

// Record implements audit.Recorder.
func (t *Tracer) Record(r *audit.Record) {
	if r.Trace == nil || !r.Trace.Sampled {
		return
	}
	t.sender.put(func() *checked { return t.keep(r) })
}

// checked is what a span says of a check. It shares no memory with the request.
type checked struct {
	at    time.Time
	took  time.Duration
	trace audit.Trace

	door, caller, id, method, route, revision string
	reason                                    policy.Reason
	phase                                     policy.Phase
	state                                     policy.State
	allowed, cached, asked                    bool
	status                                    int
	kind                                      policy.Kind
	proven                                    policy.Method
	// More is what the configuration asks for, and the baggage.
	more [][2]string
}

// keep copies what the span needs of a record.
func (t *Tracer) keep(r *audit.Record) *checked {
	d := &r.Decision
	c := &checked{
		at: r.Time, took: r.Latency, trace: *r.Trace,
		door: r.Door, caller: strings.Clone(r.Caller), id: d.ID, method: knownMethod(r.Method), revision: d.Revision,
		reason: d.Reason, phase: d.Phase, state: d.State, allowed: d.Allowed, cached: d.Cached,
		asked: d.Verdict != nil || d.Phase == policy.PhaseDecide, status: d.Status,
	}
	c.trace.State, c.trace.Baggage = strings.Clone(r.Trace.State), nil
	if d.Route != nil {
		c.route = d.Route.Name
	}
	if p := d.Principal; p != nil {
		c.kind, c.proven = p.Kind, p.Method
		c.add(t.include[DetailTenant], "postern.tenant", p.Tenant)
		c.add(t.include[DetailPrincipal], "postern.principal", p.ID)
	}
	c.add(t.include[DetailHost], "server.address", r.Host)
	c.add(t.include[DetailPath], "url.path", r.Path)
	if t.include[DetailClient] && r.ClientIP.IsValid() {
		c.add(true, "client.address", r.ClientIP.String())
	}
	for _, entry := range readBaggage(r.Trace.Baggage, t.cfg.Baggage) {
		c.add(true, "baggage."+entry[0], entry[1])
	}
	return c
}

func (c *checked) add(wanted bool, name, value string) {
	if wanted && value != "" {
		c.more = append(c.more, [2]string{name, audit.Tidy(value)})
	}
}

// knownMethod is the method, if it is one that HTTP knows: any other could be anything
// that a client likes (OpenTelemetry, http.request.method).
func knownMethod(m string) string {
	known := [...]string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY"}
	if i := slices.Index(known[:], m); i >= 0 {
		return known[i]
	}
	if m == "" {
		return ""
	}
	return "_OTHER"
}
