package sqlite

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/table"
)

// faulty opens a new store of which the test holds the connection that writes, with
// a dialect that the test may change.
func faulty(t *testing.T, change func(*table.Dialect)) (*table.Store, *sql.DB) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	write, err := pool(path, true)
	if err != nil {
		t.Fatal(err)
	}
	read, err := pool(path, false)
	if err != nil {
		t.Fatal(err)
	}
	d := dialect(path)
	change(&d)
	opened, err := table.New(t.Context(), d, write, read, write, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return opened, write
}

func put(t *testing.T, s store.Store, id string, size int) error {
	_, err := s.Update(t.Context(), func(tx store.Tx) error {
		return tx.Put(store.Record{Kind: store.KindDenial, ID: id, Body: fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), size))})
	})
	return err
}

// When the disk is full nothing more is written and what was is still read; when
// there is room again it goes on.
func TestFull(t *testing.T) {
	t.Parallel()
	s, write := faulty(t, func(*table.Dialect) {})
	limit := func(pages int) {
		if _, err := write.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(40)
	written := 0
	var err error
	for err == nil {
		if err = put(t, s, fmt.Sprint(written), 20_000); err == nil {
			written++
		}
	}
	if !errors.Is(err, store.ErrFull) || !errors.Is(err, store.ErrReadOnly) || written == 0 {
		t.Fatalf("after %d records: %v", written, err)
	}
	report, err := s.Check(t.Context())
	if err != nil || len(report.Faults) > 0 || report.Head != int64(written) {
		t.Fatalf("%+v, %v", report, err)
	}
	limit(1000)
	if err := put(t, s, "more", 1); err != nil {
		t.Fatal(err)
	}
}

// CRASH-04: after an error that leaves open what is on the disk nothing more is written,
// although it could be; what there was is still read.
func TestFailed(t *testing.T) {
	t.Parallel()
	broken := false
	s, write := faulty(t, func(d *table.Dialect) {
		d.Fatal = func(error) bool { return broken }
	})
	if _, err := write.Exec("CREATE TRIGGER fails BEFORE INSERT ON records WHEN NEW.id = 'bad' BEGIN SELECT RAISE(ABORT, 'EIO'); END"); err != nil {
		t.Fatal(err)
	}
	if err := put(t, s, "bad", 1); err == nil || s.Failed() != nil {
		t.Fatalf("an error like others: %v, %v", err, s.Failed())
	}
	if err := put(t, s, "before", 1); err != nil {
		t.Fatal(err)
	}
	broken = true
	if err := put(t, s, "bad", 1); err == nil {
		t.Fatal("written")
	}
	broken = false
	for range 2 {
		if err := put(t, s, "after", 1); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "restart Postern") {
			t.Fatal(err)
		}
	}
	if err := s.Failed(); !errors.Is(err, store.ErrReadOnly) {
		t.Fatal(err)
	}
	report, err := s.Check(t.Context())
	if err != nil || len(report.Faults) > 0 || report.Head != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// A COMMIT that fails is never taken for success, and unless it is certain that
// nothing was committed the error says that it is not.
func TestCommitFails(t *testing.T) {
	t.Parallel()
	for _, certain := range []bool{true, false} {
		s, write := faulty(t, func(d *table.Dialect) {
			d.Announce = "INSERT INTO child SELECT 1 WHERE (SELECT on_fire FROM parent) = 1"
			d.Undone = func(error) bool { return certain }
		})
		// A foreign key that is looked at when the transaction commits.
		if _, err := write.Exec(`CREATE TABLE parent (on_fire INTEGER PRIMARY KEY); INSERT INTO parent VALUES (0);
			CREATE TABLE child (id INTEGER REFERENCES other (id) DEFERRABLE INITIALLY DEFERRED); CREATE TABLE other (id INTEGER PRIMARY KEY)`); err != nil {
			t.Fatal(err)
		}
		if err := put(t, s, "before", 1); err != nil {
			t.Fatal(err)
		}
		if _, err := write.Exec("UPDATE parent SET on_fire = 1"); err != nil {
			t.Fatal(err)
		}
		err := put(t, s, "during", 1)
		if err == nil || strings.Contains(err.Error(), "it is not known whether") == certain {
			t.Fatalf("certain %v: %v", certain, err)
		}
		if _, err := write.Exec("UPDATE parent SET on_fire = 0"); err != nil {
			t.Fatal(err)
		}
		if err := put(t, s, "after", 1); err != nil {
			t.Fatal(err)
		}
		report, err := s.Check(t.Context())
		if err != nil || len(report.Faults) > 0 || report.Head != 2 {
			t.Fatalf("%+v, %v", report, err)
		}
	}
}
