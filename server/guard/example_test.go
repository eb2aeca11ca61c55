package guard_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/postern-auth/postern/server/guard"
)

// A service asks the Postern beside it about each of its requests. Nobody answers here,
// so nothing is let through.
func Example() {
	conn, err := grpc.NewClient("unix:///nowhere/postern.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	g := guard.New(conn)
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s", guard.Principal(r.Context()).GetId())
	})

	w := httptest.NewRecorder()
	g.HTTP(orders).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/orders", nil))
	fmt.Println(w.Code)
	// Output: 503
}

// The interceptors do the same for a gRPC server.
func ExampleGuard_Unary() {
	conn, err := grpc.NewClient("127.0.0.1:9191", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	g := guard.New(conn, guard.WithFields("authorization", "x-api-key"), guard.WithReuse(10_000))
	grpc.NewServer(grpc.UnaryInterceptor(g.Unary), grpc.StreamInterceptor(g.Stream)).Stop()
}
