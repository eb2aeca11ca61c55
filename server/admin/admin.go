// Package admin is the control plane of one replica: metrics, health, the decisions
// that it remembers, and the API that manages tenants, principals, credentials,
// sessions and the denylist (postern.admin.v1). It has a listener of its own, which
// by default only the machine itself can reach.
//
// # The API
//
// A call goes through the gate (gate.go): connection, credential, policy, handler.
// What a call is about is said by one table (methods.go), a row for each method. Who
// may do it is said by policy/lib/admin.rego, which is asked by the Authorizer.
// Handlers only turn messages into requests to the registry and back: what may be
// done to records, whatever the policy says, is the registry's.
//
//	connection    TLS or this machine              else UNAUTHENTICATED
//	credential    check.Checker                    else UNAUTHENTICATED, UNAVAILABLE
//	its limits    policy.Constraints               else UNAUTHENTICATED
//	policy        for each record of the call      else PERMISSION_DENIED, NOT_FOUND
//	registry      one transaction                  else whatever is wrong
//
// Every error carries a google.rpc.ErrorInfo with a reason of the closed set
// ErrorReason, and what is wrong with the request field by field. Every refusal by
// the policy is in the audit log. No secret is in an error, a log or a message but
// those responses that hand one over.
//
// The same API is served as JSON over HTTP, through the same gate (browser.go): for curl,
// and for the console, a page that shows it. What pages of others could make a browser
// send is refused before.
//
// # Health
//
// Liveness and readiness differ. /healthz says that the process answers; only a
// restart helps if it does not. /readyz says whether this replica can decide
// right now, part by part, so that a load balancer can send requests elsewhere.
package admin

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
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
	Decisions *Decisions
	// Register adds further services, such as reflection; may be nil.
	Register func(*grpc.Server)
	// JSON makes what serves the same API as JSON over HTTP, with the interceptors in front
	// of all calls; nil for gRPC alone.
	JSON func(grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) Calls
	// Console serves the files of a page for browsers below ConsolePath; nil: there is none.
	Console http.Handler
	// Local says that only this machine reaches the listener, and Hosts under which names
	// browsers may, besides its addresses.
	Local bool
	Hosts []string
	// Policy returns the policy in force, for PolicyService.
	Policy func() PolicyState

	// Authenticate says who calls, and what their credential brings along. An allow
	// means no more than that the credential is good. Without it only DecisionService
	// is served, to whoever can connect; with it, what follows must be set, and every
	// call needs a credential but the reading of decisions from this machine.
	Authenticate func(context.Context, *policy.Attributes) (policy.Decision, check.Identity)
	// Fields are the names of the header fields, besides authorization, in which a
	// credential may come at the moment, in lower case; may be nil: there are none.
	Fields func() []string
	// Authorizer says who may do what.
	Authorizer *Authorizer
	// Registry does it.
	Registry *registry.Registry
	// Budgets shows the accounts of budgets; may be nil: there are none.
	Budgets Budgets
	// Browser returns what a browser is told of a new session: the Set-Cookie field
	// and the CSRF token. May be nil: neither.
	Browser func(s *store.Session, secret policy.Secret) (setCookie, csrfToken string)
	// Prove says whose a token is that somebody exchanges, and what it brings along, as
	// Authenticate does of the caller's own.
	Prove func(context.Context, *policy.Attributes) (policy.Decision, check.Identity)
	// TokenRules are those of agent tokens at the moment; it returns nil for none.
	TokenRules func() *registry.TokenRules
	// Logger takes panics and faults; discarded if nil.
	Logger *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Calls takes services as a grpc.Server does, and serves them over HTTP. Paths are those of
// its services.
type Calls interface {
	grpc.ServiceRegistrar
	http.Handler
	Paths() []string
}

// withDefaults fills in what may be left out.
func (cfg Config) withDefaults() Config {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Prove == nil {
		cfg.Prove = cfg.Authenticate
	}
	if cfg.TokenRules == nil {
		cfg.TokenRules = func() *registry.TokenRules { return nil }
	}
	if cfg.Policy == nil {
		cfg.Policy = func() PolicyState { return PolicyState{} }
	}
	return cfg
}

// gate is what is in front of every call, whatever it comes by.
func (cfg *Config) gate() *gate {
	return &gate{
		authenticate: cfg.Authenticate, authorizer: cfg.Authorizer, registry: cfg.Registry,
		budgets: cfg.Budgets, log: cfg.Logger, now: cfg.Now, tries: newTries(cfg.Logger, cfg.Now), fields: cfg.Fields,
	}
}

// services returns what registers the services of the API; each is made once.
func (cfg *Config) services() func(grpc.ServiceRegistrar) {
	decisions := cfg.Decisions
	drafts := &policies{state: cfg.Policy, decisions: decisions, desk: author.NewDesk(maxDrafts)}
	return func(rpc grpc.ServiceRegistrar) {
		adminv1.RegisterDecisionServiceServer(rpc, decisions)
		if cfg.Authenticate == nil {
			return
		}
		adminv1.RegisterPolicyServiceServer(rpc, drafts)
		adminv1.RegisterCredentialServiceServer(rpc, &credentials{registry: cfg.Registry})
		adminv1.RegisterPrincipalServiceServer(rpc, &principals{registry: cfg.Registry})
		adminv1.RegisterTokenServiceServer(rpc, &tokens{registry: cfg.Registry, prove: cfg.Prove, rules: cfg.TokenRules, now: cfg.Now})
		adminv1.RegisterAgentServiceServer(rpc, &agents{registry: cfg.Registry})
		adminv1.RegisterUserServiceServer(rpc, &users{registry: cfg.Registry})
		adminv1.RegisterSessionServiceServer(rpc, &sessions{registry: cfg.Registry, browser: cfg.Browser})
		adminv1.RegisterTenantServiceServer(rpc, &tenants{registry: cfg.Registry})
		adminv1.RegisterDenylistServiceServer(rpc, &denials{registry: cfg.Registry})
		adminv1.RegisterApprovalServiceServer(rpc, &approvals{registry: cfg.Registry, now: cfg.Now})
		adminv1.RegisterConsentServiceServer(rpc, &consents{registry: cfg.Registry})
		adminv1.RegisterAuditServiceServer(rpc, &auditLog{registry: cfg.Registry})
		if cfg.Budgets != nil {
			adminv1.RegisterBudgetServiceServer(rpc, &budgets{budgets: cfg.Budgets, registry: cfg.Registry})
		}
	}
}

// Handler serves HTTP and gRPC on one listener: a request is gRPC if its content
// type says so (and it came over HTTP/2).
func Handler(cfg Config, opts ...grpc.ServerOption) http.Handler {
	cfg = cfg.withDefaults()
	gate, services := cfg.gate(), cfg.services()
	rpc := grpc.NewServer(append(slices.Clip(opts), grpc.ChainUnaryInterceptor(gate.unary), grpc.ChainStreamInterceptor(gate.stream))...)
	services(rpc)
	if cfg.Register != nil {
		cfg.Register(rpc)
	}
	mux := http.NewServeMux()
	cfg.pages(mux, gate, services)
	mux.Handle("GET /metrics", cfg.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		conditions := cfg.Conditions()
		status := http.StatusOK
		ready := Ready(conditions)
		if r.Context().Value(withoutDetail{}) != nil {
			conditions = slices.Clone(conditions)
			for i := range conditions {
				conditions[i].Detail = ""
			}
		}
		if !ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, map[string]any{"ready": ready, "conditions": conditions})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			if r.URL.Path == adminv1.DecisionService_WatchDecisions_FullMethodName {
				serveEndless(rpc, w, r)
				return
			}
			rpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

type withoutDetail struct{}

// WithoutDetail marks a request of somebody who is told which parts are ready, and
// nothing more about them.
func WithoutDetail(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutDetail{}, true)
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
