// Package memory keeps a store in memory, for development and for tests; it is
// also the model that the other engines are compared with.
//
// One lock lets either one writer or many readers in. A transaction writes in
// place and notes how to undo each step; if it fails the steps are undone in
// reverse. The feed is a log of what was written; an entry whose record was
// written again is stale and skipped, and when most are stale the log is rebuilt.
package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Store implements store.Store. What it holds ends with the process.
type Store struct {
	now   func() time.Time
	hints store.Hints

	mu      sync.RWMutex
	closed  bool
	feed    store.Feed
	records map[key]*store.Record
	ids     map[store.Kind][]string // in order, tombstones included
	digests map[string]key
	log     []entry
	audit   []store.AuditEntry // Seq is the index + 1
	usage   map[usageKey]store.Usage
	ledger
}

type key struct {
	kind store.Kind
	id   string
}

// entry says that a change wrote a record.
type entry struct {
	version int64
	key     key
}

type usageKey struct{ credential, day, route string }

// New returns an empty store that takes the time from a clock.
func New(now func() time.Time) *Store {
	return &Store{
		now:     now,
		feed:    store.Feed{Epoch: rand.Text()},
		records: make(map[key]*store.Record),
		ids:     make(map[store.Kind][]string),
		digests: make(map[string]key),
		usage:   make(map[usageKey]store.Usage),
		ledger:  ledger{make(map[string]store.Account), make(map[string]bool), make(map[string]store.Settlement)},
	}
}

// enter says whether an operation may begin.
func (s *Store) enter(ctx context.Context) error {
	if s.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) (store.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx); err != nil {
		return store.Change{}, err
	}
	t := &tx{reader: reader{ctx, s}, logged: len(s.log), at: store.Micro(s.now())}
	defer t.undo() // also if fn panics
	if err := fn(t); err != nil {
		return store.Change{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Change{}, err
	}
	return t.commit(), nil
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return err
	}
	return fn(reader{ctx, s})
}

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, after int64, limit int) (store.Batch, error) {
	if limit < 1 {
		limit = store.MaxPage
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return store.Batch{}, err
	}
	from, err := s.feed.Resume(after)
	if err != nil {
		return store.Batch{}, err
	}
	b := store.Batch{Epoch: s.feed.Epoch}
	upTo, found := s.feed.Head, 0
	first, _ := slices.BinarySearchFunc(s.log, from+1, func(e entry, v int64) int { return int(e.version - v) })
	for _, e := range s.log[first:] {
		if e.version > upTo {
			break
		}
		r, ok := s.records[e.key]
		if !ok || r.Version != e.version {
			continue
		}
		if found++; found == limit { // and with it the rest of its transaction
			upTo = e.version
		}
		if !r.Deleted || from > 0 {
			b.Records = append(b.Records, copied(r))
		}
	}
	b.Next, b.Complete = s.feed.Next(upTo), upTo == s.feed.Head
	return b, nil
}

// Listen implements store.Store.
func (s *Store) Listen(ctx context.Context, hint func()) error { return s.hints.Listen(ctx, hint) }

// AddUsage implements store.Store.
func (s *Store) AddUsage(ctx context.Context, add []store.Usage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx); err != nil {
		return err
	}
	for _, u := range add {
		u = u.Normal()
		k := usageKey{u.Credential, u.Day, u.Route}
		old := s.usage[k]
		u.Allowed += old.Allowed
		u.Denied += old.Denied
		if old.LastUsedAt.After(u.LastUsedAt) {
			u.LastUsedAt = old.LastUsedAt
		}
		s.usage[k] = u
	}
	return nil
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context, q store.UsageQuery) ([]store.Usage, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var all []store.Usage
	for _, u := range s.usage {
		if fits(q.Credential, u.Credential) && fits(q.Tenant, u.Tenant) && fits(q.Principal, u.Principal) &&
			u.Day >= q.From && (q.To == "" || u.Day <= q.To) {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b store.Usage) int {
		if c := strings.Compare(a.Credential, b.Credential); c != 0 {
			return c
		}
		if c := strings.Compare(b.Day, a.Day); c != 0 {
			return c
		}
		return strings.Compare(a.Route, b.Route)
	})
	return all[:min(len(all), store.Page(q.Limit))], nil
}

// Audit implements store.Store.
func (s *Store) Audit(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var found []store.AuditEntry
	for _, e := range slices.Backward(s.audit) {
		if fits(q.Tenant, e.Tenant) && fits(q.Actor, e.Actor) && fits(q.Action, e.Action) && fits(q.Target, e.Target) &&
			(q.Before == 0 || e.Seq < q.Before) && !e.At.Before(store.Micro(q.From)) &&
			(q.To.IsZero() || e.At.Before(store.Micro(q.To))) {
			found = append(found, e.Normal())
		}
		if len(found) == store.Page(q.Limit) {
			break
		}
	}
	return found, nil
}

// fits says whether a value is the one that a query asks for, if it does.
func fits[T ~string](want, have T) bool { return want == "" || want == have }

// Purge implements store.Store.
func (s *Store) Purge(ctx context.Context, before time.Time) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	purged, floor := 0, s.feed.Floor
	for k, r := range s.records {
		if r.ExpiresAt.IsZero() || !r.ExpiresAt.Before(store.Micro(before)) {
			continue
		}
		if r.Deleted {
			floor = max(floor, r.Version)
		}
		s.set(k, nil)
		purged++
	}
	if floor > s.feed.Floor {
		s.feed.Floor = floor
		s.feed.Purges++
	}
	return purged, nil
}

// Check implements store.Store.
func (s *Store) Check(ctx context.Context) (store.Report, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.enter(ctx); err != nil {
		return store.Report{}, err
	}
	report := store.Report{
		Engine: "memory", Epoch: s.feed.Epoch, Head: s.feed.Head, Audit: s.feed.Audit,
		Records: make(map[store.Kind]int),
	}
	for _, r := range s.records {
		if !r.Deleted {
			report.Records[r.Kind]++
		}
		report.Bytes += int64(len(r.Body))
		if !r.Deleted && !json.Valid(r.Body) {
			report.Faults = append(report.Faults, fmt.Sprintf("%s %s: its content is not JSON", r.Kind, r.ID))
		}
	}
	for _, a := range s.accounts {
		if err := errors.Join(a.Balanced(), a.Whole()); err != nil {
			report.Faults = append(report.Faults, err.Error())
		}
	}
	slices.Sort(report.Faults)
	return report, nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.hints.Close()
	return nil
}

// set makes a record what it is now, nil for gone, and returns what it was.
func (s *Store) set(k key, r *store.Record) (old *store.Record) {
	old = s.records[k]
	if old != nil && old.Digest != "" {
		delete(s.digests, old.Digest)
	}
	place, found := slices.BinarySearch(s.ids[k.kind], k.id)
	if r == nil {
		delete(s.records, k)
		if found {
			s.ids[k.kind] = slices.Delete(s.ids[k.kind], place, place+1)
		}
		return old
	}
	s.records[k] = r
	if r.Digest != "" {
		s.digests[r.Digest] = k
	}
	if !found {
		s.ids[k.kind] = slices.Insert(s.ids[k.kind], place, k.id)
	}
	return old
}

// copied returns a record of which nothing is shared.
func copied(r *store.Record) store.Record {
	c := *r
	c.Body = bytes.Clone(r.Body)
	return c
}
