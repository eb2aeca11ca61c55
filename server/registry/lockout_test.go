package registry

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/tally"
)

// However many names are tried, memory is bounded, and a name that is new is not
// locked out for it.
func TestLockoutForgets(t *testing.T) {
	l := newLockout(2, time.Minute)
	now := time.Unix(0, 0)
	named := func(name string) []lock { return []lock{{name, 2, false}} }
	for i := range tally.Max + 1000 {
		if !l.try(named(fmt.Sprint(i)), now) {
			t.Fatal("a name that was never tried is locked out")
		}
	}
	if l.names.Len() != tally.Max {
		t.Errorf("%d names", l.names.Len())
	}
	l.try(named("late"), now.Add(2*time.Minute))
	if l.names.Len() != 1 {
		t.Errorf("%d names after their time", l.names.Len())
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
	from := func(n byte) []lock { return l.locks("acme", "alice", netip.AddrFrom4([4]byte{192, 0, 2, n}), now) }
	for i, want := range []bool{true, true, false} {
		if got := l.try(from(1), now); got != want {
			t.Errorf("try %d: %v", i, got)
		}
	}
	if !l.try(from(2), now) {
		t.Error("alice is locked out from elsewhere")
	}
	l.clear(from(2), now)
	for n := byte(3); n < 3+crowd-1; n++ {
		if !l.try(from(n), now) || !l.try(from(n), now) {
			t.Fatalf("address %d is locked out", n)
		}
	}
	if l.try(from(200), now) {
		t.Errorf("%d addresses guess without end", crowd)
	}
	for i, want := range []bool{true, true, false} { // from where the right password came, alice goes on
		if got := l.try(from(2), now); got != want {
			t.Errorf("familiar try %d: %v", i, got)
		}
	}
	l.clear(from(2), now)
	later := now.Add(familiarity)
	if got := l.locks("acme", "alice", netip.MustParseAddr("::ffff:192.0.2.2"), later.Add(-1)); len(got) != 1 {
		t.Errorf("%d locks within a day", len(got))
	}
	if got := l.locks("acme", "alice", netip.MustParseAddr("192.0.2.2"), later); len(got) != 2 {
		t.Errorf("%d locks after a day", len(got))
	}
	if !l.try(l.locks("acme", "bob", netip.AddrFrom4([4]byte{192, 0, 2, 1}), now), now) {
		t.Error("bob is locked out")
	}
	if !l.try(from(200), now.Add(2*time.Minute)) {
		t.Error("the window never ends")
	}
}

// A client chooses the last 64 bits of its IPv6 address itself, so they are no others.
func TestLockoutByNetwork(t *testing.T) {
	l := newLockout(2, time.Minute)
	now := time.Unix(0, 0)
	for i, want := range []bool{true, true, false} {
		from := netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))
		if got := l.try(l.locks("acme", "alice", from, now), now); got != want {
			t.Errorf("try %d: %v", i, got)
		}
	}
	if !l.try(l.locks("acme", "alice", netip.MustParseAddr("2001:db8:0:1::1"), now), now) {
		t.Error("another network is locked out")
	}
}
