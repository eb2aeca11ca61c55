package audit

import (
	"sync"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// Ring keeps the last decisions in RAM. Recording takes one uncontended lock of
// one slot and allocates nothing.
type Ring struct {
	next  atomic.Uint64
	slots []slot
}

// slot is one kept record. Its texts lie in one buffer of its own, so that a
// record does not hold on to the request that it came from.
type slot struct {
	mu     sync.Mutex
	number uint64 // of the record, from 1
	record Record
	texts  [6]span
	buf    []byte
}

type span struct{ from, to int }

// NewRing returns a ring for n decisions; it keeps none if n is not positive.
func NewRing(n int) *Ring { return &Ring{slots: make([]slot, max(n, 0))} }

// Record implements Recorder.
func (r *Ring) Record(rec *Record) {
	if len(r.slots) == 0 {
		return
	}
	number := r.next.Add(1)
	s := &r.slots[(number-1)%uint64(len(r.slots))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < s.number { // a whole lap has passed since it was counted
		return
	}
	s.number, s.record, s.buf = number, *rec, s.buf[:0]
	s.record.Input, s.record.Trace = nil, nil
	for i, text := range s.record.texts() {
		from := len(s.buf)
		s.buf = append(s.buf, cut(*text)...)
		s.texts[i] = span{from, len(s.buf)}
		*text = ""
	}
	s.record.Decision.Detail = cut(rec.Decision.Detail)
}

// load returns the slot's record with texts of its own, if it matches, and the number
// of what is there; 0 for nothing.
func (s *slot) load(match func(*policy.Decision) bool) (rec Record, number uint64, ok bool) {
	if rec, number, ok = s.copy(match); ok {
		rec.scrub()
	}
	return rec, number, ok
}

// copy is load but for secrets. It holds the lock, for which a check may wait.
func (s *slot) copy(match func(*policy.Decision) bool) (rec Record, number uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 || match != nil && !match(&s.record.Decision) {
		return rec, s.number, false
	}
	rec = s.record
	for i, text := range rec.texts() {
		*text = string(s.buf[s.texts[i].from:s.texts[i].to])
	}
	return rec, s.number, true
}

// Find returns the decision with the id, if it is still kept.
func (r *Ring) Find(id string) (Record, bool) {
	for i := range r.slots {
		s := &r.slots[i]
		s.mu.Lock()
		found := s.record.Decision.ID == id
		s.mu.Unlock()
		if found {
			if rec, _, ok := s.load(nil); ok && rec.Decision.ID == id {
				return rec, true
			}
		}
	}
	return Record{}, false
}

// Last returns up to n decisions that match, newest first.
func (r *Ring) Last(n int, match func(*policy.Decision) bool) []Record {
	var out []Record
	size := uint64(len(r.slots))
	next := r.next.Load()
	for back := uint64(1); back <= min(next, size) && len(out) < n; back++ {
		if rec, _, ok := r.slots[(next-back)%size].load(match); ok {
			out = append(out, rec)
		}
	}
	return out
}

// Len is how many decisions the ring can keep.
func (r *Ring) Len() int { return len(r.slots) }

// Tail reads the decisions of a ring in their order, as they come. Who records them
// does not know of it: a Tail that is too slow loses what was overwritten meanwhile, and
// counts it. Not for concurrent use.
type Tail struct {
	ring *Ring
	next uint64 // number of the next record to read
}

// Tail begins with the last n decisions that match and are still kept.
func (r *Ring) Tail(n int, match func(*policy.Decision) bool) *Tail {
	size, last := uint64(len(r.slots)), r.next.Load()
	t := &Tail{r, last + 1}
	for number := last; n > 0 && number > 0 && last-number < size; number-- {
		if _, found, ok := r.slots[(number-1)%size].copy(match); ok && found == number {
			t.next, n = number, n-1
		}
	}
	return t
}

// Read returns up to n decisions that match, oldest first, and how many were lost before
// or between them. It does not wait: without news it returns nothing. It looks at most at
// as many as the ring holds.
func (t *Tail) Read(n int, match func(*policy.Decision) bool) (records []Record, lost uint64) {
	size := uint64(len(t.ring.slots))
	if size == 0 {
		return nil, 0
	}
	last := t.ring.next.Load()
	if oldest := last + 1 - min(last, size); t.next < oldest {
		lost, t.next = oldest-t.next, oldest
	}
	for ; t.next <= last && len(records) < n; t.next++ {
		rec, number, ok := t.ring.slots[(t.next-1)%size].load(match)
		switch {
		case number < t.next: // it is counted, and about to be written
			return records, lost
		case number > t.next:
			lost++
		case ok:
			records = append(records, rec)
		}
	}
	return records, lost
}
