package server

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/extauthz"
	"github.com/postern-auth/postern/server/door/forwardauth"
)

// entrance stands before the unary methods of the services that are registered through
// it, and so before their messages: grpc-go starts a handler when the header fields of a
// call have arrived, and the handler receives the message. Whoever is refused here has
// cost a goroutine and no more, and cannot make Postern hold what it sends.
//
// ext_authz is always answered in its own words, because a gateway may be told to take an
// error for a yes; all others get an error.
type entrance struct {
	to       grpc.ServiceRegistrar
	callers  *callers
	underWay *underWay
	methods  map[string]bool // that are registered through it
	log      *slog.Logger
}

// RegisterService implements grpc.ServiceRegistrar.
func (e entrance) RegisterService(desc *grpc.ServiceDesc, service any) {
	guarded := *desc
	guarded.Methods = slices.Clone(desc.Methods)
	for i := range guarded.Methods {
		m := &guarded.Methods[i]
		name := "/" + desc.ServiceName + "/" + m.MethodName
		m.Handler, e.methods[name] = e.before(m.Handler, name == extauthz.Method), true
	}
	e.to.RegisterService(&guarded, service)
}

// before returns the handler that asks who calls, and whether there is room, first.
// Whatever panics in it, ext_authz denies, and all others get an error without its text.
func (e entrance) before(next grpc.MethodHandler, inProtocol bool) grpc.MethodHandler {
	refuse := func(_ any, _ context.Context, _ func(any) error, _ policy.Reason, err error) (any, error) {
		return nil, err
	}
	if inProtocol {
		refuse = func(service any, ctx context.Context, receive func(any) error, reason policy.Reason, _ error) (any, error) {
			return next(service, door.WithRefusal(ctx, reason), receive, nil)
		}
	}
	return func(service any, ctx context.Context, receive func(any) error, interceptor grpc.UnaryServerInterceptor) (reply any, err error) {
		defer func() {
			if thrown := recover(); thrown != nil {
				door.Recovered(ctx, e.log, "grpc", thrown)
				reply, err = refuse(service, ctx, receive, policy.ReasonInternal, errInternal)
			}
		}()
		l := lineOf(ctx)
		if l != nil {
			l.begin()
		}
		from := l.share()
		who, listed := e.callers.find(ctx)
		if !listed {
			e.callers.refused.Add(1)
			return refuse(service, ctx, receive, policy.ReasonCallerUnlisted, errNotCaller)
		}
		if !e.underWay.enter(from) {
			return refuse(service, ctx, receive, policy.ReasonOverloaded, errOverloaded)
		}
		defer e.underWay.leave(from)
		if who != nil {
			ctx = door.WithCaller(ctx, who.Name)
		}
		return next(service, ctx, receive, interceptor)
	}
}

var (
	errInternal   = status.Error(codes.Internal, "internal error")
	errOverloaded = status.Error(codes.ResourceExhausted, "overloaded: as many requests as limits.requests permits are under way, or three quarters of them from one address")
)

// gateway gives the doors of HTTP the caller's name, or lets them know that it is not
// listed or that there is no room, before they read anything. Forward-auth says no in its
// own words; to the others an error is a no.
func (e entrance) gateway(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, from := gatewayContext(r), shareOfRequest(r)
		who, listed := e.callers.find(ctx)
		switch {
		case !listed:
			e.callers.refused.Add(1)
			ctx = door.WithUnlisted(ctx)
		case e.underWay.enter(from):
			defer e.underWay.leave(from)
			if who != nil {
				ctx = door.WithCaller(ctx, who.Name)
			}
		case strings.HasPrefix(r.URL.Path, forwardauth.Prefix):
			ctx = door.WithRefusal(ctx, policy.ReasonOverloaded)
		default:
			busy(w)
			return
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// receiveTimeout is how long the message of a unary call may take to arrive.
const receiveTimeout = 10 * time.Second

// arrive is what a call meets first, while its connection reads nothing else: it stands in
// line with the others of its connection. And it gets a deadline if it is unary, also one
// whose caller sets none or a longer one, because nobody may keep a message half sent.
//
// Nothing is refused here. grpc-go would keep the timer of a call that is, until the
// deadline that its caller chose, which can be in centuries.
func (e entrance) arrive(limit time.Duration) tap.ServerInHandle {
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		if isStream(info.FullMethodName) {
			return ctx, nil
		}
		if l := lineOf(ctx); l != nil && e.methods[info.FullMethodName] {
			l.join()
		}
		if until, ok := ctx.Deadline(); ok && time.Until(until) <= limit {
			return ctx, nil
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		context.AfterFunc(ctx, cancel) // the call's own end is the end of its context
		return ctx, nil
	}
}

// isStream reports whether a method is a subscription, which lasts.
func isStream(method string) bool {
	return method == "/grpc.health.v1.Health/Watch" || strings.HasPrefix(method, "/grpc.reflection.")
}

// stream is the entrance of streams: subscriptions to health, which load balancers have
// and which have no name, and reflection, for callers only. They are counted apart: they
// do nothing most of the time, and strangers may open them.
func (e entrance) stream(open *underWay) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if !strings.HasPrefix(info.FullMethod, "/grpc.health.v1.Health/") {
			if _, listed := e.callers.find(stream.Context()); !listed {
				e.callers.refused.Add(1)
				return errNotCaller
			}
		}
		from := lineOf(stream.Context()).share()
		if !open.enter(from) {
			return errOverloaded
		}
		defer open.leave(from)
		return next(srv, stream)
	}
}
