package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// reopened is a store that is not open yet: every call tries again, at most once a
// second, until one succeeds. One try is under way at a time, on a goroutine of its own,
// so that neither who gives up ends it for the others nor a database that hangs keeps
// anybody for longer than openPatience.
type reopened struct {
	open func(context.Context) (store.Store, error)

	mu     sync.Mutex  // never held while anything is waited for
	store  store.Store // nil until it is open
	err    error       // why it is not
	tried  time.Time   // when the last try ended
	try    *try        // nil: none is under way
	closed bool
}

// try is one attempt to open the store.
type try struct {
	began time.Time
	stop  context.CancelFunc
	done  chan struct{}
}

const (
	// openPatience is how long a try is waited for. A database that is there answers
	// within milliseconds, and a start should not wait for one that is not.
	openPatience = time.Second
	// openPause is the time between two tries.
	openPause = time.Second
	// openTimeout ends a try. It leaves time for migrations.
	openTimeout = time.Minute
)

var errOpening = errors.New("it has not answered so far")

// openPatiently opens a store, or returns one that goes on trying. What no further try
// would mend is an error: a store that is damaged, newer than this program or not to be
// written.
func openPatiently(ctx context.Context, open func(context.Context) (store.Store, error)) (store.Store, error) {
	r := &reopened{open: open}
	st, err := r.wait(ctx)
	switch {
	case err == nil:
		return st, nil
	case ctx.Err() != nil, errors.Is(err, store.ErrNewer), errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrReadOnly):
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *reopened) get(ctx context.Context) (store.Store, error) {
	st, err := r.wait(ctx)
	if err != nil && !errors.Is(err, store.ErrClosed) {
		err = fmt.Errorf("the store is not open yet: %w", err)
	}
	return st, err
}

// wait returns the store, or why there is none. It waits for the try that is under way
// as long as that deserves patience.
func (r *reopened) wait(ctx context.Context) (store.Store, error) {
	r.mu.Lock()
	st, t, err := r.state()
	r.mu.Unlock()
	if t == nil {
		return st, err
	}
	patience := time.NewTimer(openPatience - time.Since(t.began))
	defer patience.Stop()
	select {
	case <-t.done:
	case <-patience.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, store.ErrClosed
	case r.try == t && r.err == nil:
		return nil, errOpening
	case r.store != nil:
		return r.store, nil
	}
	return nil, r.err
}

// state is what there is: the store, a try to wait for, or an error.
func (r *reopened) state() (store.Store, *try, error) {
	switch {
	case r.closed:
		return nil, nil, store.ErrClosed
	case r.store != nil:
		return r.store, nil, nil
	case r.try != nil:
		return nil, r.try, nil
	case time.Since(r.tried) < openPause:
		return nil, nil, r.err
	}
	ctx, stop := context.WithTimeout(context.Background(), openTimeout)
	r.try = &try{began: time.Now(), stop: stop, done: make(chan struct{})}
	go r.attempt(ctx, r.try)
	return nil, r.try, nil
}

func (r *reopened) attempt(ctx context.Context, t *try) {
	defer close(t.done)
	defer t.stop()
	st, err := r.open(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.try, r.tried, r.err = nil, time.Now(), err
	switch {
	case err != nil: // then st may hold a nil pointer
	case r.closed:
		_ = st.Close() // nobody is left who wants it
	default:
		r.store = st
	}
}

func with[T any](ctx context.Context, r *reopened, do func(store.Store) (T, error)) (T, error) {
	s, err := r.get(ctx)
	if err != nil {
		var none T
		return none, err
	}
	return do(s)
}

// Update implements store.Store.
func (r *reopened) Update(ctx context.Context, fn func(store.Tx) error) (store.Change, error) {
	return with(ctx, r, func(s store.Store) (store.Change, error) { return s.Update(ctx, fn) })
}

// View implements store.Store.
func (r *reopened) View(ctx context.Context, fn func(store.Reader) error) error {
	s, err := r.get(ctx)
	if err != nil {
		return err
	}
	return s.View(ctx, fn)
}

// Changes implements store.Store.
func (r *reopened) Changes(ctx context.Context, after int64, limit int) (store.Batch, error) {
	return with(ctx, r, func(s store.Store) (store.Batch, error) { return s.Changes(ctx, after, limit) })
}

// Listen implements store.Store.
func (r *reopened) Listen(ctx context.Context, hint func()) error {
	s, err := r.get(ctx)
	if err != nil {
		return err
	}
	return s.Listen(ctx, hint)
}

// AddUsage implements store.Store.
func (r *reopened) AddUsage(ctx context.Context, add []store.Usage) error {
	s, err := r.get(ctx)
	if err != nil {
		return err
	}
	return s.AddUsage(ctx, add)
}

// Usage implements store.Store.
func (r *reopened) Usage(ctx context.Context, q store.UsageQuery) ([]store.Usage, error) {
	return with(ctx, r, func(s store.Store) ([]store.Usage, error) { return s.Usage(ctx, q) })
}

// Audit implements store.Store.
func (r *reopened) Audit(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, error) {
	return with(ctx, r, func(s store.Store) ([]store.AuditEntry, error) { return s.Audit(ctx, q) })
}

// Purge implements store.Store.
func (r *reopened) Purge(ctx context.Context, before time.Time) (int, error) {
	return with(ctx, r, func(s store.Store) (int, error) { return s.Purge(ctx, before) })
}

// Check implements store.Store.
func (r *reopened) Check(ctx context.Context) (store.Report, error) {
	return with(ctx, r, func(s store.Store) (store.Report, error) { return s.Check(ctx) })
}

// Close implements store.Store. A try that is under way is cut short.
func (r *reopened) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.try != nil {
		r.try.stop()
	}
	if r.store == nil {
		return nil
	}
	return r.store.Close()
}
