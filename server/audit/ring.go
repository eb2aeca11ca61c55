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
	s := &r.slots[(r.next.Add(1)-1)%uint64(len(r.slots))]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record, s.buf = *rec, s.buf[:0]
	s.record.Input = nil
	for i, text := range s.record.texts() {
		from := len(s.buf)
		s.buf = append(s.buf, cut(*text)...)
		s.texts[i] = span{from, len(s.buf)}
		*text = ""
	}
	s.record.Decision.Detail = cut(rec.Decision.Detail)
}

// load returns the slot's record with texts of its own.
func (s *slot) load() (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.record
	for i, text := range rec.texts() {
		*text = string(s.buf[s.texts[i].from:s.texts[i].to])
	}
	return rec, !rec.Time.IsZero()
}

// Find returns the decision with the id, if it is still kept.
func (r *Ring) Find(id string) (Record, bool) {
	for i := range r.slots {
		s := &r.slots[i]
		s.mu.Lock()
		found := s.record.Decision.ID == id
		s.mu.Unlock()
		if found {
			if rec, ok := s.load(); ok && rec.Decision.ID == id {
				rec.scrub()
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
		rec, ok := r.slots[(next-back)%size].load()
		if ok && (match == nil || match(&rec.Decision)) {
			rec.scrub()
			out = append(out, rec)
		}
	}
	return out
}
