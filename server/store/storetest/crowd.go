package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/postern-auth/postern/server/store"
)

const (
	writers      = 16
	readers      = 8
	perWriter    = 20
	crowdChanges = writers * perWriter
)

// 16 writers and 8 readers that tail the feed: no change is lost, none comes out
// of order, and a record's version is the last change that wrote it. G-06, S-07.
func testCrowd(_ *testing.T, l *lab) {
	var acked sync.Map // number to id of the writer
	last := make([]int64, writers)
	group, ctx := errgroup.WithContext(l.ctx)
	for w := range writers {
		group.Go(func() error {
			for n := range perWriter {
				change, err := l.Update(ctx, crowdChange(w, n))
				if err != nil {
					return err
				}
				if other, twice := acked.LoadOrStore(change.Number, w); twice {
					return fmt.Errorf("change %d is of writers %d and %d", change.Number, other, w)
				}
				last[w] = change.Number
			}
			return nil
		})
	}
	views := make([]map[string]store.Record, readers)
	for r := range readers {
		group.Go(func() (err error) {
			views[r], err = tail(ctx, l.Store, 1+r*3)
			return err
		})
	}
	l.must(group.Wait())

	all := l.changes(0, crowdChanges*3)
	same(l, "head", all.Next, crowdChanges)
	want := make(map[string]store.Record)
	for _, r := range all.Records {
		want[r.ID] = r
	}
	for r, view := range views {
		if d := cmp.Diff(want, view); d != "" {
			l.Fatalf("reader %d ends with another state: %s", r, d)
		}
	}
	for w := range writers {
		same(l, "version", want[own(w)].Version, last[w])
		same(l, "body", string(want[own(w)].Body), strconv.Itoa(perWriter-1))
	}
	same(l, "sum", string(want["sum"].Body), strconv.Itoa(crowdChanges)) // no update of another's was lost
	report, err := l.Check(l.ctx)
	l.must(err)
	same(l, "faults", len(report.Faults), 0)
	same(l, "audit", report.Audit, crowdChanges)
}

func own(w int) string { return fmt.Sprintf("writer-%02d", w) }

// crowdChange writes a record of the writer's own and adds to one of all.
func crowdChange(w, n int) func(store.Tx) error {
	return func(tx store.Tx) error {
		mine, sum := credential(own(w)), credential("sum")
		mine.Body = strconv.AppendInt(nil, int64(n), 10)
		old, err := tx.Get(sum.Kind, sum.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		total, _ := strconv.Atoi(string(old.Body))
		sum.Body = strconv.AppendInt(nil, int64(total+1), 10)
		return errors.Join(tx.Put(mine), tx.Put(sum), tx.Note(store.AuditEntry{Action: "add"}))
	}
}

// tail follows the feed until all changes are there.
func tail(ctx context.Context, s store.Store, limit int) (map[string]store.Record, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view := make(map[string]store.Record)
	var at int64
	var fault error
	err := s.Listen(ctx, func() {
		for complete := false; !complete && fault == nil; {
			var b store.Batch
			if b, fault = s.Changes(ctx, at, limit); fault == nil {
				fault = follow(view, at, b)
			}
			at, complete = b.Next, b.Complete
		}
		if at == crowdChanges || fault != nil {
			cancel()
		}
	})
	if fault == nil && !errors.Is(err, context.Canceled) {
		fault = err
	}
	return view, fault
}

// follow applies a batch and looks whether it can be true.
func follow(view map[string]store.Record, at int64, b store.Batch) error {
	before := at
	for _, r := range b.Records {
		if r.Version < before || r.Version <= at || r.Version > b.Next {
			return fmt.Errorf("%s has version %d after %d in a batch of %d to %d", r.ID, r.Version, before, at, b.Next)
		}
		before = r.Version
		view[r.ID] = r
	}
	// Each change writes the sum, so in every state that is one it is as high as the
	// number of changes, and the youngest record.
	if sum := view["sum"]; b.Complete && b.Next > 0 && (sum.Version != b.Next || string(sum.Body) != strconv.FormatInt(b.Next, 10)) {
		return fmt.Errorf("at %d the sum is %s of version %d", b.Next, sum.Body, sum.Version)
	}
	return nil
}
