package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/sqlite"
	"github.com/postern-auth/postern/server/store/storetest"
	"github.com/postern-auth/postern/server/store/table"
)

func opener(dir string) storetest.Open {
	var n atomic.Int64
	return func(t testing.TB, now func() time.Time) store.Store {
		return open(t, filepath.Join(dir, strconv.FormatInt(n.Add(1), 10)), sqlite.Options{Now: now})
	}
}

func open(t testing.TB, path string, o sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(s store.Store, id string) error {
	_, err := s.Update(context.Background(), func(tx store.Tx) error {
		return tx.Put(store.Record{Kind: store.KindDenial, ID: id, Body: []byte("{}")})
	})
	return err
}

// made makes a store with n records and closes it.
func made(t testing.TB, path string, n int) string {
	t.Helper()
	s := open(t, path, sqlite.Options{})
	for i := range n {
		must(t, put(s, fmt.Sprint(i)))
	}
	must(t, s.Close())
	return path
}

// exec changes a store behind its back.
func exec(t testing.TB, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	_, err = db.Exec(query)
	must(t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, opener(t.TempDir()))
}

func BenchmarkStore(b *testing.B) { storetest.Bench(b, opener(b.TempDir())) }

func BenchmarkOpen(b *testing.B) {
	path := made(b, filepath.Join(b.TempDir(), "s"), 10)
	for b.Loop() {
		s, err := sqlite.Open(b.Context(), path, sqlite.Options{})
		must(b, errors.Join(err, s.Close()))
	}
}

// Only the owner can read what belongs to a store, even where the umask is 0.
func TestModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := t.TempDir()
	path := filepath.Join(dir, "a name?with#odd%20signs.db")
	s := open(t, path, sqlite.Options{})
	must(t, put(s, "x"))
	must(t, s.Backup(t.Context(), filepath.Join(dir, "backup")))
	expectModes(t, dir, 4) // with -wal and -shm
	must(t, s.Close())
	must(t, os.Chmod(path, 0o644))
	open(t, path, sqlite.Options{})
	expectModes(t, dir, 4)
}

func expectModes(t *testing.T, dir string, files int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), info.Mode().Perm())
		}
	}
	if len(entries) != files {
		t.Errorf("%v", entries)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	cut := func(name string, size int64) string {
		must(t, os.Truncate(made(t, path(name), 100), size))
		return path(name)
	}
	for name, c := range map[string]struct {
		path string
		o    sqlite.Options
		is   error
		says []string
	}{
		"a directory":          {path: dir, says: []string{dir, "is no file", filepath.Join(dir, "postern.db")}},
		"no directory":         {path: path("no/such/s.db"), says: []string{path("no/such"), "make it"}},
		"a path below a file":  {path: filepath.Join(written(t, path("file"), "text"), "s.db"), says: []string{path("file")}},
		"no store":             {path: path("nothing"), o: sqlite.Options{MustExist: true}, says: []string{"there is no store " + path("nothing")}},
		"not to migrate":       {path: path("nothing"), o: sqlite.Options{NoMigrate: true}, says: []string{"run postern store migrate"}},
		"an empty file":        {path: written(t, path("empty"), ""), is: store.ErrCorrupt, says: []string{"ends after 0 bytes", "restore a backup"}},
		"no database":          {path: written(t, path("text"), strings.Repeat("hello ", 100)), says: []string{path("text"), "is no SQLite database"}},
		"another's":            {path: foreign(t, path("foreign")), says: []string{path("foreign"), "of another program"}},
		"cut off":              {path: cut("cut", 6000), is: store.ErrCorrupt, says: []string{path("cut"), "restore a backup"}},
		"cut off after a page": {path: cut("cut2", 4096), is: store.ErrCorrupt, says: []string{path("cut2")}},
		"newer":                {path: changed(t, path("newer"), fmt.Sprintf("INSERT INTO schema_migrations VALUES (%d, 'later', 'x', 0)", table.Schema()+1)), is: store.ErrNewer, says: []string{"(later)"}},
		"edited":               {path: changed(t, path("edited"), "UPDATE schema_migrations SET hash = 'x'"), says: []string{"migration 1", "changed after it had been released"}},
		"no migration":         {path: changed(t, path("none"), "UPDATE schema_migrations SET number = 0 WHERE number = 1"), is: store.ErrCorrupt},
		"no feed":              {path: changed(t, path("feed"), "DELETE FROM feed"), is: store.ErrCorrupt, says: []string{"the row of the feed is gone"}},
	} {
		s, err := sqlite.Open(t.Context(), c.path, c.o)
		if err == nil {
			t.Errorf("%s: opened", name)
			s.Close()
			continue
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %v", name, err, c.is)
		}
		for _, part := range c.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
	}
	if left, _ := filepath.Glob(path(".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func written(t testing.TB, path, text string) string {
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func foreign(t testing.TB, path string) string {
	exec(t, path, "CREATE TABLE songs (title TEXT)")
	return path
}

func changed(t testing.TB, path, query string) string {
	exec(t, made(t, path, 3), query)
	return path
}

// A store of the first schema is brought up to date, and read as it was.
func TestMigrateFromFirst(t *testing.T) {
	t.Parallel()
	path := changed(t, filepath.Join(t.TempDir(), "s"), `DELETE FROM schema_migrations WHERE number > 1;
		DROP INDEX records_feed; CREATE INDEX records_feed ON records (version, kind, id);
		DROP TABLE ledger_accounts; DROP TABLE ledger_settlements`)
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{NoMigrate: true})
	if want := fmt.Sprintf("the store has schema 1, this Postern needs %d", table.Schema()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %q", err, want)
	}
	s := open(t, path, sqlite.Options{})
	batch, err := s.Changes(t.Context(), 0, 10)
	must(t, err)
	report, err := s.Check(t.Context())
	must(t, err)
	if len(batch.Records) != 3 || !batch.Complete || report.Schema != table.Schema() || len(report.Faults) > 0 {
		t.Errorf("%+v\n%+v", batch, report)
	}
}

func TestNotWritable(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root may write everything")
	}
	path := made(t, filepath.Join(t.TempDir(), "s"), 1)
	must(t, os.Chmod(path, 0o400))
	if _, err := sqlite.Open(t.Context(), path, sqlite.Options{}); !errors.Is(err, store.ErrReadOnly) {
		t.Fatal(err)
	}
}

// What is damaged in the middle of a file is found by Check, and never read as
// something else.
func TestDamage(t *testing.T) {
	t.Parallel()
	path := made(t, filepath.Join(t.TempDir(), "s"), 300)
	whole, err := os.ReadFile(path)
	must(t, err)
	found := 0
	for page := 1; page < len(whole)/4096; page++ {
		damaged := bytes.Clone(whole)
		for i := range 512 {
			damaged[page*4096+i] ^= 0xa5
		}
		must(t, os.WriteFile(path, damaged, 0o600))
		s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		if err == nil {
			var report store.Report
			report, err = s.Check(t.Context())
			if err == nil && len(report.Faults) > 0 {
				found++
			}
			s.Close()
		} else if errors.Is(err, store.ErrCorrupt) {
			found++
		}
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("page %d: %v", page, err)
		}
	}
	if found != len(whole)/4096-1 {
		t.Errorf("%d damages of %d found", found, len(whole)/4096-1)
	}
}

func TestFaultsOfRecords(t *testing.T) {
	t.Parallel()
	path := made(t, filepath.Join(t.TempDir(), "s"), 3)
	exec(t, path, `UPDATE records SET version = 9 WHERE id = '0'; UPDATE records SET body = x'7b' WHERE id = '1';
		UPDATE records SET deleted = TRUE WHERE id = '2'; UPDATE feed SET audit = 1`)
	report, err := open(t, path, sqlite.Options{}).Check(t.Context())
	must(t, err)
	want := "denial 0: its version is 9, the feed ends at 3\ndenial 1: its content is not JSON\n" +
		"denial 2: it is deleted and has content\nthe audit log has 0 entries from 0 to 0, and should have 1"
	if got := strings.Join(report.Faults, "\n"); got != want {
		t.Error(got)
	}
}

// Two processes may use one file.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	done := make(chan error)
	for i := range 4 {
		go func() {
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			for n := 0; n < 20 && err == nil; n++ {
				err = put(s, fmt.Sprint(i, "/", n))
			}
			done <- errors.Join(err, s.Close())
		}()
	}
	for range 4 {
		must(t, <-done)
	}
	report, err := open(t, path, sqlite.Options{MustExist: true}).Check(t.Context())
	if err != nil || report.Head != 80 || len(report.Faults) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// CRASH-06: a store that a server has for itself is refused to others, and not to commands
// that use it for a moment; when the server has ended it is free.
func TestAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	first := open(t, path, sqlite.Options{Alone: true})
	if _, err := sqlite.Open(t.Context(), path, sqlite.Options{Alone: true}); err == nil || !strings.Contains(err.Error(), "in use by another Postern") {
		t.Fatal(err)
	}
	must(t, put(open(t, path, sqlite.Options{}), "by a command"))
	must(t, put(first, "by the server"))
	must(t, first.Close())
	must(t, put(open(t, path, sqlite.Options{Alone: true}), "by the next"))
}

// CRASH-05: where a store was lost none is begun, and what would be lost with a file that
// is gone is not written.
func TestGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	s := open(t, path, sqlite.Options{Alone: true})
	must(t, put(s, "x"))
	must(t, os.Rename(path, path+".away"))
	if err := put(s, "y"); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "was removed") {
		t.Fatal(err)
	}
	made(t, path+".other", 1)
	must(t, os.Rename(path+".other", path))
	if err := put(s, "y"); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "was replaced") {
		t.Fatal(err)
	}
	must(t, os.Remove(path))
	must(t, s.Close())
	for _, o := range []sqlite.Options{{}, {Alone: true}, {MustExist: true}} {
		if _, err := sqlite.Open(t.Context(), path, o); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "is gone") || !strings.Contains(err.Error(), "restore a backup") {
			t.Fatalf("%+v: %v", o, err)
		}
	}
	must(t, os.Rename(path+".away", path))
	must(t, put(open(t, path, sqlite.Options{MustExist: true}), "z"))
}

// Damage that nobody would read at first is seen all the same.
func TestExamine(t *testing.T) {
	t.Parallel()
	path := made(t, filepath.Join(t.TempDir(), "s"), 50)
	s := open(t, path, sqlite.Options{})
	must(t, s.Examine(t.Context()))
	must(t, s.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	last := whole[len(whole)-4096:]
	for i := range last {
		last[i] ^= 0xa5
	}
	must(t, os.WriteFile(path, whole, 0o600))
	s, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	if err == nil {
		t.Cleanup(func() { s.Close() })
		err = s.Examine(t.Context())
	}
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "restore a backup") {
		t.Fatal(err)
	}
}

// Who waits for its turn to write can leave; who has had it must wait.
func TestWaiting(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "s"), sqlite.Options{})
	working, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := s.Update(t.Context(), func(tx store.Tx) error {
			close(working)
			<-release
			return tx.Put(store.Record{Kind: store.KindDenial, ID: "first", Body: []byte("{}")})
		})
		done <- err
	}()
	<-working
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := s.Update(ctx, func(store.Tx) error { return errors.New("it had its turn") })
		left <- err
	}()
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(release)
	must(t, <-done)
	must(t, put(s, "second"))
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "s"), filepath.Join(dir, "backup")
	s := open(t, path, sqlite.Options{})
	must(t, put(s, "before"))
	stop, done := make(chan struct{}), make(chan error)
	go func() { // it is in use meanwhile
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := put(s, fmt.Sprint("during", i)); err != nil {
				done <- err
				return
			}
		}
	}()
	must(t, s.Backup(t.Context(), backup))
	close(stop)
	must(t, <-done)
	must(t, put(s, "after"))
	if err := s.Backup(t.Context(), backup); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a backup was replaced: %v", err)
	}
	if _, err := sqlite.Restore(t.Context(), backup, path, false); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a store was replaced: %v", err)
	}
	if _, err := sqlite.Restore(t.Context(), backup, path, true); err == nil || !strings.Contains(err.Error(), "stop the Postern") {
		t.Fatalf("a store in use was replaced: %v", err)
	}
	if _, err := sqlite.Restore(t.Context(), path, filepath.Join(dir, "third"), false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("a store in use was taken for a backup: %v", err)
	}
	before, err := s.Check(t.Context())
	must(t, err)
	must(t, put(s, "still"))
	must(t, s.Close())
	report, err := sqlite.Restore(t.Context(), backup, path, true)
	must(t, err)
	restored := open(t, path, sqlite.Options{MustExist: true})
	batch, err := restored.Changes(t.Context(), 0, 1)
	must(t, err)
	if batch.Epoch == before.Epoch || batch.Epoch != report.Epoch {
		t.Errorf("epoch %s, before %s, reported %s", batch.Epoch, before.Epoch, report.Epoch)
	}
	if batch.Records[0].ID != "before" {
		t.Errorf("%+v", batch)
	}
	must(t, restored.View(t.Context(), func(r store.Reader) error {
		if _, err := r.Get(store.KindDenial, "after"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("what came after the backup is there: %v", err)
		}
		return nil
	}))
}

// A backup that is damaged or newer replaces nothing.
func TestBadBackups(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := made(t, filepath.Join(dir, "s"), 5)
	old, err := os.ReadFile(path)
	must(t, err)
	cut := made(t, filepath.Join(dir, "cut"), 200)
	must(t, os.Truncate(cut, 3*4096))
	for name, c := range map[string]struct {
		from string
		is   error
	}{
		"newer":   {changed(t, filepath.Join(dir, "newer"), fmt.Sprintf("INSERT INTO schema_migrations VALUES (%d, 'later', 'x', 0)", table.Schema()+1)), store.ErrNewer},
		"cut":     {cut, store.ErrCorrupt},
		"faulty":  {changed(t, filepath.Join(dir, "faulty"), "UPDATE records SET version = 99"), store.ErrCorrupt},
		"missing": {filepath.Join(dir, "missing"), fs.ErrNotExist},
	} {
		if _, err := sqlite.Restore(t.Context(), c.from, path, true); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	now, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(old, now) {
		t.Error("the store was touched")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
