package mirror_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// database is a store that can be put back by other means than Postern's: its epoch
// stays.
type database struct{ store.Store }

func (d *database) Changes(ctx context.Context, after int64, limit int) (store.Batch, error) {
	b, err := d.Store.Changes(ctx, after, limit)
	b.Epoch = "the same"
	return b, err
}

// history writes lines of the denylist, each text one change: "a b" are two lines,
// "a=note" says something about one, "-a" deletes it.
func history(t testing.TB, s store.Store, changes ...string) {
	t.Helper()
	for _, change := range changes {
		if _, err := s.Update(context.Background(), func(tx store.Tx) error { return write(tx, change) }); err != nil {
			t.Fatal(err)
		}
	}
}

func write(tx store.Tx, change string) error {
	for _, word := range strings.Fields(change) {
		if word[0] == '-' {
			if err := tx.Delete(store.KindDenial, word[1:]); err != nil {
				return err
			}
			continue
		}
		id, note, _ := strings.Cut(word, "=")
		if err := store.Put(tx, &store.Denial{ID: id, JTI: id, Note: note}); err != nil {
			return err
		}
	}
	return nil
}

// A database that was put back, and written past what a replica has seen
// before that one asks again, is read anew: nothing of the lost changes stays.
func TestPutBack(t *testing.T) {
	t.Parallel()
	common := []string{"a", "b"}
	for name, c := range map[string]struct {
		lost, instead []string
		knows, not    string
	}{
		"another record":              {[]string{"lost"}, []string{"c", "d"}, "a b c d", "lost"},
		"as many changes":             {[]string{"lost"}, []string{"c"}, "a b c", "lost"},
		"further back":                {[]string{"lost", "lost2"}, []string{"c", "d", "e"}, "a b c d e", "lost lost2"},
		"the same record":             {[]string{"lost", "c=1"}, []string{"c", "c=2"}, "a b c", "lost"},
		"more in the change":          {[]string{"lost", "c"}, []string{"e", "c d"}, "a b c d e", "lost"},
		"less in the change":          {[]string{"lost", "c d"}, []string{"e", "c"}, "a b c e", "lost d"},
		"the record is written later": {[]string{"lost", "c"}, []string{"d", "e", "c"}, "a b c d e", "lost"},
		"the record was there before": {[]string{"lost", "a=1"}, []string{"c", "d"}, "a b c d", "lost"},
		"deleted":                     {[]string{"lost", "-a"}, []string{"c", "d"}, "a b c d", "lost"},
		"fewer changes":               {[]string{"lost", "lost2"}, []string{"c"}, "a b c", "lost lost2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, after := memory.New(time.Now), memory.New(time.Now)
			history(t, before, common...)
			history(t, after, common...)
			d := &database{before}
			m := mirror.New(mirror.Config{}, d, mirror.Deps{})
			if err := m.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			history(t, before, c.lost...)
			poll(t, m)
			poll(t, m)
			history(t, after, c.instead...)
			d.Store = after
			poll(t, m)
			for _, id := range strings.Fields(c.knows) {
				if !knows(m, id) {
					t.Errorf("does not know %s", id)
				}
			}
			for _, id := range strings.Fields(c.not) {
				if knows(m, id) {
					t.Errorf("still knows %s", id)
				}
			}
			if n := m.Status().Loads; n != 2 {
				t.Errorf("%d loads", n)
			}
		})
	}
}

// The same over a restart from a snapshot, which says what the last change wrote.
func TestPutBackSinceSnapshot(t *testing.T) {
	t.Parallel()
	before, after := memory.New(time.Now), memory.New(time.Now)
	history(t, before, "a", "lost")
	history(t, after, "a", "b", "c")
	cfg := mirror.Config{Mode: mirror.Available, Snapshot: t.TempDir() + "/snapshot"}
	d := &database{before}
	m := mirror.New(cfg, d, mirror.Deps{})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	w := &wire{Store: d}
	w.cut.Store(true)
	m = mirror.New(cfg, w, mirror.Deps{})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !knows(m, "lost") || !m.View().Snapshot {
		t.Fatalf("not restarted from the snapshot: %+v", m.View())
	}
	d.Store = after
	w.cut.Store(false)
	poll(t, m)
	if knows(m, "lost") || !knows(m, "b") || !knows(m, "c") {
		t.Error("goes on as if nothing had happened")
	}
}

// Whatever happens to a store in its life, it is not taken for another one.
func TestSameHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		now := noon
		s := memory.New(func() time.Time { return now })
		m := mirror.New(mirror.Config{}, &database{s}, mirror.Deps{Now: func() time.Time { return now }})
		load := func() {
			if err := m.Load(context.Background()); err != nil {
				rt.Fatal(err)
			}
		}
		load()
		lines, made := map[string]bool{}, 0
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			now = now.Add(time.Second)
			switch what := rapid.SampledFrom([]string{"new", "again", "delete", "many", "expiring", "purge", "poll", "poll"}).Draw(rt, "what"); what {
			case "new", "many", "expiring":
				n := 1
				if what == "many" {
					n = rapid.IntRange(2, 20).Draw(rt, "n")
				}
				update(rt, s, func(tx store.Tx) error {
					for range n {
						made++
						d := &store.Denial{ID: fmt.Sprint(made), JTI: fmt.Sprint(made)}
						if what == "expiring" {
							d.ExpiresAt = now.Add(time.Second)
						} else {
							lines[d.ID] = true
						}
						if err := store.Put(tx, d); err != nil {
							return err
						}
					}
					return nil
				})
			case "again", "delete":
				id := fmt.Sprint(rapid.IntRange(1, 20).Draw(rt, "id"))
				if !lines[id] {
					continue
				}
				update(rt, s, func(tx store.Tx) error {
					if what == "delete" {
						delete(lines, id)
						return tx.Delete(store.KindDenial, id)
					}
					return store.Put(tx, &store.Denial{ID: id, JTI: id, Note: now.String()})
				})
			case "purge":
				if err := m.Poll(context.Background()); err != nil { // nothing that it has not seen is purged
					rt.Fatal(err)
				}
				if _, err := s.Purge(context.Background(), now); err != nil {
					rt.Fatal(err)
				}
			case "poll":
				if err := m.Poll(context.Background()); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if err := m.Poll(context.Background()); err != nil {
			rt.Fatal(err)
		}
		for id := range lines {
			if !knows(m, id) {
				rt.Errorf("does not know %s", id)
			}
		}
		if n := m.Status().Loads; n != 1 {
			rt.Errorf("read as a whole %d times", n)
		}
	})
}

func update(t *rapid.T, s store.Store, fn func(store.Tx) error) {
	if _, err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func poll(t testing.TB, m *mirror.Mirror) {
	t.Helper()
	if err := m.Poll(context.Background()); err != nil {
		t.Fatal(err)
	}
}
