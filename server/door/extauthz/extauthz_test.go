package extauthz

import (
	stdbytes "bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/vectortest"
)

// asked is a Checker that notes what it was asked and answers with a function.
type asked struct {
	answer func(*policy.Attributes) policy.Decision

	mu   sync.Mutex
	last policy.Attributes
}

func (c *asked) Check(_ context.Context, a *policy.Attributes) policy.Decision {
	c.mu.Lock()
	c.last = *a
	c.mu.Unlock()
	return c.answer(a)
}

// strict denies what has no method and path, as every Checker does.
func strict(a *policy.Attributes) policy.Decision {
	if a.Method == "" || a.Path == "" {
		return refuse(policy.ReasonRequestInvalid)
	}
	return allowed
}

func yes(*policy.Attributes) policy.Decision { return allowed }

// G-01: the outcomes over a real connection, each a CheckResponse with OK from
// gRPC itself.
func TestCheckMatrix(t *testing.T) {
	t.Parallel()
	outcomes := map[string]policy.Decision{
		"none":    refuse(policy.ReasonCredentialMissing),
		"bad":     refuse(policy.ReasonSignatureInvalid),
		"expired": refuse(policy.ReasonExpired),
		"denied":  refuse(policy.ReasonPolicyDenied),
		"fault":   refuse(policy.ReasonUnavailable),
		"allowed": allowed,
	}
	checker := &asked{answer: func(a *policy.Attributes) policy.Decision {
		name, _ := a.Headers.Get("case")
		return outcomes[name]
	}}
	client := authv3.NewAuthorizationClient(serve(t, doorTo(checker).Register))
	for name, want := range map[string]struct {
		code   codes.Code
		status int
	}{
		"none": {codes.Unauthenticated, 401}, "bad": {codes.Unauthenticated, 401}, "expired": {codes.Unauthenticated, 401},
		"denied": {codes.PermissionDenied, 403}, "fault": {codes.Unavailable, 503}, "allowed": {codes.OK, 0},
	} {
		q := http(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "h", Headers: map[string]string{"case": name}})
		m, err := client.Check(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if codes.Code(m.GetStatus().GetCode()) != want.code || int(m.GetDeniedResponse().GetStatus().GetCode()) != want.status {
			t.Errorf("%s: %v", name, m)
		}
	}
	if checker.last.Door != "extauthz" {
		t.Errorf("door %q", checker.last.Door)
	}
}

// The caller's name comes from the server's interceptor, and the attributes
// survive an interceptor.
func TestCaller(t *testing.T) {
	t.Parallel()
	checker := &asked{answer: yes}
	name := func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(door.WithCaller(ctx, "edge"), q)
	}
	client := authv3.NewAuthorizationClient(serve(t, doorTo(checker).Register, grpc.UnaryInterceptor(name)))
	if _, err := client.Check(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	if a := checker.last; a.Caller != "edge" || a.Path != "/api/v1/things?x=1" {
		t.Errorf("%+v", a)
	}
}

// A panic anywhere is a deny, also where an interceptor would make an error of
// it, and its text is neither sent nor logged.
func TestPanicIsADeny(t *testing.T) {
	t.Parallel()
	const text = "secret-in-a-panic"
	boom := func(*policy.Attributes) policy.Decision { panic(text) }
	recovering := func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
		defer func() {
			if recover() != nil {
				err = status.Error(codes.Internal, "recovered")
			}
		}()
		return next(ctx, q)
	}
	panicking := func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) { panic(text) }
	for name, c := range map[string]struct {
		answer      func(*policy.Attributes) policy.Decision
		interceptor grpc.UnaryServerInterceptor
	}{"checker": {boom, nil}, "checker under recovery": {boom, recovering}, "interceptor": {yes, panicking}} {
		t.Run(name, func(t *testing.T) {
			var log stdbytes.Buffer
			d := New(&asked{answer: c.answer}, Config{OnFault: OnFaultErrorResponse}, slog.New(slog.NewTextHandler(&log, nil)))
			var options []grpc.ServerOption
			if c.interceptor != nil {
				options = append(options, grpc.UnaryInterceptor(c.interceptor))
			}
			m, err := authv3.NewAuthorizationClient(serve(t, d.Register, options...)).Check(t.Context(), full())
			if err != nil {
				t.Fatal(err)
			}
			if m.GetDeniedResponse().GetStatus().GetCode() != 503 || codes.Code(m.GetStatus().GetCode()) != codes.Unavailable {
				t.Errorf("%v", m)
			}
			if strings.Contains(m.String()+log.String(), text) || !strings.Contains(log.String(), "panic") {
				t.Errorf("sent %v, logged %s", m, log.String())
			}
		})
	}
}

// An allow whose headers cannot be sent as they are is none.
func TestUnsendableAllow(t *testing.T) {
	t.Parallel()
	for _, h := range []policy.Header{{Name: "x", Value: "a\r\nx-admin: 1"}, {Name: "x", Value: "\xff"}, {Name: "X", Value: "a"}, {Name: ":path", Value: "/"}, {Name: "", Value: "a"}} {
		for _, client := range []bool{false, true} {
			dec := allowed
			if client {
				dec.Client = []policy.Header{h}
			} else {
				dec.Upstream = []policy.Header{h}
			}
			m, err := authv3.NewAuthorizationClient(serve(t, doorTo(always(dec)).Register)).Check(t.Context(), full())
			if err != nil || m.GetDeniedResponse().GetStatus().GetCode() != 503 {
				t.Errorf("%q: %v, %v", h, m, err)
			}
		}
	}
}

// bytesCodec sends a []byte as it is.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// send sends any bytes as a CheckRequest.
func send(t *testing.T, conn *grpc.ClientConn, wire []byte) (*authv3.CheckResponse, error) {
	t.Helper()
	var reply []byte
	if err := conn.Invoke(t.Context(), Method, wire, &reply, grpc.ForceCodecV2(bytesCodec{})); err != nil {
		return nil, err
	}
	m := new(authv3.CheckResponse)
	return m, proto.Unmarshal(reply, m)
}

// What is no message is denied inside the protocol, even by a Checker that would
// allow it.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	conn := serve(t, doorTo(always(allowed)).Register)
	inputs := map[string][]byte{
		"garbage":  []byte("\xff\xff\xff"),
		"cut off":  marshal(t, full())[:50],
		"not UTF8": nested("\xff", 1, 4, 2, 4),
	}
	for name, wire := range inputs {
		m, err := send(t, conn, wire)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, refused := read(wire)
		if denied := m.GetDeniedResponse().GetStatus().GetCode() == 400; denied != (refused != nil) {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// The seeds of protobuf's own fuzzers are answered.
func TestProtobufSeeds(t *testing.T) {
	t.Parallel()
	conn := serve(t, doorTo(always(allowed)).Register)
	for _, name := range []string{"wirefuzz-20019c4ef10ebf8031c8d204bdd0ae1ec214bf90",
		"textfuzz-a950e4f0890f34717c5c9beffe1bd0cee33e5a2b", "jsonfuzz-e619335648415cae976b3200d5a291e8da4b4866"} {
		wire := vectortest.Read(t, "proto/"+name)
		same(t, wire)
		if _, err := send(t, conn, wire); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Large questions are answered; what is above the server's limit is refused by
// grpc-go before anything is read.
func TestSizes(t *testing.T) {
	t.Parallel()
	client := authv3.NewAuthorizationClient(serve(t, doorTo(&asked{answer: strict}).Register))
	get := func() *authv3.AttributeContext_HttpRequest {
		return &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "h", Headers: map[string]string{}}
	}
	many, long, body, over := get(), get(), get(), get()
	for i := range 10_000 {
		many.Headers["x-"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+strings.Repeat("y", i/26)] = "v"
	}
	long.Headers["x"] = strings.Repeat("v", 1<<20)
	body.RawBody = make([]byte, 4<<20-100)
	over.RawBody = make([]byte, 4<<20+1)
	for name, h := range map[string]*authv3.AttributeContext_HttpRequest{"10,000 fields": many, "1 MiB field": long, "4 MiB body": body} {
		if m, err := client.Check(t.Context(), http(h)); err != nil || m.GetOkResponse() == nil {
			t.Errorf("%s: %v %v", name, m, err)
		}
	}
	if _, err := client.Check(t.Context(), http(over)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("over the limit: %v", err)
	}
}

// Reflection shows the service as Envoy's own.
func TestReflection(t *testing.T) {
	t.Parallel()
	conn := serve(t, func(s grpc.ServiceRegistrar) {
		doorTo(nil).Register(s)
		reflection.RegisterV1(s.(reflection.GRPCServer))
	})
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: serviceName}}
	if err := stream.Send(ask); err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil || len(m.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("%v %v", m, err)
	}
}

// Every request of the shared vectors is read as protobuf reads it and answered
// without a gRPC error.
func TestVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID      string          `json:"id"`
		Request json.RawMessage `json:"request"`
	}
	client := authv3.NewAuthorizationClient(serve(t, doorTo(&asked{answer: strict}).Register))
	answered := 0
	for _, v := range vectortest.Lines[vector](t, "http/check_requests.jsonl") {
		q := new(authv3.CheckRequest)
		if strings.Contains(string(v.Request), `"recipe"`) {
			continue // TestSizes
		}
		if err := protojson.Unmarshal(v.Request, q); err != nil {
			t.Fatalf("%s: %v", v.ID, err)
		}
		same(t, marshal(t, q))
		m, err := client.Check(t.Context(), q)
		if err != nil || (m.GetOkResponse() == nil) == (m.GetDeniedResponse() == nil) {
			t.Errorf("%s: %v %v", v.ID, m, err)
		}
		answered++
	}
	t.Logf("%d answered", answered)
}

// EXTZ-042 and its like: a field with two readings reaches canonical twice.
func TestVectorBothForms(t *testing.T) {
	t.Parallel()
	q := new(authv3.CheckRequest)
	if err := protojson.Unmarshal([]byte(`{"attributes": {"request": {"http": {
		"headerMap": {"headers": [{"key": "authorization", "rawValue": "QmVhcmVyIGJvYg=="}]},
		"headers": {"authorization": "Bearer alice"}}}}}`), q); err != nil {
		t.Fatal(err)
	}
	a, err := read(marshal(t, q))
	if _, n := a.Headers.Get("authorization"); err != nil || n != 2 {
		t.Errorf("%v %v", a.Headers, err)
	}
}

// What an interceptor or logger can print of the messages holds nothing.
func TestMessagesPrintNothing(t *testing.T) {
	q := newRequest()
	q.read(marshal(t, full()))
	text := q.String() + protojson.Format(q)
	if strings.Contains(text, "abc") || strings.Contains(text, "things") {
		t.Error(text)
	}
}
