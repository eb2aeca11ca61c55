package trace

import (
	"maps"
	"slices"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
)

// spanName is that of every check: what differs is in the attributes, so that a backend
// that groups by names has few of them.
const spanName = "postern.check"

// worth is how long a step takes that has a span of its own. Those that wait for somebody
// always take longer.
const worth = 50 * time.Microsecond

// The bits of a span's flags (opentelemetry/proto/trace/v1 SpanFlags).
const (
	flagSampled   = 1
	flagHasRemote = 0x100 // whether the parent is of another process is known
	flagIsRemote  = 0x200
)

// batch makes messages of checks.
type batch struct {
	resource *resourcepb.Resource
	scope    *commonpb.InstrumentationScope
}

func newBatch(cfg *Config, deps Deps) *batch {
	r := &resourcepb.Resource{}
	given := map[string]string{
		"service.name": cfg.ServiceName, "service.version": deps.Version, "service.instance.id": deps.Instance,
		"telemetry.sdk.language": "go", "telemetry.sdk.name": "postern",
	}
	maps.Copy(given, cfg.Attributes)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if given[name] != "" {
			r.Attributes = append(r.Attributes, text(name, given[name]))
		}
	}
	return &batch{r, &commonpb.InstrumentationScope{Name: "github.com/postern-auth/postern", Version: deps.Version}}
}

// message is an export of all the checks. TracesData is on the wire what
// ExportTraceServiceRequest is, and its package brings no gateway along.
func (b *batch) message(all []*checked) *tracepb.TracesData {
	spans := make([]*tracepb.Span, 0, 2*len(all))
	for _, c := range all {
		spans = c.spans(spans)
	}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   b.resource,
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: b.scope, Spans: spans}},
	}}}
}

// spans appends the check's own span and those of its steps.
func (c *checked) spans(to []*tracepb.Span) []*tracepb.Span {
	s := c.span(c.trace.Span, c.trace.Parent, spanName, audit.Lap{To: c.took})
	s.Kind, s.TraceState, s.Attributes = tracepb.Span_SPAN_KIND_SERVER, c.trace.State, c.attributes()
	s.Flags = flagSampled | flagHasRemote
	if c.trace.Parent != (audit.SpanID{}) {
		s.Flags |= flagIsRemote
	}
	if c.reason.Fault() { // a deny is an answer
		s.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: c.reason.String()}
	}
	if c.trace.Linked != (audit.TraceID{}) {
		s.Links = []*tracepb.Span_Link{{TraceId: c.trace.Linked[:], SpanId: c.trace.LinkedSpan[:], Flags: flagHasRemote | flagIsRemote}}
	}
	to = append(to, s)
	for step := audit.StepNone + 1; step < audit.Steps; step++ {
		lap := c.trace.Laps[step]
		if !c.told(step, lap) {
			continue
		}
		below := c.span(newSpan(), c.trace.Span, "postern."+step.String(), lap)
		below.Kind, below.Flags = tracepb.Span_SPAN_KIND_INTERNAL, flagSampled|flagHasRemote
		below.Attributes = c.attributesOf(step)
		to = append(to, below)
	}
	return to
}

// told reports whether a step has a span: one that took long, and an evaluation of the
// policy, whose absence tells that the answer was remembered.
func (c *checked) told(step audit.Step, lap audit.Lap) bool {
	if step == audit.StepDecide && c.asked {
		return !c.cached
	}
	return lap.To-lap.From >= worth
}

func (c *checked) span(id, parent audit.SpanID, name string, lap audit.Lap) *tracepb.Span {
	s := &tracepb.Span{
		TraceId: c.trace.ID[:], SpanId: id[:], Name: name,
		StartTimeUnixNano: uint64(c.at.Add(lap.From).UnixNano()), EndTimeUnixNano: uint64(c.at.Add(lap.To).UnixNano()),
	}
	if parent != (audit.SpanID{}) {
		s.ParentSpanId = parent[:]
	}
	return s
}

// attributes are those of the check. All their values are words of closed sets or of the
// configuration, but the decision's id and what the configuration asks for.
func (c *checked) attributes() []*commonpb.KeyValue {
	word := "deny"
	if c.allowed {
		word = "allow"
	}
	all := []*commonpb.KeyValue{
		text("postern.door", c.door), text("postern.decision", word), text("postern.decision_id", c.id),
		text("postern.reason", c.reason.String()), text("postern.phase", c.phase.String()), text("postern.state", string(c.state)),
		number("http.response.status_code", c.status),
	}
	for _, a := range [][2]string{
		{"http.request.method", c.method}, {"postern.caller", c.caller}, {"postern.route", c.route},
		{"postern.principal.kind", string(c.kind)}, {"postern.principal.method", string(c.proven)}, {"postern.policy.revision", c.revision},
	} {
		if a[1] != "" {
			all = append(all, text(a[0], audit.Tidy(a[1])))
		}
	}
	if c.asked {
		all = append(all, truth("postern.cached", c.cached))
	}
	for _, a := range c.more {
		all = append(all, text(a[0], a[1]))
	}
	return all
}

// attributesOf are those of a step.
func (c *checked) attributesOf(step audit.Step) []*commonpb.KeyValue {
	switch {
	case step == audit.StepProve && c.proven != "":
		return []*commonpb.KeyValue{text("postern.principal.method", string(c.proven))}
	case step == audit.StepDecide && c.revision != "":
		return []*commonpb.KeyValue{text("postern.policy.revision", audit.Tidy(c.revision))}
	case step == audit.StepSpend && c.state == policy.StateStore:
		return []*commonpb.KeyValue{text("postern.state", string(c.state))}
	}
	return nil
}

func text(name, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: name, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

func number(name string, value int) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: name, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(value)}}}
}

func truth(name string, value bool) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: name, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: value}}}
}
