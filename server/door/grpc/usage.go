package grpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/door"
)

// Settler replaces what was reserved by what was used (server/budget.Budgets). A nil
// *budget.Budgets must not be given.
type Settler interface {
	Settle(ctx context.Context, receipt string, use map[string]int64, believed bool) (budget.Settlement, error)
}

// Usage serves postern.v1.UsageService. It is immutable and safe for concurrent use.
type Usage struct {
	posternv1.UnimplementedUsageServiceServer

	settler  func() Settler
	believes func(caller string) bool
	log      *slog.Logger
}

// NewUsage returns the door to what settler returns, which is asked at every call and is
// nil where there are no budgets. Believes says whether a caller is believed to say what
// requests cost; others cannot give back what was reserved. What a budget cannot be reached
// for is reported to log; nil means the default logger.
func NewUsage(settler func() Settler, believes func(caller string) bool, log *slog.Logger) *Usage {
	if log == nil {
		log = slog.Default()
	}
	return &Usage{settler: settler, believes: believes, log: log}
}

// Register offers the service on a gRPC server.
func (u *Usage) Register(s grpc.ServiceRegistrar) { posternv1.RegisterUsageServiceServer(s, u) }

// maxReceipt is far longer than any receipt.
const maxReceipt = 8 << 10

// Settle replaces what a request has reserved by what it used.
func (u *Usage) Settle(ctx context.Context, q *posternv1.SettleRequest) (*posternv1.SettleResponse, error) {
	var r reader
	r.require(q.GetReservation(), "reservation")
	if len(q.GetReservation()) > maxReceipt {
		r.violation("reservation", "is too long")
	}
	use := r.amounts(q.GetUse(), "use", useUnits)
	if err := r.err(); err != nil {
		return nil, err
	}
	s := u.settler()
	if s == nil {
		return nil, settleError(codes.FailedPrecondition, "NOT_CONFIGURED", "there are no budgets to settle with")
	}
	done, err := s.Settle(ctx, q.GetReservation(), use, u.believes(door.Caller(ctx)))
	if err != nil {
		return nil, u.wireError(ctx, err)
	}
	return &posternv1.SettleResponse{Repeated: done.Repeated, Budgets: door.BudgetsProto(done.Budgets)}, nil
}

// wireError says in one place what each error is on the wire. What is lost is the cause of
// a fault, which the log has.
func (u *Usage) wireError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, budget.ErrReceipt):
		return settleError(codes.NotFound, "RESERVATION_UNKNOWN", "there is no such reservation")
	case errors.Is(err, budget.ErrExpired):
		return settleError(codes.FailedPrecondition, "RESERVATION_EXPIRED", "the reservation has expired, and was settled as its budget says")
	case errors.Is(err, budget.ErrSettled):
		return settleError(codes.FailedPrecondition, "RESERVATION_SETTLED", "the reservation was settled before, with another use")
	case errors.Is(err, budget.ErrBelief):
		return settleError(codes.PermissionDenied, "CALLER_NOT_TRUSTED", "this caller is not believed to say that less was used than reserved: add trust: [cost] to it under callers")
	case errors.Is(err, budget.ErrUse):
		return settleError(codes.InvalidArgument, "REQUEST_MALFORMED", "the use is not valid")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return settleError(codes.Unavailable, "UNAVAILABLE", "the report may not have been taken; it is safe to repeat")
	}
	u.log.LogAttrs(ctx, slog.LevelError, "a report of use could not be taken", slog.String("error", err.Error()))
	return settleError(codes.Unavailable, "UNAVAILABLE", "the report could not be taken; it is safe to repeat")
}

func settleError(code codes.Code, reason, message string) error {
	st := status.New(code, message)
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "postern"}); err == nil {
		return detailed.Err()
	}
	return st.Err()
}
