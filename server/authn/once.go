package authn

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// The answers of Once.Use that are no "yes".
var (
	// ErrUsed says that a credential was used before.
	ErrUsed = errors.New("it was used before")
	// ErrOver says that a credential was over before it could be used.
	ErrOver = errors.New("it was over before it could be used")
	// ErrOverloaded says that so many credentials for one use are remembered that one
	// more cannot be. It is no answer about the credential.
	ErrOverloaded = errors.New("too many credentials for one use are remembered at the moment")
)

// Once is the memory of credentials that may be used once, such as DPoP proofs.
//
// It is exact: what was used is remembered until it would be refused for its age
// anyway, and nothing is forgotten earlier to make room. When it is full it says so,
// and whoever asks denies. For that it needs to know how long a credential can be good
// after its first use, the window, which is the same for all; so entries leave in the
// order in which they came, and no timer is needed.
//
// An entry is 16 bytes of a keyed SHA-256 and an instant, in one of 64 shards, each
// with a lock of its own: about 70 bytes of memory with the tables around it. Memory
// grows with what is remembered, and is given back when a shard that was large has
// nothing left to remember.
//
// It is the memory of one process. Another replica does not know what was used here.
type Once struct {
	key    [sha256.Size]byte
	now    func() time.Time
	window atomic.Int64 // nanoseconds
	limit  atomic.Int64 // entries of one shard
	shards [onceShards]onceShard
}

const onceShards = 64

type onceShard struct {
	sync.Mutex
	used map[onceKey]struct{}
	// order holds the same keys as they came, from head on.
	order []onceEntry
	head  int
}

type onceKey [16]byte

type onceEntry struct {
	key onceKey
	// at is when it was used, in nanoseconds of Unix time.
	at int64
}

// NewOnce returns a memory of about size credentials, none of which is good for longer
// than window after its first use. A nil clock is time.Now.
func NewOnce(size int, window time.Duration, now func() time.Time) *Once {
	if now == nil {
		now = time.Now
	}
	o := &Once{now: now}
	o.Resize(size, window)
	_, _ = rand.Read(o.key[:]) // never fails: it ends the process instead
	return o
}

// Resize changes the size, and the window if the new one is longer. What is remembered
// stays, so that a new configuration does not make used credentials good again, and
// whoever works by the old one goes on to do so.
func (o *Once) Resize(size int, window time.Duration) {
	o.limit.Store(int64(max(1, (size+onceShards-1)/onceShards)))
	for {
		old := o.window.Load()
		if int64(window) <= old || o.window.CompareAndSwap(old, int64(window)) {
			return
		}
	}
}

// Use remembers a credential, which the parts name together, and returns nil if it was
// not used before. until is the last instant at which it is good. The error is ErrUsed
// or ErrOver; or ErrOverloaded or another one, which say nothing about the credential.
func (o *Once) Use(until time.Time, parts ...string) error {
	sum := o.hash(parts)
	s := &o.shards[sum[0]%onceShards]
	key := onceKey(sum[1:])
	window := o.window.Load()

	s.Lock()
	defer s.Unlock()
	// The clock is read behind the lock: whoever was held up before it may come with a
	// credential that is over, and that was forgotten meanwhile.
	now := o.now()
	switch {
	case now.After(until):
		return ErrOver
	case until.Sub(now) > time.Duration(window):
		return errUntil
	}
	s.forget(now.UnixNano() - window)
	if _, used := s.used[key]; used {
		return ErrUsed
	}
	if int64(len(s.used)) >= o.limit.Load() {
		return ErrOverloaded
	}
	if s.used == nil {
		s.used = make(map[onceKey]struct{})
	}
	s.used[key] = struct{}{}
	s.order = append(s.order, onceEntry{key, now.UnixNano()})
	return nil
}

var errUntil = errors.New("the credential is good for longer than it would be remembered")

// keepEmpty is how many entries an empty shard may have room for.
const keepEmpty = 1024

// forget takes out what came before an instant, in constant time for each entry.
func (s *onceShard) forget(before int64) {
	for s.head < len(s.order) && s.order[s.head].at < before {
		delete(s.used, s.order[s.head].key)
		s.head++
	}
	switch {
	case s.head == 0:
	case s.head == len(s.order) && cap(s.order) > keepEmpty:
		s.used, s.order, s.head = nil, nil, 0
	case 2*s.head >= len(s.order):
		s.order = append(s.order[:0], s.order[s.head:]...)
		s.head = 0
	}
}

// hash is keyed with a random key of this process, so that nobody can choose the shard
// of an entry, and each part has its length before it.
func (o *Once) hash(parts []string) [sha256.Size]byte {
	var scratch [512]byte
	b := append(scratch[:0], o.key[:]...)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}

// Len returns how many credentials are remembered, for metrics. Some may be over.
func (o *Once) Len() int {
	n := 0
	for i := range o.shards {
		s := &o.shards[i]
		s.Lock()
		n += len(s.used)
		s.Unlock()
	}
	return n
}
