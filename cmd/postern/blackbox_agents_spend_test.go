package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/pgtest"
	"github.com/postern-auth/postern/server/store/postgres"
)

// spender is a server whose budgets a test spends: as a gateway that is believed to say
// what requests cost, and as somebody who is not.
type spender struct {
	*box
	gateway posternv1.CheckServiceClient // with the gateway's name
	usage   posternv1.UsageServiceClient
}

const gatewayToken = "the-token-of-the-gateway-in-tests"

// prepareSpending makes the world, with keys for those who spend.
func prepareSpending(t testing.TB, store string) (w world, keys []string) {
	t.Helper()
	w = prepare(t, "spend", "@STORE@", store)
	w.write(t, "gateway-token", gatewayToken)
	for _, who := range []string{"ann", "bob"} {
		keys = append(keys, w.mint(t, order{id: who}))
	}
	return w, keys
}

func spendIn(t testing.TB, w world) *spender {
	t.Helper()
	s := &spender{box: start(t, w)}
	named := dial(t, s.rpc, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return next(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+gatewayToken), method, req, reply, cc, opts...)
	}))
	s.gateway, s.usage = posternv1.NewCheckServiceClient(named), posternv1.NewUsageServiceClient(named)
	s.hide(gatewayToken)
	return s
}

// cost asks for something of so many tokens.
func (s *spender) cost(t testing.TB, path, key string, tokens int64, headers ...string) *posternv1.Decision {
	t.Helper()
	q := withKey(path, key)
	for i := 0; i < len(headers); i += 2 {
		q.headers = append(q.headers, get("/", headers[i], headers[i+1]).headers...)
	}
	req := &posternv1.CheckRequest{Target: q.forPostern()}
	if tokens > 0 {
		req.Cost = map[string]int64{"tokens": tokens}
	}
	res, err := s.gateway.Check(t.Context(), req)
	if err != nil {
		t.Errorf("a gRPC error: %v", err)
	}
	s.said(res)
	return res.GetDecision()
}

// settle reports a use.
func (s *spender) settle(t testing.TB, receipt string, tokens int64) (*posternv1.SettleResponse, error) {
	return s.usage.Settle(t.Context(), &posternv1.SettleRequest{Reservation: receipt, Use: map[string]int64{"tokens": tokens}})
}

// several does something at the same time, so many times in all.
func several(workers, n int, do func(i int)) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range workers {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				do(i)
			}
		})
	}
	all.Wait()
}

// BUDGET-01: of 1,000 requests at once, a budget of 100 lets 100 through, over both doors
// together. What is denied costs nothing, and an allow is for one request (E-03).
func TestBudgetIsExact(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	s := spendIn(t, w)
	for range 20 {
		s.expect(t, withKey("/forbidden", keys[0]), 403, "policy_denied")
	}
	var allowed atomic.Int64
	several(16, 1000, func(i int) {
		ask := s.askEnvoy
		if i%2 == 0 {
			ask = s.askPostern
		}
		switch a := ask(t, withKey("/hundred", keys[0])); {
		case a.allowed():
			allowed.Add(1)
		case a.status != http.StatusTooManyRequests || a.reason != "budget_exhausted":
			t.Errorf("neither an allow nor used up: %v", a)
		}
	})
	if n := allowed.Load(); n != 100 {
		t.Errorf("%d allowed of a budget of 100", n)
	}
	a := s.expect(t, withKey("/hundred", keys[0]), 429, "budget_exhausted")
	if a.header("ratelimit") != `"hundred/life";r=0` || a.header("ratelimit-policy") != `"hundred/life";q=100` || a.header("retry-after") != "" {
		t.Errorf("the client is told %v", a.headers)
	}
	if a.code != codes.ResourceExhausted {
		t.Errorf("gRPC callers get %v", a.code)
	}
	s.expect(t, withKey("/hundred", keys[1]), 200, "allowed")
	text := s.scrape(t)
	if n := metric(t, text, `postern_budget_requests_total{budget="hundred/life",result="charged"}`); n != 102 {
		t.Errorf("charged %d times by the metric", n)
	}
	var line string
	eventually(t, "the log says which budget", func() bool {
		for _, e := range s.log.entries(t, "decision") {
			if e["reason"] == "budget_exhausted" {
				line = e[""].(string)
			}
		}
		return strings.Contains(line, `"limits":"hundred/life 0/100 requests"`)
	})
}

// A-02, BUDGET-04: three replicas on one store, all of which spend the same budget of
// 10,000 tokens at the same time: all of it, and not one more.
func TestBudgetOfReplicas(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, `{ driver: postgres, dsn: "${file:dsn}" }`)
	dsn := pgtest.Database(t)
	w.write(t, "dsn", dsn)
	replicas := []*spender{spendIn(t, w), spendIn(t, w), spendIn(t, w)}
	const each = 20
	var spent atomic.Int64
	several(6, 560, func(i int) {
		switch d := replicas[i%3].cost(t, "/chat", keys[0], each); {
		case d.GetAllowed():
			if n := spent.Add(each); n > 10_000 {
				t.Errorf("%d spent of 10,000", n)
			}
			if d.GetReservation() == "" || d.GetCacheTtl() != nil || len(d.GetBudgets()) != 1 {
				t.Errorf("an allow without its receipt: %v", d)
			}
		case d.GetReason() == posternv1.Reason_REASON_DEPENDENCY_UNAVAILABLE: // a machine that is too busy for the database
		case d.GetReason() != posternv1.Reason_REASON_BUDGET_EXHAUSTED:
			t.Errorf("neither an allow nor used up: %v", d)
		}
	})
	// What a replica has on lease comes back, so that nothing is left in the end but what
	// a replica was too busy to renew, which counts as used: one per cent at most.
	ledger, err := postgres.Open(t.Context(), dsn, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	var lost int64
	eventually(t, "all of it is spent", func() bool {
		accounts, err := ledger.Accounts(t.Context(), store.AccountQuery{Budget: "tokens/life"})
		if err != nil || len(accounts) != 1 {
			t.Fatalf("%d accounts, %v", len(accounts), err)
		}
		lost = accounts[0].Lost
		for _, s := range replicas {
			if s.cost(t, "/chat", keys[0], each).GetAllowed() {
				spent.Add(each)
			}
		}
		return spent.Load()+lost > 10_000-each // less than that is no use to anybody
	})
	for _, s := range replicas {
		if d := s.cost(t, "/chat", keys[0], each); d.GetAllowed() {
			t.Error("more than all of it")
		}
	}
	if n := spent.Load(); n > 10_000 || n+lost <= 10_000-each || lost > 100 {
		t.Errorf("%d spent of 10,000, %d lost", n, lost)
	}
}

// what requests reserve is what they can cost at most, so that no number of them at
// once gets more than the budget; what they do not use comes back when they report it,
// once.
func TestReserveAndSettle(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	s := spendIn(t, w)
	round := func() (receipts []string) {
		var mu sync.Mutex
		several(16, 64, func(int) {
			if d := s.cost(t, "/chat", keys[0], 1000); d.GetAllowed() {
				mu.Lock()
				receipts = append(receipts, d.GetReservation())
				mu.Unlock()
			}
		})
		return receipts
	}
	first := round()
	if len(first) != 10 {
		t.Fatalf("%d of 10 requests of 1,000 fit into 10,000", len(first))
	}
	for _, receipt := range first {
		if res, err := s.settle(t, receipt, 400); err != nil || res.GetRepeated() {
			t.Fatal(res, err)
		}
		if res, err := s.settle(t, receipt, 400); err != nil || !res.GetRepeated() {
			t.Errorf("the same report again: %v %v", res, err)
		}
		if _, err := s.settle(t, receipt, 300); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("another report of the same: %v", err)
		}
	}
	// 4,000 are used, so six more fit.
	var more []string
	eventually(t, "what was not used has come back", func() bool {
		more = append(more, round()...)
		return len(more) >= 6
	})
	if len(more) != 6 {
		t.Errorf("%d requests of 1,000 fit into 6,000", len(more))
	}
	// A receipt that somebody made up settles nothing.
	for _, forged := range []string{"x", more[0][:len(more[0])-2] + "AA", strings.ToUpper(more[0]), more[0] + "A"} {
		if _, err := s.settle(t, forged, 1); status.Code(err) != codes.NotFound {
			t.Errorf("a forged receipt: %v", err)
		}
	}
	if _, err := s.settle(t, more[0], -1); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a negative use: %v", err)
	}
	// max_per_request: nobody asks for more at once, however much is left.
	if d := s.cost(t, "/chat", keys[1], 2001); d.GetAllowed() || d.GetReason() != posternv1.Reason_REASON_BUDGET_EXHAUSTED {
		t.Errorf("more than one request may have: %v", d)
	}
	if d := s.cost(t, "/chat", keys[1], 2000); !d.GetAllowed() {
		t.Errorf("as much as one request may have: %v", d)
	}
}

// The receipt goes to the service, and no client can put another one in its place.
func TestReceiptUpstream(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	s := spendIn(t, w)
	for _, ask := range []func(testing.TB, request) answer{s.askEnvoy, s.askPostern} {
		q := withKey("/small", keys[0])
		q.headers = append(q.headers, get("/", "x-postern-reservation", "forged", "x_postern_reservation", "forged").headers...)
		a := ask(t, q)
		receipt := a.upstream("x-postern-reservation")
		if !a.allowed() || receipt == "" || receipt == "forged" || !slices.Contains(a.removed, "x_postern_reservation") {
			t.Errorf("%v: upstream %v, without %v", a, a.set, a.removed)
		}
		if _, err := s.settle(t, receipt, 1); err != nil {
			t.Error(err)
		}
		q.path = "/paced" // nothing is to be settled there
		if a = ask(t, q); !a.allowed() || a.upstream("x-postern-reservation") != "" || !slices.Contains(a.removed, "x-postern-reservation") {
			t.Errorf("%v: upstream %v, without %v", a, a.set, a.removed)
		}
	}
}

// BUDGET-03, BUDGET-05: what is no cost is refused or not said, and never makes more of a
// budget; what a client says itself is taken away.
func TestCosts(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	s := spendIn(t, w)
	left := int64(5000)
	check := func(what string, d *posternv1.Decision, costs int64) {
		t.Helper()
		if !d.GetAllowed() {
			t.Errorf("%s: %v", what, d.GetReason())
			return
		}
		left -= costs
		// What the replica is just giving back or getting, it may count twice or not at all:
		// 1 % at most. What is really left, the end of the test shows.
		if got := d.GetBudgets()[0].GetRemaining(); got > left+50 || got < left-100 {
			t.Errorf("%s: %d remain, want %d", what, got, left)
		}
	}
	check("as the caller says", s.cost(t, "/small", keys[0], 5), 5)
	check("as the gateway's header says", s.cost(t, "/small", keys[0], 0, "x-llm-tokens", "7"), 7)
	check("nothing said", s.cost(t, "/small", keys[0], 0), 500)
	check("0", s.cost(t, "/small", keys[0], 0, "x-llm-tokens", "0"), 500)
	for _, no := range []string{"-1", "NaN", "1e308", "9223372036854775808", "0.1", `"5"`, "5 5", "+5", "", "0x5"} {
		if d := s.cost(t, "/small", keys[0], 0, "x-llm-tokens", no); d.GetAllowed() || d.GetHttpStatus() != 400 {
			t.Errorf("%q: %v", no, d.GetReason())
		}
	}
	if d := s.cost(t, "/small", keys[0], 5, "x-llm-tokens", "5"); d.GetAllowed() {
		t.Error("said twice")
	}
	for _, cost := range []map[string]int64{{"tokens": -1}, {"tokens": -1 << 63}, {"tokens": 1<<63 - 1}, {"euros": 1}} {
		_, err := s.gateway.Check(t.Context(), &posternv1.CheckRequest{Target: withKey("/small", keys[0]).forPostern(), Cost: cost})
		_, batch := s.gateway.BatchCheck(t.Context(), &posternv1.BatchCheckRequest{Items: []*posternv1.CheckItem{{Target: withKey("/small", keys[0]).forPostern(), Cost: cost}}})
		if status.Code(err) != codes.InvalidArgument || status.Code(batch) != codes.InvalidArgument {
			t.Errorf("%v: %v %v", cost, err, batch)
		}
	}
	check("nothing of that was charged", s.cost(t, "/small", keys[0], 1), 1)

	// Nobody who is not believed says anything.
	q := withKey("/small", keys[0])
	q.headers = append(q.headers, get("/", "x-llm-tokens", "1", "x-ratelimit-remaining", "9").headers...)
	a := s.askEnvoy(t, q)
	left -= 500
	if !a.allowed() || !slices.Contains(a.removed, "x-llm-tokens") || !slices.Contains(a.removed, "x-ratelimit-remaining") {
		t.Errorf("%v without %v", a, a.removed)
	}
	check("the client's own word", s.cost(t, "/small", keys[0], 1), 1)

	// Each item of a batch is charged, and Authenticate charges nothing.
	item := func(n int64) *posternv1.CheckItem {
		return &posternv1.CheckItem{Target: withKey("/small", keys[0]).forPostern(), Cost: map[string]int64{"tokens": n}}
	}
	res, err := s.gateway.BatchCheck(t.Context(), &posternv1.BatchCheckRequest{Items: []*posternv1.CheckItem{item(10), item(100_000), item(20)}})
	if err != nil || !res.GetDecisions()[0].GetAllowed() || res.GetDecisions()[1].GetAllowed() || !res.GetDecisions()[2].GetAllowed() {
		t.Fatalf("%v %v", res, err)
	}
	left -= 30
	if _, err := s.gateway.Authenticate(t.Context(), &posternv1.AuthenticateRequest{Credential: &posternv1.Credential{Kind: &posternv1.Credential_ApiKey{ApiKey: keys[0]}}}); err != nil {
		t.Fatal(err)
	}
	check("after a batch", s.cost(t, "/small", keys[0], 1), 1)
	if d := s.cost(t, "/small", keys[0], left+1); d.GetAllowed() {
		t.Error("there is more than should be left")
	}
	if d := s.cost(t, "/small", keys[0], left); !d.GetAllowed() {
		t.Errorf("there is less than should be left: %v", d)
	}
	if d := s.cost(t, "/small", keys[0], 1); d.GetAllowed() {
		t.Error("there is more than nothing left")
	}
}

// A soft budget lets through what does not fit, and says that nothing is left.
func TestSoftBudget(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	s := spendIn(t, w)
	for i := range 5 {
		d := s.cost(t, "/watched", keys[0], 0)
		if !d.GetAllowed() || len(d.GetBudgets()) != 1 || d.GetBudgets()[0].GetRemaining() != 0 {
			t.Errorf("%d: %v", i, d)
		}
	}
}

// RATE: five requests, and then the client hears when the next one is worth it; a reload
// that changes something else keeps what rates and budgets have counted.
func TestRatesAndReload(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	s := spendIn(t, w)
	var allowed atomic.Int64
	several(8, 100, func(int) {
		switch a := s.askEnvoy(t, withKey("/paced", keys[0])); {
		case a.allowed():
			allowed.Add(1)
		case a.status != 429 || a.reason != "rate_limited" || a.header("retry-after") == "" || !strings.HasPrefix(a.header("ratelimit"), `"pace";r=0;t=`):
			t.Errorf("%v %v", a, a.headers)
		}
	})
	if n := allowed.Load(); n != 5 {
		t.Errorf("%d allowed of 5", n)
	}
	s.expect(t, withKey("/paced", keys[1]), 200, "allowed")
	if n := s.cost(t, "/small", keys[1], 100).GetBudgets()[0].GetRemaining(); n < 4800 || n > 4950 {
		t.Errorf("%d remain", n)
	}

	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), "usage:\n", "usage:\n  tell: always\n  legacy_headers: true\n", 1))
	eventually(t, "clients are told always", func() bool {
		return s.askPostern(t, withKey("/small", keys[1])).header("x-ratelimit-limit") == "5000"
	})
	res, err := s.envoy.Check(t.Context(), withKey("/hundred", keys[1]).forEnvoy())
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, h := range res.GetOkResponse().GetResponseHeadersToAdd() {
		told = append(told, h.GetHeader().GetKey()+": "+h.GetHeader().GetValue())
	}
	want := `ratelimit-policy: "hundred/life";q=100, ratelimit: "hundred/life";r=99, x-ratelimit-limit: 100, x-ratelimit-remaining: 99, x-ratelimit-reset: 0`
	if got := strings.Join(told, ", "); got != want {
		t.Errorf("Envoy is to tell\n%s\nwant\n%s", got, want)
	}
	if a := s.askPostern(t, withKey("/paced", keys[0])); a.status != 429 {
		t.Errorf("the reload has forgotten the rate: %v", a)
	}
	if n := s.cost(t, "/small", keys[1], 100).GetBudgets()[0].GetRemaining(); n > 4300 {
		t.Errorf("the reload has forgotten the budget: %d remain", n)
	}
	text := s.scrape(t)
	if metric(t, text, `postern_rate_requests_total{rate="pace",result="limited"}`) < 95 || metric(t, text, `postern_rate_keys{rate="pace"}`) != 2 {
		t.Errorf("the metrics do not say so")
	}
	if _, body := s.fetch(t, "/readyz"); !strings.Contains(body, `4 budgets, 1 rates`) {
		t.Errorf("/readyz: %s", body)
	}
}

// What is left is in the store when the server has stopped, leases too.
func TestBudgetSurvives(t *testing.T) {
	t.Parallel()
	w, keys := prepareSpending(t, sqliteStore)
	used := 0
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := spendIn(t, w)
			for range 40 {
				if s.askPostern(t, withKey("/hundred", keys[0])).allowed() {
					used++
				}
			}
		})
	}
	if used != 100 {
		t.Errorf("%d of 100 in three lives", used)
	}
}
