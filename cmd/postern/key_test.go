package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Minters that run at the same time lose none of each other's entries.
func TestAddEntryTakesTurns(t *testing.T) {
	t.Parallel()
	w := world(t.TempDir())
	w.write(t, "keys.yaml", "# ours\nkeys: []\n")
	var all sync.WaitGroup
	const minters = 20
	for i := range minters {
		all.Go(func() {
			if err := addEntry(w.path("keys.yaml"), fmt.Sprintf("  - id: \"k%d\"\n", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := strings.Count(w.read(t, "keys.yaml"), "- id:"); n != minters {
		t.Errorf("%d of %d entries are there:\n%s", n, minters, w.read(t, "keys.yaml"))
	}
	if left, _ := filepath.Glob(w.path(".keys-*")); len(left) > 0 {
		t.Error("left behind: ", left)
	}
}
