package budget

import (
	"math/bits"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// cost is what a request costs in a unit. Its zero value costs nothing.
type cost struct {
	amount int64
	// fault says why it is not known; empty if it is.
	fault string
	// input and output are the model's prices, for the settlement.
	price Price
}

const (
	faultNegative = "the enforcement point says that the request costs less than nothing"
	faultHuge     = "the request costs more than any budget holds"
	faultUnknown  = "nothing says what the request costs: no max_tokens, and no cost from the enforcement point"
	faultPrice    = "the model has no price"
)

// cost returns what a request costs in a budget. The enforcement point's word counts
// first, then what the request itself says, then the default. Nothing of it is ever
// below 0, and what is 0 where a request must cost something is the default, or 1.
func (r *rule) cost(c *policy.Charge, prices prices) cost {
	var k cost
	if r.Unit == UnitMicros && c.Target != nil {
		k.price, _ = prices.of(c.Target.Model)
	}
	if n, ok := c.Cost[string(r.Unit)]; ok {
		k.amount = n
	} else {
		k.amount, k.fault = r.estimate(c, k.price)
	}
	switch {
	case k.amount < 0:
		k.amount, k.fault = 0, faultNegative
	case k.amount > MaxAmount:
		k.amount, k.fault = 0, faultHuge
	case k.fault == faultUnknown && r.DefaultCost > 0:
		k.amount, k.fault = r.DefaultCost, ""
	case k.fault == faultUnknown && !r.known(c):
		k.fault = "" // it is for no model, and nobody says that it costs anything
	case k.fault == "" && k.amount == 0:
		k.amount = max(1, r.DefaultCost)
	}
	return k
}

// known reports whether the cost of a request must be known: it is for a model, or the
// budget is about its route in particular.
func (r *rule) known(c *policy.Charge) bool {
	return c.Target != nil && c.Target.Model != "" || len(r.Match.Routes) > 0
}

// estimate is what the request itself says: the most that it can cost.
func (r *rule) estimate(c *policy.Charge, price Price) (int64, string) {
	if r.Unit == UnitRequests {
		return max(1, r.DefaultCost), ""
	}
	t := c.Target
	if t == nil || t.MaxTokens < 0 || t.PromptTokens < 0 || t.Model == "" && t.MaxTokens == 0 && t.PromptTokens == 0 {
		return 0, faultUnknown
	}
	if t.MaxTokens > MaxAmount || t.PromptTokens > MaxAmount {
		return 0, faultHuge
	}
	if r.Unit == UnitTokens {
		return t.MaxTokens + t.PromptTokens, ""
	}
	if price == (Price{}) {
		return 0, faultPrice
	}
	return price.of(t.PromptTokens, t.MaxTokens), ""
}

// of is what so many tokens cost, rounded up; more than MaxAmount where it is too much to
// count.
func (p Price) of(input, output int64) int64 {
	sum := micros(input, p.Input)
	if sum <= MaxAmount {
		sum += micros(output, p.Output)
	}
	return min(sum, MaxAmount+1)
}

func micros(tokens, price int64) int64 {
	high, low := bits.Mul64(uint64(max(tokens, 0)), uint64(max(price, 0)))
	low, carry := bits.Add64(low, 999, 0)
	high += carry
	if high >= 1000 {
		return MaxAmount + 1
	}
	n, _ := bits.Div64(high, low, 1000)
	return int64(min(n, MaxAmount+1))
}

// prices finds the price of a model.
type prices struct {
	exact map[string]Price
	// open are those of names that end in "*", the longest first.
	open []openPrice
}

type openPrice struct {
	prefix string
	price  Price
}

func newPrices(configured map[string]Price) prices {
	p := prices{exact: configured}
	for name, price := range configured {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			p.open = append(p.open, openPrice{prefix, price})
		}
	}
	slices.SortFunc(p.open, func(a, b openPrice) int {
		if len(a.prefix) != len(b.prefix) {
			return len(b.prefix) - len(a.prefix)
		}
		return strings.Compare(a.prefix, b.prefix)
	})
	return p
}

func (p *prices) of(model string) (Price, bool) {
	if model == "" || strings.HasSuffix(model, "*") {
		return Price{}, false
	}
	if price, ok := p.exact[model]; ok {
		return price, true
	}
	for _, o := range p.open {
		if strings.HasPrefix(model, o.prefix) {
			return o.price, true
		}
	}
	return Price{}, false
}

// matches reports whether a request is charged to a budget.
func (m *Match) matches(c *policy.Charge) bool {
	if len(m.Routes) > 0 && (c.Route == nil || !slices.Contains(m.Routes, c.Route.Name)) {
		return false
	}
	if len(m.Kinds) > 0 && !slices.Contains(m.Kinds, c.Principal.Kind) {
		return false
	}
	if len(m.Models) == 0 {
		return true
	}
	return c.Target != nil && slices.ContainsFunc(m.Models, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return c.Target.Model == pattern || open && c.Target.Model != "" && strings.HasPrefix(c.Target.Model, prefix)
	})
}
