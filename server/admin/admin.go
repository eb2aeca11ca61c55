// Package admin is the control plane of one replica: metrics, health, and the
// decisions that it remembers. It has a listener of its own, which by default
// only the machine itself can reach.
//
// Liveness and readiness differ. /healthz says that the process answers; only a
// restart helps if it does not. /readyz says whether this replica can decide
// right now, part by part, so that a load balancer can send requests elsewhere.
package admin

import (
	"encoding/json"
	"net/http"
	"strings"

	"google.golang.org/grpc"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// Condition is one part of readiness.
type Condition struct {
	// Name is the part, for example "policy".
	Name string `json:"name"`
	// Ready says whether the part can do its work. A part that works with old
	// state is ready, and says so in Detail.
	Ready bool `json:"ready"`
	// Detail says what is wrong, or in what state the part is. Not a secret.
	Detail string `json:"detail,omitempty"`
}

// Config is what the listener serves.
type Config struct {
	// Conditions reports the parts of readiness. An empty list is not ready.
	Conditions func() []Condition
	// Metrics serves /metrics.
	Metrics http.Handler
	// Decisions serves postern.admin.v1.DecisionService.
	Decisions adminv1.DecisionServiceServer
	// Register adds further services, such as reflection; may be nil.
	Register func(*grpc.Server)
}

// Handler serves HTTP and gRPC on one listener: a request is gRPC if its content
// type says so (and it came over HTTP/2).
func Handler(cfg Config, opts ...grpc.ServerOption) http.Handler {
	rpc := grpc.NewServer(opts...)
	adminv1.RegisterDecisionServiceServer(rpc, cfg.Decisions)
	if cfg.Register != nil {
		cfg.Register(rpc)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", cfg.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		conditions := cfg.Conditions()
		status := http.StatusOK
		ready := Ready(conditions)
		if !ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, map[string]any{"ready": ready, "conditions": conditions})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Ready reports whether every condition is met; no conditions are not.
func Ready(conditions []Condition) bool {
	for _, c := range conditions {
		if !c.Ready {
			return false
		}
	}
	return len(conditions) > 0
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody is left to tell
}
