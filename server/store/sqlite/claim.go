package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern-auth/postern/server/store"
)

// A server that serves from a store claims it: it holds a lock on a file beside it. Not
// on the store itself, where closing any other handle of this process would end SQLite's
// own locks (fcntl(2)). The file stays when the lock is gone, and says that there was a
// store here: where it stands alone, a store was lost, and none is begun in its place.

const claimSuffix = ".lock"

const claimText = "Held by the Postern that serves from the store beside it. It also says that there was one:\n" +
	"without the store, Postern does not begin an empty one unless this file is removed as well.\n"

// errClaimed says that another process holds the lock.
var errClaimed = errors.New("another process holds it")

// claim takes the store for this process, until the file that it returns is closed.
func claim(path string) (*os.File, error) {
	f, err := os.OpenFile(path+claimSuffix, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: the directory must be writable as well", store.ErrReadOnly, err)
	}
	switch err := lock(f); {
	case errors.Is(err, errClaimed):
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another Postern: stop that one first, or use PostgreSQL, which many can share", path)
	case err != nil: // a file system without locks
		_ = f.Close()
		return nil, fmt.Errorf("%s cannot be locked: put the store on a local disk: %w", path+claimSuffix, err)
	}
	if info, err := f.Stat(); err == nil && info.Size() == 0 {
		_, _ = f.WriteString(claimText) // for people; a full disk is no reason not to serve
	}
	return f, nil
}

// lost says what shows that a store was where there is none now; nil if nothing does.
// To begin an empty one there would forget all that was revoked, and a WAL that is left
// over would be taken for that of the new one.
func lost(path string) error {
	for _, suffix := range []string{"-wal", claimSuffix} {
		if info, err := os.Lstat(path + suffix); err == nil && (suffix == claimSuffix || info.Size() > 0) {
			return fmt.Errorf("%w: %s is gone, and %s is still there: restore a backup (postern store restore), or remove that file too to begin an empty store",
				store.ErrCorrupt, path, filepath.Base(path)+suffix)
		}
	}
	return nil
}

// gone returns a function that says whether a path still leads to the file that it leads
// to now. What is written to one that was removed is lost when it is closed.
func gone(path string) (func() error, error) {
	opened, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return func() error {
		switch now, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %s was removed while it was in use; restore a backup, and restart Postern", store.ErrReadOnly, path)
		case err != nil:
			return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
		case !os.SameFile(opened, now):
			return fmt.Errorf("%w: %s was replaced while it was in use; restart Postern", store.ErrReadOnly, path)
		}
		return nil
	}, nil
}
