package admin

import (
	"context"
	"errors"
	"fmt"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// Budgets shows accounts (server/budget.Budgets).
type Budgets interface {
	// List returns accounts by their keys.
	List(ctx context.Context, q budget.Query) ([]budget.State, error)
	// State returns one account by its key, or store.ErrNotFound.
	State(ctx context.Context, key string) (budget.State, error)
}

// budgets serves postern.admin.v1.BudgetService.
type budgets struct {
	adminv1.UnimplementedBudgetServiceServer
	budgets  Budgets
	registry *registry.Registry
}

// ListBudgets implements the service.
func (s *budgets) ListBudgets(ctx context.Context, req *adminv1.ListBudgetsRequest) (*adminv1.ListBudgetsResponse, error) {
	var v invalid
	size := v.pageSize(req.GetPageSize())
	if err := v.err(); err != nil {
		return nil, err
	}
	q := budget.Query{Budget: req.GetBudget(), Tenant: callOf(ctx).tenant(req.GetTenant()), Subject: req.GetSubject()}
	after, err := s.registry.Pages().After(req.GetPageToken(), q)
	if err != nil {
		return nil, err
	}
	page := q
	page.After, page.Limit = after, size
	list, err := s.budgets.List(ctx, page)
	if err != nil {
		return nil, accountError(err)
	}
	res := &adminv1.ListBudgetsResponse{Budgets: each(list, budgetProto)}
	if len(list) == size {
		res.NextPageToken = s.registry.Pages().Token(list[size-1].Key, q)
	}
	return res, nil
}

// GetBudget implements the service.
func (s *budgets) GetBudget(ctx context.Context, req *adminv1.GetBudgetRequest) (*adminv1.GetBudgetResponse, error) {
	state, err := s.budgets.State(ctx, req.GetId())
	if err != nil {
		return nil, accountError(err)
	}
	return &adminv1.GetBudgetResponse{Budget: budgetProto(state)}, nil
}

// SetLimit implements the service.
func (s *budgets) SetLimit(ctx context.Context, req *adminv1.SetLimitRequest) (*adminv1.SetLimitResponse, error) {
	var v invalid
	if n := req.GetLimit(); n < 0 || n > budget.MaxAmount {
		v.allow("limit", "is out of range", fmt.Sprintf("1 to %d, or 0 for what the configuration says", int64(budget.MaxAmount)))
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	state, err := s.budgets.State(ctx, req.GetId())
	if err != nil {
		return nil, accountError(err)
	}
	change, err := s.registry.SetLimit(ctx, callOf(ctx).Call, store.Limit{
		Budget: state.Budget, Subject: state.Subject, Tenant: state.Tenant, Limit: req.GetLimit(),
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.SetLimitResponse{Budget: budgetProto(state), Change: changeProto(change)}, nil
}

// maxAccountKey is the length of the longest key of an account.
const maxAccountKey = 64

// account looks an account up. Another tenant's is not found.
func (s *scope) account(id string) (target, error) {
	if id == "" {
		return target{}, required("id")
	}
	if len(id) > maxAccountKey || s.budgets == nil {
		return target{}, noSuch("budget")
	}
	state, err := s.budgets.State(s.ctx, id)
	if err != nil {
		return target{}, accountError(err)
	}
	if own := s.caller.principal.Tenant; own != "" && own != state.Tenant {
		return target{}, noSuch("budget")
	}
	return target{kind: "budget", id: id, tenant: state.Tenant}, nil
}

// accountError is what a caller hears of an account that cannot be shown. What is lost is
// the cause, which the log has.
func accountError(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return noSuch("budget")
	}
	return fmt.Errorf("%w: %w", &failure{reason: storeUnavailable, message: "the store did not answer; try again"}, err)
}

func budgetProto(s budget.State) *adminv1.Budget {
	return &adminv1.Budget{
		Id: s.Key, Budget: s.Budget, Unit: string(s.Unit), Subject: valid(s.Subject), Tenant: s.Tenant,
		BeginTime: timeProto(s.Begin), EndTime: timeProto(s.End),
		Limit: s.Limit, Settled: s.Settled, Reserved: s.Reserved, Leased: s.Leased, Remaining: s.Remaining(),
		Overrun: s.Overrun, Lost: s.Lost, UpdateTime: timeProto(s.UpdatedAt),
	}
}
