// Package tally counts wrong passwords, or whatever somebody tries too often, in
// bounded memory: under a key, for some time. What is locked at which count is for
// whoever counts to say.
package tally

import (
	"net/netip"
	"time"
)

// Max is how many keys a Book holds: about 5 MB of hashes, 13 MB of texts.
const Max = 1 << 16

// Book counts under keys. Its zero value is empty. It is not safe for concurrent use.
type Book[K comparable] struct {
	tallies map[K]Tally
	// swept is when all of them were looked through last.
	swept time.Time
}

// Tally is a count, and when it is over.
type Tally struct {
	N     int
	Until time.Time
}

// Get returns the count of a key; zero if there is none or it is over.
func (b *Book[K]) Get(key K, now time.Time) Tally {
	if t := b.tallies[key]; now.Before(t.Until) {
		return t
	}
	return Tally{}
}

// Put sets a count. A count of nothing goes.
func (b *Book[K]) Put(key K, t Tally, now time.Time) {
	_, there := b.tallies[key]
	switch {
	case t.N <= 0:
		delete(b.tallies, key)
		return
	case b.tallies == nil:
		b.tallies = map[K]Tally{}
	case !there:
		b.makeRoom(now)
	}
	b.tallies[key] = t
}

// Take takes one from a count, which stays as long as it would have.
func (b *Book[K]) Take(key K) {
	if t, there := b.tallies[key]; there {
		t.N--
		b.Put(key, t, time.Time{})
	}
}

// Delete forgets a count.
func (b *Book[K]) Delete(key K) { delete(b.tallies, key) }

// Len is how many keys there are, those that are over and not forgotten yet included.
func (b *Book[K]) Len() int { return len(b.tallies) }

// makeRoom forgets what is over, which it looks for at most once a second, and else one
// of a few that is over first. Nobody is locked out because others fill the book; to
// have a count forgotten early takes as many tries.
func (b *Book[K]) makeRoom(now time.Time) {
	if len(b.tallies) < Max {
		return
	}
	if now.Sub(b.swept) >= time.Second {
		b.swept = now
		for key, t := range b.tallies {
			if !now.Before(t.Until) {
				delete(b.tallies, key)
			}
		}
	}
	if len(b.tallies) < Max {
		return
	}
	var victim K
	looked := 0
	for key, t := range b.tallies {
		if looked == 0 || t.Until.Before(b.tallies[victim].Until) {
			victim = key
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(b.tallies, victim)
}

// Client is what of a client's address counts: of IPv6 the first 64 bits, because one
// client has all the others to choose from.
func Client(at netip.Addr) netip.Addr {
	at = at.Unmap().WithZone("")
	if at.Is6() {
		if p, err := at.Prefix(64); err == nil {
			at = p.Addr()
		}
	}
	return at
}
