package check_test

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/rate"
)

// purse is a Spender that a test plays: it holds so much.
type purse struct {
	holds  int64
	fault  policy.Reason // that it answers with, if set
	panics bool
	undone int
	last   policy.Charge
}

func (p *purse) Spend(_ context.Context, c *policy.Charge) policy.Spent {
	if p.panics {
		panic("a secret text")
	}
	p.last = *c
	state := policy.BudgetState{Name: "llm/day", Unit: "tokens", Limit: 100, Remaining: p.holds, Window: 24 * time.Hour, Reset: time.Hour}
	switch {
	case p.fault != policy.ReasonUnspecified:
		return policy.Spent{Reason: p.fault, Detail: "the ledger is away", State: policy.StateStore}
	case p.holds == 0:
		return policy.Spent{Reason: policy.ReasonBudgetExhausted, Detail: "the budget llm/day", Budgets: []policy.BudgetState{state}, RetryAfter: time.Hour}
	}
	p.holds--
	state.Remaining = p.holds
	return policy.Spent{Reason: policy.ReasonAllowed, Reservation: "r-1", Budgets: []policy.BudgetState{state}, State: policy.StateMirror}
}

func (p *purse) Undo(s *policy.Spent) {
	if s.Reservation != "r-1" {
		panic("another Spent than was returned")
	}
	p.holds++
	p.undone++
}

func spending(t *testing.T, holds int64, rates ...rate.Config) (*world, *purse) {
	t.Helper()
	w, p := newWorld(t), &purse{holds: holds}
	w.cfg.Spender = p
	if len(rates) > 0 {
		w.cfg.Rates = rate.New(rates, rate.Deps{Now: func() time.Time { return w.now }})
	}
	return w, p
}

func fields(headers []policy.Header) map[string]string {
	all := map[string]string{}
	for _, h := range headers {
		all[h.Name] = h.Value
	}
	return all
}

// What is left comes with an allow, first what is closest to its end; the upstream gets
// the receipt; nobody may reuse the answer (E-03).
func TestSpend(t *testing.T) {
	t.Parallel()
	w, p := spending(t, 3, rate.Config{Name: "calls", Limit: 2, Every: time.Minute})
	w.cfg.ReservationHeader = "x-postern-reservation"
	w.cfg.Routes = route(func(r *policy.Route) { r.CacheTTL = time.Minute })
	d := w.check(t, request("x-api-key", "key", "x-postern-reservation", "forged"))
	if !d.Allowed || d.Reservation != "r-1" || d.CacheTTL != 0 || d.State != policy.StateMirror {
		t.Fatalf("%+v", d)
	}
	want := []policy.BudgetState{
		{Name: "llm/day", Unit: "tokens", Limit: 100, Remaining: 2, Window: 24 * time.Hour, Reset: time.Hour},
		{Name: "calls", Unit: "requests", Limit: 2, Remaining: 1, Window: time.Minute, Reset: 30 * time.Second},
	}
	if diff := cmp.Diff(want, d.Budgets); diff != "" {
		t.Error(diff)
	}
	if got := fields(d.Upstream)["x-postern-reservation"]; got != "r-1" {
		t.Errorf("the receipt upstream is %q", got)
	}
	for _, name := range d.Remove {
		if name == "x-postern-reservation" {
			t.Error("the receipt is set and removed")
		}
	}
	if fields(d.Client)["ratelimit"] != "" {
		t.Error("those who are not refused are told, and nobody asked for it")
	}
	if p.last.Principal.ID != "alice" || p.last.Route == nil || p.last.Now != noon {
		t.Errorf("charged: %+v", p.last)
	}

	d = w.check(t, request("x-api-key", "key", "x-postern-reservation", "forged"))
	if !d.Allowed {
		t.Fatal(d.Reason)
	}
	d = w.check(t, request("x-api-key", "key"))
	if d.Allowed || d.Reason != policy.ReasonRateLimited || d.Status != 429 || d.RetryAfter != 30*time.Second || d.Phase != policy.PhaseSpend {
		t.Fatalf("%+v", d)
	}
	if got := fields(d.Client); got["ratelimit"] != `"calls";r=0;t=60` || got["ratelimit-policy"] != `"calls";q=2;w=60` || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if p.holds != 1 {
		t.Errorf("the budget was asked, or not given back: %d", p.holds)
	}
}

// A budget that is used up: 429, when to come back, and the rate is given back.
func TestSpendExhausted(t *testing.T) {
	t.Parallel()
	w, p := spending(t, 0, rate.Config{Name: "calls", Limit: 2, Every: time.Minute})
	for range 10 {
		d := w.check(t, request("x-api-key", "key"))
		if d.Reason != policy.ReasonBudgetExhausted || d.Status != 429 || d.RetryAfter != time.Hour || len(d.Budgets) != 1 || d.Reservation != "" {
			t.Fatalf("%+v", d)
		}
		if got := fields(d.Client); got["ratelimit"] != `"llm/day";r=0;t=3600` || got["ratelimit-policy"] != `"llm/day";q=100;qu="tokens";w=86400` {
			t.Errorf("%v", got)
		}
	}
	if p.undone != 0 {
		t.Error("what was not taken was given back")
	}
}

// A budget that cannot be reached is not an answer about the caller.
func TestSpendFault(t *testing.T) {
	t.Parallel()
	w, p := spending(t, 5)
	p.fault = policy.ReasonUnavailable
	if d := w.check(t, request("x-api-key", "key")); d.Reason != policy.ReasonUnavailable || d.Status != 503 || d.State != policy.StateStore {
		t.Errorf("%+v", d)
	}
	p.fault, p.panics = policy.ReasonUnspecified, true
	if d := w.check(t, request("x-api-key", "key")); d.Reason != policy.ReasonInternal || p.undone != 0 {
		t.Errorf("%+v", d)
	}
	w.cfg.Spender = zero{}
	if d := w.check(t, request("x-api-key", "key")); d.Allowed {
		t.Error("the zero Spent is an allow")
	}
}

type zero struct{}

func (zero) Spend(context.Context, *policy.Charge) policy.Spent { return policy.Spent{} }
func (zero) Undo(*policy.Spent)                                 {}

// Nothing is charged before all else has said yes, and Authenticate charges nothing.
func TestSpendLast(t *testing.T) {
	t.Parallel()
	w, p := spending(t, 1, rate.Config{Name: "calls", Limit: 1, Every: time.Hour})
	for range 3 {
		if d := check.New(w.cfg).Authenticate(t.Context(), request("x-api-key", "key")); !d.Allowed || d.Budgets != nil {
			t.Fatalf("%+v", d)
		}
		if d := w.check(t, request("x-api-key", "unknown")); d.Allowed {
			t.Fatal("allowed")
		}
	}
	w.decider.verdict = &policy.Verdict{}
	if d := w.check(t, request("x-api-key", "key")); d.Allowed || d.Budgets != nil {
		t.Fatalf("%+v", d)
	}
	w.decider.verdict = &policy.Verdict{Allow: true}
	if d := w.check(t, request("x-api-key", "key")); !d.Allowed || p.holds != 0 {
		t.Errorf("%v %d", d.Reason, p.holds)
	}
}

// Whatever denies afterwards gives everything back.
func TestSpendUndone(t *testing.T) {
	t.Parallel()
	w, p := spending(t, 1, rate.Config{Name: "calls", Limit: 1, Every: time.Hour})
	fresh := w.cfg.Sight
	old := false
	w.cfg.Sight = func() check.Sight { return lateSight{&old} }
	for range 3 {
		old = true // what is known is too old by the time of the answer
		d := w.check(t, request("x-api-key", "key"))
		if d.Allowed || d.Reason != policy.ReasonUnavailable || d.Budgets != nil || d.Reservation != "" || d.RetryAfter != 0 {
			t.Fatalf("%+v", d)
		}
	}
	if p.undone != 3 || p.holds != 1 {
		t.Errorf("given back %d times, holds %d", p.undone, p.holds)
	}
	w.cfg.Sight = fresh
	if d := w.check(t, request("x-api-key", "key")); !d.Allowed {
		t.Errorf("not given back: %v", d.Reason)
	}
}

// An audit log that cannot be written gives everything back, and so does a panic in it.
func TestSpendUndoneByJournal(t *testing.T) {
	t.Parallel()
	for name, journal := range map[string]check.Journal{"none": nil, "failed": journals{}, "panics": journals{panics: true}} {
		w, p := spending(t, 1, rate.Config{Name: "calls", Limit: 1, Every: time.Hour})
		w.cfg.Routes, w.cfg.Journal = []policy.Route{{Name: "audited", AuditFirst: true}}, journal
		for range 3 {
			d := w.check(t, request("x-api-key", "key"))
			if d.Allowed || d.Status != 503 || d.Budgets != nil || d.Reservation != "" || fields(d.Client)["ratelimit"] != "" {
				t.Errorf("%s: %+v", name, d)
			}
		}
		if p.undone != 3 || p.holds != 1 {
			t.Errorf("%s: given back %d times, holds %d", name, p.undone, p.holds)
		}
	}
}

type journals struct{ panics bool }

func (j journals) Write(context.Context, *audit.Record) error {
	if j.panics {
		panic("a secret text")
	}
	return errors.New("the disk is full")
}

// lateSight is fresh when it is asked first, and then not any more.
type lateSight struct{ old *bool }

func (l lateSight) Freshness(time.Time) check.Freshness {
	if *l.old {
		*l.old = false
		return check.Fresh
	}
	return check.Blind
}

// What a caller says in header fields counts from those who are believed, and goes
// nowhere else; what cannot be read is refused (BUDGET-03, BUDGET-05).
func TestCost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		trusted bool
		said    []string
		proto   map[string]int64
		want    map[string]int64
		reason  policy.Reason
	}{
		{true, nil, nil, nil, policy.ReasonAllowed},
		{true, []string{"5"}, nil, map[string]int64{"tokens": 5}, policy.ReasonAllowed},
		{true, []string{"5"}, map[string]int64{"micros": 7}, map[string]int64{"tokens": 5, "micros": 7}, policy.ReasonAllowed},
		{true, []string{"0"}, nil, nil, policy.ReasonAllowed},
		{true, []string{"999999999999999999"}, nil, map[string]int64{"tokens": 999999999999999999}, policy.ReasonAllowed},
		{false, []string{"5"}, nil, nil, policy.ReasonAllowed},
		{false, []string{"-1"}, nil, nil, policy.ReasonAllowed},
		{false, []string{"5"}, map[string]int64{"tokens": 7}, nil, policy.ReasonAllowed},
		{false, nil, map[string]int64{"tokens": 7}, nil, policy.ReasonAllowed},
		{true, nil, map[string]int64{"tokens": 7}, map[string]int64{"tokens": 7}, policy.ReasonAllowed},
		{true, []string{"-1"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"+1"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{""}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"NaN"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"1e308"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"0.1"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"0x10"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{`"5"`}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"5, 5"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"9223372036854775808"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"٥"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"5", "5"}, nil, nil, policy.ReasonRequestInvalid},
		{true, []string{"5"}, map[string]int64{"tokens": 5}, nil, policy.ReasonRequestInvalid},
	} {
		w, p := spending(t, 1)
		w.cfg.Cost = []check.CostHeader{{Name: "x-llm-cost", Unit: "tokens"}}
		w.cfg.Trust = map[string]check.Trust{"edge": {Cost: tc.trusted}}
		a := request("x-api-key", "key")
		for _, text := range tc.said {
			a.Headers = append(a.Headers, policy.Header{Name: "x-llm-cost", Value: text})
		}
		a.Caller, a.Cost = "edge", tc.proto
		d := w.check(t, a)
		if d.Reason != tc.reason {
			t.Errorf("%v %v: %v", tc.trusted, tc.said, d.Reason)
		}
		if diff := cmp.Diff(tc.want, p.last.Cost); diff != "" {
			t.Errorf("%v %v: %s", tc.trusted, tc.said, diff)
		}
		if d.Allowed && !strings.Contains(strings.Join(d.Remove, " "), "x-llm-cost") {
			t.Errorf("it goes upstream: %v", d.Remove)
		}
		if _, n := w.decider.input.Attributes, 0; d.Allowed && !tc.trusted {
			if _, n = w.decider.input.Attributes.Headers.Get("x-llm-cost"); n > 0 {
				t.Error("the policy sees what nobody is believed to say")
			}
		}
	}
}

// Clients can be told always, never, and in the fields that were usual before.
func TestLimitHeaders(t *testing.T) {
	t.Parallel()
	w, p := spending(t, 100)
	w.cfg.Limits = check.LimitHeaders{Always: true, Legacy: true}
	d := w.check(t, request("x-api-key", "key"))
	want := map[string]string{
		"ratelimit": `"llm/day";r=99;t=3600`, "ratelimit-policy": `"llm/day";q=100;qu="tokens";w=86400`,
		"x-ratelimit-limit": "100", "x-ratelimit-remaining": "99", "x-ratelimit-reset": "3600",
	}
	if diff := cmp.Diff(want, fields(d.Client)); diff != "" {
		t.Error(diff)
	}
	w.decider.verdict = &policy.Verdict{Allow: true, ClientHeaders: []policy.Header{{Name: "ratelimit", Value: "mine"}}}
	if d := w.check(t, request("x-api-key", "key")); fields(d.Client)["ratelimit"] != "mine" || len(d.Client) != 5 {
		t.Errorf("%v", d.Client)
	}
	w.cfg.Limits, p.holds = check.LimitHeaders{Never: true}, 0
	w.decider.verdict = &policy.Verdict{Allow: true}
	if d := w.check(t, request("x-api-key", "key")); d.Status != 429 || len(d.Client) != 0 {
		t.Errorf("%+v", d)
	}
}

// Numbers that are out of what a field can hold stay integers of 15 digits.
func TestLimitHeadersBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Limits.Always = true
	w.cfg.Spender = states{{Name: `a"b\c`, Limit: math.MaxInt64, Remaining: -5}, {Name: "b", Limit: 1, Remaining: 1, Reset: 1, Window: 1}}
	d := w.check(t, request("x-api-key", "key"))
	want := map[string]string{
		"ratelimit":        `"a\"b\\c";r=0, "b";r=1;t=1`,
		"ratelimit-policy": `"a\"b\\c";q=999999999999999, "b";q=1;w=1`,
	}
	if diff := cmp.Diff(want, fields(d.Client)); diff != "" {
		t.Error(diff)
	}
}

type states []policy.BudgetState

func (s states) Spend(context.Context, *policy.Charge) policy.Spent {
	return policy.Spent{Reason: policy.ReasonAllowed, Budgets: s}
}
func (states) Undo(*policy.Spent) {}

// BenchmarkSpend compares a warm Check with and without limits.
func BenchmarkSpend(b *testing.B) {
	for name, limit := range map[string]func(*world){
		"none": func(*world) {},
		"rates": func(w *world) {
			w.cfg.Rates = rate.New([]rate.Config{{Name: "r", Limit: 1e9, Burst: 1e9}}, rate.Deps{})
		},
		"purse": func(w *world) { w.cfg.Spender = &purse{holds: math.MaxInt64} },
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(&testing.T{})
			w.cfg.Now, w.cfg.Recorder = nil, nil
			limit(w)
			c, a := check.New(w.cfg), request("x-api-key", "key")
			a.Source.Address = netip.MustParseAddrPort("192.0.2.1:1")
			b.ReportAllocs()
			for b.Loop() {
				if d := c.Check(context.Background(), a); !d.Allowed {
					b.Fatal(d.Reason)
				}
			}
		})
	}
}
