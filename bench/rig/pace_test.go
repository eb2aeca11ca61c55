package rig

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// fickle answers every third question with a deny.
func fickle(t *testing.T) *grpc.ClientConn {
	t.Helper()
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(&authv3.CheckRequest{}); err != nil {
			return err
		}
		res := &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}
		if n.Add(1)%3 == 0 {
			res = &authv3.CheckResponse{}
		}
		return stream.SendMsg(res)
	}))
	go func() { _ = server.Serve(on) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///"+on.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// An open loop asks all that is due, and both loops count what is wrong and go on.
func TestLoopsCountFailures(t *testing.T) {
	t.Parallel()
	conns, requests := []*grpc.ClientConn{fickle(t)}, [][]byte{Request(nil)}
	seen, err := Pace{Rate: 1000, For: 90 * time.Millisecond}.Drive(t.Context(), conns, requests)
	if err != nil {
		t.Fatal(err)
	}
	if n, first := seen.Failures.Count(); n != 30 || first == nil || len(seen.Latencies) != 90 {
		t.Errorf("%d of %d failed: %v", n, len(seen.Latencies), first)
	}
	if least := slices.Min(seen.Latencies); least <= 0 {
		t.Errorf("one took %v µs", least)
	}
	var failures Failures
	latencies, err := Load{Callers: 3, Count: 90, Allowed: true, Failures: &failures}.Drive(t.Context(), conns, requests)
	if n, _ := failures.Count(); n != 30 || len(latencies) != 90 || err != nil {
		t.Errorf("%d of %d failed, %v", n, len(latencies), err)
	}
	var both Failures
	both.Add(&failures)
	both.Add(&seen.Failures)
	if n, _ := both.Count(); n != 60 {
		t.Errorf("%d together", n)
	}
}
