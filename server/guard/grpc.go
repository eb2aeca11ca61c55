package guard

import (
	"context"
	"maps"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// Unary is a grpc.UnaryServerInterceptor that lets calls through that Postern allows,
// with who called in their context. Postern sets and strips their metadata as it does the
// header fields of HTTP.
func (g *Guard) Unary(ctx context.Context, q any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.call(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, q)
}

// Stream is a grpc.StreamServerInterceptor that does the same for streams, once, when
// they begin.
func (g *Guard) Stream(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.call(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(service, &stream{s, ctx})
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }

// call asks about a call, and returns its context, or the error that refuses it.
func (g *Guard) call(ctx context.Context, method string) (context.Context, error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	md, ok := metadata.FromIncomingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	target := &posternv1.GrpcTarget{Service: service, Method: name, Metadata: g.selected(texts(md))}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		target.SourceIp = addressOf(p.Addr.String())
	}
	answer, err := g.Check(ctx, &posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Grpc{Grpc: target}}})
	switch {
	case err != nil:
		return nil, status.Error(codes.Unavailable, "the call could not be decided")
	case !allows(answer):
		return nil, status.Error(codeOf(answer.GetDecision().GetHttpStatus()), answer.GetDecision().GetMessage())
	}
	d := answer.GetDecision()
	for _, name := range d.GetHeadersToRemove() {
		md.Delete(name)
	}
	for _, h := range d.GetUpstreamHeaders() {
		md.Delete(h.GetName())
	}
	for _, h := range d.GetUpstreamHeaders() {
		md.Append(h.GetName(), h.GetValue())
	}
	return metadata.NewIncomingContext(context.WithValue(ctx, principalKey{}, answer.GetPrincipal()), md), nil
}

// texts is the metadata without the binary part of it, which is no header field.
func texts(md metadata.MD) map[string][]string {
	all := maps.Clone(map[string][]string(md))
	maps.DeleteFunc(all, func(name string, _ []string) bool { return strings.HasSuffix(name, "-bin") })
	return all
}

// codeOf is the code for a refusal with an HTTP status; never OK.
func codeOf(httpStatus uint32) codes.Code {
	switch httpStatus {
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	}
	return codes.PermissionDenied
}

// withToken says which caller this is.
func withToken(ctx context.Context, token string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
}
