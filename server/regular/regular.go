// Package regular reads regular files, and nothing else. To open a named pipe waits for
// somebody who writes to it, and to read a device may never end: one of either where a file
// of the configuration should be would hold up every reload behind it, and with it what
// reloads bring, such as that a key is no longer good. So files are opened without waiting,
// then looked at, and read up to a limit.
package regular

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrNotRegular says that a name is not that of a regular file.
	ErrNotRegular = errors.New("is not a regular file")
	// ErrTooLarge says that a file is larger than its limit.
	ErrTooLarge = errors.New("is too large")
)

// ReadFile reads a file of at most limit bytes. Symbolic links are followed. The error is
// an *fs.PathError, which wraps ErrNotRegular, ErrTooLarge or what the system says.
func ReadFile(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, readOnly, 0)
	if err != nil {
		return nil, err
	}
	return readAll(f, name, limit)
}

// readOnly opens without waiting for whoever is at the other end.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

func readAll(f fs.File, name string, limit int64) ([]byte, error) {
	defer func() { _ = f.Close() }()
	fault := func(err error) error { return &fs.PathError{Op: "read", Path: name, Err: err} }
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fault(fmt.Errorf("%w: it is a directory", ErrNotRegular))
	case !info.Mode().IsRegular():
		return nil, fault(ErrNotRegular)
	}
	var text bytes.Buffer
	text.Grow(int(min(info.Size(), limit)) + bytes.MinRead)
	_, err = text.ReadFrom(io.LimitReader(f, limit+1)) // it may grow while it is read
	switch {
	case err != nil:
		return nil, err
	case int64(text.Len()) > limit:
		return nil, fault(fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit))
	}
	return text.Bytes(), nil
}

// ReadFileFS is ReadFile of a file system, which is to open without waiting (Root).
func ReadFileFS(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	return readAll(f, name, limit)
}

// Root is the tree of a directory that nothing leaves, as root.FS is, and opens without
// waiting.
func Root(root *os.Root) fs.FS { return tree{root} }

type tree struct{ root *os.Root }

// Open implements fs.FS.
func (t tree) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := t.root.OpenFile(name, readOnly, 0)
	if err != nil {
		return nil, err // not f, which would be no nil in the interface
	}
	return f, nil
}
