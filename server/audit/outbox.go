package audit

import (
	"context"
	"sync"
	"time"
)

// Sink is where events go.
type Sink interface {
	// Name is what metrics call it.
	Name() string
	// Gather is how long events may wait for others before they are written.
	Gather() time.Duration
	// Write takes events, each a JSON object without a line break. It returns how many
	// of them, from the first on, are dealt with, and how many of those nobody will ever
	// read. With an error, the others are brought again later. It may take its time, but
	// not beyond ctx.
	Write(ctx context.Context, events [][]byte) (done, refused int, err error)
	// Close ends it.
	Close() error
}

// SinkStats count the events of one sink.
type SinkStats struct {
	Name          string
	Written, Lost uint64
	// Err is why events wait; nil if they do not.
	Err error
}

// maxBoxBytes bounds the events that wait for one sink.
const maxBoxBytes = 16 << 20

// The times between attempts at a sink that fails; each is twice the one before.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// outbox holds events for one sink. What does not fit is lost and counted.
type outbox struct {
	sink Sink

	mu      sync.Mutex
	waiting [][]byte
	bytes   int
	closed  bool
	counted SinkStats

	wake    chan struct{} // something waits
	closing chan struct{}
	ended   chan struct{}
	writing context.Context //nolint:containedctx // of the goroutine: whoever closes gives up on it
	giveUp  context.CancelFunc
}

func newOutbox(sink Sink) *outbox {
	b := &outbox{
		sink: sink, counted: SinkStats{Name: sink.Name()},
		wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	b.writing, b.giveUp = context.WithCancel(context.Background())
	go b.run()
	return b
}

func (b *outbox) put(event []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.bytes+len(event) > maxBoxBytes {
		b.counted.Lost++
		return
	}
	b.waiting, b.bytes = append(b.waiting, event), b.bytes+len(event)
	select {
	case b.wake <- struct{}{}:
	default: // it will look
	}
}

func (b *outbox) stats() SinkStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counted
}

func (b *outbox) run() {
	defer close(b.ended)
	for retry := firstRetry; ; {
		select {
		case <-b.wake:
		case <-b.closing:
		}
		b.pause(b.sink.Gather())
		events, last := b.take()
		done, refused, err := 0, 0, error(nil)
		if len(events) > 0 {
			done, refused, err = b.sink.Write(b.writing, events)
		}
		rest := events[done:]
		if last {
			b.note(done-refused, refused+len(rest), err)
			return
		}
		b.note(done-refused, refused, err)
		if err == nil {
			retry = firstRetry
			continue
		}
		b.putBack(rest)
		b.pause(retry)
		retry = min(2*retry, lastRetry)
	}
}

// pause waits, but not for long once the box is being closed.
func (b *outbox) pause(d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	select {
	case <-end.C:
	case <-b.closing:
	}
}

// take empties the box. The last time is when nothing more can come.
func (b *outbox) take() (events [][]byte, last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, b.waiting, b.bytes = b.waiting, nil, 0
	return events, b.closed
}

// putBack keeps what could not be written, as far as there is room beside what came
// meanwhile. The newest are lost.
func (b *outbox) putBack(events [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, bytes := append(events, b.waiting...), 0
	for i, e := range all {
		if bytes+len(e) > maxBoxBytes {
			b.counted.Lost += uint64(len(all) - i)
			all = all[:i]
			break
		}
		bytes += len(e)
	}
	b.waiting, b.bytes = all, bytes
	if len(all) > 0 {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

func (b *outbox) note(written, lost int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counted.Written += uint64(written)
	b.counted.Lost += uint64(lost)
	b.counted.Err = err
}

// close writes what waits and closes the sink, or gives up with ctx; what was not
// written then is lost.
func (b *outbox) close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	close(b.closing)
	b.mu.Unlock()
	defer b.giveUp()
	select {
	case <-b.ended:
		return b.sink.Close()
	case <-ctx.Done():
		return ctx.Err()
	}
}
