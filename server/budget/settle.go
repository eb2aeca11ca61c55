package budget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// The errors of Settle besides faults of the store.
var (
	// ErrReceipt says that it is no receipt of this installation.
	ErrReceipt = errors.New("this is no receipt for a reservation")
	// ErrExpired says that the reservation is over: what became of it stays so.
	ErrExpired = errors.New("the reservation has expired")
	// ErrSettled says that it was settled before, with another use.
	ErrSettled = errors.New("the reservation was settled before, with another use")
	// ErrUse says that a use is negative, too large, or of no known unit.
	ErrUse = errors.New("the use is not valid")
	// ErrBelief says that less was used than reserved, and that whoever says so is not
	// believed.
	ErrBelief = errors.New("less was used than reserved, as somebody says who is not believed")
	// ErrClosed says that the Budgets are closed.
	ErrClosed = errors.New("budgets are closed")
)

// The names of uses besides the units.
const (
	UseInputTokens  = "input_tokens"
	UseOutputTokens = "output_tokens"
)

// Settlement is what a Settle did.
type Settlement struct {
	// Repeated says that it had been done before.
	Repeated bool
	// Budgets are the accounts that it touched as they are now.
	Budgets []policy.BudgetState
}

// Settle replaces what a request had reserved by what it truly used, by unit: "tokens",
// or "input_tokens" and "output_tokens", and "micros". What is not said counts as
// reserved; micros are computed from tokens where only these are said. The same receipt
// with the same use again is no error and does nothing.
//
// Who is not believed to say what requests cost, but has the receipt, as a service behind
// the gateway has, can say that more was used, and not less.
//
// It can be called on any replica. ErrReceipt, ErrExpired, ErrSettled, ErrUse and ErrBelief say no;
// any other error means that it is not known whether it was done, and that it can be
// called again.
func (b *Budgets) Settle(ctx context.Context, receipt string, use map[string]int64, believed bool) (Settlement, error) {
	u, err := readUse(use)
	if err != nil {
		return Settlement{}, err
	}
	v, err := b.receipts.read(receipt)
	if err != nil {
		return Settlement{}, err
	}
	for i := range v.items {
		if !believed && u.of(&v.items[i]) < v.items[i].amount {
			return Settlement{}, ErrBelief
		}
	}
	return b.settler.settle(ctx, &settling{reservation: v, use: u, done: make(chan struct{})})
}

// use is what was used, with what of it is known.
type use struct {
	tokens, input, output, micros        int64
	saysTokens, saysInOutput, saysMicros bool
	text                                 string // tells it from any other
}

func readUse(said map[string]int64) (u use, err error) {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(said)) {
		n := said[name]
		if n < 0 || n > MaxAmount {
			return u, fmt.Errorf("%w: %s is not from 0 to %d", ErrUse, name, int64(MaxAmount))
		}
		switch name {
		case string(UnitTokens):
			u.tokens, u.saysTokens = n, true
		case string(UnitMicros):
			u.micros, u.saysMicros = n, true
		case UseInputTokens:
			u.input = n
		case UseOutputTokens:
			u.output = n
		case string(UnitRequests):
			continue // a request is one, and was counted
		default:
			return u, fmt.Errorf("%w: there is no unit %.40q", ErrUse, name)
		}
		text.WriteString(name + "=" + strconv.FormatInt(n, 10) + " ")
	}
	_, in := said[UseInputTokens]
	_, out := said[UseOutputTokens]
	if in != out {
		return u, fmt.Errorf("%w: %s and %s go together", ErrUse, UseInputTokens, UseOutputTokens)
	}
	if u.saysInOutput = in; in {
		u.tokens, u.saysTokens = min(max(u.tokens, u.input+u.output), MaxAmount), true
	}
	u.text = "used " + text.String()
	return u, nil
}

// of is how much was used of what an item had reserved.
func (u *use) of(item *reserved) int64 {
	switch {
	case item.unit == UnitTokens && u.saysTokens:
		return u.tokens
	case item.unit == UnitMicros && u.saysMicros:
		return u.micros
	case item.unit == UnitMicros && item.price == (Price{}): // the enforcement point said what it costs
	case item.unit == UnitMicros && u.saysInOutput:
		return min(item.price.of(u.input, u.output), MaxAmount)
	case item.unit == UnitMicros && u.saysTokens:
		dearest := max(item.price.Input, item.price.Output)
		return min(Price{Input: dearest}.of(u.tokens, 0), MaxAmount)
	}
	return item.amount
}

// settling is a Settle under way.
type settling struct {
	reservation
	use    use
	done   chan struct{}
	result Settlement
	err    error
}

// settler settles: whoever comes while the ledger is busy shares the next transaction.
type settler struct {
	ledger store.Ledger
	now    func() time.Time
	world  func() *world

	mu      sync.Mutex
	waiting []*settling
	busy    bool
	closed  bool
	idle    sync.WaitGroup
}

// maxSettlements is how many share a transaction.
const maxSettlements = 64

func (s *settler) settle(ctx context.Context, j *settling) (Settlement, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return Settlement{}, ErrClosed
	}
	s.waiting = append(s.waiting, j)
	if !s.busy {
		s.busy = true
		s.idle.Go(s.work)
	}
	s.mu.Unlock()
	select {
	case <-j.done:
		return j.result, j.err
	case <-ctx.Done():
		return Settlement{}, context.Cause(ctx)
	}
}

// work settles until nobody waits.
func (s *settler) work() {
	for {
		jobs := s.next()
		if len(jobs) == 0 {
			return
		}
		s.post(jobs)
		for _, j := range jobs {
			close(j.done)
		}
	}
}

// next takes those who share a transaction: none twice with the same receipt.
func (s *settler) next() (jobs []*settling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[string]bool{}
	var later []*settling
	for _, j := range s.waiting {
		if ids[j.id] || len(jobs) == maxSettlements {
			later = append(later, j)
			continue
		}
		ids[j.id] = true
		jobs = append(jobs, j)
	}
	s.waiting = later
	s.busy = len(jobs) > 0
	return jobs
}

func (s *settler) post(jobs []*settling) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), postTime, errSlow)
	defer cancel()
	var about store.About
	place := map[string]int{}
	for _, j := range jobs {
		about.Settlements = append(about.Settlements, j.id)
		for _, item := range j.items {
			if _, ok := place[item.account]; !ok {
				place[item.account] = len(about.Accounts)
				about.Accounts = append(about.Accounts, item.account)
			}
		}
	}
	if len(about.Accounts) > store.MaxPosting {
		for _, j := range jobs {
			s.post([]*settling{j})
		}
		return
	}
	err := s.ledger.Post(ctx, about, func(sheet *store.Sheet) error {
		s.carryOut(jobs, sheet, place)
		return nil
	})
	if err != nil {
		for _, j := range jobs {
			j.result, j.err = Settlement{}, fmt.Errorf("settle: %w", err)
		}
	}
}

func (s *settler) carryOut(jobs []*settling, sheet *store.Sheet, place map[string]int) {
	now := s.now()
	books := make([]book, len(sheet.Accounts))
	for i := range sheet.Accounts {
		books[i] = book{&sheet.Accounts[i], now}
		if books[i].Budget != "" {
			books[i].pass()
		}
	}
	for i, j := range jobs {
		j.result, j.err = Settlement{}, nil // it may be the second time
		switch t := &sheet.Settlements[i]; {
		case t.Sum == j.use.text:
			j.result.Repeated = true
		case t.Sum != "":
			j.err = ErrSettled
		case !now.Before(j.expires) || !j.claim(books, place):
			j.err = ErrExpired
		default:
			t.Sum, t.ExpiresAt = j.use.text, j.expires.Add(time.Hour) // clocks differ
		}
	}
	for i := range books {
		if books[i].Budget != "" {
			books[i].balance(books[i].Limit)
		}
	}
	for _, j := range jobs {
		if j.err == nil {
			j.result.Budgets = s.states(j, sheet, place, now)
		}
	}
}

// claim settles the items whose leases are on the books yet, and reports whether any is.
func (j *settling) claim(books []book, place map[string]int) (any bool) {
	for i := range j.items {
		item := &j.items[i]
		b := &books[place[item.account]]
		if l := b.lease(j.holder, item.lease); l != nil {
			b.claim(l, item.amount, j.use.of(item))
			any = true
		}
	}
	return any
}

// states is what is left of the accounts that a settlement was about.
func (s *settler) states(j *settling, sheet *store.Sheet, place map[string]int, now time.Time) (all []policy.BudgetState) {
	w := s.world()
	for i := range j.items {
		a := stateOf(&sheet.Accounts[place[j.items[i].account]])
		state := policy.BudgetState{Name: a.Budget, Unit: string(a.Unit), Limit: a.Limit, Remaining: a.Remaining()}
		for _, r := range w.rules {
			if r.Name == a.Budget {
				in := &account{begin: a.Begin, end: a.End}
				state.Window, state.Reset = r.length(in), r.reset(in, now)
			}
		}
		all = append(all, state)
	}
	return all
}

// close waits for what is under way.
func (s *settler) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.idle.Wait()
}
