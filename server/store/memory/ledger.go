package memory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// ledger is the part of a store that keeps budgets. Whoever has the store's lock has it.
type ledger struct {
	accounts    map[string]store.Account
	recalled    map[string]bool // keys of those accounts, which are asked for all the time
	settlements map[string]store.Settlement
}

// Post implements store.Ledger.
func (s *Store) Post(ctx context.Context, about store.About, fn func(*store.Sheet) error) error {
	if err := about.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx); err != nil {
		return err
	}
	sheet := s.sheet(about)
	if err := fn(sheet); err != nil {
		return err
	}
	for i := range sheet.Accounts {
		a, err := sheet.Accounts[i].Normal(s.now())
		if err != nil {
			return err
		}
		sheet.Accounts[i] = a
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, a := range sheet.Accounts {
		if old := s.accounts[a.Key]; a.Budget != "" && !a.Same(&old) {
			s.accounts[a.Key] = a.Clone()
			delete(s.recalled, a.Key)
			if a.Recalled {
				s.recalled[a.Key] = true
			}
		}
	}
	for _, t := range sheet.Settlements {
		if _, old := s.settlements[t.ID]; !old && t.Sum != "" {
			t.ExpiresAt = store.Micro(t.ExpiresAt)
			s.settlements[t.ID] = t
		}
	}
	return nil
}

func (s *Store) sheet(about store.About) *store.Sheet {
	p := &store.Sheet{Accounts: make([]store.Account, len(about.Accounts)), Settlements: make([]store.Settlement, len(about.Settlements))}
	for i, key := range about.Accounts {
		p.Accounts[i] = s.accounts[key].Clone()
		p.Accounts[i].Key = key
	}
	for i, id := range about.Settlements {
		p.Settlements[i] = s.settlements[id]
		p.Settlements[i].ID = id
	}
	return p
}

// Accounts implements store.Ledger.
func (s *Store) Accounts(ctx context.Context, q store.AccountQuery) (found []store.Account, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(s.accounts)) {
		a := s.accounts[key]
		if len(found) < store.Page(q.Limit) && q.Fits(&a) {
			found = append(found, a.Clone())
		}
	}
	return found, nil
}

// Recalled implements store.Ledger.
func (s *Store) Recalled(ctx context.Context, limit int) ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	keys := slices.Sorted(maps.Keys(s.recalled))
	return keys[:min(limit, len(keys))], nil
}

// Due implements store.Ledger.
func (s *Store) Due(ctx context.Context, before time.Time, limit int) ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var keys []string
	for key, a := range s.accounts {
		if !a.Due.IsZero() && a.Due.Before(before) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(s.accounts[a].Due.Compare(s.accounts[b].Due), cmp.Compare(a, b))
	})
	return keys[:min(limit, len(keys))], nil
}

// Prune implements store.Ledger.
func (s *Store) Prune(ctx context.Context, before time.Time) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	held := len(s.accounts) + len(s.settlements)
	over := func(at time.Time) bool { return !at.IsZero() && at.Before(store.Micro(before)) }
	maps.DeleteFunc(s.accounts, func(_ string, a store.Account) bool { return over(a.ExpiresAt) && a.Due.IsZero() })
	maps.DeleteFunc(s.recalled, func(key string, _ bool) bool { return s.accounts[key].Budget == "" })
	maps.DeleteFunc(s.settlements, func(_ string, t store.Settlement) bool { return over(t.ExpiresAt) })
	return held - len(s.accounts) - len(s.settlements), nil
}

var _ store.Ledger = (*Store)(nil)
