package budget

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/postern-auth/postern/server/store"
)

const (
	// sweeps is how often a replica looks for accounts of which time demands something,
	// and prunes how often for those that can go; about, so that replicas do not do it all
	// at once.
	sweeps = 2 * time.Second
	prunes = 5 * time.Minute
	// maxVisits is how many transactions one sweep has at most.
	maxVisits = 1000
)

// sweeper does what time demands of accounts that nobody uses: leases of the dead end,
// reservations expire, windows pass.
type sweeper struct {
	ledger store.Ledger
	now    func() time.Time
	log    *slog.Logger
}

func (s *sweeper) run(ctx context.Context) {
	timer := time.NewTimer(sweeps)
	defer timer.Stop()
	pruned := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := s.sweep(ctx)
		if err == nil && time.Since(pruned) > prunes {
			pruned = time.Now()
			_, err = s.ledger.Prune(ctx, s.now())
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("the ledger of budgets could not be swept", "error", err)
		}
		timer.Reset(sweeps/2 + rand.N(sweeps))
	}
}

// sweep visits the accounts that are due, some at a time.
func (s *sweeper) sweep(ctx context.Context) error {
	for range maxVisits {
		now := s.now()
		keys, err := s.ledger.Due(ctx, now, maxRound)
		if err == nil && len(keys) > 0 {
			err = s.visit(ctx, keys, now)
		}
		if err != nil || len(keys) < maxRound {
			return err
		}
	}
	return nil
}

func (s *sweeper) visit(ctx context.Context, keys []string, now time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, postTime, errSlow)
	defer cancel()
	return s.ledger.Post(ctx, store.About{Accounts: keys}, func(sheet *store.Sheet) error {
		for i := range sheet.Accounts {
			if b := (&book{&sheet.Accounts[i], now}); b.Budget != "" {
				b.pass()
				b.balance(b.Limit)
			}
		}
		return nil
	})
}
