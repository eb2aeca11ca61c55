package budget_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
)

// target is a request for a model.
func target(model string, prompt, most int64) *policy.Target {
	return &policy.Target{Protocol: "openai", Model: model, PromptTokens: prompt, MaxTokens: most}
}

// BUDGET-03: what costs nothing, less than nothing, too much or nobody knows what, is never
// a gain.
func TestCost(t *testing.T) {
	const limit = 100_000
	budgets := map[string]budget.Budget{
		"requests": {Limit: limit},
		"tokens":   {Unit: budget.UnitTokens, Limit: limit},
		"default":  {Unit: budget.UnitTokens, Limit: limit, DefaultCost: 50},
		"route":    {Unit: budget.UnitTokens, Limit: limit, Match: budget.Match{Routes: []string{"r"}}},
		"micros":   {Unit: budget.UnitMicros, Limit: limit},
		"most":     {Unit: budget.UnitTokens, Limit: limit, MaxPerRequest: 4000},
		"models":   {Unit: budget.UnitTokens, Limit: limit, Match: budget.Match{Models: []string{"gpt-*", "o3"}}},
		"agents":   {Limit: limit, Match: budget.Match{Kinds: []policy.Kind{policy.KindAgent}}},
		"elsewhere": {
			Limit: limit, Match: budget.Match{Routes: []string{"other"}},
		},
	}
	cost := func(unit string, n int64) map[string]int64 { return map[string]int64{unit: n} }
	const ok, invalid, exhausted = policy.ReasonAllowed, policy.ReasonRequestInvalid, policy.ReasonBudgetExhausted
	for _, c := range []struct {
		budget string
		target *policy.Target
		cost   map[string]int64
		reason policy.Reason
		used   int64
	}{
		{"requests", nil, nil, ok, 1},
		{"requests", nil, cost("requests", 3), ok, 3},
		{"requests", nil, cost("requests", 0), ok, 1},
		{"requests", nil, cost("requests", -1), invalid, 0},
		{"requests", nil, cost("requests", math.MinInt64), invalid, 0},
		{"requests", nil, cost("requests", math.MaxInt64), invalid, 0},
		{"requests", nil, cost("requests", budget.MaxAmount+1), invalid, 0},
		{"requests", nil, cost("requests", limit+1), exhausted, 0},
		{"tokens", nil, nil, ok, 0},
		{"tokens", &policy.Target{MaxTokens: -1, PromptTokens: -1, Protocol: "mcp"}, nil, ok, 0},
		{"tokens", nil, cost("tokens", 70), ok, 70},
		{"tokens", nil, cost("tokens", 0), ok, 1},
		{"tokens", nil, cost("tokens", -70), invalid, 0},
		{"tokens", nil, cost("micros", 70), ok, 0},
		{"tokens", target("gpt-5", 100, 200), nil, ok, 300},
		{"tokens", target("gpt-5", 100, 200), cost("tokens", 10), ok, 10},
		{"tokens", target("gpt-5", 0, 0), nil, ok, 1},
		{"tokens", target("gpt-5", 100, -1), nil, invalid, 0},
		{"tokens", target("gpt-5", -1, 100), nil, invalid, 0},
		{"tokens", target("gpt-5", math.MaxInt64, math.MaxInt64), nil, invalid, 0},
		{"tokens", target("gpt-5", 0, budget.MaxAmount), nil, exhausted, 0},
		{"tokens", target("gpt-5", budget.MaxAmount, budget.MaxAmount), nil, invalid, 0},
		{"default", nil, nil, ok, 50},
		{"default", target("gpt-5", 100, -1), nil, ok, 50},
		{"default", nil, cost("tokens", 0), ok, 50},
		{"default", nil, cost("tokens", -1), invalid, 0},
		{"route", nil, nil, invalid, 0},
		{"route", target("gpt-5", 1, 1), nil, ok, 2},
		{"micros", target("gpt-5", 1000, 1000), nil, ok, 1250 + 10_000},
		{"micros", target("gpt-5", 1, 0), nil, ok, 2},
		{"micros", target("gpt-5-mini", 1000, 0), nil, ok, 250},
		{"micros", target("gpt-5-mini-2", 1000, 0), nil, ok, 250},
		{"micros", target("gpt-6", 1000, 1000), nil, invalid, 0},
		{"micros", target("gpt-5-mini*", 1000, 1000), nil, invalid, 0},
		{"micros", target("gpt-5", math.MaxInt64, 1), nil, invalid, 0},
		{"micros", target("gpt-5", budget.MaxAmount, budget.MaxAmount), nil, invalid, 0},
		{"micros", nil, cost("micros", 99), ok, 99},
		{"micros", nil, nil, ok, 0},
		{"most", nil, cost("tokens", 4000), ok, 4000},
		{"most", nil, cost("tokens", 4001), exhausted, 0},
		{"models", target("gpt-5", 1, 1), nil, ok, 2},
		{"models", target("o3", 1, 1), nil, ok, 2},
		{"models", target("o3-mini", 1, 1), nil, ok, 0},
		{"models", nil, cost("tokens", 5), ok, 0},
		{"agents", nil, nil, ok, 1},
		{"elsewhere", nil, nil, ok, 0},
	} {
		t.Run(fmt.Sprintf("%s %+v %v", c.budget, c.target, c.cost), func(t *testing.T) {
			b := budgets[c.budget]
			b.Name = "b"
			cfg := config(b)
			cfg.Prices = map[string]budget.Price{"gpt-5": {Input: 1250, Output: 10_000}, "gpt-5-mini*": {Input: 250, Output: 2000}, "gpt-5-*": {Input: 1, Output: 1}}
			bubble(t, 1, cfg, func(l *lab) {
				q := charge(agent("x"), time.Now(), c.cost)
				q.Target = c.target
				s := l.all[0].Spend(l.Context(), q)
				if s.Reason != c.reason {
					l.Fatalf("%+v", s)
				}
				if got := l.used(); got != c.used {
					l.Errorf("used %d, want %d", got, c.used)
				}
			})
		})
	}
}

// used is what is used of all budgets.
func (l *lab) used() (n int64) {
	found, err := l.all[0].List(l.Context(), budget.Query{})
	if err != nil {
		l.Fatal(err)
	}
	for _, a := range found {
		n += a.Settled + a.Reserved + a.Overrun
	}
	return n
}

// a token's own budget holds for all of its life, for this token only, over all
// replicas, and needs no configuration.
func TestTokenBudget(t *testing.T) {
	bubble(t, 3, budget.Config{}, func(l *lab) {
		p, other := agent("x"), agent("y")
		p.TokenBudget, other.TokenBudget = 10_000, 10_000
		won := 0
		for n := range 40 {
			if s := l.spend(l.all[n%3], p, 500); s.Reason == policy.ReasonAllowed {
				won++
			} else if s.Reason != policy.ReasonBudgetExhausted || s.Budgets[0].Name != budget.ClaimName || s.RetryAfter != 0 {
				l.Fatalf("%+v", s)
			}
		}
		if won != 20 {
			l.Errorf("%d of 20", won)
		}
		if s := l.spend(l.all[0], other, 10_000); s.Reason != policy.ReasonAllowed {
			l.Errorf("%+v", s)
		}
		if s := l.all[0].Spend(l.Context(), charge(p, time.Now(), nil)); s.Reason != policy.ReasonAllowed || s.Reservation != "" {
			l.Errorf("what names no model costs no tokens: %+v", s)
		}
		q := charge(p, time.Now(), nil)
		q.Target = target("gpt-5", 10, -1)
		if s := l.all[0].Spend(l.Context(), q); s.Reason != policy.ReasonRequestInvalid {
			l.Errorf("%+v", s)
		}
		again := agent("x")
		again.TokenBudget = 1_000_000 // another token with the same id gets nothing more
		if s := l.spend(l.all[1], again, 1); s.Reason != policy.ReasonBudgetExhausted {
			l.Errorf("%+v", s)
		}
		negative := agent("z")
		negative.TokenBudget = -1
		if s := l.spend(l.all[1], negative, 1); s.Reason != policy.ReasonBudgetExhausted {
			l.Errorf("%+v", s)
		}
		nameless := agent("n")
		nameless.CredentialID, nameless.TokenBudget = "", 10
		if a, b := l.spend(l.all[1], nameless, 10), l.spend(l.all[2], nameless, 1); a.Reason != policy.ReasonAllowed || b.Reason != policy.ReasonBudgetExhausted {
			l.Errorf("%+v %+v", a, b)
		}
	})
}

// one request falls under several budgets, all or nothing, and who refuses says so.
func TestHierarchy(t *testing.T) {
	cfg := config(tokens("tenant", 1000, budget.PerTenant), tokens("agent", 400, budget.PerAgent), tokens("key", 150, budget.PerKey))
	bubble(t, 2, cfg, func(l *lab) {
		s := l.spend(l.all[0], agent("a"), 100)
		if s.Reason != policy.ReasonAllowed || len(s.Budgets) != 3 || s.Budgets[0].Name != "key" || s.Budgets[1].Name != "agent" || s.Budgets[0].Remaining != 50 {
			l.Fatalf("%+v", s)
		}
		if s := l.spend(l.all[1], agent("a"), 100); s.Reason != policy.ReasonBudgetExhausted || len(s.Budgets) != 1 || s.Budgets[0].Name != "key" {
			l.Fatalf("%+v", s)
		}
		if got := l.used(); got != 300 { // nothing of what was refused
			l.Fatal(got)
		}
		p := agent("a")
		for n := range 4 {
			p.CredentialID = fmt.Sprint("k", n)
			s = l.spend(l.all[n%2], p, 100)
		}
		if s.Reason != policy.ReasonBudgetExhausted || s.Budgets[0].Name != "agent" {
			l.Fatalf("%+v", s)
		}
		user := &policy.Principal{ID: "u", Kind: policy.KindUser, Tenant: "acme", Issuer: "postern", CredentialID: "k", Actors: []policy.Actor{{ID: "a", Kind: policy.KindAgent}}}
		if s := l.spend(l.all[0], user, 1); s.Reason != policy.ReasonBudgetExhausted || s.Budgets[0].Name != "agent" {
			l.Fatalf("what an agent does for somebody counts as well: %+v", s)
		}
		other := agent("a")
		other.Tenant = "globex" // another one of that name
		if s := l.spend(l.all[0], other, 150); s.Reason != policy.ReasonAllowed {
			l.Fatalf("%+v", s)
		}
		if found, err := l.all[0].List(l.Context(), budget.Query{Tenant: "globex"}); err != nil || len(found) != 3 {
			l.Fatalf("%+v, %v", found, err)
		}
	})
}

// BUDGET-08: at its end a window begins anew, exactly.
func TestWindows(t *testing.T) {
	for window, ends := range map[budget.Window]time.Time{
		budget.Day:   time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC),
		budget.Month: time.Date(2000, 2, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(window.String(), func(t *testing.T) {
			cfg := config(budget.Budget{Name: "b", Limit: 1000, Window: window})
			bubble(t, 2, cfg, func(l *lab) { // the clock of a bubble begins with 2000
				time.Sleep(time.Until(ends.Add(-5 * time.Millisecond)))
				won := map[bool]int{}
				for n := range 6000 {
					now := time.Now()
					s := l.all[n%2].Spend(l.Context(), charge(agent("x"), now, nil))
					if s.Reason == policy.ReasonAllowed {
						won[now.Before(ends)]++
					} else if s.RetryAfter <= 0 || s.Budgets[0].Reset <= 0 {
						l.Fatalf("%+v", s)
					}
					if n%300 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				if won[true] != 1000 || won[false] != 1000 {
					l.Errorf("%v", won)
				}
			})
		})
	}
}

// A rolling window never holds more than its limit, wherever it is laid.
func TestRolling(t *testing.T) {
	cfg := config(budget.Budget{Name: "b", Limit: 100, Window: budget.Rolling(time.Hour)})
	bubble(t, 1, cfg, func(l *lab) {
		var won []time.Time
		for range 4 * 360 {
			s := l.all[0].Spend(l.Context(), charge(agent("x"), time.Now(), nil))
			if s.Reason == policy.ReasonAllowed {
				won = append(won, time.Now())
			} else if s.RetryAfter < time.Second || s.RetryAfter > time.Hour+time.Minute {
				l.Fatalf("%+v", s)
			}
			time.Sleep(10 * time.Second)
		}
		for i := range won {
			if i >= 100 && won[i].Sub(won[i-100]) < time.Hour {
				l.Fatalf("101 in %v", won[i].Sub(won[i-100]))
			}
		}
		if len(won) < 390 {
			l.Errorf("%d of about 400", len(won))
		}
	})
}

// CRASH-07: a clock that jumps makes nothing negative, and gives nothing twice.
func TestClockJumps(t *testing.T) {
	for _, window := range []budget.Window{budget.Lifetime, budget.Rolling(time.Hour)} {
		t.Run(window.String(), func(t *testing.T) {
			b := tokens("b", 1000)
			b.Window = window
			bubble(t, 0, config(b), func(l *lab) {
				skew := new(shift)
				l.ledger = skewed{l.ledger, skew}
				all, err := budget.New(config(b), budget.Deps{Ledger: l.ledger, Peppers: peppers(l), Now: skew.now})
				if err != nil {
					l.Fatal(err)
				}
				l.Cleanup(func() { all.Close(l.Context()) })
				l.all = append(l.all, all)
				won := int64(0)
				for _, jump := range []time.Duration{0, -time.Hour, 0, time.Hour, 10 * 365 * 24 * time.Hour, -time.Hour, 0, -2 * time.Hour} {
					skew.Store(int64(jump))
					for range 10 {
						if s := all.Spend(l.Context(), charge(agent("x"), skew.now(), map[string]int64{"tokens": 7})); s.Reason == policy.ReasonAllowed {
							won += 7
						} else if s.Reason != policy.ReasonBudgetExhausted {
							l.Fatalf("%+v", s)
						}
					}
					time.Sleep(3 * time.Second)
				}
				if got := l.used(); window == budget.Lifetime && got < won || won > 1000 {
					l.Errorf("used %d, allowed %d", got, won)
				}
			})
		})
	}
}

// Budgets that refuse nobody count what is over the limit, and say nothing or that nothing
// is left.
func TestSoftAndObserve(t *testing.T) {
	for _, mode := range []budget.Mode{budget.ModeSoft, budget.ModeObserve} {
		t.Run(string(mode), func(t *testing.T) {
			b := tokens("b", 100)
			b.Mode = mode
			bubble(t, 2, config(b), func(l *lab) {
				for n := range 30 {
					s := l.spend(l.all[n%2], agent("x"), 9)
					if s.Reason != policy.ReasonAllowed || s.Taken == nil {
						l.Fatalf("%+v", s)
					}
					if shown := len(s.Budgets); shown != map[budget.Mode]int{budget.ModeSoft: 1}[mode] {
						l.Fatalf("%+v", s)
					}
					if mode == budget.ModeSoft && n == 29 && s.Budgets[0].Remaining > 1 {
						l.Fatalf("%+v", s)
					}
				}
				time.Sleep(3 * time.Second)
				if got := l.only(); got.Settled+got.Reserved+got.Overrun != 270 || got.Overrun < 170 || got.Leased != 0 {
					l.Errorf("%+v", got)
				}
			})
		})
	}
}

// More than was reserved counts as well: as far as there is room as used, and the rest as
// overrun, which is used before anybody else gets anything.
func TestOverrun(t *testing.T) {
	bubble(t, 2, config(tokens("b", 1000)), func(l *lab) {
		a, b := l.spend(l.all[0], agent("x"), 300), l.spend(l.all[0], agent("x"), 600)
		settle := func(s policy.Spent, used int64) {
			if _, err := l.all[1].Settle(l.Context(), s.Reservation, map[string]int64{"tokens": used}, true); err != nil {
				l.Fatal(err)
			}
		}
		settle(a, 500)
		if got := l.only(); got.Settled != 400 || got.Reserved != 600 || got.Overrun != 100 {
			l.Fatalf("%+v", got)
		}
		settle(b, 50)
		if got := l.only(); got.Settled != 550 || got.Reserved != 0 || got.Overrun != 0 || got.Remaining() != 450 {
			l.Fatalf("%+v", got)
		}
	})
}

// What is undone was never spent, and can be undone once.
func TestUndo(t *testing.T) {
	cfg := config(tokens("b", 100, budget.PerTenant), budget.Budget{Name: "c", Limit: 2})
	bubble(t, 2, cfg, func(l *lab) {
		for range 5 {
			s := l.spend(l.all[0], agent("x"), 100)
			if s.Reason != policy.ReasonAllowed {
				l.Fatalf("%+v", s)
			}
			l.all[0].Undo(&s)
			l.all[0].Undo(&s)
			l.all[0].Undo(&policy.Spent{})
		}
		time.Sleep(time.Millisecond)
		if s := l.spend(l.all[1], agent("x"), 100); s.Reason != policy.ReasonAllowed {
			l.Fatalf("%+v", s)
		}
		if s := l.spend(l.all[0], agent("x"), 1); s.Reason != policy.ReasonBudgetExhausted {
			l.Fatalf("%+v", s)
		}
	})
}

// What is settled of several units, and how micros follow from tokens.
func TestUses(t *testing.T) {
	cfg := config(tokens("t", 100_000), budget.Budget{Name: "m", Unit: budget.UnitMicros, Limit: 100_000}, budget.Budget{Name: "r", Limit: 100})
	cfg.Prices = map[string]budget.Price{"gpt-5": {Input: 1000, Output: 10_000}}
	for _, c := range []struct {
		use            map[string]int64
		tokens, micros int64
		err            error
	}{
		{nil, 2000, 11_000, nil},
		{map[string]int64{"tokens": 100}, 100, 1000, nil}, // the dearest
		{map[string]int64{"input_tokens": 100, "output_tokens": 10}, 110, 200, nil},
		{map[string]int64{"tokens": 500, "input_tokens": 100, "output_tokens": 10}, 500, 200, nil},
		{map[string]int64{"tokens": 5, "micros": 7, "requests": 1}, 5, 7, nil},
		{map[string]int64{"micros": 0}, 2000, 0, nil},
		{map[string]int64{"tokens": -1}, 2000, 11_000, budget.ErrUse},
		{map[string]int64{"tokens": math.MaxInt64}, 2000, 11_000, budget.ErrUse},
		{map[string]int64{"bananas": 1}, 2000, 11_000, budget.ErrUse},
		{map[string]int64{"input_tokens": 1}, 2000, 11_000, budget.ErrUse},
	} {
		t.Run(fmt.Sprint(c.use), func(t *testing.T) {
			bubble(t, 1, cfg, func(l *lab) {
				q := charge(agent("x"), time.Now(), nil)
				q.Target = target("gpt-5", 1000, 1000)
				s := l.all[0].Spend(l.Context(), q)
				if s.Reason != policy.ReasonAllowed || len(s.Budgets) != 3 {
					l.Fatalf("%+v", s)
				}
				if _, err := l.all[0].Settle(l.Context(), s.Reservation, c.use, true); !errors.Is(err, c.err) {
					l.Fatal(err)
				}
				for name, want := range map[string]int64{"t": c.tokens, "m": c.micros, "r": 1} {
					found, err := l.all[0].List(l.Context(), budget.Query{Budget: name})
					if err != nil || found[0].Settled+found[0].Reserved != want {
						l.Errorf("%s: %+v, %v", name, found, err)
					}
				}
			})
		})
	}
}

// Another configuration takes over: accounts go on, limits are others.
func TestSwap(t *testing.T) {
	bubble(t, 1, config(tokens("b", 1000)), func(l *lab) {
		b := l.all[0]
		l.spend(b, agent("x"), 600)
		must := func(err error) {
			if err != nil {
				l.Fatal(err)
			}
		}
		must(b.Swap(config(tokens("b", 500), tokens("c", 10))))
		if s := l.spend(b, agent("x"), 1); s.Reason != policy.ReasonBudgetExhausted {
			l.Fatalf("%+v", s)
		}
		must(b.Swap(config(tokens("b", 2000))))
		time.Sleep(3 * time.Second)
		if s := l.spend(b, agent("x"), 1400); s.Reason != policy.ReasonAllowed {
			l.Fatalf("%+v", s)
		}
		if s := l.spend(b, agent("x"), 1); s.Reason != policy.ReasonBudgetExhausted {
			l.Fatalf("%+v", s)
		}
	})
}

// Budgets are checked before they are in force.
func TestConfigCheck(t *testing.T) {
	good := func() budget.Config {
		cfg := config(tokens("a/day", 100, budget.PerTenant, budget.PerAgent))
		cfg.Prices = map[string]budget.Price{"*": {Input: 1}}
		return cfg
	}
	check := func(cfg budget.Config) string {
		var all []string
		cfg.Check(func(path, message, _ string) { all = append(all, path+": "+message) })
		return strings.Join(all, "\n")
	}
	if got := check(good()); got != "" {
		t.Error(got)
	}
	for want, spoil := range map[string]func(*budget.Config){
		"budgets[0].name: is not 1 to 128":                                  func(c *budget.Config) { c.Budgets[0].Name = "a b" },
		"budgets[0].name: names that begin with postern.":                   func(c *budget.Config) { c.Budgets[0].Name = budget.ClaimName },
		"budgets[0].limit: 0 is out of range":                               func(c *budget.Config) { c.Budgets[0].Limit = 0 },
		"budgets[0].limit: 9007199254740993 is out of range":                func(c *budget.Config) { c.Budgets[0].Limit = budget.MaxAmount + 1 },
		"budgets[0].max_per_request: 101 is out of range: use 1 to 100":     func(c *budget.Config) { c.Budgets[0].MaxPerRequest = 101 },
		"budgets[0].default_cost: -1 is out of range":                       func(c *budget.Config) { c.Budgets[0].DefaultCost = -1 },
		"budgets[0].reserve_for: 25h0m0s is out of range":                   func(c *budget.Config) { c.Budgets[0].ReserveFor = 25 * time.Hour },
		"budgets[0].per[2]: \"tenant\" occurs twice":                        func(c *budget.Config) { c.Budgets[0].Per = append(c.Budgets[0].Per, budget.PerTenant) },
		"budgets[0].window: 1s is out of range":                             func(c *budget.Config) { c.Budgets[0].Window = budget.Rolling(time.Second) },
		"budgets[1].name: \"a/day\" occurs twice":                           func(c *budget.Config) { c.Budgets = append(c.Budgets, c.Budgets[0]) },
		"prices.g*t: a * can only stand at the end":                         func(c *budget.Config) { c.Prices = map[string]budget.Price{"g*t": {Input: 1}} },
		"prices.x: a price is from 0":                                       func(c *budget.Config) { c.Prices = map[string]budget.Price{"x": {Input: -1}} },
		"prices.x: is 0 for question and answer, so that no budget would e": func(c *budget.Config) { c.Prices = map[string]budget.Price{"x": {}} },
		"ledger.share: 101 is out of range":                                 func(c *budget.Config) { c.Ledger.Share = 101 },
		"ledger.lease: 1ns is out of range":                                 func(c *budget.Config) { c.Ledger.Lease = 1 },
	} {
		cfg := good()
		spoil(&cfg)
		if got := check(cfg); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Windows are read as they are written, and nothing else is.
func TestWindowText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]budget.Window{
		"lifetime": budget.Lifetime, "day": budget.Day, "month": budget.Month, "24h0m0s": budget.Rolling(24 * time.Hour),
	} {
		var w budget.Window
		if err := w.UnmarshalText([]byte(text)); err != nil || w != want || w.String() != text {
			t.Errorf("%s: %v, %v", text, w, err)
		}
	}
	for _, text := range []string{"year", "0s", "-1h", "24", "Day", "day "} {
		if err := new(budget.Window).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
}
