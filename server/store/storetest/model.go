package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// operation does something with a store and says what it saw.
type operation func(context.Context, store.Store) any

// testModel drives an engine and package memory with the same operations and
// compares all that they answer.
func testModel(t *testing.T, open Open) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
		engine, model := open(t, c.now), memory.New(c.now)
		defer engine.Close() //nolint:errcheck // a test of its own is for that
		positions := []int64{0}
		for range rapid.IntRange(1, 25).Draw(rt, "operations") {
			name, op := drawOperation(rt, c, positions)
			want, got := op(t.Context(), model), op(t.Context(), engine)
			if d := cmp.Diff(want, got); d != "" {
				rt.Fatalf("%s: (-memory +engine)\n%s", name, d)
			}
			if b, ok := got.(seen); ok && b.Err == "" {
				positions = append(positions, b.Next)
			}
			c.advance(time.Second)
		}
	})
}

var modelKinds = []store.Kind{store.KindCredential, store.KindSession}

func drawOperation(rt *rapid.T, c *clock, positions []int64) (string, operation) {
	kind := func() store.Kind { return rapid.SampledFrom(modelKinds).Draw(rt, "kind") }
	id := func() string { return rapid.SampledFrom([]string{"a", "b", "c", "d/e", "ü"}).Draw(rt, "id") }
	some := func(label string, of ...string) string { return rapid.SampledFrom(append(of, "")).Draw(rt, label) }
	at := func() time.Time {
		return c.now().Add(time.Duration(rapid.IntRange(-20, 20).Draw(rt, "seconds")) * time.Second)
	}
	switch name := rapid.SampledFrom([]string{"update", "update", "update", "changes", "changes", "view", "audit", "purge", "usage", "check"}).Draw(rt, "operation"); name {
	case "update":
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step { return drawStep(rt, kind, id, some, at) }), 0, 6).Draw(rt, "steps")
		fail := rapid.IntRange(0, 5).Draw(rt, "fail") == 0
		return fmt.Sprintf("update %v, fail %v", steps, fail), update(steps, fail)
	case "changes":
		after, limit := rapid.SampledFrom(positions).Draw(rt, "after"), rapid.IntRange(1, 5).Draw(rt, "limit")
		return fmt.Sprintf("changes after %d, limit %d", after, limit), changes(after, limit)
	case "view":
		q := store.Query{
			Kind: kind(), Tenant: some("tenant", "t", "u"), Owner: some("owner", "t/p"),
			After: some("after", "a", "c"), Limit: rapid.IntRange(0, 3).Draw(rt, "limit"),
		}
		return fmt.Sprintf("view %+v", q), view(q)
	case "audit":
		q := store.AuditQuery{Tenant: some("tenant", "t", "u"), Limit: rapid.IntRange(0, 3).Draw(rt, "limit"), Before: int64(rapid.IntRange(0, 9).Draw(rt, "before"))}
		return fmt.Sprintf("audit %+v", q), func(ctx context.Context, s store.Store) any {
			entries, err := s.Audit(ctx, q)
			return answer{entries, short(err)}
		}
	case "purge":
		before := at()
		return fmt.Sprintf("purge %v", before), func(ctx context.Context, s store.Store) any {
			n, err := s.Purge(ctx, before)
			return answer{n, short(err)}
		}
	case "usage":
		u := store.Usage{Credential: id(), Tenant: some("tenant", "t"), Day: "2026-03-01", Route: some("route", "r"), Allowed: 1, LastUsedAt: at()}
		return "usage", func(ctx context.Context, s store.Store) any {
			err := s.AddUsage(ctx, []store.Usage{u, u})
			all, err2 := s.Usage(ctx, store.UsageQuery{})
			return answer{all, short(errors.Join(err, err2))}
		}
	default:
		return "check", func(ctx context.Context, s store.Store) any {
			report, err := s.Check(ctx)
			report.Engine, report.Schema, report.Epoch, report.Bytes = "", 0, "", 0 // the engine's own
			return answer{report, short(err)}
		}
	}
}

// step is one thing to do in a transaction.
type step struct {
	Do     string
	Record store.Record
	Abort  bool // the transaction ends with the error of this step, if it has one
}

func drawStep(rt *rapid.T, kind func() store.Kind, id func() string, some func(string, ...string) string, at func() time.Time) step {
	s := step{
		Do:     rapid.SampledFrom([]string{"put", "put", "put", "delete", "get", "digest", "list", "note"}).Draw(rt, "do"),
		Record: store.Record{Kind: kind(), ID: id()},
		Abort:  rapid.Bool().Draw(rt, "abort"),
	}
	if s.Do == "put" || s.Do == "digest" {
		s.Record.Digest = some("digest", "d1", "d2")
	}
	if s.Do == "put" {
		s.Record.Tenant, s.Record.Owner = some("tenant", "t", "u"), some("owner", "t/p", "t/q")
		s.Record.Body = []byte(some("body", "1", "2"))
		if rapid.Bool().Draw(rt, "expires") {
			s.Record.ExpiresAt = at()
		}
	}
	return s
}

// answer is what a store returned; errors are compared by what they mean.
type answer struct {
	Value any
	Err   string
}

func update(steps []step, fail bool) operation {
	return func(ctx context.Context, s store.Store) any {
		var transcript []any
		change, err := s.Update(ctx, func(tx store.Tx) error {
			transcript = nil
			for _, step := range steps {
				value, err := step.in(tx)
				transcript = append(transcript, answer{value, short(err)})
				if err != nil && step.Abort {
					return err
				}
			}
			if fail {
				return errFail
			}
			return nil
		})
		return []any{transcript, change, short(err)}
	}
}

func (s step) in(tx store.Tx) (any, error) {
	r := s.Record
	switch s.Do {
	case "put":
		return nil, tx.Put(r)
	case "delete":
		return nil, tx.Delete(r.Kind, r.ID)
	case "get":
		return both(tx.Get(r.Kind, r.ID))
	case "digest":
		return both(tx.ByDigest(r.Digest))
	case "list":
		return both(tx.List(store.Query{Kind: r.Kind}))
	default:
		return nil, tx.Note(store.AuditEntry{Action: "note", Target: r.ID, Tenant: "t"})
	}
}

func both[T any](v T, err error) (any, error) { return v, err }

// seen is what Changes answered.
type seen struct {
	Records  []store.Record
	Next     int64
	Complete bool
	Err      string
}

func changes(after int64, limit int) operation {
	return func(ctx context.Context, s store.Store) any {
		b, err := s.Changes(ctx, after, limit)
		inOrder(b.Records)
		return seen{b.Records, b.Next, b.Complete, short(err)}
	}
}

func view(q store.Query) operation {
	return func(ctx context.Context, s store.Store) any {
		var records []store.Record
		var head int64
		err := s.View(ctx, func(from store.Reader) (err error) {
			if records, err = from.List(q); err != nil {
				return err
			}
			head, err = from.Head()
			return err
		})
		return answer{[]any{slices.Clip(records), head}, short(err)}
	}
}

var errFail = errors.New("fail")

// short names the error that an error is.
func short(err error) string {
	for _, known := range []error{nil, errFail, store.ErrNotFound, store.ErrExists, store.ErrPurged, store.ErrClosed} {
		if errors.Is(err, known) {
			return fmt.Sprint(known)
		}
	}
	if strings.Contains(err.Error(), "needs a kind, an id and a body") {
		return "impossible"
	}
	return "fault: " + err.Error()
}
