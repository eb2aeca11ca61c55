// Package breaker keeps Postern from waiting for a service that is down.
//
// A Breaker counts the failures in a row. When there are too many it opens: whoever
// asks is told at once, and nothing is sent. After a pause it lets one call through as
// a probe. If that one succeeds the breaker closes; if it fails, the next pause is twice
// as long, up to a bound:
//
//	closed ──failures in a row──▶ open ──pause over──▶ one probe
//	   ▲                           ▲                     │   │
//	   │                           └───────it failed─────┘   │
//	   └────────────────────it succeeded─────────────────────┘
//
// What fails is the caller's to say: an answer is a success, whatever it says, and only
// what was no answer is a failure. A caller who gave up by itself has learned nothing,
// so that counts as neither.
package breaker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrOpen says that the other side failed a moment ago and is left alone for now.
var ErrOpen = errors.New("it failed again and again and is left alone for a while")

// Config says when a Breaker opens, and for how long. Zero fields take the defaults.
type Config struct {
	// Failures is how many in a row open it; default 5.
	Failures int
	// Pause is the first pause; default 1 s. Each that follows without a success
	// between is twice as long, up to MaxPause; default 30 s.
	Pause, MaxPause time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Breaker is safe for concurrent use. Make one with New.
type Breaker struct {
	cfg Config

	mu       sync.Mutex
	failures int           // in a row
	pause    time.Duration // the one that runs or ran last; 0 while closed
	until    time.Time     // its end
	probing  bool          // a probe is under way
	last     error         // the last failure
}

// New returns a closed Breaker.
func New(cfg Config) *Breaker {
	if cfg.Failures <= 0 {
		cfg.Failures = 5
	}
	if cfg.Pause <= 0 {
		cfg.Pause = time.Second
	}
	if cfg.MaxPause <= 0 {
		cfg.MaxPause = 30 * time.Second
	}
	cfg.MaxPause = max(cfg.MaxPause, cfg.Pause)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Breaker{cfg: cfg}
}

// Allow returns nil if a call may be made, and then Done must be told how it ended;
// otherwise ErrOpen.
func (b *Breaker) Allow() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pause == 0 {
		return nil
	}
	now := b.cfg.Now()
	if now.Before(b.until) {
		return ErrOpen
	}
	// The pause is over, and this is the probe. If nobody ever says how it ended, the
	// next one goes when another pause has passed, so that nothing stays open for good.
	b.probing, b.until = true, now.Add(b.pause)
	return nil
}

// Done says how a call ended: nil for any answer, an error for a failure. An error that
// is context.Canceled counts as neither.
func (b *Breaker) Done(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.failures, b.pause, b.probing, b.last = 0, 0, false, nil
	case errors.Is(err, context.Canceled):
		if b.probing {
			b.probing, b.until = false, b.cfg.Now() // the next caller probes
		}
	default:
		b.fail(err)
	}
}

func (b *Breaker) fail(err error) {
	b.failures++
	b.last = err
	switch {
	case b.pause == 0 && b.failures < b.cfg.Failures:
		return
	case b.pause == 0:
		b.pause = b.cfg.Pause
	case b.probing:
		b.pause = min(2*b.pause, b.cfg.MaxPause)
	default:
		return // a call that began before it opened
	}
	b.probing, b.until = false, b.cfg.Now().Add(b.pause)
}

// Status is the state of a Breaker, for readiness and metrics.
type Status struct {
	// Open says that calls fail at once, but for a probe now and then.
	Open bool
	// Failures is how many there were in a row.
	Failures int
	// Until is when the next probe may go; zero while closed.
	Until time.Time
	// Err is the last failure; nil after a success.
	Err error
}

// Status returns the state.
func (b *Breaker) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{Open: b.pause > 0, Failures: b.failures, Err: b.last}
	if s.Open {
		s.Until = b.until
	}
	return s
}
