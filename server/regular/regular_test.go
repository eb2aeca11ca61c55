//go:build unix

package regular_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/postern-auth/postern/server/regular"
)

// What is no regular file is refused at once, whoever is at its other end, and so is what
// is too large; by name, by a link, and in a tree.
func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(at("file"), []byte("12345"), 0o600), os.Mkdir(at("dir"), 0o700), syscall.Mkfifo(at("pipe"), 0o600),
		os.Symlink("pipe", at("link-to-pipe")), os.Symlink("file", at("link")),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, c := range map[string]struct {
		limit int64
		want  error
	}{
		"file": {5, nil}, "link": {5, nil},
		"dir": {5, regular.ErrNotRegular}, "pipe": {5, regular.ErrNotRegular}, "link-to-pipe": {5, regular.ErrNotRegular},
		"missing": {5, fs.ErrNotExist},
	} {
		for how, read := range map[string]func(int64) ([]byte, error){
			"by name":   func(limit int64) ([]byte, error) { return regular.ReadFile(at(name), limit) },
			"in a tree": func(limit int64) ([]byte, error) { return regular.ReadFileFS(regular.Root(root), name, limit) },
		} {
			text, err := read(c.limit)
			if !errors.Is(err, c.want) || (err == nil) != (string(text) == "12345") {
				t.Errorf("%s, %s: %q %v", name, how, text, err)
			}
			if _, err := read(4); err == nil || c.want == nil && !errors.Is(err, regular.ErrTooLarge) {
				t.Errorf("%s, %s, larger than its limit: %v", name, how, err)
			}
		}
	}
	if _, err := regular.ReadFile("/dev/zero", 5); !errors.Is(err, regular.ErrNotRegular) {
		t.Error("a device: ", err)
	}
	if _, err := regular.ReadFileFS(regular.Root(root), "../"+filepath.Base(dir)+"/file", 5); !errors.Is(err, fs.ErrInvalid) {
		t.Error("out of the tree: ", err)
	}
}

// A tree is one as any other.
func TestRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := fstest.TestFS(regular.Root(root), "file"); err != nil {
		t.Error(err)
	}
}
