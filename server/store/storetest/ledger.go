package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/postern-auth/postern/server/store"
)

// ledger is the store as what every store is besides.
func (l *lab) ledger() store.Ledger {
	l.Helper()
	ledger, ok := l.Store.(store.Ledger)
	if !ok {
		l.Fatalf("a %T keeps no ledger", l.Store)
	}
	return ledger
}

// post changes one account.
func (l *lab) post(key string, fn func(*store.Account)) {
	l.Helper()
	l.must(l.ledger().Post(l.ctx, store.About{Accounts: []string{key}}, func(s *store.Sheet) error {
		fn(&s.Accounts[0])
		return nil
	}))
}

func (l *lab) accounts(q store.AccountQuery) []store.Account {
	l.Helper()
	found, err := l.ledger().Accounts(l.ctx, q)
	l.must(err)
	return found
}

func keysOf(all []store.Account) (s string) {
	for _, a := range all {
		s += a.Key + " "
	}
	return s
}

// full is an account of which everything is set.
func full(l *lab, key string) store.Account {
	now := store.Micro(l.clock.now())
	return store.Account{
		Key: key, Budget: "b", Unit: "tokens", Subject: "tenant=ä agent='1\"", Tenant: "ä",
		Begin: now.Add(-time.Hour), End: now.Add(time.Hour),
		Limit: 1 << 53, Settled: 1<<52 - 1, Reserved: 7, Leased: 9, Overrun: 1 << 60, Lost: 3,
		Recalled: true, Due: now.Add(time.Minute), ExpiresAt: now.Add(2 * time.Hour),
		Parts: store.Parts{
			Leases: []store.Lease{
				{Holder: "r1", Seq: 1, Granted: 100, Returned: 1, Used: 50, Settled: 40, Lost: 2, Over: 5, Ends: 77, Closes: 78, Done: true},
				{Holder: "r2", Seq: 1 << 40, Granted: 1 << 53, Ends: 1, Closes: 2},
			},
			Slots:   []store.Slot{{At: 1, Amount: 2}, {At: 3, Amount: 4}},
			Rolling: 60_000_000, Release: true, Final: true,
		},
	}
}

func testLedger(_ *testing.T, l *lab) {
	want := full(l, "k")
	l.post("k", func(a *store.Account) {
		if d := cmp.Diff(store.Account{Key: "k"}, *a); d != "" {
			l.Fatal(d)
		}
		*a = want.Clone()
	})
	want.UpdatedAt = store.Micro(l.clock.now())
	found := l.accounts(store.AccountQuery{})
	if d := cmp.Diff([]store.Account{want}, found); d != "" {
		l.Fatal(d)
	}
	l.clock.advance(time.Second)
	l.post("k", func(a *store.Account) { // no change is no change
		if d := cmp.Diff(want, *a); d != "" {
			l.Fatal(d)
		}
	})
	same(l, "updated", l.accounts(store.AccountQuery{})[0].UpdatedAt, want.UpdatedAt)
	l.post("k", func(a *store.Account) { a.Leases[0].Used++; a.Begin = time.Time{} })
	got := l.accounts(store.AccountQuery{Key: "k"})[0]
	if got.Leases[0].Used != 51 || !got.Begin.IsZero() || !got.UpdatedAt.Equal(store.Micro(l.clock.now())) {
		l.Fatalf("%+v", got)
	}
	same(l, "the feed knows nothing of it", l.changes(0, 10).Next, 0)
}

func testLedgerNothing(_ *testing.T, l *lab) {
	refused := errors.New("refused")
	err := l.ledger().Post(l.ctx, store.About{Accounts: []string{"a", "b"}, Settlements: []string{"s"}}, func(s *store.Sheet) error {
		s.Accounts[0] = full(l, "a")
		s.Settlements[0].Sum = "x"
		return refused
	})
	l.is(err, refused)
	l.post("a", func(a *store.Account) { same(l, "budget", a.Budget, "") }) // and is not made by being looked at
	same(l, "accounts", len(l.accounts(store.AccountQuery{})), 0)
	l.must(l.ledger().Post(l.ctx, store.About{Settlements: []string{"s"}}, func(s *store.Sheet) error {
		same(l, "settlement", s.Settlements[0], store.Settlement{ID: "s"})
		return nil
	}))
	func() {
		defer func() { _ = recover() }()
		_ = l.ledger().Post(l.ctx, store.About{Accounts: []string{"a"}}, func(s *store.Sheet) error {
			s.Accounts[0] = full(l, "a")
			panic("oops")
		})
	}()
	same(l, "accounts after a panic", len(l.accounts(store.AccountQuery{})), 0)
	for _, about := range []store.About{
		{Accounts: []string{"a", "a"}}, {Accounts: []string{""}}, {Accounts: []string{"\x00"}}, {Settlements: []string{"\xff"}},
		{Settlements: []string{"s", "s"}}, {Accounts: make([]string, store.MaxPosting+1)},
	} {
		if err := l.ledger().Post(l.ctx, about, func(*store.Sheet) error { return nil }); err == nil {
			l.Errorf("%.40q: accepted", about)
		}
	}
	ended, cancel := context.WithCancel(l.ctx)
	cancel()
	l.is(l.ledger().Post(ended, store.About{Accounts: []string{"a"}}, func(*store.Sheet) error { return nil }), context.Canceled)
}

// BUDGET-03: no state is kept that promises more than there is, or less than nothing.
func testLedgerBalance(_ *testing.T, l *lab) {
	l.post("k", func(a *store.Account) { *a = full(l, "k") })
	for name, change := range map[string]func(*store.Account){
		"too much settled":  func(a *store.Account) { a.Settled = 1 << 53 },
		"too much reserved": func(a *store.Account) { a.Reserved = 1 << 53 },
		"too much leased":   func(a *store.Account) { a.Leased = 1 << 53 },
		"one too much":      func(a *store.Account) { a.Limit = a.Settled + a.Reserved + a.Leased - 1 },
		"settled below 0":   func(a *store.Account) { a.Settled = -1 },
		"reserved below 0":  func(a *store.Account) { a.Reserved = -1 },
		"leased below 0":    func(a *store.Account) { a.Leased = -1 },
		"overrun below 0":   func(a *store.Account) { a.Overrun = -1 },
		"lost below 0":      func(a *store.Account) { a.Lost = -1 },
		"limit below 0":     func(a *store.Account) { a.Limit, a.Settled, a.Reserved, a.Leased = -1, 0, 0, 0 },
		"overflow":          func(a *store.Account) { a.Settled, a.Reserved = 1<<62, 1<<62 },
		"all of it":         func(a *store.Account) { a.Limit, a.Settled = 1<<63-1, 1<<63-1 },
	} {
		err := l.ledger().Post(l.ctx, store.About{Accounts: []string{"k"}}, func(s *store.Sheet) error {
			change(&s.Accounts[0])
			return nil
		})
		if !errors.Is(err, store.ErrUnbalanced) {
			l.Errorf("%s: %v", name, err)
		}
	}
	got, want := l.accounts(store.AccountQuery{})[0], full(l, "k")
	if !got.Same(&want) {
		l.Errorf("%+v", got)
	}
	l.post("k", func(a *store.Account) { a.Limit = a.Settled + a.Reserved + a.Leased }) // exactly
}

func testSettlements(_ *testing.T, l *lab) {
	expires := store.Micro(l.clock.now().Add(time.Minute))
	settle := func(sum string, ids ...string) (was string) {
		l.must(l.ledger().Post(l.ctx, store.About{Settlements: ids}, func(s *store.Sheet) error {
			was = ""
			for i := range s.Settlements {
				same(l, "id", s.Settlements[i].ID, ids[i])
				was += "[" + s.Settlements[i].Sum + "]"
				s.Settlements[i].Sum, s.Settlements[i].ExpiresAt = sum, expires
			}
			return nil
		}))
		return was
	}
	same(l, "new", settle("one", "a", "b", "c"), "[][][]")
	same(l, "what was settled stays", settle("two", "c", "d", "a"), "[one][][one]")
	same(l, "again", settle("three", "d", "c"), "[two][one]")
	n, err := l.ledger().Prune(l.ctx, expires)
	l.must(err)
	same(l, "nothing has expired", n, 0)
	n, err = l.ledger().Prune(l.ctx, expires.Add(time.Microsecond))
	l.must(err)
	same(l, "expired", n, 4)
	same(l, "gone", settle("four", "a"), "[]")
}

func testLedgerLists(_ *testing.T, l *lab) {
	now := store.Micro(l.clock.now())
	make := func(key, budget, tenant string, due time.Duration, recalled bool) {
		l.post(key, func(a *store.Account) {
			a.Budget, a.Tenant, a.Subject, a.Recalled = budget, tenant, "s"+key, recalled
			if due != 0 {
				a.Due = now.Add(due)
			}
			a.ExpiresAt = now.Add(time.Hour)
		})
	}
	make("c", "x", "t1", 3*time.Minute, true)
	make("a", "x", "t2", 2*time.Minute, false)
	make("d", "y", "t1", 0, true)
	make("b", "y", "", time.Minute, true)
	for _, c := range []struct {
		q    store.AccountQuery
		want string
	}{
		{store.AccountQuery{}, "a b c d "},
		{store.AccountQuery{Budget: "x"}, "a c "},
		{store.AccountQuery{Tenant: "t1"}, "c d "},
		{store.AccountQuery{Tenant: "t1", Budget: "y"}, "d "},
		{store.AccountQuery{Subject: "sb"}, "b "},
		{store.AccountQuery{Key: "b"}, "b "},
		{store.AccountQuery{Key: "b", Budget: "x"}, ""},
		{store.AccountQuery{After: "b", Limit: 1}, "c "},
		{store.AccountQuery{Tenant: "\x00"}, ""},
	} {
		same(l, fmt.Sprintf("%+v", c.q), keysOf(l.accounts(c.q)), c.want)
	}
	recalled := func(limit int) string {
		keys, err := l.ledger().Recalled(l.ctx, limit)
		l.must(err)
		return fmt.Sprint(keys)
	}
	due := func(d time.Duration, limit int) string {
		keys, err := l.ledger().Due(l.ctx, now.Add(d), limit)
		l.must(err)
		return fmt.Sprint(keys)
	}
	same(l, "recalled", recalled(10), "[b c d]")
	same(l, "some of the recalled", recalled(2), "[b c]")
	l.post("c", func(a *store.Account) { a.Recalled = false })
	same(l, "recalled", recalled(10), "[b d]")
	same(l, "due", due(2*time.Minute, 10), "[b]")
	same(l, "due", due(time.Hour, 10), "[b a c]")
	same(l, "due first", due(time.Hour, 1), "[b]")
	n, err := l.ledger().Prune(l.ctx, now.Add(2*time.Hour))
	l.must(err)
	same(l, "pruned, but not what is due", n, 1)
	same(l, "kept", keysOf(l.accounts(store.AccountQuery{})), "a b c ")
	same(l, "recalled", recalled(10), "[b]")
}

// BUDGET-04: writers of several accounts each, in orders of their own: none waits for
// ever, nothing is lost, and no more is given out than there is. Half of the accounts
// are new to all of them.
func testLedgerCrowd(_ *testing.T, l *lab) {
	const limit, posters, perPoster = 150, 12, 40
	keys := []string{"a", "b", "c", "d", "e", "f"}
	for _, key := range keys[:3] {
		l.post(key, func(a *store.Account) { a.Budget, a.Limit = "b", limit })
	}
	var taken [6]atomic.Int64
	group, ctx := errgroup.WithContext(l.ctx)
	for p := range posters {
		group.Go(func() error {
			for n := range perPoster {
				picks := []int{(p + n) % 6, (p + n + 1 + n%3) % 6}
				about := store.About{Accounts: []string{keys[picks[0]], keys[picks[1]]}, Settlements: []string{fmt.Sprintf("%d.%d", p, n)}}
				fits := false
				err := l.ledger().Post(ctx, about, func(s *store.Sheet) error {
					fits = true
					for i := range s.Accounts {
						a := &s.Accounts[i]
						a.Budget, a.Limit = "b", limit
						fits = fits && a.Settled < a.Limit
					}
					for i := range s.Accounts {
						if fits {
							s.Accounts[i].Settled++
						}
					}
					s.Settlements[0].Sum = "x"
					return nil
				})
				if err != nil {
					return err
				}
				if fits {
					taken[picks[0]].Add(1)
					taken[picks[1]].Add(1)
				}
			}
			return nil
		})
	}
	l.must(group.Wait())
	for i, a := range l.accounts(store.AccountQuery{}) {
		same(l, "account "+a.Key, a.Settled, taken[i].Load())
	}
	report, err := l.Check(l.ctx)
	l.must(err)
	same(l, "faults", len(report.Faults), 0)
}

// More accounts at once than one statement takes.
func testLedgerMany(_ *testing.T, l *lab) {
	var keys []string
	for i := range 150 {
		keys = append(keys, fmt.Sprintf("k%03d", i*7%150))
	}
	for round := range 2 {
		l.must(l.ledger().Post(l.ctx, store.About{Accounts: keys, Settlements: keys}, func(s *store.Sheet) error {
			for i := range s.Accounts {
				same(l, "key", s.Accounts[i].Key, keys[i])
				same(l, "limit", s.Accounts[i].Limit, int64(round*(i+1)))
				s.Accounts[i].Budget, s.Accounts[i].Limit = "b", int64(i+1)
				s.Settlements[i].Sum = "x"
			}
			return nil
		}))
	}
	found := l.accounts(store.AccountQuery{})
	same(l, "accounts", len(found), 150)
	if !slices.IsSortedFunc(found, func(a, b store.Account) int { return cmpText(a.Key, b.Key) }) {
		l.Error("not in order")
	}
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}
