package tally_test

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/tally"
)

// B-06: a book counts as a map without bounds would, as long as there is room.
func TestBook(t *testing.T) {
	t.Parallel()
	type entry struct {
		n     int
		until time.Time
	}
	rapid.Check(t, func(t *rapid.T) {
		var b tally.Book[int]
		model, now := map[int]entry{}, time.Unix(1, 0)
		key := rapid.IntRange(0, 3)
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "s")) * time.Second)
			},
			"put": func(t *rapid.T) {
				k, e := key.Draw(t, "key"), entry{rapid.IntRange(0, 2).Draw(t, "n"), now.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "s")) * time.Second)}
				model[k] = e
				b.Put(k, tally.Tally{N: e.n, Until: e.until}, now)
			},
			"take": func(t *rapid.T) {
				k := key.Draw(t, "key")
				if e := model[k]; e.n > 0 {
					model[k] = entry{e.n - 1, e.until}
				}
				b.Take(k)
			},
			"delete": func(t *rapid.T) {
				k := key.Draw(t, "key")
				delete(model, k)
				b.Delete(k)
			},
			"": func(t *rapid.T) {
				for k := range 4 {
					want := model[k]
					if !now.Before(want.until) {
						want.n = 0
					}
					if got := b.Get(k, now); got.N != want.n {
						t.Fatalf("%d: %d, want %d", k, got.N, want.n)
					}
				}
			},
		})
	})
}

// However many keys there are, memory is bounded, what is over goes first, and a new
// key has room.
func TestBookIsBounded(t *testing.T) {
	t.Parallel()
	var b tally.Book[int]
	now := time.Unix(0, 0)
	for i := range tally.Max + 1000 {
		b.Put(i, tally.Tally{N: 1, Until: now.Add(time.Minute)}, now)
		if b.Get(i, now).N != 1 {
			t.Fatal("there was no room for a new one")
		}
	}
	if b.Len() != tally.Max {
		t.Errorf("%d keys", b.Len())
	}
	later := now.Add(2 * time.Minute)
	b.Put(-1, tally.Tally{N: 1, Until: later.Add(time.Minute)}, later)
	if b.Len() != 1 {
		t.Errorf("%d keys after their time", b.Len())
	}
}

func TestClient(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := tally.Client(netip.MustParseAddr(at)); got != netip.MustParseAddr(want) {
			t.Errorf("%s counts as %s", at, got)
		}
	}
	if tally.Client(netip.Addr{}).IsValid() {
		t.Error("nobody is somebody")
	}
}
