package server

import (
	"context"
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"

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
	calls := connect.New(nil, int64(cfg.Limits.MessageSize), s.log)
	grpcdoor.New(&s.live, &s.live, s.log).Register(calls)
	for _, path := range calls.Paths() {
		mux.Handle(path, calls)
	}
	return s.entrance(nil).gateway(mux)
}

// gatewayContext is asRPC for a gateway, whose token is elsewhere if it asks by
// forward-auth; no door sees that field.
func gatewayContext(r *http.Request) context.Context {
	ctx := asRPC(r)
	if !strings.HasPrefix(r.URL.Path, forwardauth.Prefix) {
		return ctx
	}
	var md metadata.MD
	for _, token := range r.Header.Values(CallerToken) {
		md = metadata.Join(md, metadata.Pairs("authorization", "Bearer "+token))
	}
	r.Header.Del(CallerToken)
	return metadata.NewIncomingContext(ctx, md)
}
