package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
	"github.com/postern-auth/postern/server/store/pgtest"
	"github.com/postern-auth/postern/server/store/postgres"
)

// cost measures a reservation from a lease in hand: the least of many short turns, so that
// what else the machine does is not counted.
func cost(ctx context.Context, r *rig.Report) error {
	d, err := deps()
	if err != nil {
		return err
	}
	d.Ledger = memory.New(time.Now)
	all, err := budget.New(config(budget.MaxAmount, time.Second), d)
	if err != nil {
		return err
	}
	p := &policy.Principal{ID: "agent", Kind: policy.KindAgent, Tenant: "bench"}
	c := &policy.Charge{Principal: p, Route: &policy.Route{}, Request: &policy.Request{}, Cost: map[string]int64{"tokens": 7}, Now: time.Now()}
	const turn = 2000
	var turns []time.Duration
	for range 300 {
		begun := time.Now()
		c.Now = begun
		asked := false
		for range turn {
			s := all.Spend(ctx, c)
			if s.Reason != policy.ReasonAllowed {
				return errors.New(s.Detail)
			}
			asked = asked || s.State == policy.StateStore
		}
		if !asked {
			turns = append(turns, time.Since(begun)/turn)
		}
	}
	if len(turns) == 0 {
		return errors.New("every turn had to ask the ledger")
	}
	slices.Sort(turns)
	best := turns[0]
	r.Add(rig.Row{
		Part: "cost", What: "a leased reservation with its receipt", Figure: best.String(), Wanted: "1µs", Verdict: rig.Goal(best <= time.Microsecond),
		Remark: fmt.Sprintf("median of turns %v, on a machine that does other things as well", turns[len(turns)/2]),
	})
	return all.Close(ctx)
}

// tally is what clients were told.
type tally struct {
	reserved, settled atomic.Int64 // how many
	units             atomic.Int64 // what they were granted, with the true use of what was settled
	early, denied     atomic.Int64 // denials while there was budget for sure, and all
	unknown, gone     atomic.Int64 // not found out; connections that broke
	uncertain         atomic.Int64 // units that a replica that died may have granted or settled
	refused           atomic.Int64 // settlements
	mu                sync.Mutex
	complaints        []string
	unsettled         atomic.Int64
}

func (t *tally) complain(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.complaints) < 5 {
		t.complaints = append(t.complaints, s)
	}
}

// measure runs the replicas, the clients and whoever looks at the ledger.
func measure(ctx context.Context, s settings, r *rig.Report) error {
	cluster, err := pgtest.Start(s.durable)
	if err != nil {
		return err
	}
	defer cluster.Close()
	address, err := cluster.Database(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/tmp", "budget")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	st, err := postgres.Open(ctx, address, postgres.Options{})
	if err != nil {
		return err
	}
	defer st.Close()
	f, err := newFleet(s, address, dir)
	if err != nil {
		return errors.Join(err, f.close())
	}
	var t tally
	var states, faults int
	begun := time.Now()
	background, stop := context.WithCancel(ctx)
	group, background := errgroup.WithContext(background)
	group.Go(func() error { return f.kill(background) })
	group.Go(func() (err error) {
		states, faults, err = watch(background, st)
		return err
	})
	group.Go(func() error { progress(background, &t, s); return nil })
	var clients sync.WaitGroup
	for i := range s.clients {
		clients.Go(func() { client(background, f, &t, s, rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	clients.Wait()
	took := time.Since(begun)
	stop()
	err = errors.Join(group.Wait(), f.close())
	if err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	account, err := final(ctx, st)
	if err != nil {
		return err
	}
	show(r, s, &t, account, took, f.kills, states, faults)
	return nil
}

// client reserves and settles, and in the end uses up what is left.
func client(ctx context.Context, f *fleet, t *tally, s settings, random *rand.Rand) {
	l := &link{f: f, random: random}
	defer l.move()
	for ctx.Err() == nil && t.reserved.Load() < int64(s.reservations) {
		if random.IntN(50) == 0 {
			l.move()
		}
		amount := 1 + random.Int64N(20)
		receipt, ok, denied := reserve(l, t, amount)
		if denied {
			t.early.Add(1)
		}
		if ok && random.IntN(100) < s.settle {
			settle(l, t, receipt, amount, random.Int64N(amount+1))
		} else if ok {
			t.unsettled.Add(1)
		}
	}
	// What is left, in ever smaller pieces: who is denied 1 is done, and asks on every
	// replica before it believes that.
	for amount := max(1, s.limit/int64(50*s.clients)); ctx.Err() == nil && amount > 0; {
		_, ok, denied := reserve(l, t, amount)
		if ok || !denied {
			continue
		}
		amount /= 2
		l.move()
	}
}

// reserve asks for an amount.
func reserve(l *link, t *tally, amount int64) (receipt string, ok, denied bool) {
	answer, err := l.ask(fmt.Sprintf("reserve %d", amount))
	switch {
	case err != nil:
		t.gone.Add(1)
		t.uncertain.Add(amount)
		time.Sleep(time.Millisecond)
	case yes(answer):
		t.reserved.Add(1)
		t.units.Add(amount)
		return strings.TrimPrefix(answer, "yes "), true, false
	case strings.HasPrefix(answer, "no "+policy.ReasonBudgetExhausted.String()):
		t.denied.Add(1)
		t.complain(fmt.Sprintf("denied %d: %s", amount, answer))
		return "", false, true
	default:
		t.unknown.Add(1)
		t.complain(answer)
		time.Sleep(10 * time.Millisecond)
	}
	return "", false, false
}

// settle says what was used, on whatever replica, until one has heard it.
func settle(l *link, t *tally, receipt string, amount, used int64) {
	if l.random.IntN(4) == 0 {
		l.move()
	}
	for range 50 {
		answer, err := l.ask(fmt.Sprintf("settle %s %d", receipt, used))
		switch {
		case err != nil:
			t.gone.Add(1)
		case yes(answer):
			t.settled.Add(1)
			t.units.Add(used - amount)
			return
		default:
			t.refused.Add(1)
			t.complain("settle: " + answer)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.uncertain.Add(amount)
}

// watch looks at the ledger again and again.
func watch(ctx context.Context, st *postgres.Store) (states, faults int, err error) {
	for ctx.Err() == nil {
		found, err := st.Accounts(ctx, store.AccountQuery{Budget: budgetName})
		if err != nil && ctx.Err() == nil {
			return states, faults, err
		}
		for i := range found {
			states++
			if found[i].Balanced() != nil || found[i].Overrun > 0 {
				faults++
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return states, faults, nil
}

func progress(ctx context.Context, t *tally, s settings) {
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			log.Printf("  %d of %d reserved, %d settled, %d denied, %d connections broken", t.reserved.Load(), s.reservations, t.settled.Load(), t.denied.Load(), t.gone.Load())
		}
	}
}

// final is the account when the leases of the dead have ended.
func final(ctx context.Context, st *postgres.Store) (budget.State, error) {
	log.Print("  waiting for the leases of the dead to end")
	d, err := deps()
	if err != nil {
		return budget.State{}, err
	}
	d.Ledger = st
	all, err := budget.New(budget.Config{}, d)
	if err != nil {
		return budget.State{}, err
	}
	defer all.Close(ctx)
	for {
		found, err := all.List(ctx, budget.Query{Budget: budgetName})
		if err != nil || len(found) != 1 {
			return budget.State{}, errors.Join(err, fmt.Errorf("%d accounts", len(found)))
		}
		if found[0].Leased == 0 {
			return found[0], nil
		}
		select {
		case <-ctx.Done():
			return budget.State{}, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func show(r *rig.Report, s settings, t *tally, a budget.State, took time.Duration, kills, states, faults int) {
	n := func(v int64) string { return fmt.Sprint(v) }
	add := func(what, figure, wanted string, v rig.Verdict, remark string) {
		r.Add(rig.Row{Part: "exact", What: what, Figure: figure, Wanted: wanted, Verdict: v, Remark: remark})
	}
	add("reservations", n(t.reserved.Load()), "", "", fmt.Sprintf("%d clients, %d replicas, %d killed, %v, %.0f/s", s.clients, s.replicas, kills, took.Round(time.Second), float64(t.reserved.Load())/took.Seconds()))
	add("settlements", n(t.settled.Load()), "", "", fmt.Sprintf("%d refused or not heard at first", t.refused.Load()))
	add("limit", n(a.Limit), "", "", "")
	add("settled", n(a.Settled), "", "", "lost included")
	add("reserved", n(a.Reserved), "", "", fmt.Sprintf("%d reservations that nobody settles", t.unsettled.Load()))
	add("leased", n(a.Leased), "0", rig.Promise(a.Leased == 0), "")
	add("lost with the dead", n(a.Lost), "", "", fmt.Sprintf("%.2f %% of the limit for each", 100*float64(a.Lost)/float64(a.Limit)/float64(max(1, kills))))
	add("states over the limit", fmt.Sprint(faults), "0", rig.Promise(faults == 0), fmt.Sprintf("of %d", states))
	total := a.Settled + a.Reserved
	add("granted, as clients know", n(t.units.Load()), "at most "+n(total), rig.Promise(t.units.Load() <= total && total <= a.Limit), fmt.Sprintf("%d more may have been by the dead", t.uncertain.Load()))
	add("not accounted for", n(max(0, total-a.Lost-t.units.Load()-t.uncertain.Load())), "0", rig.Promise(total-a.Lost <= t.units.Load()+t.uncertain.Load()), "settled or reserved that no client knows of, besides what was lost")
	add("denied while there was budget", n(t.early.Load()), "0", rig.Promise(t.early.Load() == 0), "")
	add("left when all were denied", n(a.Remaining()), "0", rig.Promise(a.Remaining() == 0), fmt.Sprintf("%d denials", t.denied.Load()))
	add("could not be found out", n(t.unknown.Load()), "0", rig.Promise(t.unknown.Load() == 0), fmt.Sprintf("%d connections broken", t.gone.Load()))
	for _, c := range t.complaints {
		log.Printf("  %s", c)
	}
}
