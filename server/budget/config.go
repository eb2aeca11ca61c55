package budget

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Config says which budgets there are, what models cost, and how replicas share.
type Config struct {
	// Budgets are what requests are charged to. One request falls under all that are
	// about it, and is allowed only if it fits into each.
	Budgets []Budget `yaml:"budgets"`
	// Prices are what models cost, by model. A name that ends in "*" is for all models
	// that begin so, and the longest that fits counts. A model without a price cannot be
	// charged to a budget in micros, so such requests are refused. Default: none.
	Prices map[string]Price `yaml:"prices"`
	// Ledger is how replicas share budgets.
	Ledger Sharing `yaml:"ledger"`
}

// Budget is so much of something for so long, for each of those that `per` tells apart.
type Budget struct {
	// Name names it in answers, logs and metrics, for example "llm-tokens/day". What was
	// used is kept under it: a budget with another name begins anew. Required, unique.
	Name string `yaml:"name,required"`
	// Unit is what it counts: requests, tokens (of models) or micros (millionths of a
	// currency, see `prices`). Default: requests.
	Unit Unit `yaml:"unit"`
	// Limit is how much it holds: 1 to 9,007,199,254,740,992. Required.
	Limit int64 `yaml:"limit,required"`
	// Window is for how long that is: lifetime, day, month (both of the calendar in UTC), or a
	// duration from 1m to 8784h, as 24h, which is then the last 24 hours at any moment; what
	// was used leaves it again at most a sixtieth of the duration late. Default: lifetime.
	Window Window `yaml:"window"`
	// Per says who has one each: tenant, principal, agent (who acts, or who acts for
	// another), key (any credential by its id), token (only tokens that are not kept here,
	// by their jti), owner (of the agent). Several together tell apart by all of them. What
	// a request does not have, as an agent, keeps it out of the budget. Default: none, which
	// is one budget for the whole installation.
	Per []Per `yaml:"per"`
	// Match picks the requests that are charged. Default: all.
	Match Match `yaml:"match"`
	// Mode is what happens to a request that does not fit. Default: hard.
	//   hard: it is refused
	//   soft: it is allowed, and what is over the limit is counted as such; callers see
	//     that nothing remains
	//   observe: it is allowed and counted, and callers see nothing of the budget
	Mode Mode `yaml:"mode"`
	// MaxPerRequest is the most that one request may ask for. Default: the limit.
	MaxPerRequest int64 `yaml:"max_per_request"`
	// DefaultCost is what a request costs that does not say. Default for requests: 1. For
	// others: none, so that a request of which it must be known is refused: one for a
	// model, and every one that `match` picks by its route. Others, that name no model,
	// then cost nothing.
	DefaultCost int64 `yaml:"default_cost"`
	// ReserveFor is how long what a request has reserved waits for its true use to be
	// settled: 1s to 24h. Default: 10m.
	ReserveFor time.Duration `yaml:"reserve_for"`
	// OnExpiry is what becomes of a reservation that nobody settled: settle counts all of
	// it as used, release none. Danger: with release, whoever keeps reports of use from
	// arriving has no budget. Default: settle.
	OnExpiry OnExpiry `yaml:"on_expiry"`
}

// Match picks requests. Empty lists pick all; a request must be picked by each list.
type Match struct {
	// Routes are names of routes.
	Routes []string `yaml:"routes"`
	// Kinds are kinds of principals: user, service, agent, device, anonymous.
	Kinds []policy.Kind `yaml:"kinds"`
	// Models are names of models; one that ends in "*" is for all that begin so.
	Models []string `yaml:"models"`
}

// Price is what a model costs, in micros: millionths of the currency that all prices are
// in. 1.50 for a million tokens are 1500 for 1,000.
type Price struct {
	// Input and Output are for 1,000 tokens of the question and of the answer: 0 to
	// 1,000,000,000.
	Input  int64 `yaml:"input"`
	Output int64 `yaml:"output"`
}

// Sharing is how replicas share budgets: each takes a part of a budget on lease, and
// spends it without asking the store.
type Sharing struct {
	// Lease is how long a replica may spend what it took without renewing it, so for how
	// long budgets go on where the store is down: 1s to 10m. What a replica that dies had
	// taken counts as used. Default: 10s.
	Lease time.Duration `yaml:"lease"`
	// Share is the most of a budget that a replica has on lease without having spent it,
	// in thousandths of the limit, so what can be lost with a replica that dies: 1 to 100.
	// Default: 10, which is one per cent.
	Share int `yaml:"share"`
	// Poll is how often a replica looks whether another one is short: 1ms to 1s. Default:
	// 100ms.
	Poll time.Duration `yaml:"poll"`
	// Wait is how long a request waits for what other replicas have on lease before it is
	// refused: 1ms to 10s; at least twice Poll is sensible. Default: 250ms.
	Wait time.Duration `yaml:"wait"`
	// Idle is after how long without a request a replica gives back what it has on lease:
	// 10ms to 1m. Default: 2s.
	Idle time.Duration `yaml:"idle"`
	// Keep is how long the accounts of windows that are over are kept for reports: 0s to
	// 8784h. Default: 840h, which is 35 days.
	Keep time.Duration `yaml:"keep"`
}

// Unit is what a budget counts. Empty means UnitRequests.
type Unit string

// The units.
const (
	UnitRequests Unit = "requests"
	UnitTokens   Unit = "tokens"
	UnitMicros   Unit = "micros"
)

// Values implements strictyaml.Enum.
func (Unit) Values() []string { return []string{"requests", "tokens", "micros"} }

// Per is something of a request that has a budget of its own.
type Per string

// What can have budgets.
const (
	PerTenant    Per = "tenant"
	PerPrincipal Per = "principal"
	PerAgent     Per = "agent"
	PerKey       Per = "key"
	PerToken     Per = "token"
	PerOwner     Per = "owner"
)

// Values implements strictyaml.Enum.
func (Per) Values() []string {
	return []string{"tenant", "principal", "agent", "key", "token", "owner"}
}

// Mode is what happens to a request that does not fit. Empty means ModeHard.
type Mode string

// The modes.
const (
	ModeHard    Mode = "hard"
	ModeSoft    Mode = "soft"
	ModeObserve Mode = "observe"
)

// Values implements strictyaml.Enum.
func (Mode) Values() []string { return []string{"hard", "soft", "observe"} }

// OnExpiry is what becomes of reservations that nobody settled. Empty means
// ExpirySettle.
type OnExpiry string

// What can become of them.
const (
	ExpirySettle  OnExpiry = "settle"
	ExpiryRelease OnExpiry = "release"
)

// Values implements strictyaml.Enum.
func (OnExpiry) Values() []string { return []string{"settle", "release"} }

// The bounds of a configuration.
const (
	// MaxAmount is the most that a budget holds: what every JSON reader can tell exactly.
	MaxAmount = 1 << 53

	maxPrice      = 1_000_000_000
	maxBudgets    = 64
	maxNameLength = 128
	minReserve    = time.Second
	maxReserve    = 24 * time.Hour
	maxLease      = 10 * time.Minute
)

// SetDefaults implements strictyaml.Defaulter.
func (b *Budget) SetDefaults() { *b = b.withDefaults() }

func (b Budget) withDefaults() Budget {
	b.Unit = cmp.Or(b.Unit, UnitRequests)
	b.Mode = cmp.Or(b.Mode, ModeHard)
	b.OnExpiry = cmp.Or(b.OnExpiry, ExpirySettle)
	b.ReserveFor = cmp.Or(b.ReserveFor, 10*time.Minute)
	return b
}

// SetDefaults implements strictyaml.Defaulter.
func (s *Sharing) SetDefaults() { *s = s.withDefaults() }

func (s Sharing) withDefaults() Sharing {
	s.Lease = cmp.Or(s.Lease, 10*time.Second)
	s.Share = cmp.Or(s.Share, 10)
	s.Poll = cmp.Or(s.Poll, 100*time.Millisecond)
	s.Wait = cmp.Or(s.Wait, 250*time.Millisecond)
	s.Idle = cmp.Or(s.Idle, 2*time.Second)
	s.Keep = cmp.Or(s.Keep, 35*24*time.Hour)
	return s
}

// Check reports all that is wrong with the budgets as such, by their place in the list
// ("budgets[2].limit"), and with the prices ("prices.gpt-5"). Whether routes that they
// name exist is for those who know the routes.
func (c *Config) Check(report func(path, message, suggestion string)) {
	names := map[string]bool{}
	if len(c.Budgets) > maxBudgets {
		report("budgets", fmt.Sprintf("are more than %d", maxBudgets), "tell requests apart with per")
	}
	for i := range c.Budgets {
		at := fmt.Sprintf("budgets[%d]", i)
		if name := c.Budgets[i].Name; names[name] {
			report(at+".name", fmt.Sprintf("%q occurs twice", name), "")
		} else {
			names[name] = true
		}
		c.Budgets[i].Check(func(path, message, suggestion string) { report(at+"."+path, message, suggestion) })
	}
	for _, model := range slices.Sorted(maps.Keys(c.Prices)) {
		c.Prices[model].check(model, report)
	}
	c.Ledger.Check(func(path, message, suggestion string) { report("ledger."+path, message, suggestion) })
}

// Check reports all that is wrong with the budget, each with its field.
func (b *Budget) Check(report func(path, message, suggestion string)) {
	d := b.withDefaults()
	if d.Name == "" || len(d.Name) > maxNameLength || strings.ContainsFunc(d.Name, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r >= 0x7f }) {
		report("name", fmt.Sprintf("is not 1 to %d printable ASCII characters without spaces, quotes and backslashes", maxNameLength), "")
	}
	if strings.HasPrefix(d.Name, reservedPrefix) {
		report("name", "names that begin with "+reservedPrefix+" are Postern's own", "")
	}
	if d.Limit < 1 || d.Limit > MaxAmount {
		report("limit", fmt.Sprintf("%d is out of range: use 1 to %d", d.Limit, int64(MaxAmount)), "")
	}
	if d.MaxPerRequest < 0 || d.MaxPerRequest > d.Limit {
		report("max_per_request", fmt.Sprintf("%d is out of range: use 1 to %d, which is limit", d.MaxPerRequest, d.Limit), "")
	}
	if d.DefaultCost < 0 || d.DefaultCost > d.Limit {
		report("default_cost", fmt.Sprintf("%d is out of range: use 1 to %d, which is limit", d.DefaultCost, d.Limit), "")
	}
	if d.ReserveFor < minReserve || d.ReserveFor > maxReserve {
		report("reserve_for", fmt.Sprintf("%s is out of range: use %s to %s", d.ReserveFor, minReserve, maxReserve), "")
	}
	for i, per := range d.Per {
		if slices.Contains(d.Per[:i], per) {
			report(fmt.Sprintf("per[%d]", i), fmt.Sprintf("%q occurs twice", per), "")
		}
	}
	d.Window.check(report)
}

func (p Price) check(model string, report func(path, message, suggestion string)) {
	at := "prices." + model
	if star := strings.IndexByte(model, '*'); model == "" || star >= 0 && star != len(model)-1 {
		report(at, "a * can only stand at the end of a model's name", "")
	}
	if p.Input < 0 || p.Input > maxPrice || p.Output < 0 || p.Output > maxPrice {
		report(at, fmt.Sprintf("a price is from 0 to %d micros for 1,000 tokens", maxPrice), "")
	}
	if p == (Price{}) {
		report(at, "is 0 for question and answer, so that no budget would ever end", "set input and output")
	}
}

// Check reports all that is wrong with the block, each with its field.
func (s *Sharing) Check(report func(path, message, suggestion string)) {
	d := s.withDefaults()
	for _, r := range []struct {
		name               string
		value, least, most time.Duration
	}{
		{"lease", d.Lease, time.Second, maxLease},
		{"poll", d.Poll, time.Millisecond, time.Second},
		{"wait", d.Wait, time.Millisecond, 10 * time.Second},
		{"idle", d.Idle, 10 * time.Millisecond, time.Minute},
		{"keep", d.Keep, 0, maxWindow},
	} {
		if r.value < r.least || r.value > r.most {
			report(r.name, fmt.Sprintf("%s is out of range: use %s to %s", r.value, r.least, r.most), "")
		}
	}
	if d.Share < 1 || d.Share > 100 {
		report("share", fmt.Sprintf("%d is out of range: use 1 to 100", d.Share), "")
	}
}
