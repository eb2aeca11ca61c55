package rate_test

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/rate"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// clock is a fake one.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func limits(c *clock, rates ...rate.Config) *rate.Limits {
	return rate.New(rates, rate.Deps{Now: c.now})
}

func charge(c *clock, id string) *policy.Charge {
	return &policy.Charge{
		Principal: &policy.Principal{ID: id, Kind: policy.KindService, Tenant: "acme", Issuer: "postern", CredentialID: "key-" + id},
		Route:     &policy.Route{Name: "orders"},
		Request:   &policy.Request{ClientIP: netip.MustParseAddr("192.0.2.1")},
		Now:       c.at,
	}
}

func allowed(l *rate.Limits, q *policy.Charge) bool {
	return l.Take(q, nil).Reason == policy.ReasonAllowed
}

// A story: a burst, a refusal that says when to come back, and it is right.
func TestStory(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "calls", Limit: 10, Every: time.Minute, Burst: 3})
	for i := range 3 {
		s := l.Take(charge(c, "ann"), nil)
		want := policy.BudgetState{Name: "calls", Unit: "requests", Limit: 10, Remaining: int64(2 - i), Window: time.Minute, Reset: time.Duration(i+1) * 6 * time.Second}
		if s.Reason != policy.ReasonAllowed || len(s.Budgets) != 1 || s.Budgets[0] != want {
			t.Fatalf("%d: %+v", i, s)
		}
	}
	s := l.Take(charge(c, "ann"), nil)
	if s.Reason != policy.ReasonRateLimited || s.RetryAfter != 6*time.Second || s.Budgets[0].Remaining != 0 || s.Detail != "the rate calls" {
		t.Fatalf("%+v", s)
	}
	if !allowed(l, charge(c, "bob")) {
		t.Error("bob pays for ann")
	}
	c.at = c.at.Add(6*time.Second - 1)
	if allowed(l, charge(c, "ann")) {
		t.Error("too early")
	}
	c.at = c.at.Add(1)
	if !allowed(l, charge(c, "ann")) || allowed(l, charge(c, "ann")) {
		t.Error("not exactly one after retry_after")
	}
}

// Whose requests count together.
func TestPer(t *testing.T) {
	t.Parallel()
	base := func(c *clock) *policy.Charge { return charge(c, "ann") }
	for _, tc := range []struct {
		per    rate.Per
		name   string
		change func(*policy.Charge)
		same   bool
	}{
		{rate.PerPrincipal, "another key", func(q *policy.Charge) { q.Principal.CredentialID = "other" }, true},
		{rate.PerPrincipal, "another tenant", func(q *policy.Charge) { q.Principal.Tenant = "other" }, false},
		{rate.PerPrincipal, "another issuer", func(q *policy.Charge) { q.Principal.Issuer = "other" }, false},
		{rate.PerPrincipal, "parts that run into each other", func(q *policy.Charge) { q.Principal.Tenant, q.Principal.Issuer = "acmepostern", "" }, false},
		{rate.PerCredential, "another key", func(q *policy.Charge) { q.Principal.CredentialID = "other" }, false},
		{rate.PerCredential, "no id", func(q *policy.Charge) { q.Principal.CredentialID = "" }, false},
		{rate.PerCredential, "the same id of another issuer", func(q *policy.Charge) { q.Principal.Issuer = "other" }, false},
		{rate.PerCredential, "another address", func(q *policy.Charge) { q.Request.ClientIP = netip.MustParseAddr("192.0.2.2") }, true},
		{rate.PerTenant, "another principal", func(q *policy.Charge) { q.Principal.ID = "bob" }, true},
		{rate.PerTenant, "another tenant", func(q *policy.Charge) { q.Principal.Tenant = "" }, false},
		{rate.PerClient, "another principal", func(q *policy.Charge) { q.Principal.ID = "bob" }, true},
		{rate.PerClient, "the same address in IPv6", func(q *policy.Charge) { q.Request.ClientIP = netip.MustParseAddr("::ffff:192.0.2.1") }, true},
		{rate.PerClient, "another address", func(q *policy.Charge) { q.Request.ClientIP = netip.MustParseAddr("192.0.2.2") }, false},
		{rate.PerClient, "no address", func(q *policy.Charge) { q.Request.ClientIP = netip.Addr{} }, false},
		{rate.PerRoute, "another principal", func(q *policy.Charge) { q.Principal.ID = "bob" }, true},
		{rate.PerRoute, "another route", func(q *policy.Charge) { q.Route = &policy.Route{Name: "other"} }, false},
		{rate.PerInstallation, "another everything", func(q *policy.Charge) {
			q.Route, q.Principal = &policy.Route{}, &policy.Principal{ID: "bob", Kind: policy.KindUser}
			q.Request = &policy.Request{}
		}, true},
	} {
		t.Run(fmt.Sprintf("%s, %s", tc.per, tc.name), func(t *testing.T) {
			t.Parallel()
			c := &clock{start}
			l := limits(c, rate.Config{Name: "r", Per: tc.per, Limit: 1})
			if !allowed(l, base(c)) {
				t.Fatal("the first one is refused")
			}
			q := base(c)
			tc.change(q)
			if got := !allowed(l, q); got != tc.same {
				t.Errorf("counted together: %v", got)
			}
		})
	}
}

// One who has an address of IPv6 has 2^64 of them; nobody in particular is told apart by
// the address.
func TestClients(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "r", Limit: 1})
	from := func(ip string) *policy.Charge {
		q := charge(c, "")
		q.Principal = &policy.Principal{Kind: policy.KindAnonymous}
		q.Request.ClientIP = netip.MustParseAddr(ip)
		return q
	}
	if !allowed(l, from("2001:db8:0:1::1")) || allowed(l, from("2001:db8:0:1:ffff::2")) {
		t.Error("a /64 is not one client")
	}
	if !allowed(l, from("2001:db8:0:2::1")) || !allowed(l, from("192.0.2.7")) {
		t.Error("others pay")
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "r", Limit: 1, Routes: []string{"chat"}, Kinds: []policy.Kind{policy.KindAgent}})
	q := charge(c, "ann")
	for range 3 {
		if !allowed(l, q) {
			t.Error("counts another route")
		}
	}
	q.Route = &policy.Route{Name: "chat"}
	for range 3 {
		if !allowed(l, q) {
			t.Error("counts another kind")
		}
	}
	q.Principal.Kind = policy.KindAgent
	if s := l.Take(q, nil); s.Reason != policy.ReasonAllowed || len(s.Budgets) != 1 || allowed(l, q) {
		t.Error("does not count")
	}
}

// What one rate refuses, no other counts.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "wide", Limit: 5, Every: time.Hour}, rate.Config{Name: "narrow", Per: rate.PerRoute, Limit: 2})
	states := make([]policy.BudgetState, 1, 4)
	for range 2 {
		if s := l.Take(charge(c, "ann"), states); len(s.Budgets) != 3 {
			t.Fatalf("%+v", s)
		}
	}
	for range 10 {
		s := l.Take(charge(c, "ann"), states)
		if s.Reason != policy.ReasonRateLimited || len(s.Budgets) != 2 || s.Budgets[1].Name != "narrow" {
			t.Fatalf("%+v", s)
		}
	}
	c.at = c.at.Add(time.Second)
	if s := l.Take(charge(c, "ann"), nil); s.Budgets[0].Remaining != 2 {
		t.Errorf("the wide rate has counted what the narrow one refused: %+v", s.Budgets)
	}
}

// What is taken back was never there, unless somebody has asked since.
func TestUndo(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "r", Limit: 2, Every: time.Minute})
	for range 100 {
		q := charge(c, "ann")
		if !allowed(l, q) {
			t.Fatal("an undone request counts")
		}
		l.Undo(q)
	}
	first := charge(c, "ann")
	if !allowed(l, first) {
		t.Fatal("refused")
	}
	c.at = c.at.Add(time.Second)
	if !allowed(l, charge(c, "ann")) {
		t.Fatal("refused")
	}
	l.Undo(first)
	if allowed(l, charge(c, "ann")) {
		t.Error("undone after somebody else had asked")
	}
	l.Undo(charge(c, "never seen"))
}

// A clock that is set neither lets more through nor locks anybody out for longer than a
// burst takes (CRASH-07).
func TestClock(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "r", Limit: 10, Every: time.Minute})
	drain := func() (n int) {
		for allowed(l, charge(c, "ann")) {
			n++
		}
		return n
	}
	if n := drain(); n != 10 {
		t.Fatalf("%d", n)
	}
	c.at = start.AddDate(10, 0, 0)
	if n := drain(); n != 10 {
		t.Errorf("ten years later: %d", n)
	}
	c.at = start.Add(-time.Hour)
	if n := drain(); n != 0 {
		t.Errorf("set back: %d", n)
	}
	c.at = c.at.Add(time.Minute)
	if n := drain(); n != 10 {
		t.Errorf("a minute after it was set back: %d", n)
	}
	for _, far := range []time.Time{time.Unix(math.MaxInt32*1000, 0), time.Unix(-math.MaxInt32*1000, 0), {}} {
		c.at = far
		if n := drain(); n > 10 {
			t.Errorf("at %v: %d", far, n)
		}
	}
}

// A flood of keys makes nobody's counter start anew, and slows down new keys only
// (RATE: attackers cannot have others' counters forgotten).
func TestFlood(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "r", Limit: 10, Every: time.Minute, Burst: 2, MaxKeys: 640})
	victim := charge(c, "victim")
	if !allowed(l, victim) || !allowed(l, victim) || allowed(l, victim) {
		t.Fatal("not a burst of 2")
	}
	let := 0
	for i := range 50_000 {
		if allowed(l, charge(c, fmt.Sprint("flood", i))) {
			let++
		}
	}
	if allowed(l, victim) {
		t.Error("the flood has made the victim's counter start anew")
	}
	s := l.Status()[0]
	if s.Keys > 640 || s.Crowded == 0 || let > 640+2*64 {
		t.Errorf("%d let through, %+v", let, s)
	}
	c.at = c.at.Add(7 * time.Second)
	if v := charge(c, "victim"); !allowed(l, v) || allowed(l, v) {
		t.Error("the victim does not get its own")
	}
	c.at = c.at.Add(time.Minute)
	if !allowed(l, charge(c, "new")) {
		t.Error("after the flood there is no room for others")
	}
	for i := range 6_400 { // many at once make every shard look through itself
		allowed(l, charge(c, fmt.Sprint("later", i)))
	}
	if s := l.Status()[0]; s.Keys > 640 {
		t.Errorf("%+v", s)
	}
}

// Keys that are full again go.
func TestForgets(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "r", Limit: 1000})
	for i := range 200_000 {
		c.at = c.at.Add(time.Millisecond)
		allowed(l, charge(c, fmt.Sprint(i)))
	}
	if s := l.Status()[0]; s.Keys > 3*64*16 || s.Crowded > 0 {
		t.Errorf("of 200,000 keys, each busy for a millisecond, %+v", s)
	}
}

// A reload keeps the counters of what did not change.
func TestReload(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	a, b := rate.Config{Name: "a", Limit: 1, Kinds: []policy.Kind{policy.KindService}}, rate.Config{Name: "b", Limit: 1}
	l := limits(c, a, b)
	if !allowed(l, charge(c, "ann")) {
		t.Fatal("refused")
	}
	b.Limit = 2
	next := rate.New([]rate.Config{b}, rate.Deps{Previous: l})
	if !allowed(next, charge(c, "ann")) {
		t.Error("a rate that changed did not start anew")
	}
	next = rate.New([]rate.Config{b, a}, rate.Deps{Previous: l})
	if s := next.Take(charge(c, "ann"), nil); s.Reason != policy.ReasonRateLimited || s.Budgets[0].Name != "a" || next.Len() != 2 {
		t.Errorf("%+v", s)
	}
	if (*rate.Limits)(nil).Len() != 0 {
		t.Error("nothing is something")
	}
}

// In no stretch of time does a key get more than burst + rate × time, whatever is undone,
// crowded out or asked when; and a key that keeps to its rate is never refused.
func TestBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cfg := rate.Config{
			Name: "r", Limit: rapid.Int64Range(1, 50).Draw(t, "limit"), Burst: rapid.Int64Range(1, 20).Draw(t, "burst"),
			Every: time.Duration(rapid.IntRange(1, 10).Draw(t, "every")) * time.Second, MaxKeys: 64,
		}
		c := &clock{start}
		l := limits(c, cfg)
		got := map[string][]time.Time{}
		ids := []string{"a", "b", "c", "d"}
		for i := range 64 * 4 { // so that some shards are full
			ids = append(ids, fmt.Sprint(i))
		}
		for range rapid.IntRange(1, 300).Draw(t, "n") {
			c.at = c.at.Add(time.Duration(rapid.Int64Range(0, int64(cfg.Every)/5).Draw(t, "pause")))
			id := rapid.SampledFrom(ids).Draw(t, "id")
			if rapid.Bool().Draw(t, "usual") {
				id = "a"
			}
			q := charge(c, id)
			if !allowed(l, q) {
				continue
			}
			if rapid.IntRange(0, 4).Draw(t, "undo") == 0 {
				l.Undo(q)
				continue
			}
			got[id] = append(got[id], c.at)
		}
		for id, at := range got {
			for i := range at {
				for j := i; j < len(at); j++ {
					most := float64(cfg.Burst) + at[j].Sub(at[i]).Seconds()*float64(cfg.Limit)/cfg.Every.Seconds()
					if n := j - i + 1; float64(n) > most+1e-6 {
						t.Fatalf("%s got %d within %v, at most %.3f", id, n, at[j].Sub(at[i]), most)
					}
				}
			}
		}
	})
}

func TestSteady(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 1000).Draw(t, "limit")
		every := time.Duration(rapid.IntRange(1, 3600).Draw(t, "every")) * time.Second
		c := &clock{start}
		l := limits(c, rate.Config{Name: "r", Limit: limit, Every: every, Burst: 1})
		for range 50 {
			if !allowed(l, charge(c, "ann")) {
				t.Fatal("one who keeps to the rate is refused")
			}
			c.at = c.at.Add(every/time.Duration(limit) + 1)
		}
	})
}

// Many at once never get more than the burst.
func TestParallel(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	l := limits(c, rate.Config{Name: "all", Per: rate.PerInstallation, Limit: 1000}, rate.Config{Name: "each", Limit: 300})
	var all sync.WaitGroup
	got := make([]int, 8)
	for i := range got {
		all.Go(func() {
			for range 1000 {
				if allowed(l, charge(c, fmt.Sprint(i%4))) {
					got[i]++
				}
			}
		})
	}
	all.Wait()
	sum := 0
	for i := range 4 {
		if n := got[i] + got[i+4]; n > 300 {
			t.Errorf("%d got %d of 300", i, n)
		}
		sum += got[i] + got[i+4]
	}
	if sum > 1000 {
		t.Errorf("%d of 1000", sum)
	}
}

func TestNoAllocation(t *testing.T) {
	c := &clock{start}
	l := limits(c, rate.Config{Name: "a", Limit: 1e9, Burst: 1e9}, rate.Config{Name: "b", Per: rate.PerClient, Limit: 1e9, Burst: 1e9})
	q, states := charge(c, "ann"), make([]policy.BudgetState, 0, 2)
	if n := testing.AllocsPerRun(1000, func() { l.Take(q, states); l.Undo(q) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTake(b *testing.B) {
	c := &clock{start}
	for _, per := range []rate.Per{rate.PerPrincipal, rate.PerClient, rate.PerInstallation} {
		b.Run(string(per), func(b *testing.B) {
			l := limits(c, rate.Config{Name: "a", Per: per, Limit: 1e9, Burst: 1e9})
			q, states := charge(c, "ann"), make([]policy.BudgetState, 0, 2)
			b.ReportAllocs()
			for b.Loop() {
				l.Take(q, states)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cfg  rate.Config
		want string
	}{
		{rate.Config{Limit: 1}, ""},
		{rate.Config{Limit: 1e9, Every: 24 * time.Hour}, ""},
		{rate.Config{}, "limit"},
		{rate.Config{Limit: -1}, "limit"},
		{rate.Config{Limit: math.MaxInt64}, "limit"},
		{rate.Config{Limit: 1, Every: -time.Second}, "every"},
		{rate.Config{Limit: 1, Every: time.Millisecond}, "every"},
		{rate.Config{Limit: 1, Every: 25 * time.Hour}, "every"},
		{rate.Config{Limit: 1, Burst: -1}, "burst"},
		{rate.Config{Limit: 1, Every: 24 * time.Hour, Burst: 31}, "burst"},
		{rate.Config{Limit: 1, Burst: math.MaxInt64}, "burst"},
		{rate.Config{Limit: 1, MaxKeys: 1}, "max_keys"},
		{rate.Config{Limit: 1, MaxKeys: math.MaxInt}, "max_keys"},
	} {
		got := ""
		tc.cfg.Check(func(path, _, _ string) { got += path })
		if got != tc.want {
			t.Errorf("%+v: %q", tc.cfg, got)
		}
	}
}
