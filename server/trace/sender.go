package trace

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// How checks are sent: so many in one export, after so long at the latest; an export that
// fails is tried again so often, with twice the time in between each time.
const (
	batchSize  = 512
	batchDelay = time.Second
	maxTries   = 5
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	complaints = time.Minute // between two of them
)

// sender hands what waits to a receiver, on a goroutine of its own.
type sender struct {
	to       receiver
	batch    *batch
	timeout  time.Duration
	complain func(err error, lost uint64)

	queue   chan *checked
	closing atomic.Bool
	end     chan struct{}
	ended   chan struct{}
	sending context.Context //nolint:containedctx // of the goroutine: whoever closes gives up on it
	giveUp  context.CancelFunc

	dropped atomic.Uint64
	mu      sync.Mutex
	counted Stats

	// Of the goroutine.
	told    time.Time
	unwell  bool
	lostAll uint64
}

func newSender(to receiver, b *batch, queue int, timeout time.Duration, complain func(error, uint64)) *sender {
	s := &sender{
		to: to, batch: b, timeout: timeout, complain: complain,
		queue: make(chan *checked, queue), end: make(chan struct{}), ended: make(chan struct{}),
	}
	s.sending, s.giveUp = context.WithCancel(context.Background())
	go s.run()
	return s
}

// put hands over a check if there is room for it.
func (s *sender) put(c func() *checked) {
	if s.closing.Load() {
		return
	}
	if len(s.queue) == cap(s.queue) {
		s.dropped.Add(1)
		return
	}
	select {
	case s.queue <- c():
	default: // somebody was faster
		s.dropped.Add(1)
	}
}

func (s *sender) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.counted
	all.Dropped = s.dropped.Load()
	return all
}

func (s *sender) run() {
	defer close(s.ended)
	defer s.to.close()
	for last := false; !last; {
		var all []*checked
		all, last = s.gather()
		for len(all) > 0 {
			s.deliver(all)
			if all = nil; last {
				all = s.more(nil)
			}
		}
	}
}

// gather waits for checks, and then a little for others. Last is when no more come.
func (s *sender) gather() (all []*checked, last bool) {
	select {
	case c := <-s.queue:
		all = append(all, c)
	case <-s.end:
		return s.more(nil), true
	}
	late := time.NewTimer(batchDelay)
	defer late.Stop()
	for len(all) < batchSize {
		select {
		case c := <-s.queue:
			all = append(all, c)
		case <-late.C:
			return all, false
		case <-s.end:
			return s.more(all), true
		}
	}
	return all, false
}

// more takes what waits at this moment, as far as it fits into one export.
func (s *sender) more(all []*checked) []*checked {
	for len(all) < batchSize {
		select {
		case c := <-s.queue:
			all = append(all, c)
		default:
			return all
		}
	}
	return all
}

// deliver exports the checks, and tries again where that may help. Meanwhile the queue
// fills.
func (s *sender) deliver(all []*checked) {
	message, n := s.batch.message(all), uint64(len(all))
	for try, wait := 1, firstRetry; ; try, wait = try+1, min(2*wait, lastRetry) {
		ctx, cancel := context.WithTimeout(s.sending, s.timeout)
		refused, err := s.to.export(ctx, message)
		cancel()
		if err == nil {
			refused = min(refused, n)
			s.note(Stats{Sent: n - refused, Refused: refused}, refusal(refused))
			return
		}
		var failed *exportError
		if !errors.As(err, &failed) || !failed.retry || try == maxTries || s.closing.Load() {
			s.note(Stats{Lost: n}, err)
			return
		}
		s.note(Stats{}, err)
		s.pause(min(max(wait, failed.after), lastRetry))
	}
}

// refusal is what is wrong with a receiver that took an export and refused parts of it.
func refusal(n uint64) error {
	if n == 0 {
		return nil
	}
	return errRefused
}

var errRefused = errors.New("the receiver refuses spans")

// pause waits, but not once the sender is being closed.
func (s *sender) pause(d time.Duration) {
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-s.end:
	}
}

// note counts, and complains if it is time to.
func (s *sender) note(n Stats, err error) {
	s.mu.Lock()
	s.counted.Sent += n.Sent
	s.counted.Refused += n.Refused
	s.counted.Lost += n.Lost
	s.counted.Err = err
	lost := s.counted.Lost + s.counted.Refused
	s.mu.Unlock()
	switch {
	case s.complain == nil:
	case err == nil && s.unwell:
		s.unwell, s.told = false, time.Time{}
		s.complain(nil, lost-s.lostAll)
		s.lostAll = lost
	case err != nil:
		s.unwell = true
		if s.told.IsZero() || time.Since(s.told) >= complaints {
			s.told = time.Now()
			s.complain(err, lost-s.lostAll)
		}
	}
}

// close sends what waits, or gives up with ctx.
func (s *sender) close(ctx context.Context) {
	if s.closing.Swap(true) {
		return
	}
	defer s.giveUp()
	close(s.end)
	select {
	case <-s.ended:
	case <-ctx.Done():
		s.giveUp()
		<-s.ended // exports end with their context
	}
}
