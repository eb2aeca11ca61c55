// Package storetest is the conformance suite of the engines: what package store
// promises, sentence by sentence; a comparison with package memory over random
// operations; and a crowd of writers and readers.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Open returns an empty store that takes the time from a clock and is closed when
// the test ends.
type Open func(t testing.TB, now func() time.Time) store.Store

// Run runs all of the suite against an engine.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"what was put is found", testPut},
		{"ids and digests are unique", testUnique},
		{"impossible records are refused", testImpossible},
		{"lists", testList},
		{"numbers have no gaps", testNumbers},
		{"an error undoes everything", testUndo},
		{"a panic undoes everything", testPanic},
		{"a refused write spoils nothing", testSwallow},
		{"neighbours do no harm", testNeighbours},
		{"deleted records leave tombstones", testTombstones},
		{"whole transactions", testWholeTransactions},
		{"purge", testPurge},
		{"purge while loading", testPurgeWhileLoading},
		{"what expired is purged", testPurgeExpired},
		{"the feed from beyond its end", testBeyond},
		{"audit", testAudit},
		{"usage", testUsage},
		{"one view is one state", testView},
		{"listen", testListen},
		{"contexts", testContexts},
		{"close", testClose},
		{"close while in use", testCloseInUse},
		{"check", testCheck},
		{"a crowd", testCrowd},
		{"the ledger keeps accounts", testLedger},
		{"a posting that fails does nothing", testLedgerNothing},
		{"accounts balance", testLedgerBalance},
		{"settlements", testSettlements},
		{"the ledger's lists", testLedgerLists},
		{"many accounts at once", testLedgerMany},
		{"a crowd at the ledger", testLedgerCrowd},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newLab(t, open)) })
	}
	t.Run("like the model", func(t *testing.T) { testModel(t, open) })
}

// lab is a store with a clock and short ways to use it.
type lab struct {
	testing.TB
	store.Store
	clock *clock
	ctx   context.Context
}

func newLab(t testing.TB, open Open) *lab {
	c := &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)}
	return &lab{TB: t, Store: open(t, c.now), clock: c, ctx: t.Context()}
}

// clock moves when it is told to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// update commits a transaction.
func (l *lab) update(fn func(store.Tx) error) store.Change {
	l.Helper()
	change, err := l.Update(l.ctx, fn)
	l.must(err)
	return change
}

// put commits credentials of tenant t that belong to t/p, in one transaction.
func (l *lab) put(ids ...string) store.Change {
	l.Helper()
	return l.update(func(tx store.Tx) error {
		for _, id := range ids {
			if err := tx.Put(credential(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *lab) delete(id string) store.Change {
	l.Helper()
	return l.update(func(tx store.Tx) error { return tx.Delete(store.KindCredential, id) })
}

func credential(id string) store.Record {
	return store.Record{Kind: store.KindCredential, ID: id, Tenant: "t", Owner: "t/p", Body: []byte(`{"id":"` + id + `"}`)}
}

// get reads a credential in a state of its own.
func (l *lab) get(id string) (r store.Record, err error) {
	l.Helper()
	l.must(l.View(l.ctx, func(from store.Reader) error {
		r, err = from.Get(store.KindCredential, id)
		return nil
	}))
	return r, err
}

func (l *lab) list(q store.Query) (ids []string) {
	l.Helper()
	l.must(l.View(l.ctx, func(from store.Reader) error {
		records, err := from.List(q)
		for _, r := range records {
			ids = append(ids, r.ID)
		}
		return err
	}))
	return ids
}

func (l *lab) changes(after int64, limit int) store.Batch {
	l.Helper()
	b, err := l.Changes(l.ctx, after, limit)
	l.must(err)
	inOrder(b.Records)
	return b
}

// inOrder sorts what has no order: the records of one transaction. Where those of
// several are not in order it changes nothing.
func inOrder(records []store.Record) {
	for first, i := 0, 1; i <= len(records); i++ {
		if i == len(records) || records[i].Version != records[first].Version {
			slices.SortFunc(records[first:i], func(a, b store.Record) int {
				return strings.Compare(string(a.Kind)+"\x00"+a.ID, string(b.Kind)+"\x00"+b.ID)
			})
			first = i
		}
	}
}

// ids shows a batch in short: "a@1 b@2 -c@3", the minus for a tombstone.
func ids(records []store.Record) (s string) {
	for _, r := range records {
		if s != "" {
			s += " "
		}
		if r.Deleted {
			s += "-"
		}
		s += fmt.Sprintf("%s@%d", r.ID, r.Version)
	}
	return s
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) is(err, want error) {
	l.Helper()
	if !errors.Is(err, want) {
		l.Fatalf("error %v, want %v", err, want)
	}
}

func same[T comparable](l *lab, what string, got, want T) {
	l.Helper()
	if got != want {
		l.Fatalf("%s: %v, want %v", what, got, want)
	}
}
