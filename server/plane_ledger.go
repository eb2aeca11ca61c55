package server

import (
	"context"
	"errors"
	"time"

	"github.com/postern-auth/postern/server/store"
)

var errNoLedger = errors.New("the store keeps no accounts of budgets")

// ledgerOf is the ledger of a store.
func ledgerOf(s store.Store) (store.Ledger, error) {
	if l, ok := s.(store.Ledger); ok {
		return l, nil
	}
	return nil, errNoLedger
}

// withLedger has the ledger of the store do something once the store is open.
func withLedger[T any](ctx context.Context, r *reopened, do func(store.Ledger) (T, error)) (T, error) {
	return with(ctx, r, func(s store.Store) (T, error) {
		l, err := ledgerOf(s)
		if err != nil {
			var none T
			return none, err
		}
		return do(l)
	})
}

// Post implements store.Ledger.
func (r *reopened) Post(ctx context.Context, about store.About, fn func(*store.Sheet) error) error {
	_, err := withLedger(ctx, r, func(l store.Ledger) (none struct{}, err error) { return none, l.Post(ctx, about, fn) })
	return err
}

// Accounts implements store.Ledger.
func (r *reopened) Accounts(ctx context.Context, q store.AccountQuery) ([]store.Account, error) {
	return withLedger(ctx, r, func(l store.Ledger) ([]store.Account, error) { return l.Accounts(ctx, q) })
}

// Recalled implements store.Ledger.
func (r *reopened) Recalled(ctx context.Context, limit int) ([]string, error) {
	return withLedger(ctx, r, func(l store.Ledger) ([]string, error) { return l.Recalled(ctx, limit) })
}

// Due implements store.Ledger.
func (r *reopened) Due(ctx context.Context, before time.Time, limit int) ([]string, error) {
	return withLedger(ctx, r, func(l store.Ledger) ([]string, error) { return l.Due(ctx, before, limit) })
}

// Prune implements store.Ledger.
func (r *reopened) Prune(ctx context.Context, before time.Time) (int, error) {
	return withLedger(ctx, r, func(l store.Ledger) (int, error) { return l.Prune(ctx, before) })
}
