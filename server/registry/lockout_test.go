package registry

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// However many names are tried, memory is bounded, and a name that is new is not
// locked out for it.
func TestLockoutForgets(t *testing.T) {
	l := newLockout(2, time.Minute)
	now := time.Unix(0, 0)
	named := func(name string) []lock { return []lock{{name, 2}} }
	for i := range maxNames + 1000 {
		if !l.try(named(fmt.Sprint(i)), now) {
			t.Fatal("a name that was never tried is locked out")
		}
	}
	if len(l.names) != maxNames {
		t.Errorf("%d names", len(l.names))
	}
	l.try(named("late"), now.Add(2*time.Minute))
	if len(l.names) != 1 {
		t.Errorf("%d names after their time", len(l.names))
	}
	for i, want := range []bool{true, false, false} {
		if got := l.try(named("late"), now.Add(2*time.Minute)); got != want {
			t.Errorf("try %d: %v", i+2, got)
		}
	}
	l.giveBack(named("late"))
	l.giveBack(named("nobody"))
	if !l.try(named("late"), now.Add(2*time.Minute)) {
		t.Error("a try that was given back counts")
	}
}

// B-06: who guesses is locked out with the user whom he tries, and the user himself
// goes on from elsewhere; many who guess together lock the user.
func TestLockoutByAddress(t *testing.T) {
	l := newLockout(2, time.Minute)
	now := time.Unix(0, 0)
	from := func(n byte) []lock { return l.locks("acme", "alice", netip.AddrFrom4([4]byte{192, 0, 2, n})) }
	for i, want := range []bool{true, true, false} {
		if got := l.try(from(1), now); got != want {
			t.Errorf("try %d: %v", i, got)
		}
	}
	if !l.try(from(2), now) {
		t.Error("alice is locked out from elsewhere")
	}
	l.clear(from(2))
	for n := byte(3); n < 3+crowd-1; n++ {
		if !l.try(from(n), now) || !l.try(from(n), now) {
			t.Fatalf("address %d is locked out", n)
		}
	}
	if l.try(from(200), now) {
		t.Errorf("%d addresses guess without end", crowd)
	}
	if !l.try(l.locks("acme", "bob", netip.AddrFrom4([4]byte{192, 0, 2, 1})), now) {
		t.Error("bob is locked out")
	}
	if !l.try(from(200), now.Add(2*time.Minute)) {
		t.Error("the window never ends")
	}
}
