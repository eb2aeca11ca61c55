package rego

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// cache holds verdicts by key. It is a table of sets: a key's hash picks a set,
// whose few slots are scanned. Slots are atomic pointers to entries that do not
// change, so that a look-up takes no lock and allocates nothing, and the number
// of entries has a hard bound.
//
// A hash only finds candidates. An entry is used if its whole key is equal, byte
// for byte, so a collision costs at most a look-up. The hash has a seed of its
// own, so that nobody outside can aim at one set.
//
// In a full set the coldest entry makes room: hits heat an entry up to 3, and a
// set in which all are warm cools by one. Entries that are used survive any
// number of entries that are not.
type cache struct {
	seed     maphash.Seed
	sets     []set
	mask     uint64
	maxBytes int64

	// off is set when a cached verdict was found to be wrong.
	off atomic.Bool

	hits, misses, evictions atomic.Uint64
	entries, bytes          atomic.Int64
	// hand is the next set to give up memory when all sets together hold too much.
	hand atomic.Uint64
}

// ways is the number of slots in a set: 64 bytes of pointers, one cache line.
const ways = 8

type set [ways]atomic.Pointer[entry]

// entry is one cached verdict. All but heat is immutable.
type entry struct {
	hash    uint64
	expires int64 // Unix nanoseconds
	key     []byte
	verdict *policy.Verdict
	size    int64 // bytes, about
	heat    atomic.Uint32
}

const (
	maxHeat = 3
	// maxKey is the longest key that is cached, in bytes.
	maxKey = 16 << 10
	// entryOverhead is about what an entry costs besides its key and what its verdict
	// refers to: the entry, the verdict and their allocator's rounding.
	entryOverhead = 512
	// valueCost is about what one text of a list, or one JSON value, costs besides
	// its own bytes.
	valueCost = 32
	// auditEvery is how many hits there are to one that is evaluated again.
	auditEvery = 1024
)

// newCache returns a cache for about size entries; nil if size is negative.
func newCache(c CacheConfig) *cache {
	if c.Size < 0 {
		return nil
	}
	sets := uint64(1) << bits.Len64(uint64(max(c.Size, ways)-1)/ways)
	return &cache{seed: maphash.MakeSeed(), sets: make([]set, sets), mask: sets - 1, maxBytes: c.MaxBytes}
}

func (c *cache) hash(key []byte) uint64 { return maphash.Bytes(c.seed, key) }

// get returns the verdict of the key if it has one at that instant. The second
// result asks the caller to check this hit.
func (c *cache) get(hash uint64, key []byte, now int64) (v *policy.Verdict, audit bool) {
	slots := &c.sets[hash&c.mask]
	for i := range slots {
		e := slots[i].Load()
		if e == nil || e.hash != hash || !bytes.Equal(e.key, key) {
			continue
		}
		if now >= e.expires {
			break
		}
		if h := e.heat.Load(); h < maxHeat {
			e.heat.Store(h + 1)
		}
		return e.verdict, c.hits.Add(1)%auditEvery == 0
	}
	c.misses.Add(1)
	return nil, false
}

// put keeps a verdict until the instant expires, under a copy of the key.
func (c *cache) put(hash uint64, key []byte, v *policy.Verdict, now, expires int64) {
	if c.off.Load() || now >= expires || len(key) > maxKey {
		return
	}
	fresh := &entry{hash: hash, expires: expires, key: bytes.Clone(key), verdict: v}
	fresh.size = int64(len(key)+verdictSize(v)) + entryOverhead
	slot := c.victim(&c.sets[hash&c.mask], hash, key, now)
	c.replace(slot, fresh)
	for range c.sets {
		if c.bytes.Load() <= c.maxBytes {
			return
		}
		slots := &c.sets[c.hand.Add(1)&c.mask]
		for i := range slots {
			if e := slots[i].Load(); e != nil && e != fresh {
				c.replace(&slots[i], nil)
			}
		}
	}
}

// victim picks the slot for a key: its own, a free or expired one, or else the
// coldest.
func (c *cache) victim(slots *set, hash uint64, key []byte, now int64) *atomic.Pointer[entry] {
	var free, coldest *atomic.Pointer[entry]
	least := uint32(maxHeat + 1)
	for i := range slots {
		e := slots[i].Load()
		switch {
		case e == nil || now >= e.expires:
			free = &slots[i]
		case e.hash == hash && bytes.Equal(e.key, key):
			return &slots[i]
		case e.heat.Load() < least:
			least, coldest = e.heat.Load(), &slots[i]
		}
	}
	if free != nil {
		return free
	}
	if least > 0 {
		cool(slots)
	}
	return coldest
}

func cool(slots *set) {
	for i := range slots {
		if e := slots[i].Load(); e != nil {
			if h := e.heat.Load(); h > 0 {
				e.heat.Store(h - 1)
			}
		}
	}
}

// replace swaps a slot's entry and keeps the books. Whoever swaps an entry out is
// the one who takes it off the books, so concurrent writers cannot count twice.
func (c *cache) replace(slot *atomic.Pointer[entry], fresh *entry) {
	if fresh != nil {
		c.entries.Add(1)
		c.bytes.Add(fresh.size)
	}
	if old := slot.Swap(fresh); old != nil {
		c.entries.Add(-1)
		c.bytes.Add(-old.size)
		c.evictions.Add(1)
	}
}

// verdictSize is about the memory that a verdict refers to and that is its own.
func verdictSize(v *policy.Verdict) int {
	n := len(v.Message) + len(v.Body)
	for _, fields := range [...][]policy.Header{v.UpstreamHeaders, v.ClientHeaders, v.SetQuery} {
		for _, f := range fields {
			n += len(f.Name) + len(f.Value) + valueCost
		}
	}
	for _, texts := range [...][]string{v.RemoveHeaders, v.RemoveQuery, v.MissingScopes, v.MissingPermissions} {
		for _, s := range texts {
			n += len(s) + valueCost
		}
	}
	n += treeSize(v.Metadata)
	for _, o := range v.Obligations {
		n += len(o.Type) + valueCost + treeSize(o.Parameters)
	}
	return n + groundsSize(v.Grounds)
}

// groundsSize leaves out the paths of what was read, which all grounds share.
func groundsSize(g *policy.Grounds) int {
	if g == nil {
		return 0
	}
	n := 3 * valueCost
	for i := range g.Reads {
		n += len(g.Reads[i].Value) + 2*valueCost
	}
	for i := range g.Failed {
		f := &g.Failed[i]
		n += len(f.Rule) + len(f.File) + len(f.Expression) + 3*valueCost
	}
	return n
}

func treeSize(j any) int {
	n := valueCost
	switch j := j.(type) {
	case string:
		n += len(j)
	case json.Number:
		n += len(j)
	case []any:
		for _, e := range j {
			n += treeSize(e)
		}
	case map[string]any:
		for name, e := range j {
			n += len(name) + treeSize(e)
		}
	}
	return n
}

// turnOff empties the cache for good.
func (c *cache) turnOff() {
	c.off.Store(true)
	for i := range c.sets {
		for j := range c.sets[i] {
			if c.sets[i][j].Load() != nil {
				c.replace(&c.sets[i][j], nil)
			}
		}
	}
}

// CacheStats are the counters of one snapshot's decision cache.
type CacheStats struct {
	// Hits, Misses and Evictions count since activation. A look-up that finds an
	// expired decision is a miss; a decision replaced by a newer one is evicted.
	Hits, Misses, Evictions uint64
	// Entries and Bytes are what is kept now; bytes are an estimate.
	Entries, Bytes int64
	// Off says that the cache is switched off, that the policy's decisions cannot
	// be cached, or that one was found to be wrong.
	Off bool
}

func (c *cache) stats() CacheStats {
	if c == nil {
		return CacheStats{Off: true}
	}
	return CacheStats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.evictions.Load(),
		Entries: c.entries.Load(), Bytes: c.bytes.Load(), Off: c.off.Load(),
	}
}
