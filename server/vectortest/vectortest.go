// Package vectortest opens the shared test vectors that stand beside the
// repository, in ../shared/vectors. Tests that need them skip, and say so, where
// that folder is not there; POSTERN_VECTORS names another place.
package vectortest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Read returns the file's bytes.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir(t), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Lines decodes a JSONL file, one value a line. Numbers stay json.Number.
func Lines[T any](t testing.TB, name string) []T {
	t.Helper()
	var all []T
	lines := bufio.NewScanner(bytes.NewReader(Read(t, name)))
	lines.Buffer(nil, 16<<20)
	for n := 1; lines.Scan(); n++ {
		var v T
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s:%d: %v", name, n, err)
		}
		all = append(all, v)
	}
	if err := lines.Err(); err != nil || len(all) == 0 {
		t.Fatalf("%s: %d cases, %v", name, len(all), err)
	}
	return all
}

// Names returns the files that match a pattern of path.Match, sorted, as Read takes them.
func Names(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := fs.Glob(os.DirFS(dir(t)), pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}

func dir(t testing.TB) string {
	t.Helper()
	if d := os.Getenv("POSTERN_VECTORS"); d != "" {
		return d
	}
	at, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			break
		}
		if up := filepath.Dir(at); up != at {
			at = up
			continue
		}
		t.Fatal("not inside the repository")
	}
	d := filepath.Join(at, "..", "shared", "vectors")
	if _, err := os.Stat(d); err != nil {
		t.Skipf("shared test vectors are not here (%s); set POSTERN_VECTORS to run this test", d)
	}
	return d
}
