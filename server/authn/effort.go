package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/tally"
)

// Effort bounds what it costs to prove credentials that are not remembered. A signature
// that is wrong costs as much to check as one that is right, up to 0.7 ms of a CPU for
// ES384, and anybody can make one up; three thousand of them a second would leave
// nothing to those who are remembered.
//
//	at once                 half of the CPUs prove; a few wait; the rest is refused
//	wrong from one source   badFromOne in badWindow, then the source has what is spare
//	wrong from anywhere     badFromAll in a second, then sources have that sent any lately
//
// What is spare is a CPU that nobody else wants at the moment, for a quarter of the time:
// many people can share one address with whoever sends what is wrong. Others are not
// refused for it unless all at once is too much. Refused is "could not find out"
// (ErrOverloaded), at once and before any work: the credential may be good. What is
// remembered is never asked for here.
type Effort struct {
	now     func() time.Time
	workers chan struct{}
	waiting atomic.Int64
	refused atomic.Uint64
	spare   atomic.Int64 // when there is some again, in Unix nanoseconds

	mu      sync.Mutex
	sources tally.Book[netip.Addr]
	all     tally.Tally
}

const (
	// effortQueue is how many wait for a worker, each for about 1 ms at most.
	effortQueue = 256
	// badFromOne and badFromAll take 3 % and 13 % of a CPU where they are as dear as can
	// be. Of sources that are not known badFromNobody counts for all of them together.
	badFromOne    = 500
	badFromNobody = 2000
	badWindow     = 10 * time.Second
	badFromAll    = 200
	// spareEvery is how many times as long as it took there is nothing spare after that.
	spareEvery = 3
)

var errEffort = fmt.Errorf("%w: too much would have to be proven at once", ErrOverloaded)

// NewEffort returns an Effort. The clock may be nil, for time.Now.
func NewEffort(now func() time.Time) *Effort {
	if now == nil {
		now = time.Now
	}
	return &Effort{now: now, workers: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// Refused is how many were turned away.
func (e *Effort) Refused() uint64 { return e.refused.Load() }

// spend does the work for a source, if that is not too much. A nil Effort bounds nothing.
func (e *Effort) spend(ctx context.Context, from netip.Addr, prove func() (*Proof, error)) (*Proof, error) {
	if e == nil {
		return prove()
	}
	from = tally.Client(from)
	enter := e.enter
	spent := e.spent(from)
	if spent {
		enter = e.enterSpare
	}
	if err := enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-e.workers }()
	began := e.now()
	proof, err := prove()
	if spent {
		ended := e.now()
		e.spare.Store(ended.Add(spareEvery * ended.Sub(began)).UnixNano())
	}
	if wrong := (*Refusal)(nil); errors.As(err, &wrong) && wrong.Reason == policy.ReasonSignatureInvalid && !errors.As(err, new(unchecked)) {
		e.count(from)
	}
	return proof, err
}

// unchecked is the refusal of a token whose signature had not to be checked.
type unchecked struct{ *Refusal }

func (u unchecked) Unwrap() error { return u.Refusal }

// RefuseNoKey is Refuse for a signature for which there is no key: to say so costs next to
// nothing, and an Effort does not count it.
func RefuseNoKey(detail string) error {
	return unchecked{Refuse(policy.ReasonSignatureInvalid, detail)}
}

// enter waits for a worker.
func (e *Effort) enter(ctx context.Context) error {
	select {
	case e.workers <- struct{}{}:
		return nil
	default:
	}
	defer e.waiting.Add(-1)
	if e.waiting.Add(1) > effortQueue {
		e.refused.Add(1)
		return errEffort
	}
	waiting, cancel := policy.LeaveRoom(ctx)
	defer cancel()
	select {
	case e.workers <- struct{}{}:
		return nil
	case <-waiting.Done():
		return fmt.Errorf("%w: %w", errEffort, context.Cause(waiting))
	}
}

// enterSpare takes a worker that nobody else wants, if it is time for that.
func (e *Effort) enterSpare(context.Context) error {
	if e.now().UnixNano() >= e.spare.Load() {
		select {
		case e.workers <- struct{}{}:
			return nil
		default:
		}
	}
	e.refused.Add(1)
	return errEffort
}

// spent reports whether a source has sent too much that was wrong.
func (e *Effort) spent(from netip.Addr) bool {
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	bad := e.sources.Get(from, now).N
	if !from.IsValid() { // many behind one gateway: they are not taken for one
		return bad >= badFromNobody
	}
	return bad >= badFromOne || bad > 0 && e.all.N >= badFromAll && now.Before(e.all.Until)
}

// count notes a wrong signature.
func (e *Effort) count(from netip.Addr) {
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.sources.Get(from, now)
	if t.N++; t.N == 1 {
		t.Until = now.Add(badWindow)
	}
	e.sources.Put(from, t, now)
	if !now.Before(e.all.Until) {
		e.all = tally.Tally{Until: now.Add(time.Second)}
	}
	e.all.N++
}
