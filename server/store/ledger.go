package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Ledger keeps the accounts of budgets (server/budget). They are no records: they
// change with every few requests and nobody follows them, so they are in no change feed,
// and a transaction holds the accounts that it is about and nothing else.
//
// Every store of Postern is a Ledger.
type Ledger interface {
	// Post runs a function over a sheet of the ledger in one transaction that has these
	// accounts for itself, over all replicas, and commits what the function leaves in
	// them. The function must not use the store; it may run more than once, each time
	// over a fresh sheet. Its error undoes everything and is returned as it is.
	//
	// ErrUncertain says that nobody knows whether the accounts were changed; with any
	// other error nothing was. ErrUnbalanced says that an account was left in a state that
	// cannot be.
	Post(ctx context.Context, about About, fn func(*Sheet) error) error
	// Accounts returns accounts in the order of their keys.
	Accounts(ctx context.Context, q AccountQuery) ([]Account, error)
	// Recalled returns the keys of accounts whose leases are wanted back, limit at most.
	Recalled(ctx context.Context, limit int) ([]string, error)
	// Due returns the keys of accounts whose Due is before a time, limit at most, those
	// that have waited longest first.
	Due(ctx context.Context, before time.Time, limit int) ([]string, error)
	// Prune removes accounts and settlements whose ExpiresAt is before a time, and returns
	// how many. Accounts that hold leases stay.
	Prune(ctx context.Context, before time.Time) (int, error)
}

// About says what a Post is about: keys of accounts, which need not exist, and ids of
// settlements. Neither may occur twice.
type About struct {
	Accounts, Settlements []string
}

// Sheet is what a Post works on.
type Sheet struct {
	// Accounts are those that were asked for, in that order. One that does not exist has
	// its key and nothing else; it comes into being if the function sets its Budget.
	Accounts []Account
	// Settlements are those that were asked for, in that order. One that does not exist
	// has its id and nothing else; it comes into being if the function sets its Sum.
	// Those that exist do not change.
	Settlements []Settlement
}

// Account is what is known of a budget of somebody in one window.
type Account struct {
	// Key names it: 1 to 64 bytes of text, for ever.
	Key string
	// Budget is the name of the budget, Unit what it counts, Subject who has it as people
	// read it, and Tenant whose it is.
	Budget, Unit, Subject, Tenant string
	// Begin and End bound the window; zero for none.
	Begin, End time.Time

	// Settled + Reserved + Leased is never more than Limit, and none is negative.
	Limit, Settled, Reserved, Leased int64
	// Overrun is what was used beyond Limit. Lost is the part of Settled that is only
	// taken to have been used.
	Overrun, Lost int64

	// Recalled says that somebody is short: leases that are not used up shall come back.
	Recalled bool
	// Due is when a lease of it ends or a part of its window leaves it; zero for never.
	Due time.Time
	// ExpiresAt is when it may be pruned; zero for never.
	ExpiresAt time.Time
	// UpdatedAt is when it changed last. Set by the store.
	UpdatedAt time.Time

	Parts
}

// Parts are what only those who keep the accounts look at.
type Parts struct {
	// Leases are what replicas have taken, oldest first.
	Leases []Lease `json:"leases,omitempty"`
	// Slots are when what counts as settled was used, where the window is a rolling one.
	Slots []Slot `json:"slots,omitempty"`
	// Rolling is the length of that window in microseconds; 0 for another.
	Rolling int64 `json:"rolling,omitempty"`
	// Release says that reservations that nobody settles are not counted as used.
	Release bool `json:"release,omitempty"`
	// Final says that what is spent is settled, so that there are no reservations.
	Final bool `json:"final,omitempty"`
}

// Lease is what a replica has taken from an account. Amounts only grow, but for Used
// and Lost; times are Unix microseconds.
type Lease struct {
	// Holder is the replica, Seq the number of the lease among all of its own.
	Holder string `json:"h"`
	Seq    int64  `json:"n"`
	// Granted is what it was given, Returned what it gave back unspent, Used what it says
	// to have spent, Settled the part of that whose true use is known, Lost the part of
	// which nobody knows whether it was spent.
	Granted  int64 `json:"g"`
	Returned int64 `json:"r,omitempty"`
	Used     int64 `json:"u,omitempty"`
	Settled  int64 `json:"s,omitempty"`
	Lost     int64 `json:"l,omitempty"`
	// Over is what it spent beyond the budget, where that is allowed.
	Over int64 `json:"o,omitempty"`
	// Ends is until when it can be spent, Closes until when it can be settled.
	Ends   int64 `json:"e"`
	Closes int64 `json:"c"`
	// Done says that its holder will spend no more of it.
	Done bool `json:"d,omitempty"`
}

// Slot is what was used in a part of a rolling window that begins At, in Unix
// microseconds.
type Slot struct {
	At     int64 `json:"at"`
	Amount int64 `json:"n"`
}

// Settlement says that a reservation was settled, and how.
type Settlement struct {
	// ID is the reservation's, Sum tells one use from another.
	ID, Sum string
	// ExpiresAt is when it may be pruned.
	ExpiresAt time.Time
}

// AccountQuery says which accounts to list. Empty fields do not limit.
type AccountQuery struct {
	// Key is the one to list.
	Key string
	// Budget, Subject and Tenant are those of the accounts.
	Budget, Subject, Tenant string
	// After is the key behind which the list begins.
	After string
	// Limit is the most accounts to return; 0 means MaxPage.
	Limit int
}

// The errors of a Ledger besides those of a Store.
var (
	// ErrUnbalanced says that an account would promise more than it holds.
	ErrUnbalanced = errors.New("the account does not balance")
	// ErrUncertain says that a commit has ended without an answer, of the ledger or of
	// records.
	ErrUncertain = errors.New("it is not known whether the change was made")
)

// MaxPosting is how many accounts, and how many settlements, one Post is about at most.
const MaxPosting = 1024

// Balanced says what is wrong with an account, or nil. Engines ask it of all that they
// are to keep.
func (a *Account) Balanced() error {
	for _, n := range []int64{a.Limit, a.Settled, a.Reserved, a.Leased, a.Overrun, a.Lost} {
		if n < 0 || n > maxSum {
			return fmt.Errorf("%w: %s of %q has %d, which cannot be", ErrUnbalanced, a.Key, a.Budget, n)
		}
	}
	if a.Settled+a.Reserved+a.Leased > a.Limit { // three of maxSum at most: no overflow
		return fmt.Errorf("%w: %s of %q has %d settled, %d reserved and %d leased of %d", ErrUnbalanced, a.Key, a.Budget, a.Settled, a.Reserved, a.Leased, a.Limit)
	}
	return nil
}

// Whole says what is wrong between an account and its parts, or nil.
func (a *Account) Whole() error {
	var reserved, leased, slots int64
	for i := range a.Leases {
		l := &a.Leases[i]
		out := max(l.Used, l.Settled)
		reserved += out - l.Settled
		leased += l.Granted - l.Returned - out - l.Lost
	}
	for _, s := range a.Slots {
		slots += s.Amount
	}
	if reserved != a.Reserved || leased != a.Leased {
		return fmt.Errorf("%s of %q has %d reserved and %d leased, its leases have %d and %d", a.Key, a.Budget, a.Reserved, a.Leased, reserved, leased)
	}
	if a.Rolling > 0 && slots != a.Settled {
		return fmt.Errorf("%s of %q has %d settled, its slots have %d", a.Key, a.Budget, a.Settled, slots)
	}
	return nil
}

// maxSum is far above every amount, and three of it do not overflow.
const maxSum = 1 << 61

// Normal returns an account as engines keep it, or an error if not all of them could.
func (a Account) Normal(at time.Time) (Account, error) {
	for _, s := range []string{a.Key, a.Budget, a.Unit, a.Subject, a.Tenant} {
		if !Text(s) {
			return a, fmt.Errorf("%q is not text that can be stored: UTF-8 without NUL", s)
		}
	}
	for _, t := range []*time.Time{&a.Begin, &a.End, &a.Due, &a.ExpiresAt} {
		*t = Micro(*t)
	}
	a.UpdatedAt = Micro(at)
	return a, a.Balanced()
}

// Same reports whether two states of an account are alike but for when they began.
func (a *Account) Same(b *Account) bool {
	return a.Key == b.Key && a.Budget == b.Budget && a.Unit == b.Unit && a.Subject == b.Subject && a.Tenant == b.Tenant &&
		a.Begin.Equal(b.Begin) && a.End.Equal(b.End) && a.Limit == b.Limit &&
		a.Settled == b.Settled && a.Reserved == b.Reserved && a.Leased == b.Leased && a.Overrun == b.Overrun && a.Lost == b.Lost &&
		a.Recalled == b.Recalled && a.Due.Equal(b.Due) && a.ExpiresAt.Equal(b.ExpiresAt) &&
		a.Rolling == b.Rolling && a.Release == b.Release && a.Final == b.Final &&
		slices.Equal(a.Leases, b.Leases) && slices.Equal(a.Slots, b.Slots)
}

// Clone returns an account of which nothing is shared.
func (a Account) Clone() Account {
	a.Leases, a.Slots = slices.Clone(a.Leases), slices.Clone(a.Slots)
	return a
}

// Check says what is wrong with what a Post is about.
func (a About) Check() error {
	for _, names := range [][]string{a.Accounts, a.Settlements} {
		if len(names) > MaxPosting {
			return fmt.Errorf("a posting about %d names: at most %d", len(names), MaxPosting)
		}
		seen := make(map[string]bool, len(names))
		for _, name := range names {
			if name == "" || len(name) > 64 || seen[name] || !Text(name) {
				return fmt.Errorf("%q is no name in the ledger, or it occurs twice", name)
			}
			seen[name] = true
		}
	}
	return nil
}

// Fits reports whether an account is one that a query asks for.
func (q *AccountQuery) Fits(a *Account) bool {
	fits := func(want, have string) bool { return want == "" || want == have }
	return fits(q.Key, a.Key) && fits(q.Budget, a.Budget) && fits(q.Subject, a.Subject) && fits(q.Tenant, a.Tenant) &&
		strings.Compare(a.Key, q.After) > 0
}
