// Package sqlite keeps a store in one file, with the engine of package table.
//
// The file is in WAL mode with synchronous=FULL: a commit is on disk before it is
// acknowledged, and readers do not wait for the writer. One connection writes, a
// few read. Whatever holds the store, its WAL included, is for its owner only
// (0600). A new store is made under another name and then linked to its own, so a
// file of that name is a whole store or damaged, and never just begun. Where one has
// been and is gone, none is begun.
//
// One server serves from a store (Options.Alone). Commands may read it and write to it
// meanwhile: SQLite's own locks see to that.
package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite" // the driver, in Go
	lib "modernc.org/sqlite/lib"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/table"
)

const (
	// applicationID stands in the file's header: "PSTR".
	applicationID = 0x50535452
	// busy is how long to wait for a lock of another process.
	busy = 10 * time.Second
	// readerCount is how many connections read at a time.
	readerCount = 4
	fileMode    = 0o600
)

// Options are for opening a store.
type Options = table.Options

// Store is a table.Store in a file.
type Store struct {
	*table.Store
	path  string
	claim *os.File // nil: it was not opened for this process alone
}

// Close implements store.Store.
func (s *Store) Close() error {
	err := s.Store.Close()
	if s.claim != nil {
		_ = s.claim.Close() // for whoever comes next; nothing was written
	}
	return err
}

// Open opens the store in a file, or makes a new one if there is no such file.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	err = examine(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = lost(path); err == nil && o.MustExist {
			err = fmt.Errorf("there is no store %s", path)
		}
		if err == nil {
			err = create(ctx, path, o)
		}
	}
	if err != nil {
		return nil, err
	}
	if !o.Alone {
		return open(ctx, path, o)
	}
	held, err := claim(path)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, path, o)
	if err != nil {
		_ = held.Close() // nothing was written
		return nil, err
	}
	s.claim = held
	return s, nil
}

// examine looks at a file before SQLite does, which would take an empty one for a
// new database.
func examine(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file: the store needs the path of a file, such as %s", path, filepath.Join(path, "postern.db"))
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w: it must belong to the user that runs Postern", store.ErrReadOnly, err)
	}
	defer f.Close()
	header := make([]byte, 100)
	if n, err := io.ReadFull(f, header); err != nil {
		return fmt.Errorf("%w: %s ends after %d bytes: restore a backup, or move the file away to begin an empty store", store.ErrCorrupt, path, n)
	}
	if !bytes.HasPrefix(header, []byte("SQLite format 3\x00")) {
		err := fmt.Errorf("%s is no SQLite database: if it was the store, restore a backup (postern store restore); if not, give the path of a Postern store, or one where there is no file yet", path)
		if bytes.Count(header, []byte{0}) == len(header) { // what file systems leave of a block that was lost
			err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(fileMode); err != nil {
			return fmt.Errorf("%s can be read by others than its owner, and that cannot be changed: %w", path, err)
		}
	}
	return nil
}

// Examine has SQLite look at the shape of every page, without comparing tables and
// indexes as Check does: 0.4 s for 100,000 keys. What is wrong is an ErrCorrupt.
func (s *Store) Examine(ctx context.Context) error {
	db, err := pool(s.path, false) // one of its own: it would keep readers waiting
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // it only read
	var finding string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&finding); err != nil {
		return fault(s.path, err)
	}
	if finding != "ok" {
		return fmt.Errorf("%w: %s: restore a backup (postern store restore): %s", store.ErrCorrupt, s.path, finding)
	}
	return nil
}

// create makes an empty store, unless another process was quicker.
func create(ctx context.Context, path string, o Options) error {
	err := place(path, func(temp string) error {
		db, err := pool(temp, true)
		if err != nil {
			return err
		}
		defer db.Close() //nolint:errcheck // the store that follows would notice
		if _, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return fault(path, err)
		}
		s, err := open(ctx, temp, o)
		if err != nil {
			return err
		}
		return s.Close()
	})
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// place makes a file under a temporary name and gives it its own when it is on
// disk. It never replaces a file; then the error is fs.ErrExist.
func place(path string, fill func(temp string) error) error {
	temp, err := tempFile(path)
	if err != nil {
		return err
	}
	defer remove(temp)
	if err := fill(temp); err != nil {
		return err
	}
	if err := syncFile(temp); err != nil {
		return err
	}
	if err := give(temp, path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

// give gives a file another name, if that is free.
func give(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(path); err == nil { // a file system without links
		return fs.ErrExist
	}
	return os.Rename(temp, path)
}

// tempFile makes an empty file beside another one.
func tempFile(path string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the directory %s does not exist: make it, owned by the user that runs Postern", filepath.Dir(path))
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w: the directory must be writable as well", store.ErrReadOnly, err)
	}
	return f.Name(), f.Close()
}

// remove removes a database and what belongs to it.
func remove(path string) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		os.Remove(path + suffix)
	}
}

// syncFile brings a file, or the names in a directory, to the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// open opens a file that is there.
func open(ctx context.Context, path string, o Options) (*Store, error) {
	write, err := pool(path, true)
	if err != nil {
		return nil, err
	}
	read, err := pool(path, false)
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	var id int
	var mode string
	err = errors.Join(
		write.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id),
		write.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode))
	switch {
	case err != nil:
		err = fault(path, err)
	case id != applicationID:
		err = fmt.Errorf("%s is the SQLite database of another program: give the path of a Postern store, or one where there is no file yet", path)
	case mode != "wal":
		err = fmt.Errorf("%s: SQLite's WAL mode does not work on this file system: put the store on a local disk", path)
	}
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	d := dialect(path)
	if d.Gone, err = gone(path); err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	s, err := table.New(ctx, d, write, read, write, o)
	if err != nil {
		return nil, err
	}
	return &Store{Store: s, path: path}, nil
}

// pool returns the connection that writes, or those that read.
func pool(path string, write bool) (*sql.DB, error) {
	q := url.Values{"mode": {"rw"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()), "foreign_keys(1)", "trusted_schema(0)",
	}}
	size := readerCount
	if write {
		size = 1
		q.Set("_txlock", "immediate")
		q["_pragma"] = append(q["_pragma"], "journal_mode(WAL)", "synchronous(FULL)")
	} else {
		q.Set("_query_only", "1")
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}

func dialect(path string) table.Dialect {
	return table.Dialect{
		HasSchema: `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'`,
		Fault:     func(err error) error { return fault(path, err) },
		Undone: func(err error) bool {
			code := primary(err)
			return code == lib.SQLITE_FULL || code == lib.SQLITE_BUSY
		},
		Fatal: unsynced,
		Describe: func(ctx context.Context, tx *sql.Tx, report *store.Report) error {
			return describe(ctx, tx, path, report)
		},
	}
}

// describe has SQLite look at every page.
func describe(ctx context.Context, tx *sql.Tx, path string, report *store.Report) error {
	var version string
	var pages, size int64
	if err := errors.Join(
		tx.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version),
		tx.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages),
		tx.QueryRowContext(ctx, "PRAGMA page_size").Scan(&size)); err != nil {
		return err
	}
	report.Engine, report.Bytes = "SQLite "+version+", "+path, pages*size
	rows, err := tx.QueryContext(ctx, "PRAGMA integrity_check")
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	for rows.Next() {
		var finding string
		if err := rows.Scan(&finding); err != nil {
			return err
		}
		if finding != "ok" {
			report.Faults = append(report.Faults, finding)
		}
	}
	return rows.Err()
}

// primary is SQLite's code for an error without its refinements, or -1.
func primary(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return -1
}

// unsynced says of an error that fsync had failed. What the kernel could not write then
// it may have given up, and says so only once: the next fsync would succeed.
func unsynced(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == lib.SQLITE_IOERR_FSYNC || e.Code() == lib.SQLITE_IOERR_DIR_FSYNC)
}

// fault says in the words of package store what is wrong with a file.
func fault(path string, err error) error {
	switch primary(err) {
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB, lib.SQLITE_FORMAT:
		return fmt.Errorf("%w: %s: restore a backup (postern store restore): %w", store.ErrCorrupt, path, err)
	case lib.SQLITE_FULL:
		return fmt.Errorf("%w: %s: %w", store.ErrFull, path, err)
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM:
		return fmt.Errorf("%w: %s: the file and its directory must belong to the user that runs Postern: %w", store.ErrReadOnly, path, err)
	case lib.SQLITE_IOERR:
		return fmt.Errorf("%w: %s: the disk does not work: %w", store.ErrReadOnly, path, err)
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return fmt.Errorf("%s: another process has held the store for %v: %w", path, busy, err)
	}
	return err
}
