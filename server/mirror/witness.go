package mirror

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/postern-auth/postern/server/store"
)

// A witness is what the last change wrote that a replica has seen. A store gets a
// new epoch when Postern restores it, but a database can also be put back to an
// earlier state by its own means, keep the epoch, and be written past the number
// that a replica has seen before that one asks again: the feed then goes on as if
// nothing had happened, and what the lost changes did would stay in RAM.
//
// So each poll asks from the change before the last, and looks whether the last one
// is still what it was. In the same history each of its records is there unchanged,
// or was written again since, or was purged; and nothing else has its number. In
// another one that can only be so if all that both wrote under that number was
// written again; or if the change wrote more than maxWitness records, which are not
// read again with each poll.
type witness struct {
	number int64
	wrote  []testimony
}

// testimony is a record as the change left it.
type testimony struct {
	Kind store.Kind `json:"kind"`
	ID   string     `json:"id"`
	// Sum is the SHA-256 of its content.
	Sum []byte `json:"sum"`
	// Passing says that it can be purged, so that it may be missing.
	Passing bool `json:"passing,omitempty"`
}

// maxWitness is how many records a change can have written to be a witness: it is
// read again with each poll.
const maxWitness = 16

// errAnotherStore says that the last change is not what it was.
var errAnotherStore = errors.New("the feed is that of another store")

// witnessOf returns what the last change of a batch wrote, or nil if that is too
// much, or nothing yet.
func witnessOf(b *store.Batch) *witness {
	w := &witness{number: b.Next, wrote: []testimony{}}
	for i := len(b.Records) - 1; i >= 0 && b.Records[i].Version == b.Next; i-- {
		if len(w.wrote) == maxWitness {
			return nil
		}
		w.wrote = append(w.wrote, testimonyOf(&b.Records[i]))
	}
	if w.number < 2 { // from the change before it, 0, a load would begin
		return nil
	}
	return w
}

func testimonyOf(r *store.Record) testimony {
	sum := sha256.Sum256(r.Body)
	return testimony{Kind: r.Kind, ID: r.ID, Sum: sum[:], Passing: r.Deleted || !r.ExpiresAt.IsZero()}
}

// next asks for what follows a change, and has its witness looked at. A store that
// no longer reaches back to the change before it is asked without.
func (m *Mirror) next(ctx context.Context, after int64, known *witness, long bool) (store.Batch, error) {
	if known == nil || known.number != after {
		return m.changes(ctx, after, long)
	}
	b, err := m.changes(ctx, after-1, long)
	if errors.Is(err, store.ErrPurged) {
		return m.changes(ctx, after, long)
	}
	if err == nil && b.Epoch == m.world.Load().epoch && b.Next >= after && !known.confirmed(&b) {
		return b, errAnotherStore
	}
	for len(b.Records) > 0 && b.Records[0].Version <= after {
		b.Records = b.Records[1:]
	}
	return b, err
}

// confirmed reports whether a batch from the change before on can be of the same
// history.
func (w *witness) confirmed(b *store.Batch) bool {
	missing := 0
	for i := range w.wrote {
		if !w.wrote[i].Passing {
			missing++
		}
	}
	for i := range b.Records {
		r := &b.Records[i]
		t := w.find(r)
		switch {
		case r.Version > w.number && t == nil:
			continue
		case r.Version > w.number: // written again
		case t == nil:
			if !r.Deleted { // a load has not heard of tombstones
				return false
			}
			continue
		case string(testimonyOf(r).Sum) != string(t.Sum):
			return false
		}
		if !t.Passing {
			missing--
		}
	}
	return missing == 0 || !b.Complete
}

func (w *witness) find(r *store.Record) *testimony {
	for i := range w.wrote {
		if t := &w.wrote[i]; t.ID == r.ID && t.Kind == r.Kind {
			return t
		}
	}
	return nil
}
