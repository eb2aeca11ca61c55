package guard_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/guard"
)

// postern answers by a function, in this process.
type postern struct {
	answer func(ctx context.Context, q *posternv1.CheckRequest) (*posternv1.CheckResponse, error)
	asked  atomic.Int64
}

// Invoke implements grpc.ClientConnInterface.
func (p *postern) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	p.asked.Add(1)
	answer, err := p.answer(ctx, args.(*posternv1.CheckRequest))
	if err != nil {
		return err
	}
	out := reply.(*posternv1.CheckResponse)
	out.Decision, out.Principal = answer.GetDecision(), answer.GetPrincipal()
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (*postern) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "")
}

func allow() *posternv1.CheckResponse {
	return &posternv1.CheckResponse{
		Decision: &posternv1.Decision{
			Allowed: true, Reason: posternv1.Reason_REASON_ALLOWED, HttpStatus: 200,
			UpstreamHeaders: []*posternv1.Header{{Name: "x-auth-principal", Value: "ann"}}, HeadersToRemove: []string{"authorization", "x-auth-principal"},
		},
		Principal: &posternv1.Principal{Id: "ann"},
	}
}

func deny(r posternv1.Reason, httpStatus uint32) *posternv1.CheckResponse {
	return &posternv1.CheckResponse{Decision: &posternv1.Decision{Reason: r, HttpStatus: httpStatus, Message: "no",
		ResponseHeaders: []*posternv1.Header{{Name: "www-authenticate", Value: `Bearer realm="a"`}}, RetryDelay: durationpb.New(1500 * time.Millisecond)}}
}

func always(a *posternv1.CheckResponse, err error) *postern {
	return &postern{answer: func(context.Context, *posternv1.CheckRequest) (*posternv1.CheckResponse, error) { return a, err }}
}

// visit is one request to a guarded handler, and what it saw.
func visit(g *guard.Guard, fields ...string) (w *httptest.ResponseRecorder, seen *http.Request) {
	r := httptest.NewRequest(http.MethodGet, "/orders%2F7?x=1", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	w = httptest.NewRecorder()
	g.HTTP(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r })).ServeHTTP(w, r)
	return w, seen
}

// An allow lets the request through, with who called and without the credential; the
// question is the request as it came.
func TestAllow(t *testing.T) {
	t.Parallel()
	var q *posternv1.CheckRequest
	p := &postern{answer: func(ctx context.Context, asked *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
		if md, _ := metadata.FromOutgoingContext(ctx); strings.Join(md.Get("authorization"), "") != "Bearer own" {
			t.Error(md)
		}
		q = asked
		return allow(), nil
	}}
	w, seen := visit(guard.New(p, guard.WithToken("own")), "Authorization", "Bearer t", "X-Auth-Principal", "mallory", "X-A", "1", "X-A", "2")
	if w.Code != 200 || seen == nil || guard.Principal(seen.Context()).GetId() != "ann" || seen.Header.Get("Authorization") != "" || seen.Header.Get("X-Auth-Principal") != "ann" {
		t.Fatal(w.Code, seen)
	}
	h := q.GetTarget().GetHttp()
	if h.GetMethod() != "GET" || h.GetHost() != "example.com" || h.GetPath() != "/orders%2F7?x=1" || h.GetScheme() != "http" || h.GetSourceIp() != "192.0.2.1" || len(h.GetHeaders()) != 4 {
		t.Error(q)
	}
	if guard.Principal(context.Background()) != nil {
		t.Error("nobody called")
	}
}

// With few fields, Postern still hears of those that change what the others mean; and a
// field that Postern sets twice arrives twice.
func TestFields(t *testing.T) {
	t.Parallel()
	a := allow()
	a.Decision.UpstreamHeaders = append(a.Decision.UpstreamHeaders, &posternv1.Header{Name: "x-team", Value: "red"}, &posternv1.Header{Name: "x-team", Value: "blue"})
	var sent []string
	p := &postern{answer: func(_ context.Context, q *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
		for _, h := range q.GetTarget().GetHttp().GetHeaders() {
			sent = append(sent, h.GetName())
		}
		return a, nil
	}}
	_, seen := visit(guard.New(p, guard.WithFields("X-Key-Bin")), "X-Key-Bin", "k", "X-Other", "1", "X-HTTP-Method-Override", "DELETE", "X_Auth_Principal", "root", "X.auth.principal", "root", "X-Team", "green")
	if got, want := strings.Join(sent, " "), "x-http-method-override x-key-bin x.auth.principal x_auth_principal"; got != want {
		t.Errorf("Postern hears of %s, not of %s", got, want)
	}
	if got := seen.Header.Values("X-Team"); fmt.Sprint(got) != "[red blue]" {
		t.Error(got)
	}
}

// Everything but an allow is a refusal; an answer is final, and only a connection that
// failed is asked again.
func TestRefusals(t *testing.T) {
	t.Parallel()
	half := allow()
	half.Decision.Reason = posternv1.Reason_REASON_UNSPECIFIED
	success := deny(posternv1.Reason_REASON_POLICY_DENIED, 204)
	for name, c := range map[string]struct {
		postern *postern
		status  int
		asked   int64
	}{
		"deny":            {always(deny(posternv1.Reason_REASON_CREDENTIAL_MISSING, 401), nil), 401, 1},
		"a fault":         {always(deny(posternv1.Reason_REASON_UNSPECIFIED, 503), nil), 503, 1},
		"half an allow":   {always(half, nil), 403, 1},
		"a success":       {always(success, nil), 403, 1},
		"nothing":         {always(&posternv1.CheckResponse{}, nil), 503, 1},
		"no connection":   {always(nil, status.Error(codes.Unavailable, "")), 503, 2},
		"not listed":      {always(nil, status.Error(codes.PermissionDenied, "")), 503, 1},
		"wrong question":  {always(nil, status.Error(codes.InvalidArgument, "")), 503, 1},
		"an odd error":    {always(nil, io.ErrUnexpectedEOF), 503, 1},
		"a deny at retry": {second(deny(posternv1.Reason_REASON_POLICY_DENIED, 403)), 403, 2},
	} {
		w, seen := visit(guard.New(c.postern))
		if w.Code != c.status || seen != nil || c.postern.asked.Load() != c.asked {
			t.Errorf("%s: %d after %d questions; seen: %v", name, w.Code, c.postern.asked.Load(), seen != nil)
		}
		if name == "deny" && (w.Header().Get("WWW-Authenticate") == "" || w.Header().Get("Retry-After") != "2") {
			t.Error(w.Header())
		}
	}
	if w, seen := visit(guard.New(second(allow()))); w.Code != 200 || seen == nil {
		t.Error("a restart of Postern costs a request:", w.Code)
	}
}

// second fails once, and then answers.
func second(a *posternv1.CheckResponse) *postern {
	p := &postern{}
	p.answer = func(context.Context, *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
		if p.asked.Load() == 1 {
			return nil, status.Error(codes.Unavailable, "")
		}
		return a, nil
	}
	return p
}

// An answer that is late is none.
func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &postern{answer: func(ctx context.Context, _ *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}
		began := time.Now()
		if w, _ := visit(guard.New(p, guard.WithTimeout(100*time.Millisecond))); w.Code != 503 || time.Since(began) != 100*time.Millisecond || p.asked.Load() != 1 {
			t.Error(w.Code, time.Since(began), p.asked.Load())
		}
	})
}

// An allow is reused for as long as it says, for the same question only; a deny never.
func TestReuse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := allow()
		a.Decision.CacheTtl = durationpb.New(time.Second)
		p := always(a, nil)
		g := guard.New(p, guard.WithReuse(2), guard.WithFields("Authorization"))
		expect := func(asked int64, fields ...string) {
			t.Helper()
			if w, _ := visit(g, fields...); w.Code != 200 || p.asked.Load() != asked {
				t.Errorf("%d after %d questions, want %d", w.Code, p.asked.Load(), asked)
			}
		}
		expect(1, "Authorization", "a")
		expect(1, "Authorization", "a", "X-Request-Id", "7", "X-Other", "8")
		expect(2, "Authorization", "b")
		expect(3, "Authorization", "a", "Authorization", "a")
		time.Sleep(time.Second)
		expect(4, "Authorization", "a")
		if w, _ := visit(guard.New(p, guard.WithReuse(1)), "Authorization", "a"); w.Code != 200 || p.asked.Load() != 5 {
			t.Error("one Guard uses what another knows")
		}
		for i := range 100 { // no more is remembered than was asked for
			visit(g, "Authorization", fmt.Sprint(i))
		}
		expect(105, "Authorization", "99")
		expect(106, "Authorization", "0")
		no := deny(posternv1.Reason_REASON_POLICY_DENIED, 403)
		no.Decision.CacheTtl = durationpb.New(time.Second)
		p = always(no, nil)
		g = guard.New(p, guard.WithReuse(2))
		visit(g)
		if visit(g); p.asked.Load() != 2 {
			t.Error("a deny is reused")
		}
	})
}

// Interceptors do the same for gRPC, unary and streams, on real connections.
func TestGRPC(t *testing.T) {
	t.Parallel()
	answer := allow()
	var mu sync.Mutex
	var q *posternv1.CheckRequest
	p := &postern{answer: func(_ context.Context, asked *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		q = asked
		return answer, nil
	}}
	g := guard.New(p)
	var who []string
	note := func(ctx context.Context) {
		who = append(who, guard.Principal(ctx).GetId())
		md, _ := metadata.FromIncomingContext(ctx)
		if got := fmt.Sprint(md["x-auth-principal"], md["authorization"], md["x-kept"], len(md["trace-bin"])); got != "[ann] [] [yes] 1" {
			t.Error("the service sees", got)
		}
	}
	s := grpc.NewServer(
		grpc.ChainUnaryInterceptor(g.Unary, func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			note(ctx)
			return next(ctx, q)
		}),
		grpc.ChainStreamInterceptor(g.Stream, func(service any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			note(s.Context())
			return next(service, s)
		}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := healthpb.NewHealthClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", "k", "trace-bin", "\x00\xff", "authorization", "Bearer t", "x-auth-principal", "mallory", "x-kept", "yes")
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil || fmt.Sprint(who) != "[ann ann]" {
		t.Error(who, err)
	}
	mu.Lock()
	target := q.GetTarget().GetGrpc()
	if target.GetService() != "grpc.health.v1.Health" || target.GetMethod() != "Watch" || target.GetSourceIp() != "127.0.0.1" || !strings.Contains(fmt.Sprint(target), "x-api-key") || strings.Contains(fmt.Sprint(target), "trace-bin") {
		t.Error(target)
	}
	answer = deny(posternv1.Reason_REASON_CREDENTIAL_MISSING, 401)
	mu.Unlock()
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "no" {
		t.Error(err)
	}
	if watch, err = client.Watch(ctx, &healthpb.HealthCheckRequest{}); err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated || len(who) != 2 {
		t.Error(err, who)
	}
}
