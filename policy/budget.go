package policy

import "time"

// Charge is a request that is about to be allowed, in the words of those who count what
// it costs.
type Charge struct {
	Principal *Principal
	Route     *Route
	Request   *Request
	// Target says what it would use; nil if nothing was read.
	Target *Target
	// Cost is what the enforcement point says that it costs, by unit; nil for nothing.
	Cost map[string]int64
	// Now is the time of the check.
	Now time.Time
}

// Spent is what became of a Charge. Its zero value is a refusal that nobody explained.
type Spent struct {
	// Reason is ReasonAllowed, or why not: ReasonRateLimited, ReasonBudgetExhausted, or
	// a fault.
	Reason Reason
	// Detail says more, for the decision log.
	Detail string
	// Reservation is the receipt with which the true use is settled; empty if there is
	// nothing to settle.
	Reservation string
	// ExpiresAt is until when it can be settled.
	ExpiresAt time.Time
	// Budgets are those that the request was charged to, the one that is closest to its
	// end first. On a refusal, the one that refused.
	Budgets []BudgetState
	// RetryAfter says when to try again; 0 if unknown or never.
	RetryAfter time.Duration
	// State is how much state it took.
	State State
	// Taken is what the spender noted to be able to give it back; nobody else reads it.
	Taken any
}

// BudgetState is what is left of a budget or a rate after a decision.
type BudgetState struct {
	// Name names it, for example "llm-tokens/day", and Unit what it counts.
	Name, Unit string
	// Limit is how much it holds in all, Remaining how much is left as far as this
	// replica knows.
	Limit, Remaining int64
	// Window is for how long Limit is, and Reset when it is full again; 0 for never.
	Window, Reset time.Duration
}
