package admin

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// stream is the interceptor of all streams. Reflection's show what is public; of the
// others, the question passes the gate before the handler sees it.
func (g *gate) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	if g.authenticate == nil && !isDecisions(info.FullMethod) || strings.HasPrefix(info.FullMethod, "/grpc.reflection.") {
		return next(srv, s)
	}
	if info.IsClientStream {
		return &failure{reason: permissionDenied, message: "there are no streams of questions here"}
	}
	defer func() {
		if thrown := recover(); thrown != nil {
			err = g.panicked(s.Context(), info.FullMethod, thrown)
		}
	}()
	through := &gatedStream{ServerStream: s, gate: g, method: info.FullMethod, ctx: s.Context()}
	err = next(srv, through)
	switch {
	case through.broken != nil:
		return through.broken // it is of the wire, and says what is wrong with the message
	case err != nil:
		return g.report(s.Context(), through.question, info.FullMethod, err)
	}
	return nil
}

// admittedFor is how long a stream goes on before its caller is looked at again. A
// credential that was revoked ends what it began.
const admittedFor = time.Second

// gatedStream lets its question through the gate, and each message after a while only if
// the gate would let the question through again.
type gatedStream struct {
	grpc.ServerStream
	gate     *gate
	method   string
	ctx      context.Context //nolint:containedctx // it is what grpc.ServerStream has
	question any
	admitted time.Time
	broken   error
}

// Context implements grpc.ServerStream.
func (s *gatedStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream.
func (s *gatedStream) RecvMsg(m any) error {
	if s.broken = s.ServerStream.RecvMsg(m); s.broken != nil {
		return s.broken
	}
	s.question = m
	err := s.admit()
	if err == nil {
		s.lift()
	}
	return err
}

// SendMsg implements grpc.ServerStream.
func (s *gatedStream) SendMsg(m any) error {
	if passed := s.gate.now().Sub(s.admitted); passed >= admittedFor || passed < 0 {
		if err := s.admit(); err != nil {
			return err
		}
	}
	s.lift()
	if s.broken = s.ServerStream.SendMsg(m); s.broken != nil {
		return s.broken
	}
	return nil
}

func (s *gatedStream) admit() (err error) {
	ctx, err := s.gate.admit(s.ServerStream.Context(), s.question, s.method)
	if err == nil {
		s.ctx, s.admitted = ctx, s.gate.now()
	}
	return err
}

// lift keeps the listener's times from ending a stream that goes on (serveEndless).
func (s *gatedStream) lift() {
	if lift, ok := s.ServerStream.Context().Value(endlessKey{}).(func()); ok {
		lift()
	}
}
