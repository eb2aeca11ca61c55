package grpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/door"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
)

// till is a Settler that a test plays.
type till struct {
	err      error
	receipt  string
	use      map[string]int64
	believed bool
}

func (t *till) Settle(_ context.Context, receipt string, use map[string]int64, believed bool) (budget.Settlement, error) {
	t.receipt, t.use, t.believed = receipt, use, believed
	return budget.Settlement{Repeated: true, Budgets: []policy.BudgetState{{Name: "llm/day", Unit: "tokens", Limit: 10, Remaining: 3}}}, t.err
}

func usage(t *till) *grpcdoor.Usage {
	return grpcdoor.NewUsage(func() grpcdoor.Settler { return t }, func(caller string) bool { return caller == "gateway" }, slog.New(slog.DiscardHandler))
}

func TestSettle(t *testing.T) {
	t.Parallel()
	played := &till{}
	res, err := usage(played).Settle(t.Context(), &posternv1.SettleRequest{Reservation: "r-1", Use: map[string]int64{"input_tokens": 5, "micros": 0}})
	if err != nil || !res.GetRepeated() || res.GetBudgets()[0].GetRemaining() != 3 || res.GetBudgets()[0].GetBudget() != "llm/day" {
		t.Errorf("%v %v", res, err)
	}
	if played.receipt != "r-1" || played.use["input_tokens"] != 5 || played.believed {
		t.Errorf("%+v", played)
	}
	for caller, believed := range map[string]bool{"gateway": true, "service": false} {
		if _, err := usage(played).Settle(door.WithCaller(t.Context(), caller), &posternv1.SettleRequest{Reservation: "r-1"}); err != nil || played.believed != believed {
			t.Errorf("%s: %+v %v", caller, played, err)
		}
	}
}

// Whatever is wrong has a code and a reason of its own, and no error shows a receipt.
func TestSettleErrors(t *testing.T) {
	t.Parallel()
	fits := &posternv1.SettleRequest{Reservation: "a-receipt", Use: map[string]int64{"tokens": 5}}
	for _, tc := range []struct {
		name   string
		req    *posternv1.SettleRequest
		err    error
		code   codes.Code
		reason string
	}{
		{"unknown", fits, fmt.Errorf("a-receipt: %w", budget.ErrReceipt), codes.NotFound, "RESERVATION_UNKNOWN"},
		{"expired", fits, budget.ErrExpired, codes.FailedPrecondition, "RESERVATION_EXPIRED"},
		{"settled", fits, budget.ErrSettled, codes.FailedPrecondition, "RESERVATION_SETTLED"},
		{"belief", fits, budget.ErrBelief, codes.PermissionDenied, "CALLER_NOT_TRUSTED"},
		{"use", fits, budget.ErrUse, codes.InvalidArgument, "REQUEST_MALFORMED"},
		{"store", fits, errors.New("a-receipt: the password of the database"), codes.Unavailable, "UNAVAILABLE"},
		{"deadline", fits, context.DeadlineExceeded, codes.Unavailable, "UNAVAILABLE"},
		{"no receipt", &posternv1.SettleRequest{}, nil, codes.InvalidArgument, "REQUEST_MALFORMED"},
		{"a huge receipt", &posternv1.SettleRequest{Reservation: strings.Repeat("a", 1<<20)}, nil, codes.InvalidArgument, "REQUEST_MALFORMED"},
		{"negative", &posternv1.SettleRequest{Reservation: "a-receipt", Use: map[string]int64{"tokens": -1}}, nil, codes.InvalidArgument, "REQUEST_MALFORMED"},
		{"too much", &posternv1.SettleRequest{Reservation: "a-receipt", Use: map[string]int64{"tokens": math.MaxInt64}}, nil, codes.InvalidArgument, "REQUEST_MALFORMED"},
		{"unit", &posternv1.SettleRequest{Reservation: "a-receipt", Use: map[string]int64{"requests": 1}}, nil, codes.InvalidArgument, "REQUEST_MALFORMED"},
	} {
		_, err := usage(&till{err: tc.err}).Settle(t.Context(), tc.req)
		s := status.Convert(err)
		info, _ := s.Details()[0].(*errdetails.ErrorInfo)
		if s.Code() != tc.code || info.GetReason() != tc.reason || strings.Contains(fmt.Sprint(s.Message(), s.Details()), "a-receipt") {
			t.Errorf("%s: %v %v", tc.name, s, s.Details())
		}
	}
	none := grpcdoor.NewUsage(func() grpcdoor.Settler { return nil }, func(string) bool { return true }, nil)
	if _, err := none.Settle(t.Context(), fits); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}

// What a request costs is asked with its own words, for each item of a batch; what is no
// cost is refused before anything is asked (BUDGET-03).
func TestCost(t *testing.T) {
	t.Parallel()
	var asked []map[string]int64
	door := grpcdoor.New(checks(func(a *policy.Attributes) policy.Decision {
		asked = append(asked, a.Cost)
		return policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Reservation: "r-1", Budgets: []policy.BudgetState{{Name: "llm/day", Remaining: 4}}}
	}), nil, nil)
	target := &posternv1.Target{Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{Method: "GET", Path: "/"}}}
	res, err := door.Check(t.Context(), &posternv1.CheckRequest{Target: target, Cost: map[string]int64{"tokens": 7}})
	if err != nil || asked[0]["tokens"] != 7 || res.GetDecision().GetReservation() != "r-1" || res.GetDecision().GetBudgets()[0].GetRemaining() != 4 || res.GetDecision().GetCacheTtl() != nil {
		t.Errorf("%v %v %v", asked, res, err)
	}
	_, err = door.BatchCheck(t.Context(), &posternv1.BatchCheckRequest{Items: []*posternv1.CheckItem{
		{Target: target, Cost: map[string]int64{"tokens": 1}}, {Target: target}, {Target: target, Cost: map[string]int64{"micros": 3}},
	}})
	if err != nil || len(asked) != 4 || asked[1]["tokens"] != 1 || asked[2] != nil || asked[3]["micros"] != 3 {
		t.Errorf("%v %v", asked, err)
	}
	if _, err := door.Check(t.Context(), &posternv1.CheckRequest{Target: target, Cost: map[string]int64{"tokens": 0}}); err != nil || asked[4] != nil {
		t.Errorf("nothing is something: %v %v", asked[4:], err)
	}
	for _, cost := range []map[string]int64{{"tokens": -1}, {"tokens": math.MinInt64}, {"tokens": math.MaxInt64}, {"dollars": 1}, {"": 1}} {
		_, err := door.Check(t.Context(), &posternv1.CheckRequest{Target: target, Cost: cost})
		_, batch := door.BatchCheck(t.Context(), &posternv1.BatchCheckRequest{Items: []*posternv1.CheckItem{{Target: target}, {Target: target, Cost: cost}}})
		if status.Code(err) != codes.InvalidArgument || status.Code(batch) != codes.InvalidArgument {
			t.Errorf("%v: %v %v", cost, err, batch)
		}
	}
	if len(asked) != 5 {
		t.Errorf("asked with a cost that is none: %v", asked[5:])
	}
}

type checks func(*policy.Attributes) policy.Decision

func (c checks) Check(_ context.Context, a *policy.Attributes) policy.Decision { return c(a) }
