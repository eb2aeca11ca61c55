package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

const (
	// bound is the promise: no allow so long after the acknowledgement.
	bound = time.Second
	// tail is how much longer than the bound a revoked key is tried.
	tail = 600 * time.Millisecond
	// eager and calm are the pauses between two questions about a key, before and
	// after the first deny.
	eager = 2 * time.Millisecond
	calm  = 50 * time.Millisecond
)

// moment is a time that is set once and read by many. The zero moment is not set.
type moment struct {
	mu sync.Mutex
	at time.Time
}

func (m *moment) set(t time.Time) { m.mu.Lock(); m.at = t; m.mu.Unlock() }

func (m *moment) get() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.at }

// outcome is what one replica said about one key that was revoked.
type outcome struct {
	mu sync.Mutex
	// lastAllow is when the last allow was given, firstDeny the first deny because of
	// the revocation. Zero for none.
	lastAllow, firstDeny time.Time
	// back counts questions that were asked after the first deny and allowed.
	back int
	// asked counts the answers, blind those without a look at the store, and failed
	// the questions without an answer.
	asked, blind, failed int
	// straddled counts allows that began in time and were complete too late, and
	// settled those that were received too late and had been complete in time.
	straddled, settled int
	// example tells of one that was too late.
	example string
	// unexpected is the first deny that was neither.
	unexpected posternv1.Reason
}

// clock asks a replica when a decision began and was complete.
type clock func(ctx context.Context, id string) (begun, done time.Time, ok bool)

// note takes an answer in. Ack is when the revocation was acknowledged, zero if it
// is not yet.
func (o *outcome) note(ctx context.Context, a answer, ack time.Time, ends posternv1.Reason, decided clock) {
	given, straddled, settled, example := a.received, 0, 0, ""
	if a.err == nil && a.allowed && late(given, ack) {
		begun, done, ok := decided(ctx, a.id)
		if ok && done.Before(given) {
			given = done
		}
		ms := func(t time.Time) time.Duration { return t.Sub(ack).Round(time.Millisecond / 10) }
		switch {
		case !late(given, ack):
			settled++
		case !ok:
			example = fmt.Sprintf("sent %v, received %v after the ack; the replica does not remember it", ms(a.sent), ms(a.received))
		default:
			example = fmt.Sprintf("sent %v, begun %v, complete %v, received %v after the ack", ms(a.sent), ms(begun), ms(done), ms(a.received))
			if !late(begun, ack) {
				straddled++
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.example == "" {
		o.example = example
	}
	o.straddled, o.settled = o.straddled+straddled, o.settled+settled
	switch {
	case a.err != nil:
		o.failed++
		return
	case a.allowed:
		if given.After(o.lastAllow) {
			o.lastAllow = given
		}
		if !o.firstDeny.IsZero() && a.sent.After(o.firstDeny) {
			o.back++
		}
	case a.blind():
		o.blind++
	case a.reason == ends:
		if o.firstDeny.IsZero() || a.received.Before(o.firstDeny) {
			o.firstDeny = a.received
		}
	case o.unexpected == 0:
		o.unexpected = a.reason
	}
	o.asked++
}

// late reports whether something at a time is past the bound.
func late(at, ack time.Time) bool { return !ack.IsZero() && at.Sub(ack) > bound }

// seen says whether the key was ever good, and whether it has been denied.
func (o *outcome) seen() (good, denied bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.lastAllow.IsZero(), !o.firstDeny.IsZero()
}

// watch asks a replica about a key until some time after its revocation, one
// question after the other.
func (e *event) watch(ctx context.Context, r *replica, o *outcome) {
	q := question(e.key)
	for ctx.Err() == nil && !e.over() {
		o.note(ctx, r.ask(ctx, q), e.ack.get(), e.ends, r.decided)
		pause := eager
		if _, denied := o.seen(); denied {
			pause = calm
		}
		time.Sleep(pause)
	}
}

// besiege asks at a fixed pace, without waiting for answers: for a replica that is
// stopped, so that many questions wait when it wakes.
func (e *event) besiege(ctx context.Context, r *replica, o *outcome) {
	var all sync.WaitGroup
	q := question(e.key)
	for ctx.Err() == nil && !e.over() {
		all.Go(func() { o.note(ctx, r.ask(ctx, q), e.ack.get(), e.ends, r.decided) })
		time.Sleep(calm)
	}
	all.Wait()
}

// over reports whether nothing more is to be learned.
func (e *event) over() bool {
	ack, until := e.ack.get(), e.until.get()
	return !ack.IsZero() && time.Since(ack) > bound+tail && time.Now().After(until)
}
