// Package budget counts what requests use, and refuses those for which there is no budget
// left: exactly, over all replicas, whichever of them dies.
//
// # Accounts
//
// A budget of the configuration has an account in the ledger (store.Ledger) for each
// subject that it tells apart and each window of time. A request is charged to all
// accounts that it falls under, or to none. In every committed state
//
//	settled + reserved + leased <= limit
//
//	settled    was used for sure
//	reserved   requests have, that may say yet what they truly used
//	leased     replicas have, and have not said to have spent
//
// A budget that a token says of itself (policy.Principal.TokenBudget) is an account like
// any other, and needs no configuration.
//
// # Leases
//
// To go to the store for each request would cost milliseconds and make one row the
// bottleneck of all replicas. So a replica takes a part of an account on lease, and
// requests take theirs from it in RAM, with one atomic operation. One goroutine, the
// clerk, talks to the ledger: it fetches more before a lease is used up, as much as is
// likely to be taken in a second, at most a hundredth of the limit and a share of what is
// left; says what was spent; renews; and gives back what nobody has asked for in a while.
//
// Where a lease is too small the request waits for the clerk, who gets what it needs from
// the ledger and nothing else, together with all others who wait: one transaction, which
// grants each of them all of its accounts or none. If there is not enough, but other
// replicas have some on lease, the account is marked as recalled. Every replica that has
// anything looks for that mark ten times a second and gives back what it does not use; and
// while the mark is there nobody fetches ahead. The request is tried again until it gets
// its amount, or nobody has any, or a quarter of a second has passed. Only then is it
// refused. That nothing is left (budget_exhausted, 429) and that the ledger cannot be
// reached (dependency_unavailable, 503) are different answers.
//
// Replicas tell the ledger states, not changes: "of lease 7, which you granted me 100 of, I
// have spent 60 and give back 20". So an answer that was lost does no harm, and is made up
// for by the next one.
//
// # Death
//
// What a replica had on lease when it died counts as used, because it may have been: as
// leased until the lease ends, and as settled and lost from then on. If the replica was only
// asleep, what it says when it wakes is right again. Clocks only say when that is: with
// wrong ones more is lost, and never anything given out twice.
//
// If the ledger is away, replicas go on with what they have until their leases end.
//
// # Reservations
//
// A receipt says which leases an amount was taken from, and its MAC, by a key that all
// replicas share, that it was. Whoever settles it tells the ledger how much of each lease is
// now settled, and what was really used: less goes back, more counts as used as well, as
// far as there is room, and the rest as overrun, which later room goes to first. A lease
// can be settled before its replica has said that it was spent: what is out of it is the
// greater of the two. The receipt's number is kept until it expires, so that settling twice
// is settling once. Reservations expire with their leases, which are of the same age within
// a quarter of their time.
//
// What costs exactly one, a request, is settled when it is taken, and has no receipt.
//
// # Windows
//
// The account of a day or a month ends with it, and the next one is another account. A
// rolling window is one account, which remembers in sixty slots when something was
// settled; a slot leaves the window as a whole when its end does, so late rather than
// early.
package budget

import (
	"context"
	"crypto/rand"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// reservedPrefix begins the names of budgets that need no configuration.
const reservedPrefix = "postern."

// ClaimName is the name of the budget that a token says of itself
// (policy.Principal.TokenBudget).
const ClaimName = reservedPrefix + "token_budget"

// Deps are what Budgets are given.
type Deps struct {
	// Ledger keeps the accounts; every store of Postern is one.
	Ledger store.Ledger
	// Peppers make receipts that nobody can forge. Without any, a secret of this process
	// does, and only it can settle them.
	Peppers *seal.Peppers
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Logger hears of what goes wrong in the background; nil for nobody.
	Logger *slog.Logger
	// Limit overrides the limit of a budget for one account, or returns 0. It is asked
	// when the account comes up and whenever the ledger is asked for it, so it must not
	// block. May be nil.
	Limit func(budget string, subject Subject) int64
	// Owner names the owner of the agent of a principal, or returns "". Needed for per:
	// owner. It must not block. May be nil.
	Owner func(p *policy.Principal) string
}

// Budgets implements check.Spender. They are safe for concurrent use.
type Budgets struct {
	ledger   store.Ledger
	now      func() time.Time
	override func(string, Subject) int64
	owner    func(*policy.Principal) string
	world    atomic.Pointer[world]
	accounts *accounts
	receipts *receipts
	clerk    *clerk
	settler  *settler
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// New returns budgets that share their accounts with all others over the same ledger.
// The configuration must have passed Check. Close must be called in the end.
func New(cfg Config, deps Deps) (*Budgets, error) {
	if deps.Ledger == nil {
		return nil, errors.New("budgets need a store")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	var holder [holderLength]byte
	_, _ = rand.Read(holder[:]) // never fails: it ends the process instead
	b := &Budgets{
		ledger: deps.Ledger, now: deps.Now, override: deps.Limit, owner: deps.Owner,
		accounts: &accounts{seed: maphash.MakeSeed()}, receipts: newReceipts(holder, deps.Peppers),
	}
	b.world.Store(newWorld(cfg, b.accounts.seed))
	b.clerk = &clerk{
		ledger: deps.Ledger, holder: encode(holder[:]), now: deps.Now, log: deps.Logger, world: b.world.Load, limit: b.limit,
		accounts: b.accounts, wake: make(chan struct{}, 1), known: map[*account]struct{}{},
	}
	b.settler = &settler{ledger: deps.Ledger, now: deps.Now, world: b.world.Load}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.running.Go(func() { b.clerk.run(ctx) })
	b.running.Go(func() { (&sweeper{deps.Ledger, deps.Now, deps.Logger}).run(ctx) })
	return b, nil
}

// Swap puts another configuration in force. Accounts whose budget has the same name, unit,
// window and per go on.
func (b *Budgets) Swap(cfg Config) error {
	b.world.Store(newWorld(cfg, b.accounts.seed))
	return nil
}

// Len is how many budgets are configured.
func (b *Budgets) Len() int { return len(b.world.Load().rules) - 1 }

// Close gives back what is on lease and ends what runs in the background. Reservations
// stay: any other replica can settle them.
func (b *Budgets) Close(ctx context.Context) error {
	b.stop()
	b.settler.close()
	done := make(chan struct{})
	go func() {
		b.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Query picks accounts. Empty fields do not limit.
type Query struct {
	// Budget is a budget's name, Tenant whose accounts.
	Budget, Tenant string
	// Subject picks by its text (State.Subject).
	Subject string
	// After is the key behind which the list begins, Limit how many (store.MaxPage at
	// most, and by default).
	After string
	Limit int
}

// State is an account as the ledger has it.
type State struct {
	// Key names it, Budget its budget, Unit what it counts.
	Key, Budget string
	Unit        Unit
	// Subject is who has it, as "tenant=acme agent=a1"; Tenant the tenant of it.
	Subject, Tenant string
	// Begin and End bound its window; zero for a lifetime or a rolling one.
	Begin, End time.Time
	// Settled + Reserved + Leased is at most Limit. Settled is what was used for sure,
	// Reserved what requests have reserved that may be settled yet, Leased what replicas
	// have taken and not said to have spent.
	Limit, Settled, Reserved, Leased int64
	// Overrun is what was used over Limit. Lost is the part of Settled that is only
	// taken to have been used, because a replica died with it.
	Overrun, Lost int64
	// UpdatedAt is when it last changed.
	UpdatedAt time.Time
}

// Remaining is what is left.
func (s *State) Remaining() int64 {
	return max(0, s.Limit-s.Settled-s.Reserved-s.Leased-s.Overrun)
}

// List returns accounts by their keys, as the ledger has them.
func (b *Budgets) List(ctx context.Context, q Query) ([]State, error) {
	return b.list(ctx, store.AccountQuery{Budget: q.Budget, Tenant: q.Tenant, Subject: q.Subject, After: q.After, Limit: q.Limit})
}

// State returns one account by its key, or store.ErrNotFound.
func (b *Budgets) State(ctx context.Context, key string) (State, error) {
	found, err := b.list(ctx, store.AccountQuery{Key: key, Limit: 1})
	if err == nil && (len(found) == 0 || key == "") {
		err = store.ErrNotFound
	}
	if err != nil {
		return State{}, err
	}
	return found[0], nil
}

func (b *Budgets) list(ctx context.Context, q store.AccountQuery) ([]State, error) {
	found, err := b.ledger.Accounts(ctx, q)
	if err != nil {
		return nil, err
	}
	now := b.now()
	states := make([]State, len(found))
	for i := range found {
		(&book{&found[i], now}).pass() // as it is now, whoever wrote it last
		(&book{&found[i], now}).balance(found[i].Limit)
		states[i] = stateOf(&found[i])
	}
	return states, nil
}
