package login

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTestLimiter(c *clock) *limiter { return newLimiter(5, 15*time.Minute, c.now) }

var here = netip.MustParseAddr("192.0.2.1")

// However many names are tried from however many addresses, memory is bounded.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	l := newTestLimiter(&clock{time.Unix(0, 0)})
	l.room = 100
	for i := range 10_000 {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		if _, done := l.try(address, "", fmt.Sprint(i)); done == nil {
			t.Fatal("a first try is refused")
		}
		if len(l.count) > l.room || l.order.Len() != len(l.count) {
			t.Fatalf("%d counters, %d in order", len(l.count), l.order.Len())
		}
	}
}

// Old counters go by themselves.
func TestLimiterForgets(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(0, 0)}
	l := newTestLimiter(c)
	l.try(here, "", "alice")
	c.at = c.at.Add(15 * time.Minute)
	l.try(netip.MustParseAddr("192.0.2.2"), "", "bob")
	if len(l.count) != 2 {
		t.Errorf("%d counters", len(l.count))
	}
}

// An address gets twenty names' tries; all of a /64 are one address, and one that is
// not known does not lock out the others.
func TestLimiterByAddress(t *testing.T) {
	t.Parallel()
	tries := func(address func(i int) netip.Addr) (n int) {
		l := newTestLimiter(&clock{time.Unix(0, 0)})
		for i := range 1000 {
			if _, done := l.try(address(i), "", fmt.Sprint(i)); done != nil {
				n++
			}
		}
		return n
	}
	if n := tries(func(int) netip.Addr { return here }); n != 100 {
		t.Errorf("%d names from one address", n)
	}
	if n := tries(func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)) }); n != 100 {
		t.Errorf("%d names from one /64", n)
	}
	if n := tries(func(int) netip.Addr { return netip.Addr{} }); n != 1000 {
		t.Errorf("%d names from nowhere", n)
	}
}

// Tenant and name do not run into each other.
func TestLimiterKeys(t *testing.T) {
	t.Parallel()
	l := newTestLimiter(&clock{})
	if l.key("name", here, "ab", "c") == l.key("name", here, "a", "bc") || l.key("name", here, "", "1:a") == l.key("name", here, "1:a", "") {
		t.Error("two names share a counter")
	}
}

// Of many tries at once, no more than five go through: they count before they are
// made.
func TestLimiterAtOnce(t *testing.T) {
	t.Parallel()
	l := newTestLimiter(&clock{time.Unix(0, 0)})
	var through atomic.Int64
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if _, done := l.try(here, "", "alice"); done != nil {
				through.Add(1)
			}
		})
	}
	group.Wait()
	if through.Load() != 5 {
		t.Errorf("%d", through.Load())
	}
}

// A try whose outcome nobody knows did not happen.
func TestLimiterUnknown(t *testing.T) {
	t.Parallel()
	l := newTestLimiter(&clock{time.Unix(0, 0)})
	for range 200 {
		_, done := l.try(here, "", "alice")
		if done == nil {
			t.Fatal("locked")
		}
		done(unknown)
	}
	if len(l.count) != 0 || l.order.Len() != 0 {
		t.Errorf("%d counters, %d in order", len(l.count), l.order.Len())
	}
}

// Whatever the body, what is read of it is bounded text, or nothing.
func FuzzReadForm(f *testing.F) {
	f.Add("application/x-www-form-urlencoded", "username=alice&password=secret&tenant=x")
	f.Add("application/json", `{"username":"alice","password":"secret"}`)
	f.Add("application/json; charset=utf-8", `{"username":"\ud800"}`)
	f.Fuzz(func(t *testing.T, kind, body string) {
		r := httptest.NewRequest("POST", "/login", strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		got, refusal := readForm(r)
		if refusal != nil {
			if refusal.status < 400 || refusal.status > 499 || got.username != "" || !got.password.IsZero() {
				t.Errorf("%d, %q", refusal.status, got.username)
			}
			return
		}
		pw := got.password.Reveal()
		if got.username == "" || len(got.username) > maxText || len(got.tenant) > maxText || pw == "" || len(pw) > 1024 ||
			!utf8.ValidString(got.username+"\n"+got.tenant+"\n"+pw) {
			t.Errorf("%q %q", got.username, got.tenant)
		}
	})
}
