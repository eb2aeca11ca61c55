package budget

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// taking is what a request takes from one account.
type taking struct {
	account *account
	rule    *rule
	lease   *tranche
	amount  int64
	price   Price
	// over says that it was taken beyond the budget. held is the clerk's: that it was in
	// hand.
	over, held bool
	// left is what that left in the lease.
	left int64
}

// taken is all that a request took: what Undo gives back. Mostly it is one allocation, with
// what the answer shows.
type taken struct {
	takings []taking
	undone  atomic.Bool
	few     [2]taking
	states  [2]policy.BudgetState
}

func (t *taken) add(k taking) {
	if t.takings == nil {
		t.takings = t.few[:0]
	}
	t.takings = append(t.takings, k)
}

// Spend implements check.Spender.
func (b *Budgets) Spend(ctx context.Context, c *policy.Charge) policy.Spent {
	w := b.world.Load()
	now := c.Now
	if now.IsZero() {
		now = b.now()
	}
	t, answer := b.charge(w, c, now)
	if t == nil || answer.Reason != policy.ReasonAllowed {
		return answer
	}
	if !b.takeAll(t, now.UnixNano()) {
		if t, answer = b.ask(ctx, t, now); answer.Reason != policy.ReasonAllowed {
			return answer
		}
	}
	answer.Taken = t
	answer.Budgets = t.show(now)
	answer.Reservation, answer.ExpiresAt = b.receipts.issue(t, now)
	return answer
}

// charge finds out what a request needs from which accounts; nil for nothing.
func (b *Budgets) charge(w *world, c *policy.Charge, now time.Time) (t *taken, answer policy.Spent) {
	for _, r := range w.rules {
		if !r.charges(c) {
			continue
		}
		k := r.cost(c, w.prices)
		if k.fault != "" && r.Mode == ModeHard {
			return t, refuse(policy.ReasonRequestInvalid, r, k.fault)
		}
		if k.fault != "" || k.amount == 0 {
			continue
		}
		who := c.Principal
		if r.claim {
			who = claimant(who)
		}
		a := b.account(w, r, who, now)
		if a == nil {
			continue // it has nothing of what the budget is for
		}
		if t, answer = t.need(r, a, k, now); answer.Reason != policy.ReasonAllowed {
			return t, answer
		}
		if !r.claim {
			continue
		}
		for i := range c.Principal.Budgets { // of the tokens that this one came from
			if t, answer = t.need(r, b.account(w, r, parentOf(c.Principal, i), now), k, now); answer.Reason != policy.ReasonAllowed {
				return t, answer
			}
		}
	}
	answer.Reason = policy.ReasonAllowed
	if t != nil {
		answer.State = policy.StateMirror
	}
	return t, answer
}

// need adds what is needed from an account, or says that it is more than a request may have.
func (t *taken) need(r *rule, a *account, k cost, now time.Time) (*taken, policy.Spent) {
	if most := r.most(a); k.amount > most && r.Mode == ModeHard {
		s := refuse(policy.ReasonBudgetExhausted, r, fmt.Sprintf("it asks for %d, and a request may have %d", k.amount, most))
		s.Budgets = []policy.BudgetState{a.state(r, now, 0)}
		return t, s
	}
	if t == nil {
		t = new(taken)
	}
	t.add(taking{account: a, rule: r, amount: k.amount, price: k.price})
	return t, policy.Spent{Reason: policy.ReasonAllowed}
}

// claimant is who has the account of a budget that a token says of itself: the token, for
// which Postern vouches, whoever vouches for its subject.
func claimant(p *policy.Principal) *policy.Principal {
	if p.Issuer == seal.Issuer && (p.BudgetID == "" || p.Method == policy.MethodAgent && slices.Contains(p.AMR, "pop")) { // by itself: jti and budget are its own words
		return p
	}
	own := *p
	own.BudgetID, own.Issuer = "", seal.Issuer
	return &own
}

// parentOf is the holder of a budget that is shared with the token of a principal, as far
// as accounts are concerned. Only tokens for which Postern vouches have one.
func parentOf(p *policy.Principal, i int) *policy.Principal {
	b := &p.Budgets[i]
	return &policy.Principal{
		ID: p.ID, Tenant: p.Tenant, Issuer: seal.Issuer, CredentialID: b.ID, TokenBudget: b.Limit, ExpiresAt: b.ExpiresAt,
	}
}

// most is the most that one request may take.
func (r *rule) most(a *account) int64 {
	limit := a.limit.Load()
	if r.MaxPerRequest > 0 {
		return min(r.MaxPerRequest, limit)
	}
	return limit
}

// takeAll takes from the leases in hand, or nothing.
func (b *Budgets) takeAll(t *taken, now int64) bool {
	for i := range t.takings {
		k := &t.takings[i]
		k.lease = k.account.cur.Load()
		left, ok := k.lease.take(k.amount, now)
		switch {
		case ok:
			k.left = left
			if left < k.lease.low.Load() {
				b.clerk.nudge(k.account)
			}
			k.account.touch(now)
		case k.rule.Mode != ModeHard && now < k.account.dry.Load():
			k.takeOver()
			k.account.touch(now)
		default:
			t.giveBack(i)
			return false
		}
	}
	return true
}

// takeOver takes beyond the budget.
func (k *taking) takeOver() {
	if k.lease.over.Load() > maxOverrun {
		k.amount = 0
	}
	k.lease.over.Add(k.amount)
	k.over, k.left = true, 0
}

// giveBack gives back the first n.
func (t *taken) giveBack(n int) {
	for i := range t.takings[:n] {
		t.takings[i].giveBack()
	}
}

func (k *taking) giveBack() {
	if k.over {
		k.lease.over.Add(-k.amount)
	} else {
		k.lease.free.Add(k.amount)
	}
	k.over, k.held = false, false
}

// Undo implements check.Spender. The ledger hears of it at once: it may have taken for
// spent what is free again.
func (b *Budgets) Undo(s *policy.Spent) {
	t, ok := s.Taken.(*taken)
	if !ok || t.undone.Swap(true) {
		return
	}
	t.giveBack(len(t.takings))
	for i := range t.takings {
		b.clerk.nudge(t.takings[i].account)
	}
}

// ask has the clerk get from the ledger what the leases in hand do not have. It returns
// what was taken in the end.
func (b *Budgets) ask(ctx context.Context, t *taken, now time.Time) (*taken, policy.Spent) {
	w := &waiter{taken: t, answer: make(chan verdict, 1), now: now.UnixNano()}
	b.clerk.wait(w)
	patience := time.NewTimer(b.world.Load().sharing.Wait + answerTime)
	defer patience.Stop()
	var v verdict
	select {
	case v = <-w.answer:
	case <-ctx.Done():
		v = b.clerk.leave(w, context.Cause(ctx))
	case <-patience.C:
		v = b.clerk.leave(w, errSlow)
	}
	if v.err != nil && t.lenient() {
		return t.beyond(), policy.Spent{Reason: policy.ReasonAllowed, State: policy.StateStore}
	}
	return t, v.spent(t, now)
}

// lenient reports whether no budget refuses anything, so that the store's being away is no
// reason either.
func (t *taken) lenient() bool {
	for i := range t.takings {
		if t.takings[i].rule.Mode == ModeHard {
			return false
		}
	}
	return true
}

// beyond takes beyond the budgets. What was asked for is the clerk's, who may be at it yet.
func (t *taken) beyond() *taken {
	over := new(taken)
	for i := range t.takings {
		of := &t.takings[i]
		k := taking{account: of.account, rule: of.rule, amount: of.amount, lease: of.account.cur.Load()}
		k.takeOver()
		over.add(k)
	}
	return over
}

// answerTime is how long the store may take to answer a request, besides what other
// replicas are waited for.
const answerTime = time.Second

// verdict is what the clerk says to a waiter.
type verdict struct {
	// granted says that all was taken.
	granted bool
	// lacks is the place of the one in which there is not enough, short that others have
	// it on lease and did not give it back in time.
	lacks int
	short bool
	// err is why it could not be found out.
	err error
}

// spent is the answer to the request.
func (v verdict) spent(t *taken, now time.Time) policy.Spent {
	if v.granted {
		return policy.Spent{Reason: policy.ReasonAllowed, State: policy.StateStore}
	}
	if v.err != nil {
		return policy.Spent{
			Reason: policy.ReasonUnavailable, Detail: "the ledger of budgets cannot be reached: " + v.err.Error(),
			State: policy.StateStore, RetryAfter: time.Second,
		}
	}
	k := &t.takings[v.lacks]
	s := refuse(policy.ReasonBudgetExhausted, k.rule, fmt.Sprintf("it needs %d, and there is less", k.amount))
	s.State = policy.StateStore
	s.Budgets = []policy.BudgetState{k.account.state(k.rule, now, 0)}
	switch frees := time.Unix(0, k.account.frees.Load()); {
	case v.short:
		s.Detail += "; other replicas have some on lease and have not given it back"
		s.RetryAfter = time.Second
	case k.rule.Window.rolling > 0:
		s.RetryAfter = max(time.Second, frees.Sub(now))
	default:
		s.RetryAfter = k.rule.reset(k.account, now)
	}
	return s
}

func refuse(reason policy.Reason, r *rule, detail string) policy.Spent {
	return policy.Spent{Reason: reason, Detail: "budget " + r.Name + ": " + detail, State: policy.StateMirror}
}

// show returns what is left, what is closest to its end first.
func (t *taken) show(now time.Time) []policy.BudgetState {
	states := t.states[:0]
	if len(t.takings) > len(t.states) {
		states = make([]policy.BudgetState, 0, len(t.takings))
	}
	for i := range t.takings {
		k := &t.takings[i]
		if k.rule.Mode != ModeObserve {
			states = append(states, k.account.state(k.rule, now, k.left))
		}
	}
	if len(states) > 1 {
		slices.SortStableFunc(states, func(a, b policy.BudgetState) int {
			return cmp.Compare(float64(a.Remaining)/float64(max(1, a.Limit)), float64(b.Remaining)/float64(max(1, b.Limit)))
		})
	}
	return states
}

// state is what is left, with so much in the lease.
func (a *account) state(r *rule, now time.Time, left int64) policy.BudgetState {
	limit := a.limit.Load()
	return policy.BudgetState{
		Name: r.Name, Unit: string(r.Unit), Limit: limit, Remaining: min(limit, max(0, a.room.Load()+left)),
		Window: r.length(a), Reset: r.reset(a, now),
	}
}

// account returns the account that a request is charged to, or nil for none.
func (b *Budgets) account(w *world, r *rule, p *policy.Principal, now time.Time) *account {
	s, ok := r.subject(p, b.owner)
	if !ok {
		return nil
	}
	span := r.span(now)
	hash := b.accounts.hash(r, span.from, &s)
	a := b.accounts.find(hash, r, span.from, &s)
	if a == nil {
		a = b.open(w, r, p, s, span, hash, now)
	}
	if r.claim {
		if limit := r.limitOf(p); limit < a.limit.Load() {
			a.limit.Store(limit) // two tokens of one id: the least counts
		}
	}
	return a
}

// open makes an account known to this replica.
func (b *Budgets) open(w *world, r *rule, p *policy.Principal, s Subject, span *span, hash uint64, now time.Time) *account {
	a := &account{rule: r, subject: s, hash: hash, began: span.from, begin: span.begin, end: span.end, expires: w.keepUntil(r, span, p)}
	a.key = r.accountKey(s, span.begin)
	a.name = encode(a.key[:])
	a.limit.Store(r.limitOf(p))
	if !r.claim {
		a.limit.Store(b.limit(r, s))
	}
	a.used.Store(now.UnixNano())
	a.cur.Store(b.clerk.newLease(now))
	a, fresh := b.accounts.add(a)
	if fresh {
		b.clerk.adopt(a)
	}
	return a
}

// limit is the limit of an account, with what overrides it.
func (b *Budgets) limit(r *rule, s Subject) int64 {
	if b.override != nil {
		if n := b.override(r.Name, s); n > 0 {
			return min(n, MaxAmount)
		}
	}
	return r.Limit
}
