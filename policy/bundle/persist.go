package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// shelf keeps the bytes of one bundle that are in force:
//
//	<dir>/<name>/<digest>.tar.gz   the bytes
//	<dir>/<name>/current.json      which of them; its time is when they were last known to be the newest
//
// The bytes are on disk before current.json names them, and the old ones go when
// it does not any more. So there is a whole bundle at each moment, and only the
// bundle's own signature says that it is to be trusted.
type shelf struct {
	dir   string // "" keeps nothing
	limit int64
}

// kept is what current.json holds.
type kept struct {
	Digest    string    `json:"digest"`
	ETag      string    `json:"etag,omitempty"`
	Revision  string    `json:"revision,omitempty"`
	Activated time.Time `json:"activated"`
}

const (
	currentFile  = "current.json"
	maxCurrent   = 64 << 10
	packedSuffix = ".tar.gz"
)

func newShelf(dir, name string, limit int64) *shelf {
	if dir == "" {
		return &shelf{}
	}
	return &shelf{dir: filepath.Join(dir, url.PathEscape(name)), limit: limit}
}

// take returns what was kept; nil if nothing was. The time is when the server last
// said that there is nothing newer.
func (s *shelf) take() (raw []byte, k kept, confirmed time.Time, err error) {
	if s.dir == "" {
		return nil, k, confirmed, nil
	}
	current := filepath.Join(s.dir, currentFile)
	info, err := os.Stat(current)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, k, confirmed, nil
	}
	if err != nil {
		return nil, k, confirmed, err
	}
	text, err := readFile(current, maxCurrent)
	if err != nil {
		return nil, k, confirmed, err
	}
	if err := json.Unmarshal(text, &k); err != nil || len(k.Digest) != 2*sha256.Size || strings.Trim(k.Digest, "0123456789abcdef") != "" {
		return nil, k, confirmed, fmt.Errorf("%s is damaged", current)
	}
	file := filepath.Join(s.dir, k.Digest+packedSuffix)
	if raw, err = readFile(file, s.limit); err != nil {
		return nil, k, confirmed, err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != k.Digest {
		return nil, k, confirmed, fmt.Errorf("%s was changed since it was written", file)
	}
	return raw, k, info.ModTime(), nil
}

// put keeps bytes in place of the ones before.
func (s *shelf) put(raw []byte, k kept) error {
	if s.dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	packed := k.Digest + packedSuffix
	if err := s.write(packed, raw); err != nil {
		return err
	}
	if err := s.write(currentFile, text); err != nil {
		return err
	}
	s.sweep(packed)
	return nil
}

// write puts a file in place whole or not at all, also when the machine dies.
func (s *shelf) write(name string, text []byte) (err error) {
	f, err := os.CreateTemp(s.dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(s.dir, name)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes old bundles, and what a crash left half written.
func (s *shelf) sweep(keep string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return // they are in the way of nothing
	}
	for _, e := range entries {
		old := strings.HasSuffix(e.Name(), packedSuffix) && e.Name() != keep
		if old || strings.HasPrefix(e.Name(), ".") {
			_ = os.Remove(filepath.Join(s.dir, e.Name()))
		}
	}
}

// confirm notes that what is kept is still the newest.
func (s *shelf) confirm(now time.Time) {
	if s.dir != "" {
		_ = os.Chtimes(filepath.Join(s.dir, currentFile), now, now) // without it, the policy looks older than it is
	}
}
