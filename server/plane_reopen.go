package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// reopened is a store that could not be opened yet: every call tries again, at most
// once a second, until it succeeds.
type reopened struct {
	open func(context.Context) (store.Store, error)

	mu     sync.Mutex
	store  store.Store // nil until it is open
	err    error       // why it is not
	tried  time.Time
	closed bool
}

func (r *reopened) get(ctx context.Context) (store.Store, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, store.ErrClosed
	case r.store == nil && time.Since(r.tried) >= time.Second:
		r.tried = time.Now()
		s, err := r.open(ctx)
		if r.err = err; err == nil { // or else s may hold a nil pointer
			r.store = s
		}
	}
	if r.store == nil {
		return nil, fmt.Errorf("the store is not open yet: %w", r.err)
	}
	return r.store, nil
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

// Close implements store.Store.
func (r *reopened) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.store == nil {
		return nil
	}
	return r.store.Close()
}
