package check

import (
	"cmp"
	"context"
	"slices"

	"github.com/postern-auth/postern/policy"
)

// Rates limits how often requests may come (server/rate.Limits). It reads and writes RAM
// only.
type Rates interface {
	// Take counts the request against every rate that it falls under, or against none.
	// What is left of them is appended to states.
	Take(c *policy.Charge, states []policy.BudgetState) policy.Spent
	// Undo takes it back: the request was denied after all.
	Undo(c *policy.Charge)
}

// Spender takes what a request costs (server/budget.Budgets).
type Spender interface {
	// Spend takes it from every budget that the charge falls under, or from
	// none. It does not block but where a budget is nearly used up.
	Spend(ctx context.Context, c *policy.Charge) policy.Spent
	// Undo gives it back: the request was denied after all.
	Undo(s *policy.Spent)
}

// spend takes what the request costs, after everything else has said yes: rates first,
// which cost no I/O, then budgets. What either takes is given back if the other, or
// anything that comes after, says no (undo).
func (c *Checker) spend(ctx context.Context, x *exchange) bool {
	x.decision.Phase = policy.PhaseSpend
	if c.cfg.Rates == nil && c.cfg.Spender == nil {
		return true
	}
	x.charge = policy.Charge{
		Principal: x.decision.Principal, Route: x.route, Request: &x.request,
		Target: x.target, Cost: x.cost, Now: x.now,
	}
	var states []policy.BudgetState
	if c.cfg.Rates != nil {
		s := c.cfg.Rates.Take(&x.charge, nil)
		if !x.pay(&s) {
			return false
		}
		x.rated, states = true, s.Budgets
	}
	if c.cfg.Spender != nil {
		x.spent = c.cfg.Spender.Spend(ctx, &x.charge)
		if !x.pay(&x.spent) {
			return false
		}
		x.paid = true
		if len(states) == 0 {
			states = x.spent.Budgets
		} else {
			states = append(states, x.spent.Budgets...)
		}
	}
	sortStates(states)
	x.decision.Budgets, x.decision.Reservation = states, x.spent.Reservation
	return true
}

// pay ends the check if somebody who counts said no.
func (x *exchange) pay(s *policy.Spent) bool {
	x.decision.State = x.decision.State.Max(s.State)
	if s.Reason == policy.ReasonAllowed {
		return true
	}
	x.decision.Budgets, x.decision.RetryAfter = s.Budgets, s.RetryAfter
	return x.deny(s.Reason, s.Detail)
}

// sortStates puts first what is closest to its end.
func sortStates(states []policy.BudgetState) {
	if len(states) > 1 {
		slices.SortStableFunc(states, func(a, b policy.BudgetState) int { return cmp.Compare(left(&a), left(&b)) })
	}
}

// left is which part of a budget is left.
func left(s *policy.BudgetState) float64 {
	if s.Limit <= 0 {
		return 0
	}
	return float64(s.Remaining) / float64(s.Limit)
}

// undo gives back what a request took that was denied after all, by whatever came after:
// an audit log that failed, a token that could not be signed, a panic.
func (c *Checker) undo(x *exchange) {
	if x.decision.Allowed {
		return
	}
	if x.rated {
		c.cfg.Rates.Undo(&x.charge)
	}
	if x.paid {
		c.cfg.Spender.Undo(&x.spent)
	}
	x.rated, x.paid, x.decision.Reservation = false, false, ""
	if r := x.decision.Reason; r != policy.ReasonRateLimited && r != policy.ReasonBudgetExhausted {
		x.decision.Budgets = nil // as they were before they got it back
	}
}
