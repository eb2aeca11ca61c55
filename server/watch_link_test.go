package server

import (
	"os"
	"path/filepath"
	"testing"
)

// A file that stands behind a link is seen to change, where no event says so.
func TestMovedBehindALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link := filepath.Join(dir, "vault", "keys.yaml"), filepath.Join(dir, "keys.yaml")
	put := func(text string) {
		t.Helper()
		next := target + ".next"
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, target); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil {
		t.Fatal(err)
	}
	put("one")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	v := surveyed{files: []string{link, filepath.Join(dir, "missing")}}
	if v.moved() || v.moved() {
		t.Error("nothing has changed")
	}
	put("two")
	if !v.moved() || v.moved() {
		t.Error("a replaced target counts once")
	}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	if !v.moved() || v.moved() {
		t.Error("a target that is gone counts once")
	}
}
