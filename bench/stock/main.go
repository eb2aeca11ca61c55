// Command stock is the yardstick: an ext_authz server made of nothing but
// grpc-go and the generated types, which says OK to everything. Whatever Postern
// costs more than this, it costs for deciding.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

type alwaysOK struct {
	authv3.UnimplementedAuthorizationServer
}

func (alwaysOK) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-auth-principal", Value: "alice"}}},
		}},
	}, nil
}

func main() {
	grpcAddr := flag.String("grpc", "127.0.0.1:0", "address of the gRPC listener")
	httpAddr := flag.String("http", "127.0.0.1:0", "address that tells the number of allocations")
	flag.Parse()
	rpc, err := net.Listen("tcp", *grpcAddr)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(w, "go_memstats_mallocs_total %d\n", m.Mallocs)
	})
	go func() { log.Fatal(http.ListenAndServe(*httpAddr, nil)) }()
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, alwaysOK{})
	log.Fatal(s.Serve(rpc))
}
