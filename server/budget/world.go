package budget

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
)

// world is a configuration in force.
type world struct {
	rules   []*rule
	prices  prices
	sharing Sharing
}

// rule is a budget of the configuration, or the one that tokens say of themselves.
type rule struct {
	Budget
	identity
	mix    uint64 // a hash of the identity
	claim  bool
	window atomic.Pointer[span] // the one that was found last
}

// identity is what makes the accounts of two budgets the same ones.
type identity struct{ name, unit, window, per string }

// span is a window: Unix nanoseconds, and the same as times. Zero for no bound.
type span struct {
	from, to   int64
	begin, end time.Time
}

func newWorld(cfg Config, seed maphash.Seed) *world {
	w := &world{prices: newPrices(cfg.Prices), sharing: cfg.Ledger.withDefaults()}
	// Budgets are asked in the order of their names, on all replicas.
	all := slices.SortedFunc(slices.Values(cfg.Budgets), func(a, b Budget) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range all {
		w.rules = append(w.rules, newRule(b, seed))
	}
	claim := newRule(Budget{Name: ClaimName, Unit: UnitTokens, Limit: MaxAmount, Per: []Per{PerKey}}, seed)
	claim.claim = true
	w.rules = append(w.rules, claim)
	return w
}

func newRule(b Budget, seed maphash.Seed) *rule {
	b = b.withDefaults()
	per := make([]string, len(b.Per))
	for i, p := range b.Per {
		per[i] = string(p)
	}
	r := &rule{Budget: b, identity: identity{b.Name, string(b.Unit), b.Window.String(), strings.Join(per, ",")}}
	r.mix = maphash.Comparable(seed, r.identity)
	return r
}

// find returns the rule whose accounts are those of another one, or nil.
func (w *world) find(r *rule) *rule {
	for _, other := range w.rules {
		if other == r || other.identity == r.identity {
			return other
		}
	}
	return nil
}

// final reports whether what is taken needs no settlement.
func (r *rule) final() bool { return r.Unit == UnitRequests }

// charges reports whether a request falls under the budget.
func (r *rule) charges(c *policy.Charge) bool {
	if r.claim {
		return c.Principal.TokenBudget != 0
	}
	return r.Match.matches(c)
}

// limitOf is the limit of a request's account, before any override.
func (r *rule) limitOf(p *policy.Principal) int64 {
	if r.claim {
		return min(max(0, p.TokenBudget), MaxAmount)
	}
	return r.Limit
}

// span is the window that a moment is in.
func (r *rule) span(now time.Time) *span {
	if r.Window.calendar == always {
		return &endless
	}
	at := now.UnixNano()
	if s := r.window.Load(); s != nil && s.from <= at && at < s.to {
		return s
	}
	s := new(span)
	s.begin, s.end = r.Window.at(now)
	s.from, s.to = s.begin.UnixNano(), s.end.UnixNano()
	r.window.Store(s)
	return s
}

var endless span

// reset is when the budget is full again; 0 for never.
func (r *rule) reset(a *account, now time.Time) time.Duration {
	switch {
	case r.Window.rolling > 0:
		return r.Window.rolling + r.Window.slot()
	case !a.end.IsZero():
		return max(0, a.end.Sub(now))
	}
	return 0
}

// length is how long the window is, for reports; 0 for a lifetime.
func (r *rule) length(a *account) time.Duration {
	if r.Window.rolling > 0 {
		return r.Window.rolling
	}
	return a.end.Sub(a.begin)
}

// keepUntil is when an account of the rule can be forgotten; zero for never.
func (w *world) keepUntil(r *rule, s *span, p *policy.Principal) time.Time {
	switch {
	case !s.end.IsZero():
		return s.end.Add(w.sharing.Keep)
	case r.claim && !p.ExpiresAt.IsZero():
		return p.ExpiresAt.Add(maxReserve) // there may be many
	case r.forTokens() && !p.ExpiresAt.IsZero():
		return p.ExpiresAt.Add(maxReserve + w.sharing.Keep)
	}
	return time.Time{}
}

// forTokens reports whether an account is of one credential, so that nobody needs it when
// that has expired.
func (r *rule) forTokens() bool {
	return r.Window == Lifetime && (slices.Contains(r.Per, PerToken) || slices.Contains(r.Per, PerKey))
}
