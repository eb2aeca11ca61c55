// Package extauthz is the door for Envoy and everything that speaks its external
// authorization protocol: envoy.service.auth.v3.Authorization/Check.
//
// The answer is always a CheckResponse. A message that cannot be read, a fault
// and even a panic are a deny inside the protocol, because a gateway that is told
// to fail open lets a request through on a gRPC error, but never on a deny. The
// only errors that leave this door are those of grpc-go itself, such as a message
// above the size limit.
//
// The gateway pays for the time spent here on every request, so nothing is
// decoded into generated types. The CheckRequest is read off the wire straight
// into policy.Attributes: one copy of the message, of which all strings are
// parts, and one allocation for everything else (request.go). Whoever keeps one
// of those strings beyond the answer clones it, or keeps the whole message. The
// CheckResponse is appended to the wire in one pass (response.go); a message
// inside gets its length after it is written (wire.go). Both are protobuf
// messages with methods of their own (message.go), and so need no codec, no
// server option and no interceptor's consent. That they mean the same as the
// generated types is what the tests show: the straightforward door, built from
// those, is the oracle of a differential fuzz test.
package extauthz

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// Name is how Attributes and metrics call this door.
const Name = "extauthz"

// Checker decides. It never panics and never errs: a fault is a deny.
type Checker interface {
	Check(ctx context.Context, a *policy.Attributes) policy.Decision
}

// OnFault says how a fault of Postern looks to the gateway. Empty means
// OnFaultDeny.
type OnFault string

// The ways.
const (
	// OnFaultDeny denies with 503: also a gateway that fails open stays closed.
	OnFaultDeny OnFault = "deny"
	// OnFaultErrorResponse reports an error with 503 (Envoy 1.37 and later): the
	// gateway counts it as one, and lets the request through if it is configured
	// with failure_mode_allow.
	OnFaultErrorResponse OnFault = "error_response"
)

// Values lists the values that configuration may use.
func (OnFault) Values() []string {
	return []string{string(OnFaultDeny), string(OnFaultErrorResponse)}
}

// Config configures the door.
type Config struct {
	// OnFault is "deny", the default, or "error_response". With the latter a
	// gateway that has failure_mode_allow lets every request through whenever
	// Postern cannot decide.
	OnFault OnFault
	// StatusProfile is "standard", the default, or "legacy": 403 instead of 401
	// for a bad API key.
	StatusProfile door.StatusProfile
	// KeyHeaders are the lower-case header fields in which API keys come, as the
	// extraction rules say; empty means x-api-key.
	KeyHeaders []string
}

// Door serves the protocol. It is immutable and safe for concurrent use.
type Door struct {
	checker  Checker
	onFault  OnFault
	refusals door.Refusals
	log      *slog.Logger
}

// New returns the door to a Checker. A panic is reported to log; nil means the
// default logger.
func New(checker Checker, c Config, log *slog.Logger) *Door {
	if log == nil {
		log = slog.Default()
	}
	return &Door{
		checker:  checker,
		onFault:  c.OnFault,
		refusals: door.Refusals{StatusProfile: c.StatusProfile, KeyHeaders: c.KeyHeaders},
		log:      log,
	}
}

const serviceName = "envoy.service.auth.v3.Authorization"

// Method is the full name of the one method, as interceptors see it.
const Method = "/" + serviceName + "/Check"

// Register offers the service on a gRPC server, under Envoy's name and file
// descriptor, so that reflection shows it as what it is.
func (d *Door) Register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: d.serve}},
		Metadata:    "envoy/service/auth/v3/external_auth.proto",
	}, d)
}

// serve is the handler of grpc-go. Whatever panics on the way, an interceptor
// included, the answer is a deny.
func (d *Door) serve(_ any, ctx context.Context, receive func(any) error, interceptor grpc.UnaryServerInterceptor) (reply any, err error) {
	defer func() {
		if thrown := recover(); thrown != nil {
			reply, err = d.panicked(ctx, thrown), nil
		}
	}()
	if reason, refused := door.Refusal(ctx); refused {
		return d.refuse(reason), nil // what it asks need not even arrive
	}
	q := newRequest()
	if err := receive(q); err != nil {
		return nil, err
	}
	if interceptor == nil {
		return d.check(ctx, q), nil
	}
	return interceptor(ctx, q, &grpc.UnaryServerInfo{Server: d, FullMethod: Method},
		func(ctx context.Context, _ any) (any, error) { return d.check(ctx, q), nil })
}

// check asks and answers. It has a guard of its own, so that no interceptor sees
// a panic and makes an error of it.
func (d *Door) check(ctx context.Context, q *request) (p *response) {
	defer func() {
		if thrown := recover(); thrown != nil {
			p = d.panicked(ctx, thrown)
		}
	}()
	a := &q.attributes
	a.Door, a.Caller, a.Connection, a.ChangesQuery = Name, door.Caller(ctx), door.Connection(ctx), true
	dec := d.checker.Check(ctx, a)
	if q.err != nil && dec.Allowed {
		door.Deny(&dec, policy.ReasonRequestInvalid)
	}
	door.Settle(&dec)
	p = newResponse()
	d.answer(p, &dec, a)
	return p
}

// refuse is the deny for a question that was not read.
func (d *Door) refuse(reason policy.Reason) *response {
	var dec policy.Decision
	door.Deny(&dec, reason)
	p := newResponse()
	d.answer(p, &dec, &policy.Attributes{})
	return p
}

// panicked is the deny for a panic. It takes nothing from where the panic was.
func (d *Door) panicked(ctx context.Context, thrown any) *response {
	door.Recovered(ctx, d.log, Name, thrown)
	p, dec := newResponse(), door.Fault()
	(&Door{}).answer(p, &dec, &policy.Attributes{})
	return p
}
