package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-auth/postern/server/store"
)

// Backup writes a copy of one state to a new file, while the store is in use.
func (s *Store) Backup(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w: a backup replaces nothing", path, fs.ErrExist)
	}
	return place(path, func(temp string) error {
		db, err := pool(s.path, true) // readers may not even write to another file
		if err != nil {
			return err
		}
		defer db.Close() //nolint:errcheck // it only read
		_, err = db.ExecContext(ctx, "VACUUM INTO $1", temp)
		return fault(s.path, err)
	})
}

// Restore makes a store of a backup: under another name first, which is checked and
// gets a new epoch, so that all replicas read everything again. Only then, and with
// force, it replaces a store that is there, which must not be in use.
func Restore(ctx context.Context, from, to string, force bool) (store.Report, error) {
	if err := examine(from); err != nil {
		return store.Report{}, err
	}
	if wal, err := os.Stat(from + "-wal"); err == nil && wal.Size() > 0 {
		return store.Report{}, fmt.Errorf("%s is a store in use, or was not closed: make a backup of it first", from)
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return store.Report{}, err
	}
	if _, err := os.Lstat(to); err == nil && !force {
		return store.Report{}, fmt.Errorf("%s: %w: restore to another path, or with force", to, fs.ErrExist)
	}
	temp, err := tempFile(to)
	if err != nil {
		return store.Report{}, err
	}
	defer remove(temp)
	report, err := adopt(ctx, from, temp)
	if err != nil {
		return report, err
	}
	return report, replace(ctx, temp, to)
}

// adopt copies a backup to a file that becomes a store of its own.
func adopt(ctx context.Context, from, temp string) (report store.Report, err error) {
	if err := copyFile(from, temp); err != nil {
		return report, err
	}
	s, err := open(ctx, temp, Options{MustExist: true})
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.Close(), syncFile(temp)) }()
	if err := s.Renew(ctx); err != nil {
		return report, err
	}
	if report, err = s.Check(ctx); err != nil {
		return report, err
	}
	if len(report.Faults) > 0 {
		return report, fmt.Errorf("%w: %s: %s", store.ErrCorrupt, from, strings.Join(report.Faults, "; "))
	}
	return report, nil
}

// replace puts a store in the place of another.
func replace(ctx context.Context, temp, to string) error {
	if _, err := os.Stat(to); err == nil {
		if err := retire(ctx, to); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, to); err != nil {
		return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
	}
	return syncFile(filepath.Dir(to))
}

// retire takes an old store out of use, if nobody uses it. Its WAL has to go: it
// would be taken for that of the new one.
func retire(ctx context.Context, path string) error {
	db, err := pool(path, true)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // closed below already, or given up
	_, err = db.ExecContext(ctx, "PRAGMA busy_timeout = 1000; PRAGMA journal_mode = DELETE")
	if err := fault(path, err); err != nil && !errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("stop the Postern that uses the store first: %w", err)
	}
	if err := db.Close(); err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm"} { // of one that is damaged
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
