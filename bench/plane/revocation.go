package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// fleet is several replicas on one database, with a load of good keys on each.
type fleet struct {
	db       *database
	replicas []*replica
	people   people
	load     load
}

// newFleet starts replicas. Each extra is what the block "store" of one more says
// besides the database.
func newFleet(ctx context.Context, l *lab, extras []string) (f *fleet, err error) {
	db, err := newDatabase(ctx)
	if err != nil {
		return nil, err
	}
	f = &fleet{db: db}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	for i, extra := range extras {
		store, err := l.postgres(db.dsn, extra)
		if err != nil {
			return f, err
		}
		r, err := l.newReplica(store)
		if err != nil {
			return f, err
		}
		f.replicas = append(f.replicas, r)
		if i == 0 {
			if r.adminKey, err = r.bootstrap(ctx); err != nil {
				return f, err
			}
			if err := db.mute(ctx, 0); err != nil {
				return f, err
			}
		}
		r.adminKey = f.replicas[0].adminKey
		if err := r.start(ctx); err != nil {
			return f, err
		}
	}
	f.people.admin = f.replicas[0]
	return f, f.people.settle(ctx)
}

func (f *fleet) close() {
	for _, r := range f.replicas {
		if r.Process != nil {
			_ = r.Signal(syscall.SIGCONT) // it may be stopped
		}
		r.kill()
	}
	_ = f.db.Close()
}

// load asks about good keys all the time and counts what is not an allow.
type load struct {
	asked, blind, failed, wrong atomic.Int64
	example                     atomic.Value // the first wrong answer
}

const (
	goodKeys = 100
	// loadPause is the time between two questions of the load on one replica.
	loadPause = 15 * time.Millisecond
)

func (l *load) run(ctx context.Context, r *replica, good []*event) {
	questions := make([]*posternv1.CheckRequest, len(good))
	for i, e := range good {
		questions[i] = question(e.key)
	}
	for ctx.Err() == nil {
		a := r.ask(ctx, questions[rand.IntN(len(questions))])
		switch {
		case ctx.Err() != nil:
			return
		case a.err != nil:
			l.failed.Add(1)
		case a.blind():
			l.blind.Add(1)
		case !a.allowed:
			l.wrong.Add(1)
			l.example.CompareAndSwap(nil, r.name+": "+a.reason.String())
		}
		l.asked.Add(1)
		time.Sleep(loadPause)
	}
}

// disturbance is what goes wrong during a series of revocations.
type disturbance struct {
	part, name string
	// begin and end surround the series, before comes ahead of each revocation.
	// Each may be nil.
	begin, end func(context.Context) error
	before     func(context.Context) error
	// ideal says that nothing is wrong: then the goal is held up as well.
	ideal bool
}

// revocation measures under each disturbance in turn.
func revocation(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	f, err := newFleet(ctx, l, make([]string, s.replicas))
	if err != nil {
		return err
	}
	defer f.close()
	good, err := f.people.many(ctx, goodKeys)
	if err != nil {
		return err
	}
	for _, r := range f.replicas {
		if err := f.await(ctx, r, good); err != nil {
			return err
		}
	}
	loading, stop := context.WithCancel(ctx)
	var loads sync.WaitGroup
	for _, r := range f.replicas {
		loads.Go(func() { f.load.run(loading, r, good) })
	}
	defer func() { stop(); loads.Wait() }()
	for _, d := range f.disturbances() {
		if s.events == 0 {
			break
		}
		d.part = "revocation"
		if err := f.series(ctx, s, d, out); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	if err := f.stops(ctx, s, out); err != nil {
		return err
	}
	stop()
	loads.Wait()
	figure := fmt.Sprintf("%d asked, %d denied wrongly, %d denied for not hearing of the store, %d without answer",
		f.load.asked.Load(), f.load.wrong.Load(), f.load.blind.Load(), f.load.failed.Load())
	example, _ := f.load.example.Load().(string)
	out.Add(rig.Row{Part: "revocation", What: "keys that stay good, all the while", Figure: figure, Wanted: "none denied wrongly", Verdict: rig.Promise(f.load.wrong.Load() == 0), Remark: example})
	return nil
}

// await waits until a replica knows the keys.
func (f *fleet) await(ctx context.Context, r *replica, keys []*event) error {
	for _, e := range keys {
		for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			a := r.ask(ctx, question(e.key))
			if a.allowed {
				break
			}
			if time.Since(begin) > 10*time.Second {
				return fmt.Errorf("%s does not take a new key: %v (%w)\n%s", r.name, a.reason, a.err, r.Said())
			}
		}
	}
	return nil
}

func (f *fleet) disturbances() []disturbance {
	mute := func(share float64) func(context.Context) error {
		return func(ctx context.Context) error { return f.db.mute(ctx, share) }
	}
	next := 0
	return []disturbance{
		{name: "calm", ideal: true},
		{name: "half of all notifications lost", begin: mute(.5), end: mute(0)},
		{name: "all notifications lost", begin: mute(1), end: mute(0)},
		{name: "listening connections cut", before: f.db.deafen},
		{name: "all connections of a replica cut", before: func(ctx context.Context) error {
			next++
			return f.db.cut(ctx, f.replicas[1+next%(len(f.replicas)-1)])
		}},
		{name: "the same, the admin's replica", before: func(ctx context.Context) error { return f.db.cut(ctx, f.replicas[0]) }},
	}
}

// between is the time between two revocations of a series.
const between = 120 * time.Millisecond

// series revokes keys one after the other, while all replicas are asked about them.
func (f *fleet) series(ctx context.Context, s settings, d disturbance, out *rig.Report) error {
	events, err := f.people.many(ctx, s.events)
	if err != nil {
		return err
	}
	for _, r := range f.replicas {
		if err := f.await(ctx, r, events); err != nil {
			return err
		}
	}
	if d.begin != nil {
		if err := d.begin(ctx); err != nil {
			return err
		}
	}
	outcomes := make([][]*outcome, len(events))
	ctx, cancel := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer func() { cancel(); watchers.Wait() }()
	for i, e := range events {
		outcomes[i] = make([]*outcome, len(f.replicas))
		for j, r := range f.replicas {
			o := &outcome{}
			outcomes[i][j] = o
			watchers.Go(func() { e.watch(ctx, r, o) })
		}
		time.Sleep(20 * time.Millisecond)
		if d.before != nil {
			if err := d.before(ctx); err != nil {
				return errors.Join(err, e.end(ctx, f.replicas[0]))
			}
		}
		if err := e.end(ctx, f.replicas[0]); err != nil {
			return err
		}
		time.Sleep(between)
	}
	watchers.Wait()
	if d.end != nil {
		if err := d.end(ctx); err != nil {
			return err
		}
	}
	var t tally
	for i, e := range events {
		for _, o := range outcomes[i] {
			t.take(e, o)
		}
	}
	t.report(out, d)
	return nil
}

// tally is the judgement on many outcomes.
type tally struct {
	lastAllow, firstDeny                 times
	blind, failed, back, never, untested int
	straddled, settled                   int
	unexpected, examples                 []string
}

func (t *tally) take(e *event, o *outcome) {
	ack := e.ack.get()
	if good, _ := o.seen(); !good {
		t.untested++ // never allowed: its denies say nothing
	} else {
		t.lastAllow = append(t.lastAllow, o.lastAllow.Sub(ack))
	}
	if o.firstDeny.IsZero() {
		t.never++
	} else {
		t.firstDeny = append(t.firstDeny, o.firstDeny.Sub(ack))
	}
	t.blind, t.failed, t.back = t.blind+o.blind, t.failed+o.failed, t.back+o.back
	t.straddled, t.settled = t.straddled+o.straddled, t.settled+o.settled
	if o.example != "" {
		t.examples = append(t.examples, o.example)
	}
	if o.unexpected != 0 {
		t.unexpected = append(t.unexpected, fmt.Sprintf("%s: %v", e.kind, o.unexpected))
	}
}

// holds reports whether the promise was kept. What was never tried was not.
func (t *tally) holds() bool {
	return len(t.lastAllow) > 0 && t.lastAllow.max() <= bound && t.back == 0 && t.never == 0 && t.untested == 0 && len(t.unexpected) == 0
}

const goalP99 = 150 * time.Millisecond

func (t *tally) report(out *rig.Report, d disturbance) {
	var remarks []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{t.back, "allowed again after a deny"}, {t.never, "never denied"}, {t.untested, "never allowed before"},
		{t.settled, "decided in time, received late"}, {t.straddled, "begun in time, complete late"},
		{t.blind, "denied for not hearing of the store"}, {t.failed, "without answer"},
	} {
		if c.n > 0 {
			remarks = append(remarks, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(t.unexpected) > 0 {
		remarks = append(remarks, "unexpected: "+strings.Join(t.unexpected[:min(3, len(t.unexpected))], ", "))
	}
	remarks = append(remarks, t.examples[:min(3, len(t.examples))]...)
	out.Add(rig.Row{Part: d.part, What: d.name, Figure: "last allow " + t.lastAllow.String(), Wanted: "never over 1 s", Verdict: rig.Promise(t.holds()), Remark: strings.Join(remarks, "; ")})
	deny := rig.Row{Part: d.part, What: d.name, Figure: "first deny " + t.firstDeny.String()}
	if d.ideal {
		deny.Wanted, deny.Verdict = "p99 150 ms", rig.Goal(t.firstDeny.sorted().at(.99) <= goalP99 && t.lastAllow.sorted().at(.99) <= goalP99)
	}
	out.Add(deny)
}

// stops revokes keys while a replica is stopped, and looks at what that one says
// when it wakes and many questions wait for it.
func (f *fleet) stops(ctx context.Context, s settings, out *rig.Report) error {
	for _, c := range []struct {
		name  string
		times int
		stop  time.Duration
	}{
		{"replica stopped for 5 s, by itself", (s.stops + 3) / 4, 5 * time.Second},
		{"replica stopped for 1.3 s, by itself", s.stops, 1300 * time.Millisecond},
	} {
		if c.times == 0 {
			continue
		}
		var t tally
		for i := range c.times {
			log.Printf("  %s, %d of %d", c.name, i+1, c.times)
			if err := f.stopOnce(ctx, f.replicas[1+i%(len(f.replicas)-1)], c.stop, &t); err != nil {
				return err
			}
		}
		t.report(out, disturbance{part: "revocation", name: c.name})
	}
	return nil
}

// revokedAt says when keys are revoked while a replica is stopped, from the
// beginning of the stop. The last ones may still be allowed for a moment when it
// wakes.
func revokedAt(stop time.Duration) (at []time.Duration) {
	for _, d := range []time.Duration{0, 20 * time.Millisecond, stop / 4, stop / 2, stop - 1100*time.Millisecond, stop - 200*time.Millisecond} {
		if len(at) == 0 || d > at[len(at)-1] {
			at = append(at, d)
		}
	}
	return at
}

func (f *fleet) stopOnce(ctx context.Context, r *replica, stop time.Duration, t *tally) error {
	schedule := revokedAt(stop)
	events, err := f.people.many(ctx, len(schedule))
	if err != nil {
		return err
	}
	if err := f.await(ctx, r, events); err != nil {
		return err
	}
	outcomes := make([]*outcome, len(events))
	ctx, cancel := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer func() { cancel(); watchers.Wait() }()
	begin := time.Now().Add(150 * time.Millisecond)
	for i, e := range events {
		e.until.set(begin.Add(stop + bound + tail))
		o := &outcome{}
		outcomes[i] = o
		watchers.Go(func() { e.besiege(ctx, r, o) })
		for range 3 { // so that it is stopped in the middle of something
			watchers.Go(func() { e.watch(ctx, r, o) })
		}
	}
	time.Sleep(time.Until(begin))
	if err := r.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	wake := time.AfterFunc(stop, func() { _ = r.Signal(syscall.SIGCONT) })
	defer wake.Stop()
	for i, e := range events {
		time.Sleep(time.Until(begin.Add(schedule[i])))
		if err := e.end(ctx, f.replicas[0]); err != nil {
			return err
		}
	}
	watchers.Wait()
	for i, e := range events {
		t.take(e, outcomes[i])
	}
	return nil
}
