package trace_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/strictyaml"
	"github.com/postern-auth/postern/server/trace"
	"github.com/postern-auth/postern/server/trace/tracetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	theirTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	theirSpan  = "00f067aa0ba902b7"
	kept       = "00-" + theirTrace + "-" + theirSpan + "-01"
	unkept     = "00-" + theirTrace + "-" + theirSpan + "-00"
)

// lab is a Tracer, and what it complains of.
type lab struct {
	*trace.Tracer
	mu   sync.Mutex
	said []string
}

func newLab(t *testing.T, endpoint string, changes ...func(*trace.Config)) *lab {
	t.Helper()
	var cfg trace.Config
	cfg.SetDefaults()
	cfg.Endpoint = endpoint
	for _, change := range changes {
		change(&cfg)
	}
	if err := strictyaml.Check("", cfg.Check); err != nil {
		t.Fatal(err)
	}
	l := &lab{}
	tr, err := trace.New(cfg, trace.Deps{
		Now: func() time.Time { return noon }, Version: "v1.2.3", Instance: "i1",
		Complain: func(err error, lost uint64) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.said = append(l.said, fmt.Sprintf("%v, %d lost", err, lost))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Tracer = tr
	t.Cleanup(l.flush)
	return l
}

func (l *lab) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l.Close(ctx)
}

func (l *lab) complaints() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.said, "\n")
}

func overHTTP(c *trace.Config) { c.Protocol = trace.ProtocolHTTP }

// asked is the context of a gateway's call, with metadata.
func asked(fields ...string) context.Context {
	return metadata.NewIncomingContext(context.Background(), metadata.Pairs(fields...))
}

func sent(fields ...string) *policy.Attributes {
	a := &policy.Attributes{}
	for i := 0; i < len(fields); i += 2 {
		a.Headers = append(a.Headers, policy.Header{Name: fields[i], Value: fields[i+1]})
	}
	return a
}

// check is one check, from its beginning to its record.
func (l *lab) check(ctx context.Context, a *policy.Attributes, change func(*audit.Record)) (audit.Trace, bool) {
	var t audit.Trace
	part := l.Begin(ctx, a, &t)
	r := &audit.Record{
		Time: noon, Latency: 3 * time.Millisecond, Door: "extauthz", Caller: "edge", Method: "GET", Host: "api.test", Path: "/orders/7",
		Decision: policy.Decision{
			ID: "d1", Allowed: true, Reason: policy.ReasonAllowed, Status: 200, Phase: policy.PhaseRecord, State: policy.StateMirror, Revision: "r1",
			Route: &policy.Route{Name: "orders"}, Verdict: &policy.Verdict{Allow: true},
			Principal: &policy.Principal{ID: "ann", Tenant: "acme", Kind: policy.KindUser, Method: policy.MethodJWT},
		},
	}
	if part {
		r.Trace = &t
	}
	if change != nil {
		change(r)
	}
	l.Record(r)
	return t, part
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// One check, over both protocols: a span, one below it for each step that took long, and
// nothing that nobody asked for.
func TestSpans(t *testing.T) {
	t.Parallel()
	for _, protocol := range []trace.Protocol{trace.ProtocolGRPC, trace.ProtocolHTTP} {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			to := tracetest.Start(t, &tracetest.Receiver{})
			l := newLab(t, map[trace.Protocol]string{trace.ProtocolGRPC: to.GRPC, trace.ProtocolHTTP: to.HTTP}[protocol], func(c *trace.Config) {
				c.Protocol, c.Attributes = protocol, map[string]string{"deployment.environment.name": "test"}
				c.Headers = map[string]policy.Secret{"authorization": policy.NewSecret("Basic of-the-receiver")}
				c.Baggage = []string{"tier"}
			})
			l.check(asked("traceparent", kept, "tracestate", "vendor=x", "baggage", "tier=gold,user=ann"), sent("traceparent", "00-"+strings.Repeat("1", 32)+"-"+strings.Repeat("1", 16)+"-01"), func(r *audit.Record) {
				r.Trace.Laps = [audit.Steps]audit.Lap{
					audit.StepProve:  {From: 10 * time.Microsecond, To: 2 * time.Millisecond},
					audit.StepDecide: {From: 2 * time.Millisecond, To: 2*time.Millisecond + 20*time.Microsecond}, // short, but evaluated
					audit.StepSpend:  {From: 2100 * time.Microsecond, To: 2101 * time.Microsecond},               // not worth a span
				}
			})
			l.flush()
			spans := to.Spans()
			if len(spans) != 3 {
				t.Fatalf("%d spans: %v", len(spans), spans)
			}
			s := spans[0]
			if fmt.Sprintf("%x %x", s.GetTraceId(), s.GetParentSpanId()) != theirTrace+" "+theirSpan || s.GetTraceState() != "vendor=x" || s.GetName() != "postern.check" ||
				s.GetKind() != tracepb.Span_SPAN_KIND_SERVER || s.GetFlags() != 0x301 || len(s.GetLinks()) != 0 || s.GetStatus() != nil ||
				s.GetStartTimeUnixNano() != uint64(noon.UnixNano()) || s.GetEndTimeUnixNano() != uint64(noon.Add(3*time.Millisecond).UnixNano()) {
				t.Errorf("%v", s)
			}
			if diff := cmp.Diff(map[string]any{
				"postern.door": "extauthz", "postern.decision": "allow", "postern.decision_id": "d1", "postern.reason": "allowed", "postern.phase": "record",
				"postern.state": "mirror", "http.response.status_code": int64(200), "http.request.method": "GET", "postern.caller": "edge", "postern.route": "orders",
				"postern.principal.kind": "user", "postern.principal.method": "jwt", "postern.policy.revision": "r1", "postern.cached": false, "baggage.tier": "gold",
			}, s.Attributes); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(map[string]any{
				"service.name": "postern", "service.version": "v1.2.3", "service.instance.id": "i1", "deployment.environment.name": "test",
				"telemetry.sdk.language": "go", "telemetry.sdk.name": "postern",
			}, s.Resource); diff != "" {
				t.Error(diff)
			}
			for i, name := range []string{"postern.prove", "postern.decide"} {
				below := spans[i+1]
				if below.GetName() != name || string(below.GetParentSpanId()) != string(s.GetSpanId()) || string(below.GetTraceId()) != string(s.GetTraceId()) || below.GetKind() != tracepb.Span_SPAN_KIND_INTERNAL {
					t.Errorf("%v", below)
				}
			}
			if p := spans[1]; p.GetEndTimeUnixNano()-p.GetStartTimeUnixNano() != 1990_000 || p.GetStartTimeUnixNano() != uint64(noon.UnixNano())+10_000 {
				t.Errorf("%v", p)
			}
			if h := to.Headers(); len(h) != 1 || h[0]["authorization"][0] != "Basic of-the-receiver" || !strings.Contains(h[0]["user-agent"][0], "postern") {
				t.Errorf("%v", h)
			}
			if st := l.Stats(); st != (trace.Stats{Sent: 1}) {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A fault is an error, a deny is none; a decision that was remembered has no evaluation;
// and what the configuration includes is there, tidied.
func TestWhatIsSaid(t *testing.T) {
	t.Parallel()
	to := tracetest.Start(t, &tracetest.Receiver{})
	l := newLab(t, to.GRPC, func(c *trace.Config) {
		c.Include = []trace.Detail{trace.DetailTenant, trace.DetailPrincipal, trace.DetailHost, trace.DetailPath, trace.DetailClient}
	})
	secret := "pst_live_" + strings.Repeat("a", 12) + "_" + strings.Repeat("b", 49)
	l.check(context.Background(), sent(), func(r *audit.Record) {
		r.Decision.Allowed, r.Decision.Reason, r.Decision.Status = false, policy.ReasonUnavailable, 503
		r.Decision.Verdict, r.Decision.Detail, r.Decision.Phase = nil, "a detail that helps attackers", policy.PhaseProve
		r.Trace.Laps[audit.StepProve] = audit.Lap{To: time.Second}
	})
	l.check(context.Background(), sent(), func(r *audit.Record) {
		r.Decision.Allowed, r.Decision.Reason, r.Decision.Status, r.Decision.Cached = false, policy.ReasonPolicyDenied, 403, true
		r.Path, r.Host, r.Method = "/keys/"+secret+"/\x1b[31m\u202e"+string([]byte{0xff}), strings.Repeat("x", 1000), "BREW"
		r.Trace.Laps[audit.StepDecide] = audit.Lap{To: time.Second}
	})
	l.flush()
	spans := to.Spans()
	if len(spans) != 3 {
		t.Fatal(spans)
	}
	if spans[0].GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || spans[0].GetStatus().GetMessage() != "dependency_unavailable" || spans[1].GetName() != "postern.prove" {
		t.Errorf("%v", spans[0])
	}
	for name, want := range map[string]string{"postern.tenant": "acme", "postern.principal": "ann", "server.address": "api.test", "url.path": "/orders/7"} {
		if spans[0].Attributes[name] != want {
			t.Errorf("%s: %v", name, spans[0].Attributes[name])
		}
	}
	denied := spans[2]
	if denied.GetStatus() != nil || denied.Attributes["postern.cached"] != true || denied.Attributes["http.request.method"] != "_OTHER" || denied.Attributes["postern.decision"] != "deny" {
		t.Errorf("%v", denied)
	}
	if path := denied.Attributes["url.path"].(string); path != "/keys/pst_live_[secret]/ [31m\\u202e\ufffd" {
		t.Errorf("%q", path)
	}
	if host := denied.Attributes["server.address"].(string); len(host) != 256 {
		t.Errorf("%d bytes of a host", len(host))
	}
	for _, never := range []string{secret[20:], "attackers"} {
		if strings.Contains(to.Raw(), never) {
			t.Errorf("%q was exported", never)
		}
	}
}

// Who is believed: gateways are, clients are not, unless the configuration says otherwise.
func TestBelief(t *testing.T) {
	t.Parallel()
	believes := func(gateways, clients trace.Belief, ratio float64) func(*trace.Config) {
		return func(c *trace.Config) { c.Gateways, c.Clients, c.SampleRatio = gateways, clients, ratio }
	}
	gateway, client := asked("traceparent", kept), sent("traceparent", kept)
	for name, c := range map[string]struct {
		cfg                          func(*trace.Config)
		ctx                          context.Context
		a                            *policy.Attributes
		part, kept, theirs, isLinked bool
	}{
		"a gateway's":                     {believes("adopt", "link", 0), gateway, sent(), true, true, true, false},
		"a gateway's that is not kept":    {believes("adopt", "link", 1), asked("traceparent", unkept), client, true, false, true, false},
		"a gateway's before a client's":   {believes("adopt", "link", 1), gateway, sent("traceparent", "00-"+strings.Repeat("2", 32)+"-"+theirSpan+"-01"), true, true, true, false},
		"a gateway's, linked":             {believes("link", "link", 1), gateway, sent(), true, true, false, true},
		"a gateway's, ignored":            {believes("ignore", "ignore", 1), gateway, client, true, true, false, false},
		"a gateway's, two of them":        {believes("adopt", "ignore", 1), asked("traceparent", kept, "traceparent", kept), sent(), true, true, false, false},
		"a gateway's that is none":        {believes("adopt", "link", 0), asked("traceparent", "00-x"), sent(), false, false, false, false},
		"a client's":                      {believes("adopt", "link", 1), context.Background(), client, true, true, false, true},
		"a client's flag decides nothing": {believes("adopt", "link", 0), context.Background(), client, false, false, false, false},
		"a client's, adopted":             {believes("adopt", "adopt", 0), context.Background(), client, true, true, true, false},
		"a client's, two of them":         {believes("adopt", "adopt", 0), context.Background(), sent("traceparent", kept, "traceparent", kept), false, false, false, false},
		"nobody's":                        {believes("adopt", "adopt", 1), context.Background(), sent(), true, true, false, false},
		"nobody's, none kept":             {believes("adopt", "adopt", 0), context.Background(), sent(), false, false, false, false},
	} {
		l := newLab(t, "http://127.0.0.1:1", c.cfg)
		var got audit.Trace
		part := l.Begin(c.ctx, c.a, &got)
		if part != c.part || got.Sampled != c.kept || (got.ID.String() == theirTrace && got.Parent.String() == theirSpan) != c.theirs ||
			(got.Linked.String() == theirTrace && got.LinkedSpan.String() == theirSpan) != c.isLinked {
			t.Errorf("%s: %v %+v", name, part, got)
		}
		if part && (got.Span == audit.SpanID{} || got.ID == audit.TraceID{}) {
			t.Errorf("%s: no ids", name)
		}
	}
}

// A client's baggage and its tracestate do not get in but with its trace.
func TestNoBaggageOfClients(t *testing.T) {
	t.Parallel()
	to := tracetest.Start(t, &tracetest.Receiver{})
	l := newLab(t, to.GRPC, func(c *trace.Config) { c.Clients, c.Baggage = trace.Adopt, []string{"user"} })
	l.check(context.Background(), sent("traceparent", kept, "tracestate", "a=b", "baggage", "user=root"), nil)
	l.flush()
	if s := to.Spans(); len(s) == 0 || s[0].GetTraceState() != "a=b" || s[0].Attributes["baggage.user"] != nil {
		t.Errorf("%v", s)
	}
}

// The ratio is kept to, and decided on the trace's own id, as others decide it.
func TestRatio(t *testing.T) {
	t.Parallel()
	l := newLab(t, "http://127.0.0.1:1", func(c *trace.Config) { c.SampleRatio, c.MaxPerSecond = 0.25, 10_000 })
	n := 0
	for range 20_000 {
		var got audit.Trace
		if l.Begin(context.Background(), sent(), &got) {
			n++
			if got.ID[8]>>1 >= 0x20 {
				t.Fatalf("%s is not among the first quarter", got.ID)
			}
		}
	}
	if n < 4_000 || n > 6_000 {
		t.Errorf("%d of 20,000 at a quarter", n)
	}
}

// However many traces clients and gateways ask to be kept, there are no more than
// configured, and neither takes the other's place.
func TestLimited(t *testing.T) {
	t.Parallel()
	l := newLab(t, "http://127.0.0.1:1", func(c *trace.Config) { c.MaxPerSecond = 10 })
	count := func(ctx context.Context) (n int) {
		for range 1000 {
			var got audit.Trace
			if l.Begin(ctx, sent(), &got); got.Sampled {
				n++
			}
		}
		return n
	}
	if adopted, own := count(asked("traceparent", kept)), count(context.Background()); adopted != 10 || own != 10 || l.Stats().Limited != 1980 {
		t.Errorf("%d and %d, %+v", adopted, own, l.Stats())
	}
}

// A receiver that is away, slow or against us delays nobody: Record returns, the queue
// stays bounded, what does not fit is counted, and the end comes in time.
func TestBadReceivers(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	nobody, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := nobody.Addr().String()
	_ = nobody.Close()
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, endpoint := range map[string]func(*trace.Config) string{
		"nobody, gRPC": func(*trace.Config) string { return "http://" + gone },
		"nobody, HTTP": func(c *trace.Config) string { overHTTP(c); return "http://" + gone },
		"silent, gRPC": func(*trace.Config) string { return "http://" + silent.Addr().String() },
		"silent, HTTP": func(c *trace.Config) string { overHTTP(c); return "http://" + silent.Addr().String() },
		"TLS, gRPC":    func(*trace.Config) string { return "https://" + silent.Addr().String() },
		"hanging, gRPC": func(*trace.Config) string {
			return tracetest.Start(t, &tracetest.Receiver{Answer: func(ctx context.Context) (*collectorpb.ExportTraceServiceResponse, error) {
				select {
				case <-hang:
				case <-ctx.Done():
				}
				return nil, ctx.Err()
			}}).GRPC
		},
		"hanging, HTTP": func(c *trace.Config) string {
			overHTTP(c)
			return tracetest.Start(t, &tracetest.Receiver{Handler: func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				select {
				case <-hang:
				case <-r.Context().Done():
				}
			}}).HTTP
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "http://127.0.0.1:1", func(c *trace.Config) {
				c.Endpoint, c.Queue, c.Timeout, c.MaxPerSecond = endpoint(c), 64, 100*time.Millisecond, 10_000
			})
			for range 5000 {
				l.check(context.Background(), sent(), nil)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			l.Close(ctx)
			l.check(context.Background(), sent(), nil) // too late, and no panic
			if st := l.Stats(); st.Dropped == 0 || st.Sent != 0 || st.Dropped+st.Lost != 5000 || st.Err == nil {
				t.Errorf("%+v", st)
			}
		})
	}
}

// What a receiver says is not repeated anywhere: it has seen our headers.
func TestLyingReceivers(t *testing.T) {
	t.Parallel()
	const token = "the-token-of-the-receiver"
	liar := func(text string, code int) *tracetest.Receiver {
		return &tracetest.Receiver{
			Answer: func(context.Context) (*collectorpb.ExportTraceServiceResponse, error) {
				return nil, status.Error(codes.InvalidArgument, text)
			},
			Handler: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "http://127.0.0.1:1/?"+text)
				w.WriteHeader(code)
				_, _ = io.WriteString(w, strings.Repeat(text, 10_000))
			},
		}
	}
	raw := func(answer string) *tracetest.Receiver { // not even HTTP
		return &tracetest.Receiver{Handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, answer)
				_ = conn.Close()
			}
		}}
	}
	for name, c := range map[string]struct {
		to   *tracetest.Receiver
		http bool
		want string
	}{
		"an error that quotes":      {liar(token, 0), false, "the receiver answers InvalidArgument"},
		"a status that quotes":      {liar(token, 400), true, "the receiver answers with status 400"},
		"a redirect":                {liar(token, 307), true, "the receiver answers with status 307"},
		"something else altogether": {raw(token + "\r\n\r\n"), true, "the receiver does not answer"},
		"an answer without end":     {liar(token, 200), true, "the receiver's answer cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tracetest.Start(t, c.to)
			l := newLab(t, c.to.GRPC, func(cfg *trace.Config) {
				cfg.Headers = map[string]policy.Secret{"authorization": policy.NewSecret(token)}
				if c.http {
					cfg.Protocol, cfg.Endpoint = trace.ProtocolHTTP, c.to.HTTP
				}
			})
			l.check(context.Background(), sent(), nil)
			l.flush()
			if said := l.complaints(); !strings.Contains(said, c.want) || strings.Contains(said, token) || strings.Contains(fmt.Sprint(l.Stats().Err), token) {
				t.Errorf("it says %q", said)
			}
			if st := l.Stats(); st.Lost != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A receiver that refuses a part says so, and one that says more than there is gains
// nothing.
func TestPartialSuccess(t *testing.T) {
	t.Parallel()
	to := tracetest.Start(t, &tracetest.Receiver{Answer: func(context.Context) (*collectorpb.ExportTraceServiceResponse, error) {
		return &collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: 1 << 60, ErrorMessage: "no"}}, nil
	}})
	l := newLab(t, to.GRPC)
	l.check(context.Background(), sent(), nil)
	l.flush()
	if st := l.Stats(); st.Refused != 1 || st.Sent != 0 || st.Err == nil || !strings.Contains(l.complaints(), "refuses") {
		t.Errorf("%+v %s", st, l.complaints())
	}
}

// A receiver that is back gets what waited, and both are told, once.
func TestRecovery(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	down := 2
	to := tracetest.Start(t, &tracetest.Receiver{Answer: func(context.Context) (*collectorpb.ExportTraceServiceResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if down--; down >= 0 {
			return nil, status.Error(codes.Unavailable, "not now")
		}
		return &collectorpb.ExportTraceServiceResponse{}, nil
	}})
	l := newLab(t, to.GRPC)
	l.check(context.Background(), sent(), nil)
	eventually(t, "the span arrives", func() bool { return l.Stats().Sent == 1 })
	if said := l.complaints(); said != "the receiver answers Unavailable, 0 lost\n<nil>, 0 lost" {
		t.Errorf("it says %q", said)
	}
	if st := l.Stats(); st.Lost != 0 || st.Err != nil || len(to.Spans()) == 0 {
		t.Errorf("%+v", st)
	}
}

// What waits is sent at the end, in batches.
func TestFlush(t *testing.T) {
	t.Parallel()
	to := tracetest.Start(t, &tracetest.Receiver{})
	l := newLab(t, to.HTTP, overHTTP, func(c *trace.Config) { c.MaxPerSecond = 10_000 })
	for range 2000 {
		l.check(context.Background(), sent(), func(r *audit.Record) { r.Decision.Cached = true })
	}
	l.flush()
	if st := l.Stats(); st.Sent+st.Dropped != 2000 || st.Sent < 1500 || len(to.Spans()) != int(st.Sent) {
		t.Errorf("%+v, %d arrived", st, len(to.Spans()))
	}
}

// Nothing of the request's memory is used after Record: doors use it again.
func TestOwnMemory(t *testing.T) {
	t.Parallel()
	to := tracetest.Start(t, &tracetest.Receiver{})
	l := newLab(t, to.GRPC, func(c *trace.Config) { c.Include = []trace.Detail{trace.DetailPath} })
	l.check(asked("traceparent", kept, "tracestate", "a=b"), sent(), func(r *audit.Record) {})
	l.flush()
	if s := to.Spans(); len(s) == 0 || s[0].Attributes["url.path"] != "/orders/7" {
		t.Error(s)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ yaml, want string }{
		"good":                {"endpoint: https://collector.example.com\n", ""},
		"this machine":        {"endpoint: http://localhost:4317\n", ""},
		"no endpoint":         {"sample_ratio: 1\n", "endpoint"},
		"no URL":              {"endpoint: collector:4317\n", "is not a URL"},
		"plaintext":           {"endpoint: http://collector:4317\n", "leaves this machine in plaintext"},
		"wanted plaintext":    {"endpoint: http://collector:4317\ninsecure_plaintext: true\n", ""},
		"a password":          {"endpoint: https://user:word@collector\n", "a secret cannot stand in this file"},
		"a query":             {"endpoint: https://collector/?key=x\n", "a query or a fragment"},
		"a path":              {"endpoint: https://collector/v1/traces\n", "has a path"},
		"a path, HTTP":        {"endpoint: https://collector/otlp/v1/traces\nprotocol: http\n", ""},
		"a ratio":             {"endpoint: https://collector\nsample_ratio: 1.5\n", "1.5 is out of range"},
		"no number":           {"endpoint: https://collector\nsample_ratio: .nan\n", "sample_ratio"},
		"a rate":              {"endpoint: https://collector\nmax_per_second: 0\n", "0 is out of range"},
		"a queue":             {"endpoint: https://collector\nqueue: 1\n", "1 is out of range"},
		"a time":              {"endpoint: https://collector\ntimeout: 1ms\n", "1ms is out of range"},
		"a name":              {"endpoint: https://collector\nservice_name: \"\"\n", "service_name"},
		"a literal secret":    {"endpoint: https://collector\nheaders: {authorization: abc}\n", "a secret cannot stand in this file"},
		"a header":            {"endpoint: https://collector\nheaders: {Authorization: \"${env:X}\"}\n", "in lower case"},
		"the protocol's own":  {"endpoint: https://collector\nheaders: {grpc-timeout: \"${env:X}\"}\n", "cannot be set"},
		"half a certificate":  {"endpoint: https://collector\nclient_cert_file: a.pem\n", "go together"},
		"a belief":            {"endpoint: https://collector\nclients: sometimes\n", "clients"},
		"a detail":            {"endpoint: https://collector\ninclude: [query]\n", "include"},
		"an entry of baggage": {"endpoint: https://collector\nbaggage: [\"a b\"]\n", "is not the name of an entry"},
	} {
		var file struct {
			Tracing *trace.Config `yaml:"tracing"`
		}
		text := "tracing:\n  " + strings.TrimSuffix(strings.ReplaceAll(c.yaml, "\n", "\n  "), "  ")
		err := strictyaml.Decode("x.yaml", []byte(text), &file, strictyaml.WithEnv(func(string) (string, bool) { return "a value", true }))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "word@"):
			t.Errorf("%s shows the password: %v", name, err)
		}
	}
	if err := trace.Verify(trace.Config{Endpoint: "https://collector", Protocol: trace.ProtocolGRPC, CAFile: "/nonexistent"}); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Error(err)
	}
}

// Begin allocates nothing where a check is not kept.
func TestUnkeptCostsNothing(t *testing.T) {
	l := newLab(t, "http://127.0.0.1:1", func(c *trace.Config) { c.SampleRatio = 0 })
	a, ctx := sent("traceparent", kept), context.Background()
	var into audit.Trace
	if n := testing.AllocsPerRun(1000, func() { l.Begin(ctx, a, &into) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBegin(b *testing.B) {
	var cfg trace.Config
	cfg.SetDefaults()
	cfg.Endpoint, cfg.SampleRatio = "http://127.0.0.1:1", 0
	tr, err := trace.New(cfg, trace.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	defer tr.Close(context.Background())
	a := sent("traceparent", kept)
	for name, ctx := range map[string]context.Context{"not kept": context.Background(), "adopted, not kept": asked("traceparent", unkept)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var t audit.Trace
				tr.Begin(ctx, a, &t)
			}
		})
	}
}
