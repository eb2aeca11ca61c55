package budget_test

import (
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
)

// BUDGET-02: what the ledger grants in a new lease, because it has closed the one before, is
// not lost with the answer: not when it is time for yet another lease before the next one
// comes through.
func TestLostAnswerThenAnotherLease(t *testing.T) {
	b := tokens("b", 1000)
	b.ReserveFor = time.Minute // another lease after a quarter of it
	cfg := config(b)
	cfg.Ledger.Idle = 30 * time.Second // the account stays
	for _, muted := range []time.Duration{500 * time.Millisecond, 5 * time.Second, 11500 * time.Millisecond} {
		t.Run(muted.String(), func(t *testing.T) {
			bubble(t, 0, cfg, func(l *lab) {
				r := l.replica(cfg)
				l.all = []*budget.Budgets{r.Budgets}
				first := l.spend(r.Budgets, agent("x"), 995) // so much that nothing is fetched ahead
				time.Sleep(12 * time.Second)                 // the lease ends
				if _, err := r.Settle(l.Context(), first.Reservation, map[string]int64{"tokens": 1}, true); err != nil {
					l.Fatal(err)
				}
				r.wire.mute.Store(true)
				if s := l.spend(r.Budgets, agent("x"), 300); s.Reason != policy.ReasonUnavailable {
					l.Fatalf("%+v", s)
				}
				if got := l.only(); got.Reserved != 300 {
					l.Fatalf("%+v", got)
				}
				time.Sleep(muted)
				r.wire.mute.Store(false)
				for range 200 { // while it comes back, and when all of it has
					time.Sleep(400 * time.Millisecond)
					if got := l.only(); muted < 10*time.Second && got.Lost != 0 {
						l.Fatalf("%+v", got)
					}
				}
				if got := l.only(); got.Lost != 0 || got.Reserved != 0 || got.Leased != 0 || got.Settled != 1 {
					l.Fatalf("%+v", got)
				}
			})
		})
	}
}
