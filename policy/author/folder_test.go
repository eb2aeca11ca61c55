package author

import (
	"io/fs"
	"testing"
	"testing/fstest"
)

// A folder is a file system, by the standard library's own measure.
func TestFolder(t *testing.T) {
	t.Parallel()
	names := []string{"authz.rego", "data.json", "a/b/c.rego", "a/b/d.rego", "a/x.yaml", "a.rego", "b/only.rego"}
	f := folder{}
	for _, name := range names {
		f[name] = "of " + name
	}
	if err := fstest.TestFS(f, names...); err != nil {
		t.Error(err)
	}
	if text, err := fs.ReadFile(f, "a/b/c.rego"); err != nil || string(text) != "of a/b/c.rego" {
		t.Errorf("%q %v", text, err)
	}
	if err := fstest.TestFS(folder{}); err != nil {
		t.Error("empty:", err)
	}
	// What is a file has nothing below it.
	f = folder{"a": "text", "a/b.rego": "package x"}
	if entries, err := fs.ReadDir(f, "."); err != nil || len(entries) != 1 || entries[0].IsDir() {
		t.Error(entries, err)
	}
}
