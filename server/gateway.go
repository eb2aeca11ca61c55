package server

import (
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/authzen"
	"github.com/postern-auth/postern/server/door/connect"
	"github.com/postern-auth/postern/server/door/forwardauth"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
)

// CallerToken is the header field in which a gateway that asks by forward-auth says its
// token: Authorization is its client's there.
const CallerToken = "X-Postern-Caller-Token" //nolint:gosec // a name

// gatewayHandler serves the doors that speak HTTP: forward-auth, CheckService as JSON,
// and AuthZEN.
func (s *Server) gatewayHandler(cfg *Config) http.Handler {
	mux := http.NewServeMux()
	forwardauth.New(&s.live, forwardauth.Config{
		StatusProfile: cfg.StatusProfile, KeyHeaders: keyHeaders(cfg.Credentials), MaxBody: int64(cfg.Request.Limits.MaxBodyBytes),
	}, s.log).Register(mux)
	authzen.New(&s.live, int(cfg.Limits.MessageSize), s.log).Register(mux)
	calls := connect.New(s.unary(), int64(cfg.Limits.MessageSize), s.log)
	grpcdoor.New(&s.live, &s.live, s.log).Register(calls)
	for _, path := range calls.Paths() {
		mux.Handle(path, calls)
	}
	return s.callers.gateway(mux)
}

// gateway gives the doors of HTTP the caller's name, or lets them know that it is not
// listed, before they read anything.
func (c *callers) gateway(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := asRPC(r)
		if strings.HasPrefix(r.URL.Path, forwardauth.Prefix) {
			var md metadata.MD
			for _, token := range r.Header.Values(CallerToken) {
				md = metadata.Join(md, metadata.Pairs("authorization", "Bearer "+token))
			}
			ctx = metadata.NewIncomingContext(ctx, md)
			r.Header.Del(CallerToken)
		}
		who, listed := c.find(ctx)
		switch {
		case !listed:
			c.refused.Add(1)
			ctx = door.WithUnlisted(ctx)
		case who != nil:
			ctx = door.WithCaller(ctx, who.Name)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
