package extauthz

import (
	"context"
	"log/slog"
	"net"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/policy"
)

// always is a Checker that always says the same.
type always policy.Decision

func (d always) Check(context.Context, *policy.Attributes) policy.Decision { return policy.Decision(d) }

// stock is the least that an ext_authz server can do: it says OK.
type stock struct {
	authv3.UnimplementedAuthorizationServer
}

func (stock) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
}

// typical is what Envoy asks about a request with an API key.
func typical() *authv3.CheckRequest {
	q := full()
	c := q.Attributes
	c.Source.Principal, c.Source.Certificate, c.Source.Service, c.Source.Labels = "", "", "", nil
	c.ContextExtensions, c.MetadataContext = nil, nil
	c.Request.Http.Body, c.Request.Http.Size = "", -1
	c.Request.Http.Headers = map[string]string{
		":authority": "api.example.com", ":method": "GET", ":path": "/api/v1/things?page=2", ":scheme": "https",
		"accept": "application/json", "accept-encoding": "gzip, deflate, br", "user-agent": "example-client/1.4.2 (linux)",
		"x-api-key":         "pst_key_live_0123456789ab_0123456789012345678901234567890123456789012abcdef",
		"x-forwarded-for":   "198.51.100.7",
		"x-forwarded-proto": "https", "x-request-id": "8e1f7fd2-1c5a-4f6e-9a0a-5f4f2d3b9c11",
		"x-envoy-auth-partial-body": "false",
	}
	return q
}

var (
	alice   = &policy.Principal{ID: "alice", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"reader"}, Scopes: []string{"things:read"}, Method: policy.MethodAPIKey, Issuer: "postern", CredentialID: "0123456789ab"}
	allowed = policy.Decision{
		Allowed: true, Reason: policy.ReasonAllowed, Status: 200, ID: "01J9ZK3V0W", Revision: "sha256:0123456789abcdef", Principal: alice,
		Upstream: []policy.Header{{Name: "x-auth-principal", Value: "alice"}, {Name: "x-auth-tenant", Value: "acme"}, {Name: "x-auth-roles", Value: "reader"}},
		Remove:   []string{"x-api-key", "x-auth-scopes", "x-auth-issuer"},
	}
)

// serve starts a gRPC server on loopback and returns a connection to it.
func serve(t testing.TB, register func(grpc.ServiceRegistrar), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); s.Stop(); <-done })
	return conn
}

func doorTo(c Checker) *Door { return New(c, Config{}, slog.New(slog.DiscardHandler)) }

// BenchmarkCheck is a whole call over loopback, client included: what differs
// between the servers is the cost of the door.
func BenchmarkCheck(b *testing.B) {
	d := doorTo(always(allowed))
	for name, register := range map[string]func(grpc.ServiceRegistrar){
		"stock":  func(s grpc.ServiceRegistrar) { authv3.RegisterAuthorizationServer(s, stock{}) },
		"oracle": func(s grpc.ServiceRegistrar) { authv3.RegisterAuthorizationServer(s, oracle{door: d}) },
		"door":   d.Register,
	} {
		b.Run(name, func(b *testing.B) {
			client := authv3.NewAuthorizationClient(serve(b, register))
			q := typical()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Check(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHandler is the server's part alone, from the wire to the wire.
func BenchmarkHandler(b *testing.B) {
	wire, err := proto.Marshal(typical())
	if err != nil {
		b.Fatal(err)
	}
	d := doorTo(always(allowed))
	generated := func(s authv3.AuthorizationServer) func() (proto.Message, error) {
		return func() (proto.Message, error) {
			q := new(authv3.CheckRequest)
			if err := proto.Unmarshal(wire, q); err != nil {
				return nil, err
			}
			return s.Check(b.Context(), q)
		}
	}
	for name, handle := range map[string]func() (proto.Message, error){
		"stock":  generated(stock{}),
		"oracle": generated(oracle{door: d}),
		"door": func() (proto.Message, error) {
			reply, err := d.serve(nil, b.Context(), func(q any) error { return proto.Unmarshal(wire, q.(proto.Message)) }, nil)
			return reply.(proto.Message), err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				reply, err := handle()
				if err == nil {
					_, err = proto.Marshal(reply)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
