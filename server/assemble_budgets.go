package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/check"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
	"github.com/postern-auth/postern/server/seal"
)

// ratesOrNone are the rates, unless there are none: then a check does not even look.
func (p *parts) ratesOrNone() check.Rates {
	if p.rates.Len() == 0 {
		return nil
	}
	return p.rates
}

// openBudgets starts to share the accounts of the store. They outlive configurations:
// a reload swaps what they are about (Server.Swap).
func (p *plane) openBudgets(cfg *Config, peppers *seal.Peppers, now func() time.Time) (err error) {
	ledger, err := ledgerOf(p.store)
	if err != nil {
		return err
	}
	p.budgets, err = budget.New(cfg.Budgeting, budget.Deps{
		Ledger: ledger, Peppers: peppers, Now: now, Logger: p.log, Owner: p.ownerOf, Limit: p.limits.of,
	})
	if err != nil {
		return fmt.Errorf("budgets: %w", err)
	}
	return nil
}

// ownerOf is who owns the agent that calls, or that acts for the caller; "" for nobody.
func (p *plane) ownerOf(who *policy.Principal) string {
	id := who.ID
	if who.Kind != policy.KindAgent {
		if len(who.Actors) == 0 || who.Actors[0].Kind != policy.KindAgent {
			return ""
		}
		id = who.Actors[0].ID
	}
	agent := p.mirror.Agents().Agent(who.Tenant, id)
	if agent == nil || len(agent.Lineage) == 0 {
		return ""
	}
	return agent.Lineage[0]
}

// spender charges the budgets of the store. Without one, tokens with a budget of their own
// are refused: nobody could count what they spend.
func (p *plane) spender() check.Spender {
	if p == nil {
		return uncounted{}
	}
	return p.budgets
}

// believesCost reports whether a caller is believed to say what requests cost.
func (s *Server) believesCost(caller string) bool {
	return slices.ContainsFunc(s.current.Load().cfg.Callers, func(c Caller) bool {
		return caller != "" && c.Name == caller && slices.Contains(c.Trust, TrustCost)
	})
}

// settler takes reports of use; nil without a store.
func (s *Server) settler() grpcdoor.Settler {
	if s.plane == nil {
		return nil
	}
	return s.plane.budgets
}

// uncounted is a Spender where nothing can be counted.
type uncounted struct{}

// Spend implements check.Spender.
func (uncounted) Spend(_ context.Context, c *policy.Charge) policy.Spent {
	if c.Principal.TokenBudget > 0 {
		return policy.Spent{Reason: policy.ReasonUnavailable, Detail: "the token has a budget, and there is no store to count in"}
	}
	return policy.Spent{Reason: policy.ReasonAllowed}
}

// Undo implements check.Spender.
func (uncounted) Undo(*policy.Spent) {}

// free is a Spender for a decision that is not carried out.
type free struct{}

// Spend implements check.Spender.
func (free) Spend(context.Context, *policy.Charge) policy.Spent {
	return policy.Spent{Reason: policy.ReasonAllowed}
}

// Undo implements check.Spender.
func (free) Undo(*policy.Spent) {}
