package budget

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/store"
)

const (
	// postTime is how long a transaction of the ledger may take; then the store is taken
	// for dead.
	postTime = 3 * time.Second
	// maxRound is how many accounts one transaction is about, maxWaiters for how many
	// requests.
	maxRound   = 64
	maxWaiters = 1024
	// ahead is for how long what is fetched ahead should last.
	ahead = time.Second
	// firstAhead is how many requests like the first one are fetched ahead.
	firstAhead = 4
	// reports is how often the ledger hears of what was spent, if nothing else is to be
	// said.
	reports = time.Second
)

var errSlow = errors.New("the store has not answered in time")

// clerk is the one who talks to the ledger, in rounds: one transaction for everything
// that waits.
type clerk struct {
	ledger   store.Ledger
	holder   string
	now      func() time.Time
	log      *slog.Logger
	world    func() *world
	limit    func(*rule, Subject) int64
	accounts *accounts
	seq      atomic.Int64
	wake     chan struct{} // holds one

	mu      sync.Mutex
	waiting []*waiter  // new ones
	nudges  []*account // to be refilled
	adopted []*account // new ones
	closed  bool

	// The clerk's own: only its goroutine touches what follows.
	known   map[*account]struct{}
	pending []*waiter // those who wait for what others have on lease
	polled  time.Time // by the machine's clock
	failing bool
}

// waiter is a request that waits for the ledger.
type waiter struct {
	*taken
	now    int64
	answer chan verdict // holds one
	left   atomic.Bool  // somebody has decided: the clerk, or who gave up
	since  time.Time    // when others were first asked to give back, by the machine's clock
}

// newLease is a lease that the ledger has not heard of, with nothing in it.
func (c *clerk) newLease(now time.Time) *tranche {
	return &tranche{seq: c.seq.Add(1), born: now}
}

// wait puts a request in the queue.
func (c *clerk) wait(w *waiter) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.waiting = append(c.waiting, w)
	}
	c.mu.Unlock()
	if closed {
		w.answer <- verdict{err: ErrClosed}
		return
	}
	c.call()
}

// leave is for who waits no longer. If the answer has come in that moment it counts.
func (c *clerk) leave(w *waiter, why error) verdict {
	if w.left.Swap(true) {
		return <-w.answer
	}
	return verdict{err: why}
}

// nudge asks for more to be fetched, without waiting.
func (c *clerk) nudge(a *account) {
	if a.nudged.Load() || a.nudged.Swap(true) {
		return
	}
	c.mu.Lock()
	c.nudges = append(c.nudges, a)
	c.mu.Unlock()
	c.call()
}

// adopt takes note of an account that has come up.
func (c *clerk) adopt(a *account) {
	c.mu.Lock()
	c.adopted = append(c.adopted, a)
	c.mu.Unlock()
	c.call()
}

func (c *clerk) call() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run works until ctx ends, and then gives back everything.
func (c *clerk) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			c.quit()
			return
		case <-c.wake:
			c.serve(ctx, false)
		case <-timer.C:
			c.serve(ctx, true)
		}
		timer.Reset(c.pause())
	}
}

// pause is until when there is nothing to do unless somebody comes.
func (c *clerk) pause() time.Duration {
	poll := c.world().sharing.Poll
	switch {
	case len(c.pending) > 0:
		return max(time.Millisecond, poll/4)
	case len(c.known) > 0:
		return max(0, poll-time.Since(c.polled))
	}
	return time.Hour
}

// serve does what is to be done: for those who wait, and on a tick all else.
func (c *clerk) serve(ctx context.Context, tick bool) {
	work := c.take()
	if tick {
		c.patrol(ctx, work)
	}
	if tick || len(c.pending) > 0 && len(work.waiters) > 0 {
		work.waiters = append(c.pending, work.waiters...)
		c.pending = nil
	}
	for !work.empty() && ctx.Err() == nil {
		c.round(ctx, work.part())
	}
	if ctx.Err() != nil {
		for _, w := range work.waiters {
			w.decide(verdict{err: ErrClosed})
		}
	}
}

// work is what waits to be done.
type work struct {
	waiters []*waiter
	// accounts are to be visited, true if all that is free is to be given back.
	accounts map[*account]bool
}

func (w *work) empty() bool { return len(w.waiters) == 0 && len(w.accounts) == 0 }

// take takes what others left for the clerk.
func (c *clerk) take() *work {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &work{waiters: c.waiting, accounts: map[*account]bool{}}
	for _, a := range c.nudges {
		w.accounts[a] = false
	}
	for _, a := range c.adopted {
		c.known[a] = struct{}{}
	}
	c.waiting, c.nudges, c.adopted = nil, nil, nil
	return w
}

// part takes as much as one transaction is for.
func (w *work) part() *round {
	r := &round{visits: map[string]*visit{}, holds: map[*account][]*taking{}}
	n := 0
	for n < len(w.waiters) && n < maxWaiters && r.add(w.waiters[n]) {
		n++
	}
	w.waiters = w.waiters[n:]
	for a, drain := range w.accounts {
		if v := r.visits[a.name]; v != nil && v.account != a {
			continue // another one with the same key: the next time
		}
		if len(r.visits) >= maxRound {
			break
		}
		r.visit(a, drain)
		delete(w.accounts, a)
	}
	return r
}

// round is one transaction.
type round struct {
	waiters []*waiter
	verdict []verdict // theirs
	visits  map[string]*visit
	// holds are what waiters have in hand of accounts that the round does not visit. The
	// ledger must not take that for spent: if the waiter does not get the rest, it is given
	// back.
	holds map[*account][]*taking
}

// visit is an account in a round.
type visit struct {
	account *account
	rule    *rule
	drain   bool
	drained int64 // what the current lease had in it
	limit   int64
	keep    time.Duration
	want    int64 // what to fetch ahead
	least   int64 // what is less than this is not worth fetching
	most    int64 // where there is less than this left, nothing is fetched ahead
	needs   int64 // what the largest waiter needs
	reports []report
	cur     *tranche
	spare   int64 // the number of another lease, if the ledger has closed the current one
	terms   store.Parts

	// What came of it.
	seq    int64 // of the lease that is the current one now
	leases []store.Lease
	spent  int64 // of what was granted
	room   int64
	frees  time.Time
	over   bool // a waiter took beyond the budget
}

// add makes a request part of the round, if there is room for its accounts. What it needs
// is taken from leases in hand where they have it, so that a request that is the first of
// its token does not empty the lease of its tenant for all others.
func (r *round) add(w *waiter) bool {
	fresh := 0
	for i := range w.takings {
		switch v := r.visits[w.takings[i].account.name]; {
		case v == nil:
			fresh++
		case v.account != w.takings[i].account:
			return false
		}
	}
	if len(r.visits) > 0 && len(r.visits)+fresh > maxRound {
		return false
	}
	for i := range w.takings {
		k := &w.takings[i]
		k.lease = k.account.cur.Load()
		if r.visits[k.account.name] == nil {
			if _, k.held = k.lease.take(k.amount, w.now); k.held {
				r.holds[k.account] = append(r.holds[k.account], k)
				continue
			}
		}
		v := r.visit(k.account, true)
		v.needs = max(v.needs, k.amount)
	}
	r.waiters = append(r.waiters, w)
	return true
}

// visit adds an account. What others hold of it they get from the ledger now.
func (r *round) visit(a *account, drain bool) *visit {
	v := r.visits[a.name]
	if v == nil {
		v = &visit{account: a}
		r.visits[a.name] = v
	}
	v.drain = v.drain || drain
	for _, k := range r.holds[a] {
		k.giveBack()
		v.needs, v.drain = max(v.needs, k.amount), true
	}
	delete(r.holds, a)
	return v
}

// round carries out one.
func (c *clerk) round(ctx context.Context, r *round) {
	ctx, cancel := context.WithTimeoutCause(ctx, postTime, errSlow)
	defer cancel()
	now := c.now()
	var about store.About
	for name, v := range r.visits {
		about.Accounts = append(about.Accounts, name)
		c.prepare(v, now)
	}
	slices.Sort(about.Accounts)
	if len(about.Accounts) == 0 { // meanwhile all that they need is in hand
		r.post(&store.Sheet{}, c.holder, now)
		c.decide(r)
		return
	}
	err := c.ledger.Post(ctx, about, func(sheet *store.Sheet) error {
		r.post(sheet, c.holder, now)
		return nil
	})
	if err != nil {
		c.failed(r, err)
		return
	}
	if c.failing {
		c.failing = false
		c.log.Info("the ledger of budgets answers again")
	}
	for _, v := range r.visits {
		c.apply(v, now)
	}
	c.decide(r)
}

// failed tells all who wait that it could not be found out.
func (c *clerk) failed(r *round, err error) {
	if !c.failing {
		c.failing = true
		c.log.Error("the ledger of budgets does not answer; what is on lease can be spent until it ends", "error", err)
	}
	for _, v := range r.visits {
		v.account.nudged.Store(false)
		if errors.Is(err, store.ErrUncertain) { // the ledger may have back what was drained
			v.account.doubtful = true
			continue
		}
		v.cur.returned -= v.drained
		v.cur.free.Add(v.drained)
	}
	for _, w := range r.waiters {
		w.release()
		w.decide(verdict{err: err})
	}
}

// prepare says what the ledger is to be told and asked.
func (c *clerk) prepare(v *visit, now time.Time) {
	a, w := v.account, c.world()
	a.retired = a.retired && v.needs == 0 // somebody has found it before it went
	c.settings(v, w)
	c.rotate(v, w, now)
	if a.spare == 0 {
		a.spare = c.seq.Add(1)
	}
	v.cur, v.spare = a.cur.Load(), a.spare
	for _, t := range a.old {
		t.drain()
		v.reports = append(v.reports, t.report())
	}
	if v.drain || a.retired {
		v.drained = v.cur.drain()
	}
	v.cur.done = a.retired
	v.wants(w, now)

	cur := v.cur.report()
	if !a.retired {
		cur.ends, cur.closes = now.Add(w.sharing.Lease).UnixMicro(), now.Add(w.sharing.Lease+v.rule.settleFor()).UnixMicro()
	}
	v.reports = append(v.reports, cur)
}

// settings takes over what the configuration says now.
func (c *clerk) settings(v *visit, w *world) {
	a := v.account
	v.rule, v.keep = a.rule, w.sharing.Keep
	if current := w.find(a.rule); current != nil {
		v.rule = current
		if !current.claim {
			a.limit.Store(c.limit(current, a.subject))
		}
	}
	v.limit = a.limit.Load()
	v.terms = store.Parts{Rolling: v.rule.Window.rolling.Microseconds(), Release: v.rule.OnExpiry == ExpiryRelease, Final: v.rule.final()}
}

// settleFor is how long after its end a lease stays on the books.
func (r *rule) settleFor() time.Duration {
	if r.final() {
		return finalFor
	}
	return finalFor + r.ReserveFor
}

// wants says how much is to be fetched ahead.
func (v *visit) wants(w *world, now time.Time) {
	a := v.account
	v.most = v.limit * int64(w.sharing.Share) / 1000
	v.least = max(1, v.needs)
	v.want = max(a.demand(now), firstAhead*v.needs)
	if a.retired || v.needs == 0 && now.UnixNano()-a.used.Load() > int64(w.sharing.Idle) {
		v.want = 0
	}
	v.want = min(v.want, v.most)
	a.wanted = v.want
	v.want -= v.cur.free.Load()
}

// demand is what is likely to be taken in a while: what was taken since the last time, or
// twice as much as was fetched then if that was not enough for long.
func (a *account) demand(now time.Time) int64 {
	total, since := a.total(), now.Sub(a.contacted)
	if a.contacted.IsZero() || since < 0 {
		a.took, a.contacted = total, now
		return 0
	}
	doubled := int64(0)
	if since < ahead {
		doubled = 2 * min(a.wanted, max(0, total-a.took)) // no more than is really being taken
	}
	// An average that forgets half of what is as long ago as what is fetched should last.
	span := since.Seconds() + ahead.Seconds()
	a.rate = (a.rate*ahead.Seconds() + float64(max(0, total-a.took))) / span
	a.took, a.contacted = total, now
	return max(int64(a.rate*ahead.Seconds()), doubled)
}

// rotate begins another lease where the current one has been used for reservations for
// long: what is reserved by a lease expires with it. It does not as long as the ledger may
// have granted the next one already: nobody would ever know of that.
func (c *clerk) rotate(v *visit, w *world, now time.Time) {
	a := v.account
	cur := a.cur.Load()
	if v.terms.Final || cur.granted == 0 || a.retired || a.doubtful || now.Sub(cur.born) < max(v.rule.ReserveFor/4, w.sharing.Lease) {
		return
	}
	a.cur.Store(c.newLease(now))
	cur.done = true
	a.old = append(a.old, cur)
}

// post is what happens to the ledger.
func (r *round) post(sheet *store.Sheet, holder string, now time.Time) {
	books := make(map[string]*book, len(sheet.Accounts))
	for i := range sheet.Accounts {
		b := &book{&sheet.Accounts[i], now}
		v := r.visits[b.Key]
		v.begin(b, holder)
		books[b.Key] = b
	}
	r.verdict = make([]verdict, len(r.waiters))
	for i, w := range r.waiters {
		r.verdict[i] = r.try(w, books, holder)
	}
	for key, b := range books {
		r.visits[key].end(b, holder)
	}
}

// begin brings an account up to date, with what this replica has to say.
func (v *visit) begin(b *book, holder string) {
	a := v.account
	if b.Budget == "" {
		b.Budget, b.Unit, b.Subject, b.Tenant = v.rule.Name, string(v.rule.Unit), a.subject.String(), a.subject.Tenant
		b.Begin, b.End = a.begin, a.end
	}
	b.Rolling, b.Release, b.Final = v.terms.Rolling, v.terms.Release, v.terms.Final
	b.pass()
	v.seq, v.spent, v.over = v.cur.seq, 0, false // it may be the second time
	for i := range v.reports {
		rep := &v.reports[i]
		l := b.lease(holder, rep.seq)
		switch {
		case l != nil:
			b.report(l, rep)
		case rep.seq == v.cur.seq && v.cur.granted > 0:
			v.seq = v.spare // the ledger has closed it
			// If it has granted the next one before, and the answer was lost, nobody has spent of that.
			if l := b.lease(holder, v.spare); l != nil {
				b.report(l, &report{seq: v.spare, ends: rep.ends, closes: rep.closes, done: rep.done})
			}
		case rep.seq == v.cur.seq && rep.over > 0:
			b.report(v.lease(b, holder), rep)
		}
	}
	b.sum()
	b.Limit = max(v.limit, b.Reserved+b.Leased)
}

// lease returns the current lease on the books, which it opens if need be.
func (v *visit) lease(b *book, holder string) *store.Lease {
	if l := b.lease(holder, v.seq); l != nil {
		return l
	}
	cur := &v.reports[len(v.reports)-1]
	b.Leases = append(b.Leases, store.Lease{Holder: holder, Seq: v.seq, Ends: cur.ends, Closes: cur.closes})
	return &b.Leases[len(b.Leases)-1]
}

// try takes what a request needs from all of its accounts, or from none.
func (r *round) try(w *waiter, books map[string]*book, holder string) verdict {
	lacks := -1
	for i := range w.takings {
		k := &w.takings[i]
		b := books[k.account.name]
		k.over = false
		if k.held || k.amount <= b.room() {
			continue
		}
		if k.rule.Mode != ModeHard {
			k.over = true
			continue
		}
		if k.amount > b.Limit-b.Settled-b.Reserved-b.Overrun-b.Leased+b.others(holder) {
			return verdict{lacks: i}
		}
		lacks = i
	}
	if lacks >= 0 {
		for i := range w.takings { // all that it lacks, or it may never come together
			k := &w.takings[i]
			if b := books[k.account.name]; !k.held && !k.over && k.amount > b.room() {
				b.Recalled = true
			}
		}
		return verdict{lacks: lacks, short: true}
	}
	for i := range w.takings {
		k := &w.takings[i]
		v := r.visits[k.account.name]
		switch b := books[k.account.name]; {
		case k.held:
		case k.over:
			v.over = true
		default:
			b.grant(v.lease(b, holder), k.amount, k.amount)
			v.spent += k.amount
		}
	}
	return verdict{granted: true}
}

// end fetches ahead, and makes the account what it must be.
func (v *visit) end(b *book, holder string) {
	share := b.room() / (2 * (b.holders(holder) + 2))
	if n := min(v.want, share); !b.Recalled && b.room() >= v.most && n >= v.least {
		b.grant(v.lease(b, holder), n, 0)
	}
	b.balance(v.limit)
	switch {
	case b.Rolling > 0: // by the day, so that it changes seldom
		b.ExpiresAt = b.now.Add(2*v.rule.Window.rolling + v.keep + 24*time.Hour).Truncate(24 * time.Hour)
	default:
		b.ExpiresAt = v.account.expires
	}
	v.room, v.frees = b.room(), b.frees()
	v.leases = v.leases[:0]
	for _, l := range b.Leases {
		if l.Holder == holder {
			v.leases = append(v.leases, l)
		}
	}
}

// apply takes over what the ledger granted.
func (c *clerk) apply(v *visit, now time.Time) {
	a := v.account
	a.doubtful = false
	a.nudged.Store(false)
	a.room.Store(v.room)
	a.frees.Store(0)
	if !v.frees.IsZero() {
		a.frees.Store(v.frees.UnixNano())
	}
	if v.seq != v.cur.seq { // the old one is off the books, with all that was in it
		v.cur.free.Store(0)
		v.cur = &tranche{seq: v.seq, born: now}
		a.spare = 0
	}
	granted := map[int64]int64{}
	for _, l := range v.leases {
		granted[l.Seq] = l.Granted
	}
	for i, t := range a.old {
		t.told = v.reports[i]
		if g, ok := granted[t.seq]; ok && g > t.granted { // a grant whose answer was lost
			t.returned += g - t.granted
			t.granted = g
		}
	}
	a.old = slices.DeleteFunc(a.old, func(t *tranche) bool {
		_, open := granted[t.seq]
		return !open
	})
	last := v.reports[len(v.reports)-1]
	fresh := max(0, granted[v.seq]-v.cur.granted-v.spent)
	v.cur.granted += fresh + v.spent
	v.cur.told = report{}
	if last.seq == v.seq {
		v.cur.told = last
	}
	v.cur.told.seq = v.seq
	v.cur.told.used += v.spent
	v.cur.ends.Store(last.ends * 1000)
	v.cur.closes = last.closes
	v.cur.free.Add(fresh)
	v.cur.low.Store(v.cur.free.Load() / 2)
	if v.want > 0 && fresh < v.want/2 {
		v.cur.low.Store(0) // there is little left: no use in asking ahead
	}
	a.cur.Store(v.cur)
	if v.over || v.rule.Mode != ModeHard && v.room == 0 {
		a.dry.Store(now.Add(reports).UnixNano())
	}
}

// decide tells those who wait what became of them.
func (c *clerk) decide(r *round) {
	wait := c.world().sharing.Wait
	for i, w := range r.waiters {
		v := r.verdict[i]
		switch {
		case v.granted:
			w.accept(r)
		default:
			w.release()
		}
		if v.short && c.patient(w, wait) {
			continue
		}
		if !w.decide(v) && v.granted {
			w.giveBack(len(w.takings))
		}
	}
}

// patient has a request wait for what others have on lease, for a time.
func (c *clerk) patient(w *waiter, wait time.Duration) bool {
	if w.since.IsZero() {
		w.since = time.Now()
	}
	if time.Since(w.since) >= wait {
		return false
	}
	if !w.left.Load() {
		c.pending = append(c.pending, w)
	}
	return true
}

// accept notes where what was granted comes from.
func (w *waiter) accept(r *round) {
	for i := range w.takings {
		k := &w.takings[i]
		if !k.held {
			k.lease = r.visits[k.account.name].cur
		}
		if k.over {
			k.takeOver()
		}
		k.left = k.lease.free.Load()
		k.account.touch(w.now)
	}
}

// release gives back what a request has in hand that does not get the rest.
func (w *waiter) release() {
	for i := range w.takings {
		if k := &w.takings[i]; k.held {
			k.giveBack()
		}
	}
}

// decide answers a request, unless it has gone.
func (w *waiter) decide(v verdict) bool {
	if w.left.Swap(true) {
		return false
	}
	w.answer <- v
	return true
}

// patrol looks which accounts to visit although nobody waits.
func (c *clerk) patrol(ctx context.Context, w *work) {
	sharing := c.world().sharing
	if time.Since(c.polled) < sharing.Poll {
		return
	}
	c.polled = time.Now()
	now := c.now()
	recalled := c.recalled(ctx)
	for a := range c.known {
		c.look(a, w, now, &sharing, recalled)
	}
}

// recalled asks which accounts somebody is short of, if anything could be given back.
func (c *clerk) recalled(ctx context.Context) map[string]bool {
	if len(c.known) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, postTime, errSlow)
	defer cancel()
	keys, err := c.ledger.Recalled(ctx, store.MaxPage)
	if err != nil {
		return nil // whoever waits hears of it; the rest can wait
	}
	set := make(map[string]bool, len(keys))
	for _, key := range keys {
		set[key] = true
	}
	return set
}

func (c *clerk) look(a *account, w *work, now time.Time, sharing *Sharing, recalled map[string]bool) {
	cur := a.cur.Load()
	free, ends := cur.free.Load(), cur.ends.Load()
	news := a.doubtful
	a.each(func(t *tranche) { news = news || t.news() })
	if a.retired && !news && free == 0 {
		delete(c.known, a)
		return
	}
	idle := now.UnixNano()-a.used.Load() > int64(sharing.Idle)
	if idle && !a.retired {
		a.retired = true
		c.accounts.remove(a)
	}
	switch {
	case recalled[a.name] && (free > 0 || news):
		w.accounts[a] = true
	case a.retired && (free > 0 || news):
		w.accounts[a] = true
	case news && now.Sub(a.contacted) > reports, free > 0 && time.Duration(ends-now.UnixNano()) < sharing.Lease/2:
		if !w.accounts[a] {
			w.accounts[a] = false // it is visited, and keeps what it has
		}
	}
}

// quit gives back everything and turns away who waits.
func (c *clerk) quit() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	w := c.take()
	for _, waiter := range append(w.waiters, c.pending...) {
		waiter.decide(verdict{err: ErrClosed})
	}
	clear(w.accounts)
	w.waiters = nil
	for a := range c.known {
		a.retired = true
		w.accounts[a] = true
	}
	for !w.empty() {
		c.round(context.Background(), w.part())
		if c.failing {
			return
		}
	}
}
