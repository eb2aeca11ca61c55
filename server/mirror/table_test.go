package mirror

import (
	"hash/maphash"
	"maps"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

type pair struct {
	key   string
	value int
}

func newPairs() *table[string, pair] {
	return newTable(func(p *pair) string { return p.key }, hashText)
}

// A table holds what a map holds, whatever is put in and taken away, also when all
// keys have one hash.
func TestTableIsAMap(t *testing.T) {
	t.Parallel()
	for name, hash := range map[string]func(maphash.Seed, string) uint64{
		"good hash": hashText, "one hash": func(maphash.Seed, string) uint64 { return 7 },
	} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			got, want := newTable(func(p *pair) string { return p.key }, hash), map[string]int{}
			for i := range rapid.IntRange(0, 200).Draw(t, "steps") {
				key := strconv.Itoa(rapid.IntRange(0, 30).Draw(t, "key"))
				if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
					got.remove(key)
					delete(want, key)
					continue
				}
				got.put(&pair{key, i})
				want[key] = i
			}
			have := map[string]int{}
			for p := range got.all() {
				have[p.key] = p.value
			}
			if got.len() != len(want) || !maps.Equal(have, want) {
				t.Fatalf("%v, want %v", have, want)
			}
			for i := range 31 {
				key := strconv.Itoa(i)
				p := got.get(key)
				if v, ok := want[key]; (p != nil) != ok || ok && p.value != v {
					t.Fatalf("%s: %+v, want %d, %v", key, p, v, ok)
				}
			}
		}))
	}
}

// Adding and removing for ever does not fill the table with marks.
func TestTableStaysSmall(t *testing.T) {
	t.Parallel()
	tab := newPairs()
	for i := range 100_000 {
		tab.put(&pair{key: strconv.Itoa(i)})
		tab.remove(strconv.Itoa(i - 10))
	}
	if n := len(*tab.slots.Load()); n > 64 || tab.len() != 10 {
		t.Errorf("%d slots for %d entries", n, tab.len())
	}
}

// What is there all the time is found at every moment, while others come and go.
func TestTableWhileItChanges(t *testing.T) {
	t.Parallel()
	tab := newPairs()
	for i := range 100 {
		tab.put(&pair{key: "stays" + strconv.Itoa(i)})
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				key := "stays" + strconv.Itoa(i%100)
				if p := tab.get(key); p == nil || p.key != key {
					t.Error("not found")
					return
				}
			}
		})
	}
	for i := range 20_000 {
		tab.put(&pair{key: strconv.Itoa(i)})
		if i%3 > 0 {
			tab.remove(strconv.Itoa(i - 5))
		}
		tab.put(&pair{key: "stays" + strconv.Itoa(i%100), value: i})
	}
	close(done)
	readers.Wait()
}
