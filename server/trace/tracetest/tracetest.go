// Package tracetest is an OpenTelemetry receiver for tests: the service of the protocol's
// own generated code, over gRPC and over HTTP, which keeps what it gets. It can be slow,
// and it can lie.
package tracetest

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Receiver takes exports on loopback until its test ends.
type Receiver struct {
	collectorpb.UnimplementedTraceServiceServer

	// GRPC and HTTP are its endpoints.
	GRPC, HTTP string
	// Answer, if set, takes the place of the answer to an export over gRPC.
	Answer func(ctx context.Context) (*collectorpb.ExportTraceServiceResponse, error)
	// Handler, if set, takes the place of the answer over HTTP.
	Handler http.HandlerFunc

	mu      sync.Mutex
	all     []*tracepb.ResourceSpans
	raw     []byte
	headers []map[string][]string
}

// Start listens. The fields Answer and Handler are set before, or not at all.
func Start(t testing.TB, r *Receiver) *Receiver {
	t.Helper()
	listen := func() net.Listener {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	over, posts := listen(), listen()
	rpc := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(rpc, r)
	web := &http.Server{Handler: http.HandlerFunc(r.post)} //nolint:gosec // of a test
	go func() { _ = rpc.Serve(over) }()
	go func() { _ = web.Serve(posts) }()
	t.Cleanup(func() { rpc.Stop(); _ = web.Close() })
	r.GRPC, r.HTTP = "http://"+over.Addr().String(), "http://"+posts.Addr().String()
	return r
}

// Export implements the service.
func (r *Receiver) Export(ctx context.Context, m *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if r.Answer != nil {
		res, err := r.Answer(ctx)
		if err == nil {
			r.keep(m, md)
		}
		return res, err
	}
	r.keep(m, md)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// post is Export over HTTP.
func (r *Receiver) post(w http.ResponseWriter, q *http.Request) {
	if r.Handler != nil {
		r.Handler(w, q)
		return
	}
	body, err := io.ReadAll(q.Body)
	var m collectorpb.ExportTraceServiceRequest
	if err != nil || q.Method != http.MethodPost || q.URL.Path != "/v1/traces" || q.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, &m) != nil {
		http.Error(w, "no export", http.StatusBadRequest)
		return
	}
	lower := map[string][]string{}
	for name, values := range q.Header {
		lower[strings.ToLower(name)] = values
	}
	r.keep(&m, lower)
	w.Header().Set("Content-Type", "application/x-protobuf")
	answer, _ := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
	_, _ = w.Write(answer)
}

func (r *Receiver) keep(m *collectorpb.ExportTraceServiceRequest, headers map[string][]string) {
	raw, _ := proto.Marshal(m)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, m.GetResourceSpans()...)
	r.raw, r.headers = append(r.raw, raw...), append(r.headers, headers)
}

// Raw is all that was exported, as it stood on the wire.
func (r *Receiver) Raw() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.raw)
}

// Headers are those of each export, names in lower case.
func (r *Receiver) Headers() []map[string][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]map[string][]string(nil), r.headers...)
}

// Span is a span that was exported, with its attributes and those of its resource.
type Span struct {
	*tracepb.Span
	Attributes, Resource map[string]any
}

// Spans are all that were exported, in order.
func (r *Receiver) Spans() (all []Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.all {
		resource := read(of.GetResource().GetAttributes())
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				all = append(all, Span{s, read(s.GetAttributes()), resource})
			}
		}
	}
	return all
}

func read(attributes []*commonpb.KeyValue) map[string]any {
	all := map[string]any{}
	for _, a := range attributes {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			all[a.GetKey()] = v.IntValue
		case *commonpb.AnyValue_BoolValue:
			all[a.GetKey()] = v.BoolValue
		}
	}
	return all
}
