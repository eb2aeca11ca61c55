// Package grpc is the door for whoever asks Postern in Postern's own words:
// postern.v1.CheckService.
//
// A deny is an answer: the call returns OK with `allowed` unset. The one error
// that this door makes is INVALID_ARGUMENT, for a question that its sender got
// wrong whoever the client is, such as one without a target; it names the field.
// What a client can get wrong (a path, a credential, a header) is never an error
// here but a deny of the Checker.
//
// A credential may be given apart from the target, as the service's own client
// libraries do, or be found in the target's header fields. If both are there the
// Attributes carry both, and the Checker refuses what does not fit together.
package grpc

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// Name is how Attributes and metrics call this door.
const Name = "grpc"

// maxItems is the most questions that one batch may hold.
const maxItems = 100

// Checker decides. It never panics and never errs: a fault is a deny.
type Checker interface {
	Check(ctx context.Context, a *policy.Attributes) policy.Decision
}

// Authenticator says who holds the credential and asks no policy. Allowed means
// that the credential is good.
type Authenticator interface {
	Authenticate(ctx context.Context, a *policy.Attributes) policy.Decision
}

// Door serves the protocol. It is immutable and safe for concurrent use.
type Door struct {
	posternv1.UnimplementedCheckServiceServer

	checker       Checker
	authenticator Authenticator
	log           *slog.Logger
}

// New returns the door to a Checker and an Authenticator, which usually are one.
// A panic is reported to log; nil means the default logger.
func New(c Checker, a Authenticator, log *slog.Logger) *Door {
	if log == nil {
		log = slog.Default()
	}
	return &Door{checker: c, authenticator: a, log: log}
}

// Register offers the service on a gRPC server.
func (d *Door) Register(s grpc.ServiceRegistrar) { posternv1.RegisterCheckServiceServer(s, d) }

// Check decides on one request.
func (d *Door) Check(ctx context.Context, q *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	var r reader
	a := r.attributes(q.GetCredential(), q.GetTarget(), q.GetContext(), "")
	a.RequestID, a.Cost = q.GetCorrelationId(), r.cost(q.GetCost(), "cost")
	if err := r.err(); err != nil {
		return nil, err
	}
	dec := d.ask(ctx, d.checker.Check, a)
	return &posternv1.CheckResponse{Decision: door.DecisionProto(&dec), Principal: door.PrincipalProto(dec.Principal)}, nil
}

// BatchCheck decides on many requests, in order, until the semantic says stop.
// No item is decided on unless all are well-formed.
func (d *Door) BatchCheck(ctx context.Context, q *posternv1.BatchCheckRequest) (*posternv1.BatchCheckResponse, error) {
	var r reader
	items := q.GetItems()
	if n := len(items); n < 1 || n > maxItems {
		r.violation("items", fmt.Sprintf("must be 1 to %d", maxItems))
		return nil, r.err()
	}
	stop, ok := stops[q.GetSemantic()]
	if !ok {
		r.violation("semantic", "is not known")
	}
	questions := make([]*policy.Attributes, len(items))
	for i, item := range items {
		at := fmt.Sprintf("items[%d].", i)
		questions[i] = r.attributes(q.GetCredential(), item.GetTarget(), item.GetContext(), at)
		questions[i].Cost = r.cost(item.GetCost(), at+"cost")
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	m := &posternv1.BatchCheckResponse{}
	var who common
	for _, a := range questions {
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		dec := d.ask(ctx, d.checker.Check, a)
		m.Decisions = append(m.Decisions, door.DecisionProto(&dec))
		who.add(dec.Principal)
		if stop(dec.Allowed) {
			break
		}
	}
	m.Principal = door.PrincipalProto(who.principal)
	return m, nil
}

// stops says for each semantic after which answer a batch ends.
var stops = map[posternv1.BatchSemantic]func(allowed bool) bool{
	posternv1.BatchSemantic_BATCH_SEMANTIC_UNSPECIFIED:            func(bool) bool { return false },
	posternv1.BatchSemantic_BATCH_SEMANTIC_EXECUTE_ALL:            func(bool) bool { return false },
	posternv1.BatchSemantic_BATCH_SEMANTIC_DENY_ON_FIRST_DENY:     func(allowed bool) bool { return !allowed },
	posternv1.BatchSemantic_BATCH_SEMANTIC_PERMIT_ON_FIRST_PERMIT: func(allowed bool) bool { return allowed },
}

// common is the principal of a whole batch: nobody, unless all answers name the
// same. Items without a common credential may well have several.
type common struct {
	principal *policy.Principal
	asked     bool
}

func (c *common) add(p *policy.Principal) {
	if c.asked && !samePrincipal(c.principal, p) {
		p = nil
	}
	c.principal, c.asked = p, true
}

func samePrincipal(a, b *policy.Principal) bool {
	return a == b || a != nil && b != nil && a.ID == b.ID && a.Kind == b.Kind && a.Tenant == b.Tenant &&
		a.Issuer == b.Issuer && a.Method == b.Method && a.CredentialID == b.CredentialID
}

// Authenticate says who holds a credential.
func (d *Door) Authenticate(ctx context.Context, q *posternv1.AuthenticateRequest) (*posternv1.AuthenticateResponse, error) {
	a := &policy.Attributes{RequestID: q.GetCorrelationId(), Presented: presented(q.GetCredential()), Size: -1}
	dec := d.ask(ctx, d.authenticator.Authenticate, a)
	return &posternv1.AuthenticateResponse{Decision: door.DecisionProto(&dec), Principal: door.PrincipalProto(dec.Principal)}, nil
}

// ask puts the question. A panic is a deny.
func (d *Door) ask(ctx context.Context, question func(context.Context, *policy.Attributes) policy.Decision, a *policy.Attributes) (dec policy.Decision) {
	defer func() {
		if thrown := recover(); thrown != nil {
			door.Recovered(ctx, d.log, Name, thrown)
			dec = door.Fault()
		}
	}()
	a.Door, a.Caller, a.Connection = Name, door.Caller(ctx), door.Connection(ctx)
	dec = question(ctx, a)
	door.Settle(&dec)
	return dec
}

// err returns INVALID_ARGUMENT with every field that is wrong, or nil.
func (r *reader) err() error {
	if len(r.violations) == 0 {
		return nil
	}
	st := status.New(codes.InvalidArgument, "the question is malformed: "+r.violations[0].GetField()+" "+r.violations[0].GetDescription())
	detailed, err := st.WithDetails(
		&errdetails.ErrorInfo{Reason: "REQUEST_MALFORMED", Domain: "postern"},
		&errdetails.BadRequest{FieldViolations: r.violations},
	)
	if err != nil {
		return st.Err()
	}
	return detailed.Err()
}
