package guard

import (
	"crypto/sha256"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// reuse remembers allows by a digest of the whole question. A nil reuse remembers
// nothing. A deny is never remembered: what was missing may be there at the next try.
type reuse struct {
	most int

	mu    sync.Mutex
	known map[[sha256.Size]byte]remembered
}

type remembered struct {
	answer *posternv1.CheckResponse
	until  time.Time
}

func newReuse(entries int) *reuse {
	return &reuse{most: max(entries, 1), known: map[[sha256.Size]byte]remembered{}}
}

// find returns the answer to exactly this question, if there is one that still counts.
// The id under which a request is logged makes it no other question.
func (r *reuse) find(q *posternv1.CheckRequest, now time.Time) (key [sha256.Size]byte, answer *posternv1.CheckResponse) {
	if r == nil {
		return key, nil
	}
	same := proto.Clone(q).(*posternv1.CheckRequest)
	same.CorrelationId = ""
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(same)
	if err != nil {
		return key, nil
	}
	key = sha256.Sum256(text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.known[key]; ok && now.Before(k.until) {
		return key, k.answer
	}
	return key, nil
}

// keep remembers an allow for as long as it says itself, from when it was asked for.
func (r *reuse) keep(key [sha256.Size]byte, answer *posternv1.CheckResponse, asked time.Time) {
	ttl := answer.GetDecision().GetCacheTtl().AsDuration()
	if r == nil || key == ([sha256.Size]byte{}) || ttl <= 0 || !allows(answer) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= r.most {
		r.forget(asked)
	}
	r.known[key] = remembered{answer, asked.Add(ttl)}
}

// forget makes room for one: of a few entries, it takes one that is over, or else any. To
// look at all of them would let a client who asks ever new questions hold up all others.
func (r *reuse) forget(now time.Time) {
	var one [sha256.Size]byte
	looked := 0
	for key, k := range r.known {
		one = key
		if looked++; looked == 8 || !now.Before(k.until) {
			break
		}
	}
	delete(r.known, one)
}
