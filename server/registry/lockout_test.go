package registry

import (
	"fmt"
	"testing"
	"time"
)

// However many names are tried, memory is bounded, and a name that is new is not
// locked out for it.
func TestLockoutForgets(t *testing.T) {
	l := newLockout(2, time.Minute)
	now := time.Unix(0, 0)
	for i := range maxNames + 1000 {
		if !l.try(fmt.Sprint(i), now) {
			t.Fatal("a name that was never tried is locked out")
		}
	}
	if len(l.names) != maxNames {
		t.Errorf("%d names", len(l.names))
	}
	l.try("late", now.Add(2*time.Minute))
	if len(l.names) != 1 {
		t.Errorf("%d names after their time", len(l.names))
	}
	for i, want := range []bool{true, false, false} {
		if got := l.try("late", now.Add(2*time.Minute)); got != want {
			t.Errorf("try %d: %v", i+2, got)
		}
	}
	l.giveBack("late")
	l.giveBack("nobody")
	if !l.try("late", now.Add(2*time.Minute)) {
		t.Error("a try that was given back counts")
	}
}
