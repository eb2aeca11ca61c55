package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/rate"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Budgeting is how much of something there is, and for whom.
type Budgeting = budget.Config

// Spending is how often something may be asked for, and how it is known what it costs.
type Spending struct {
	// Rates say how often requests may come. A request must be within all that it falls
	// under. Default: none.
	Rates []rate.Config `yaml:"rates"`
	// Usage says how Postern learns what requests cost, and what clients hear of their
	// limits.
	Usage Usage `yaml:"usage"`
}

// Usage says how Postern learns what requests cost, and what clients hear of their limits.
type Usage struct {
	// CostHeaders are header fields in which a gateway says what a request costs, each
	// with its unit: tokens, requests or micros. They count only from callers with
	// `trust: [cost]`, and never go upstream. Default: none.
	CostHeaders map[string]budget.Unit `yaml:"cost_headers"`
	// Tell says whom to tell in the fields RateLimit and RateLimit-Policy what is left:
	// "refused", those who get a 429, of what refused them; "always", of all that a
	// request is charged to; or "never". Danger: with always, whoever shares a budget
	// sees what the others leave of it. Default: refused.
	Tell Telling `yaml:"tell"`
	// LegacyHeaders adds X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset,
	// in seconds from now. Default: false.
	LegacyHeaders bool `yaml:"legacy_headers"`
}

// Telling is whom to tell of limits.
type Telling string

// Whom to tell.
const (
	TellRefused Telling = "refused"
	TellAlways  Telling = "always"
	TellNever   Telling = "never"
)

// Values implements strictyaml.Enum.
func (Telling) Values() []string { return []string{"refused", "always", "never"} }

// reservationHeader is the field with the receipt where upstream.headers names none.
const reservationHeader = "x-postern-reservation"

func defaultBudgeting() (b Budgeting) {
	b.Ledger.SetDefaults()
	return b
}

// limitHeaders is the same in the words of the checker.
func (u *Usage) limitHeaders() check.LimitHeaders {
	return check.LimitHeaders{Always: u.Tell == TellAlways, Never: u.Tell == TellNever, Legacy: u.LegacyHeaders}
}

// costs are the header fields of costs in the order of their names.
func (u *Usage) costs() []check.CostHeader {
	var all []check.CostHeader
	for _, name := range slices.Sorted(maps.Keys(u.CostHeaders)) {
		all = append(all, check.CostHeader{Name: name, Unit: string(u.CostHeaders[name])})
	}
	return all
}

// receiptHeader is the field in which the upstream gets receipts, "" where there never
// are any.
func (c *Config) receiptHeader() string {
	for _, name := range identityNames(c.Upstream.Headers) {
		if c.Upstream.Headers[name] == AttributeReservation {
			return name
		}
	}
	if _, taken := c.Upstream.Headers[reservationHeader]; taken || c.Store.Driver == DriverNone {
		return ""
	}
	return reservationHeader
}

// usageNames are the fields of costs and receipts: what clients send there is taken away,
// in every spelling that some server takes for it.
func (c *Config) usageNames() []string {
	names := slices.Sorted(maps.Keys(c.Usage.CostHeaders))
	if receipt := c.receiptHeader(); receipt != "" && c.Upstream.Headers[receipt] != AttributeReservation {
		names = append(names, receipt)
	}
	return names
}

// toldNames are the fields in which Postern says what is left, where it limits anything:
// nobody upstream is to read there what a client says.
func (c *Config) toldNames() []string {
	if len(c.Rates) == 0 && len(c.Budgets) == 0 {
		return nil
	}
	return []string{"ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
}

// checkSpending holds budgets, rates and what is said of costs against the rest.
func (c *Config) checkSpending(report report) {
	c.Budgeting.Check(report)
	if len(c.Budgets) > 0 && c.Store.Driver == DriverNone {
		report("budgets", "there is no store in which what was used is kept", "set store.driver, or use rates")
	}
	names := map[string]bool{}
	for i := range c.Budgets {
		b := &c.Budgets[i]
		names[b.Name] = true
		c.checkMatch(report, fmt.Sprintf("budgets[%d].match", i), b.Match.Routes, b.Match.Kinds)
	}
	for i := range c.Rates {
		r, at := &c.Rates[i], fmt.Sprintf("rates[%d]", i)
		checkName(report, at+".name", r.Name, names)
		c.checkMatch(report, at, r.Routes, r.Kinds)
	}
	c.checkCosts(report)
}

// checkMatch refuses routes and kinds that no request is of: what is to be limited would
// not be.
func (c *Config) checkMatch(report report, at string, routes []string, kinds []policy.Kind) {
	var known []string
	for i := range c.Routes {
		known = append(known, c.Routes[i].Name)
	}
	for i, name := range routes {
		if !slices.Contains(known, name) {
			report(fmt.Sprintf("%s.routes[%d]", at, i), fmt.Sprintf("there is no route %q", name), strictyaml.Suggest(name, known))
		}
	}
	checkNoRepeats(report, at+".routes", routes)
	for i, k := range kinds {
		if k != policy.KindAnonymous && !slices.Contains(principalKinds, k) {
			report(fmt.Sprintf("%s.kinds[%d]", at, i), fmt.Sprintf("%q is not a kind of principal: use user, service, agent, device, anonymous", k), "")
		}
	}
	checkNoRepeats(report, at+".kinds", kinds)
}

// checkCosts refuses fields that say something else, or whose unit is said twice.
func (c *Config) checkCosts(report report) {
	trusted := slices.ContainsFunc(c.Callers, func(caller Caller) bool { return slices.Contains(caller.Trust, TrustCost) })
	if len(c.Usage.CostHeaders) > 0 && !trusted {
		report("usage.cost_headers", "nobody is believed to say what a request costs", "add trust: [cost] to the gateway under callers, or remove it")
	}
	units := map[budget.Unit]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Usage.CostHeaders)) {
		at, unit := "usage.cost_headers."+name, c.Usage.CostHeaders[name]
		_, upstream := c.Upstream.Headers[name]
		switch {
		case !isToken(name) || name != strings.ToLower(name):
			report(fmt.Sprintf("usage.cost_headers[%q]", name), fmt.Sprintf("%q is not the name of a header field in lower case", name), "")
		case upstream || slices.Contains(unsettable, name) || slices.ContainsFunc(c.Credentials, func(r CredentialRule) bool { return r.From.Header() == name }):
			report(at, "the field says something else", "choose a name of your own, such as x-llm-tokens")
		case units[unit] != "":
			report(at, fmt.Sprintf("%s says %s already", units[unit], unit), "keep one of them")
		}
		units[unit] = name
	}
}
