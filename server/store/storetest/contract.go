package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/server/store"
)

func testPut(_ *testing.T, l *lab) {
	r := credential("a")
	r.Digest = "sha256:1"
	r.ExpiresAt = l.clock.now().Add(time.Hour)
	r.Version, r.Deleted = 77, true // not the caller's to set
	body := r.Body
	change := l.update(func(tx store.Tx) error {
		if err := tx.Put(r); err != nil {
			return err
		}
		own, err := tx.Get(r.Kind, r.ID) // it sees what it has written
		same(l, "own version", own.Version, 1)
		head, err2 := tx.Head()
		same(l, "head until it is committed", head, 0)
		return errors.Join(err, err2)
	})
	same(l, "number", change.Number, 1)
	if !change.At.Equal(store.Micro(l.clock.now())) {
		l.Fatalf("change at %v, the clock says %v", change.At, l.clock.now())
	}
	body[0] = 'X' // the caller's slice is the caller's
	want := credential("a")
	want.Digest, want.ExpiresAt, want.Version = r.Digest, store.Micro(r.ExpiresAt), 1
	got, err := l.get("a")
	l.must(err)
	if d := cmp.Diff(want, got); d != "" {
		l.Fatal(d)
	}
	l.must(l.View(l.ctx, func(from store.Reader) error {
		found, err := from.ByDigest("sha256:1")
		same(l, "by digest", found.ID, "a")
		_, none := from.ByDigest("")
		l.is(none, store.ErrNotFound)
		_, none = from.ByDigest("sha256:2")
		l.is(none, store.ErrNotFound)
		_, none = from.Get(store.KindSession, "a") // another kind, another record
		l.is(none, store.ErrNotFound)
		_, none = from.Get(store.KindCredential, "a\x00\xff")
		l.is(none, store.ErrNotFound)
		head, err2 := from.Head()
		same(l, "head", head, 1)
		return errors.Join(err, err2)
	}))
}

func testUnique(_ *testing.T, l *lab) {
	with := func(id, digest string) func(store.Tx) error {
		return func(tx store.Tx) error {
			r := credential(id)
			r.Digest = digest
			return tx.Put(r)
		}
	}
	l.update(with("a", "d1"))
	_, err := l.Update(l.ctx, with("b", "d1"))
	l.is(err, store.ErrExists)
	l.update(with("a", "d1")) // its own digest
	l.update(with("b", ""))
	l.update(with("c", "")) // no digest is nobody's
	l.update(with("a", "d2"))
	l.update(with("b", "d1")) // free again
	l.delete("b")
	l.update(with("c", "d1")) // and again
	_, err = l.Update(l.ctx, with("b", ""))
	l.is(err, store.ErrExists) // the id is not used again
	_, err = l.Update(l.ctx, func(tx store.Tx) error {
		return errors.Join(with("x", "d9")(tx), tx.Delete(store.KindCredential, "x"), with("x", "")(tx))
	})
	l.is(err, store.ErrExists)
}

func testImpossible(_ *testing.T, l *lab) {
	for name, change := range map[string]func(*store.Record){
		"no kind":    func(r *store.Record) { r.Kind = "" },
		"no id":      func(r *store.Record) { r.ID = "" },
		"no body":    func(r *store.Record) { r.Body = nil },
		"NUL":        func(r *store.Record) { r.ID = "a\x00b" },
		"not UTF-8":  func(r *store.Record) { r.Owner = "\xff" },
		"bad digest": func(r *store.Record) { r.Digest = "\x00" },
	} {
		r := credential("a")
		change(&r)
		if _, err := l.Update(l.ctx, func(tx store.Tx) error { return tx.Put(r) }); err == nil {
			l.Errorf("%s: accepted", name)
		}
	}
	same(l, "head", l.changes(0, 10).Next, 0)
	for _, id := range []string{"ä/日本", "a'b", `a"b\`, "%_", strings.Repeat("x", 500)} { // quoting is nobody's business
		l.put(id)
		_, err := l.get(id)
		l.must(err)
	}
	if got := l.list(store.Query{Kind: store.KindCredential, After: "\xff\x00"}); len(got) != 0 {
		l.Errorf("listed %q", got)
	}
}

func testList(_ *testing.T, l *lab) {
	l.update(func(tx store.Tx) error {
		for _, id := range []string{"b", "a", "B", "ä", "d", "c"} {
			r := credential(id)
			if id == "d" {
				r.Tenant, r.Owner = "t2", "t2/p"
			}
			if id == "c" {
				r.Owner = "t/q"
			}
			if err := tx.Put(r); err != nil {
				return err
			}
		}
		return errors.Join(
			tx.Put(store.Record{Kind: store.KindSession, ID: "a", Tenant: "t", Body: []byte("{}")}),
			tx.Delete(store.KindCredential, "b"))
	})
	for _, c := range []struct {
		q    store.Query
		want string
	}{
		{store.Query{Kind: store.KindCredential}, "B a c d ä"}, // by their bytes
		{store.Query{Kind: store.KindCredential, Tenant: "t"}, "B a c ä"},
		{store.Query{Kind: store.KindCredential, Owner: "t/p"}, "B a ä"},
		{store.Query{Kind: store.KindCredential, Owner: "t/p", Tenant: "t2"}, ""},
		{store.Query{Kind: store.KindCredential, After: "a", Limit: 2}, "c d"},
		{store.Query{Kind: store.KindCredential, After: "b"}, "c d ä"}, // behind what is gone
		{store.Query{Kind: store.KindCredential, Tenant: "t", After: "ä"}, ""},
		{store.Query{Kind: store.KindSession}, "a"},
		{store.Query{Kind: store.KindDenial}, ""},
	} {
		same(l, fmt.Sprintf("%+v", c.q), strings.Join(l.list(c.q), " "), c.want)
	}
	l.update(func(tx store.Tx) error {
		for i := range store.MaxPage + 1 {
			if err := tx.Put(store.Record{Kind: store.KindDenial, ID: fmt.Sprint(i), Body: []byte("{}")}); err != nil {
				return err
			}
		}
		return nil
	})
	for _, limit := range []int{0, -1, store.MaxPage + 1} {
		same(l, "page", len(l.list(store.Query{Kind: store.KindDenial, Limit: limit})), store.MaxPage)
	}
}

func testNumbers(_ *testing.T, l *lab) {
	same(l, "first", l.put("a").Number, 1)
	same(l, "two records", l.put("b", "c").Number, 2)
	same(l, "none", l.update(func(store.Tx) error { return nil }).Number, 2)
	noted := l.update(func(tx store.Tx) error { return tx.Note(store.AuditEntry{Action: "x"}) })
	same(l, "a note", noted.Number, 2)
	_, err := l.Update(l.ctx, func(tx store.Tx) error {
		return errors.Join(tx.Put(credential("d")), errors.New("no"))
	})
	if err == nil {
		l.Fatal("no error")
	}
	same(l, "after an error", l.put("b").Number, 3)
	same(l, "feed", ids(l.changes(0, 10).Records), "a@1 c@2 b@3")
}

func testUndo(_ *testing.T, l *lab) {
	l.put("a", "b")
	no := errors.New("no")
	_, err := l.Update(l.ctx, func(tx store.Tx) error {
		changed := credential("a")
		changed.Body, changed.Digest = []byte(`"changed"`), "d"
		l.must(errors.Join(tx.Put(changed), tx.Put(changed), tx.Delete(store.KindCredential, "b"), tx.Put(credential("c")),
			tx.Note(store.AuditEntry{Action: "x"})))
		return fmt.Errorf("wrapped: %w", no)
	})
	l.is(err, no)
	same(l, "error as it is", err.Error(), "wrapped: no")
	same(l, "feed", ids(l.changes(0, 10).Records), "a@1 b@1")
	got, err := l.get("a")
	l.must(err)
	same(l, "body", string(got.Body), `{"id":"a"}`)
	entries, err := l.Audit(l.ctx, store.AuditQuery{})
	l.must(err)
	same(l, "audit", len(entries), 0)
	l.put("c") // the id was not used up
}

func testPanic(_ *testing.T, l *lab) {
	func() {
		defer func() { same(l, "panic", fmt.Sprint(recover()), "oh") }()
		_, _ = l.Update(l.ctx, func(tx store.Tx) error {
			l.must(tx.Put(credential("a")))
			panic("oh")
		})
	}()
	same(l, "number", l.put("b").Number, 1)
	same(l, "feed", ids(l.changes(0, 10).Records), "b@1")
}

func testSwallow(_ *testing.T, l *lab) {
	r := credential("a")
	r.Digest = "d"
	l.update(func(tx store.Tx) error { return tx.Put(r) })
	r.ID = "b"
	l.update(func(tx store.Tx) error {
		l.is(tx.Put(r), store.ErrExists)
		l.is(tx.Delete(store.KindCredential, "zzz"), store.ErrNotFound)
		_, err := tx.Get(store.KindCredential, "zzz")
		l.is(err, store.ErrNotFound)
		return tx.Put(credential("c"))
	})
	same(l, "feed", ids(l.changes(0, 10).Records), "a@1 c@2")
}

// Transactions that fail in any way at the same time as others, with which they may
// share a commit, leave these alone.
func testNeighbours(_ *testing.T, l *lab) {
	const each = 10
	no := errors.New("no")
	ends := []func() error{
		func() error { return nil },
		func() error { return no },
		func() error { panic("oh") },
		func() error { runtime.Goexit(); return nil },
	}
	var group sync.WaitGroup
	var wrong atomic.Int64
	for i := range each * len(ends) {
		group.Go(func() {
			var err error
			defer func() {
				if recover() == nil && i%len(ends) < 2 && !errors.Is(err, []error{nil, no}[i%len(ends)]) {
					wrong.Add(1)
				}
			}()
			_, err = l.Update(l.ctx, func(tx store.Tx) error {
				if err := errors.Join(tx.Put(credential(fmt.Sprint(i))), tx.Note(store.AuditEntry{Action: "x"})); err != nil {
					return err
				}
				return ends[i%len(ends)]()
			})
		})
	}
	group.Wait()
	same(l, "wrong answers", wrong.Load(), 0)
	b := l.changes(0, 100)
	same(l, "records", len(b.Records), each)
	for i, r := range b.Records {
		n, _ := strconv.Atoi(r.ID)
		if n%len(ends) != 0 || r.Version != int64(i+1) {
			l.Errorf("%s@%d", r.ID, r.Version)
		}
	}
	report, err := l.Check(l.ctx)
	l.must(err)
	same(l, "audit", report.Audit, each)
}

func testTombstones(_ *testing.T, l *lab) {
	l.put("a", "b")
	l.clock.advance(time.Minute)
	same(l, "number", l.delete("a").Number, 2)
	_, err := l.get("a")
	l.is(err, store.ErrNotFound)
	_, err = l.Update(l.ctx, func(tx store.Tx) error { return tx.Delete(store.KindCredential, "a") })
	l.is(err, store.ErrNotFound)
	want := store.Record{
		Kind: store.KindCredential, ID: "a", Tenant: "t", Owner: "t/p",
		ExpiresAt: store.Micro(l.clock.now()), Version: 2, Deleted: true,
	}
	if d := cmp.Diff([]store.Record{want}, l.changes(1, 10).Records); d != "" {
		l.Fatal(d)
	}
	same(l, "from 0", ids(l.changes(0, 10).Records), "b@1")
	same(l, "a put and deleted", l.update(func(tx store.Tx) error {
		return errors.Join(tx.Put(credential("c")), tx.Delete(store.KindCredential, "c"))
	}).Number, 3)
	same(l, "its tombstone", ids(l.changes(2, 10).Records), "-c@3")
}

func testWholeTransactions(_ *testing.T, l *lab) {
	empty := l.changes(0, 10)
	if !empty.Complete || empty.Next != 0 || len(empty.Records) != 0 || empty.Epoch == "" {
		l.Fatalf("an empty store has %+v", empty)
	}
	l.put("a")
	l.put("e", "d", "c", "b") // larger than the limit
	l.put("f")
	l.put("a")
	for _, c := range []struct {
		after    int64
		limit    int
		want     string
		next     int64
		complete bool
	}{
		{0, 1, "b@2 c@2 d@2 e@2", 2, false},
		{1, 3, "b@2 c@2 d@2 e@2", 2, false},
		{1, 5, "b@2 c@2 d@2 e@2 f@3", 3, false},
		{2, 1, "f@3", 3, false},
		{2, 2, "f@3 a@4", 4, true},
		{2, 3, "f@3 a@4", 4, true},
		{2, 0, "f@3 a@4", 4, true},
		{4, 1, "", 4, true},
	} {
		b := l.changes(c.after, c.limit)
		what := fmt.Sprintf("after %d, limit %d", c.after, c.limit)
		same(l, what, ids(b.Records), c.want)
		same(l, what+": next", b.Next, c.next)
		same(l, what+": complete", b.Complete, c.complete)
		same(l, what+": epoch", b.Epoch, empty.Epoch)
	}
}

func testPurge(_ *testing.T, l *lab) {
	l.put("a")
	l.put("b")
	l.delete("a") // 3
	l.put("c")    // 4
	l.clock.advance(time.Hour)
	l.delete("b") // 5
	n, err := l.Purge(l.ctx, l.clock.now().Add(-time.Minute))
	l.must(err)
	same(l, "purged", n, 1)
	for _, after := range []int64{1, 2, -1, -2} {
		_, err = l.Changes(l.ctx, after, 10)
		l.is(err, store.ErrPurged)
	}
	same(l, "from the floor", ids(l.changes(3, 10).Records), "c@4 -b@5")
	same(l, "from 0", ids(l.changes(0, 10).Records), "c@4")
	n, err = l.Purge(l.ctx, l.clock.now())
	l.must(err)
	same(l, "purged: not before, but at", n, 0)
	n, err = l.Purge(l.ctx, l.clock.now().Add(time.Second))
	l.must(err)
	same(l, "purged", n, 1)
	_, err = l.Changes(l.ctx, 4, 10)
	l.is(err, store.ErrPurged)
	b := l.changes(5, 10)
	same(l, "rest", ids(b.Records), "")
	same(l, "complete", b.Complete, true)
	same(l, "numbers go on", l.put("d").Number, 6)
}

// A load from 0 by pages passes below the floor; it succeeds, except if it can
// have read what a purge then took.
func testPurgeWhileLoading(_ *testing.T, l *lab) {
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		l.put(id)
	}
	l.delete("e") // 6, purged
	l.put("f")    // 7
	_, err := l.Purge(l.ctx, l.clock.now().Add(time.Second))
	l.must(err)

	load := func(between func()) (loaded string, err error) {
		var b store.Batch
		for after := int64(0); !b.Complete; after = b.Next {
			if b, err = l.Changes(l.ctx, after, 2); err != nil {
				return loaded, err
			}
			loaded += ids(b.Records) + ";"
			between()
			between = func() {}
		}
		if b.Next <= 0 {
			l.Fatalf("complete at %d", b.Next)
		}
		return loaded, nil
	}
	loaded, err := load(func() { l.put("g") })
	l.must(err)
	same(l, "loaded", loaded, "a@1 b@2;c@3 d@4;f@7 g@8;")
	loaded, err = load(func() { l.delete("a") })
	l.must(err)
	same(l, "loaded", loaded, "a@1 b@2;c@3 d@4;f@7 g@8;-a@9;")
	_, err = load(func() {
		l.delete("b")
		_, err := l.Purge(l.ctx, l.clock.now().Add(time.Second))
		l.must(err)
	})
	l.is(err, store.ErrPurged)
}

func testPurgeExpired(_ *testing.T, l *lab) {
	at := l.clock.now()
	l.update(func(tx store.Tx) error {
		for i, kind := range []store.Kind{store.KindDenial, store.KindRequest, store.KindSession} {
			r := store.Record{Kind: kind, ID: "x", Body: []byte("{}"), ExpiresAt: at.Add(time.Duration(i) * time.Hour)}
			if err := tx.Put(r); err != nil {
				return err
			}
		}
		return tx.Put(credential("a"))
	})
	n, err := l.Purge(l.ctx, at.Add(90*time.Minute))
	l.must(err)
	same(l, "purged", n, 2)
	same(l, "left", ids(l.changes(0, 10).Records), "a@1 x@1")
	same(l, "nobody has to start again", l.changes(1, 10).Next, 1)
	l.update(func(tx store.Tx) error {
		return tx.Put(store.Record{Kind: store.KindRequest, ID: "x", Body: []byte("{}")})
	})
}

func testBeyond(_ *testing.T, l *lab) {
	l.put("a")
	_, err := l.Changes(l.ctx, 2, 10) // a database that was set back
	l.is(err, store.ErrPurged)
}

// G-11: the entry is in the transaction of the change that it tells of.
func testAudit(_ *testing.T, l *lab) {
	e := store.AuditEntry{
		Actor: "t/admin", Credential: "k1", Action: "credential.issue", Target: "credential/a", Tenant: "t", Reason: "why\x00\xff",
		RequestID: "r1", Detail: map[string]string{"n": "1"}, Seq: 99, Change: 99,
	}
	l.update(func(tx store.Tx) error { return errors.Join(tx.Note(e), tx.Put(credential("a"))) })
	l.clock.advance(time.Hour)
	refused := store.AuditEntry{Actor: "u/bob", Action: "credential.revoke", Target: "credential/a", Tenant: "t", Denied: true}
	l.update(func(tx store.Tx) error { return tx.Note(refused) })
	_, err := l.Update(l.ctx, func(tx store.Tx) error { return errors.Join(tx.Note(e), errors.New("no")) })
	if err == nil {
		l.Fatal("no error")
	}
	l.clock.advance(time.Hour)
	l.update(func(tx store.Tx) error {
		return errors.Join(tx.Put(credential("b")), tx.Note(store.AuditEntry{Action: "x", Target: "credential/b"}), tx.Note(store.AuditEntry{Action: "y"}))
	})
	all, err := l.Audit(l.ctx, store.AuditQuery{})
	l.must(err)
	first := e
	first.Seq, first.Change, first.Reason = 1, 1, "why\uFFFD\uFFFD"
	first.At = store.Micro(l.clock.now().Add(-2 * time.Hour))
	if len(all) != 4 {
		l.Fatalf("%d entries", len(all))
	}
	if d := cmp.Diff(first, all[3]); d != "" {
		l.Fatal(d)
	}
	seqs := func(q store.AuditQuery) (s string) {
		entries, err := l.Audit(l.ctx, q)
		l.must(err)
		for _, e := range entries {
			s += fmt.Sprintf("%d:%d ", e.Seq, e.Change)
		}
		return strings.TrimSpace(s)
	}
	for _, c := range []struct {
		q    store.AuditQuery
		want string
	}{
		{store.AuditQuery{}, "4:2 3:2 2:0 1:1"},
		{store.AuditQuery{Limit: 2}, "4:2 3:2"},
		{store.AuditQuery{Before: 3}, "2:0 1:1"},
		{store.AuditQuery{Tenant: "t"}, "2:0 1:1"},
		{store.AuditQuery{Actor: "t/admin"}, "1:1"},
		{store.AuditQuery{Action: "x"}, "3:2"},
		{store.AuditQuery{Target: "credential/a", Tenant: "t", Actor: "u/bob"}, "2:0"},
		{store.AuditQuery{From: all[2].At}, "4:2 3:2 2:0"},
		{store.AuditQuery{To: all[2].At}, "1:1"},
		{store.AuditQuery{From: all[2].At, To: all[1].At}, "2:0"},
		{store.AuditQuery{Actor: "nobody\x00"}, ""},
	} {
		same(l, fmt.Sprintf("%+v", c.q), seqs(c.q), c.want)
	}
}

func testUsage(_ *testing.T, l *lab) {
	at := store.Micro(l.clock.now())
	use := func(credential, day, route string, allowed, denied int64, at time.Time) store.Usage {
		return store.Usage{
			Credential: credential, Tenant: "t", Principal: "p-" + credential, Day: day, Route: route,
			Allowed: allowed, Denied: denied, LastUsedAt: at,
		}
	}
	l.must(l.AddUsage(l.ctx, nil))
	l.must(l.AddUsage(l.ctx, []store.Usage{
		use("a", "2026-03-01", "", 1, 0, at), use("a", "2026-03-02", "r", 1, 1, at), use("b", "2026-03-01", "", 0, 5, time.Time{}),
		use("a", "2026-03-01", "", 2, 1, at.Add(-time.Hour)),
	}))
	l.must(l.AddUsage(l.ctx, []store.Usage{use("a", "2026-03-01", "", 1, 0, time.Time{}), use("b", "2026-03-01", "", 1, 0, at)}))
	want := []store.Usage{
		use("a", "2026-03-02", "r", 1, 1, at), use("a", "2026-03-01", "", 4, 1, at), use("b", "2026-03-01", "", 1, 5, at),
	}
	for _, c := range []struct {
		q    store.UsageQuery
		want []store.Usage
	}{
		{store.UsageQuery{}, want},
		{store.UsageQuery{Tenant: "t", Limit: 2}, want[:2]},
		{store.UsageQuery{Credential: "b"}, want[2:]},
		{store.UsageQuery{Principal: "p-a", From: "2026-03-02"}, want[:1]},
		{store.UsageQuery{From: "2026-03-01", To: "2026-03-01"}, want[1:]},
		{store.UsageQuery{Tenant: "t2"}, nil},
	} {
		got, err := l.Usage(l.ctx, c.q)
		l.must(err)
		if len(got)+len(c.want) > 0 && !cmp.Equal(c.want, got) {
			l.Fatalf("%+v: %s", c.q, cmp.Diff(c.want, got))
		}
	}
	same(l, "no change", l.changes(0, 10).Next, 0)
}

func testView(_ *testing.T, l *lab) {
	l.put("a", "b")
	started, stop, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() { // keeps writing both
		var err error
		for i := 0; err == nil; i++ {
			_, err = l.Update(l.ctx, func(tx store.Tx) error {
				a, b := credential("a"), credential("b")
				a.Body = fmt.Appendf(nil, "%d", i)
				b.Body = a.Body
				return errors.Join(tx.Put(a), tx.Put(b))
			})
			if i == 0 {
				close(started)
			}
			select {
			case <-stop:
				done <- err
				return
			default:
			}
		}
		done <- err
	}()
	<-started
	for range 50 {
		l.must(l.View(l.ctx, func(from store.Reader) error {
			a, err := from.Get(store.KindCredential, "a")
			all, err2 := from.List(store.Query{Kind: store.KindCredential, After: "a"})
			head, err3 := from.Head()
			if err := errors.Join(err, err2, err3); err != nil {
				return err
			}
			if b := all[0]; a.Version != b.Version || string(a.Body) != string(b.Body) || a.Version != head {
				return fmt.Errorf("a %d %s, b %d %s, head %d", a.Version, a.Body, b.Version, b.Body, head)
			}
			return nil
		}))
	}
	close(stop)
	l.must(<-done)
	no := errors.New("no")
	l.is(l.View(l.ctx, func(store.Reader) error { return no }), no)
}

func testListen(_ *testing.T, l *lab) {
	ctx, cancel := context.WithCancel(l.ctx)
	hints, done := make(chan struct{}, 1000), make(chan error)
	go func() { done <- l.Listen(ctx, func() { hints <- struct{}{} }) }()
	<-hints // at once
	for _, id := range []string{"a", "b"} {
		for drained := false; !drained; {
			select {
			case <-hints:
			default:
				drained = true
			}
		}
		l.put(id)
		<-hints
	}
	cancel()
	l.is(<-done, context.Canceled)
}

func testContexts(_ *testing.T, l *lab) {
	l.put("a")
	ended, cancel := context.WithCancel(l.ctx)
	cancel()
	for name, call := range map[string]func() error{
		"Update": func() error {
			_, err := l.Update(ended, func(tx store.Tx) error { return tx.Put(credential("b")) })
			return err
		},
		"View":     func() error { return l.View(ended, func(store.Reader) error { return nil }) },
		"Changes":  func() error { _, err := l.Changes(ended, 0, 1); return err },
		"AddUsage": func() error { return l.AddUsage(ended, []store.Usage{{Credential: "c", Day: "2026-03-01"}}) },
		"Usage":    func() error { _, err := l.Usage(ended, store.UsageQuery{}); return err },
		"Audit":    func() error { _, err := l.Audit(ended, store.AuditQuery{}); return err },
		"Purge":    func() error { _, err := l.Purge(ended, l.clock.now()); return err },
		"Check":    func() error { _, err := l.Check(ended); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			l.Errorf("%s: %v", name, err)
		}
	}
	during, cancel := context.WithCancel(l.ctx)
	_, err := l.Update(during, func(tx store.Tx) error {
		l.must(tx.Put(credential("b")))
		cancel()
		_, err := tx.Get(store.KindCredential, "b")
		return err
	})
	l.is(err, context.Canceled)
	same(l, "feed", ids(l.changes(0, 10).Records), "a@1")
	l.put("b") // the next one is well
}

func testClose(_ *testing.T, l *lab) {
	l.put("a")
	done := make(chan error)
	hinted := make(chan struct{}, 100)
	go func() { done <- l.Listen(l.ctx, func() { hinted <- struct{}{} }) }()
	<-hinted
	l.must(l.Close())
	l.must(l.Close())
	l.is(<-done, store.ErrClosed)
	_, err := l.Update(l.ctx, func(store.Tx) error { return nil })
	l.is(err, store.ErrClosed)
	l.is(l.View(l.ctx, func(store.Reader) error { return nil }), store.ErrClosed)
	_, err = l.Changes(l.ctx, 0, 1)
	l.is(err, store.ErrClosed)
	l.is(l.AddUsage(l.ctx, nil), store.ErrClosed)
	l.is(l.Listen(l.ctx, func() {}), store.ErrClosed)
	_, err = l.Purge(l.ctx, l.clock.now())
	l.is(err, store.ErrClosed)
	_, err = l.Check(l.ctx)
	l.is(err, store.ErrClosed)
}

func testCloseInUse(_ *testing.T, l *lab) {
	const users = 8
	ended, running := make(chan error, 2*users), make(chan struct{}, 2*users)
	for i := range users {
		use := func(call func() error) {
			err := call()
			running <- struct{}{}
			for err == nil {
				err = call()
			}
			ended <- err
		}
		go use(func() error {
			_, err := l.Update(l.ctx, func(tx store.Tx) error { return tx.Put(credential(fmt.Sprint(i))) })
			return err
		})
		go use(func() error { _, err := l.Changes(l.ctx, 0, 10); return err })
	}
	for range 2 * users {
		<-running
	}
	l.must(l.Close())
	for range 2 * users {
		l.is(<-ended, store.ErrClosed)
	}
}

func testCheck(_ *testing.T, l *lab) {
	l.put("a", "b")
	l.delete("a")
	l.update(func(tx store.Tx) error {
		return errors.Join(tx.Note(store.AuditEntry{Action: "x"}), tx.Put(store.Record{Kind: store.KindDenial, ID: "d", Body: []byte("{}")}))
	})
	report, err := l.Check(l.ctx)
	l.must(err)
	same(l, "epoch", report.Epoch, l.changes(0, 1).Epoch)
	same(l, "head", report.Head, 3)
	same(l, "audit", report.Audit, 1)
	same(l, "faults", strings.Join(report.Faults, "; "), "")
	if d := cmp.Diff(map[store.Kind]int{store.KindCredential: 1, store.KindDenial: 1}, report.Records); d != "" {
		l.Fatal(d)
	}
	if report.Engine == "" || report.Bytes <= 0 {
		l.Fatalf("%+v", report)
	}
	l.update(func(tx store.Tx) error {
		return tx.Put(store.Record{Kind: store.KindDenial, ID: "e", Body: []byte("{half")})
	})
	report, err = l.Check(l.ctx)
	l.must(err)
	same(l, "faults", strings.Join(report.Faults, "; "), "denial e: its content is not JSON")
}
