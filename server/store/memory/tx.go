package memory

import (
	"context"
	"slices"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// reader implements store.Reader; whoever has it holds the lock.
type reader struct {
	ctx context.Context
	s   *Store
}

// Get implements store.Reader.
func (r reader) Get(kind store.Kind, id string) (store.Record, error) {
	if err := r.ctx.Err(); err != nil {
		return store.Record{}, err
	}
	found, ok := r.s.records[key{kind, id}]
	if !ok || found.Deleted {
		return store.Record{}, store.ErrNotFound
	}
	return copied(found), nil
}

// ByDigest implements store.Reader.
func (r reader) ByDigest(digest string) (store.Record, error) {
	k, ok := r.s.digests[digest]
	if !ok {
		return store.Record{}, store.ErrNotFound
	}
	return r.Get(k.kind, k.id)
}

// List implements store.Reader.
func (r reader) List(q store.Query) ([]store.Record, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	var found []store.Record
	ids := r.s.ids[q.Kind]
	first, exact := slices.BinarySearch(ids, q.After)
	if exact {
		first++
	}
	for _, id := range ids[first:] {
		if len(found) == store.Page(q.Limit) {
			break
		}
		rec := r.s.records[key{q.Kind, id}]
		if !rec.Deleted && fits(q.Tenant, rec.Tenant) && fits(q.Owner, rec.Owner) {
			found = append(found, copied(rec))
		}
	}
	return found, nil
}

// Head implements store.Reader.
func (r reader) Head() (int64, error) { return r.s.feed.Head, r.ctx.Err() }

// tx implements store.Tx.
type tx struct {
	reader
	at     time.Time
	logged int    // length of the log before
	steps  []step // what was written, in order
	notes  []store.AuditEntry
}

// step is one write and what was there before it; nil for nothing.
type step struct {
	key key
	old *store.Record
}

// Put implements store.Tx.
func (t *tx) Put(r store.Record) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	r, err := store.Normal(r)
	if err != nil {
		return err
	}
	k := key{r.Kind, r.ID}
	if other, taken := t.s.digests[r.Digest]; taken && other != k {
		return store.ErrExists
	}
	if old, ok := t.s.records[k]; ok && old.Deleted {
		return store.ErrExists // ids are not used again
	}
	t.write(k, r)
	return nil
}

// Delete implements store.Tx.
func (t *tx) Delete(kind store.Kind, id string) error {
	old, err := t.Get(kind, id)
	if err != nil {
		return err
	}
	t.write(key{kind, id}, old.Tombstone(t.at))
	return nil
}

// Note implements store.Tx.
func (t *tx) Note(e store.AuditEntry) error {
	t.notes = append(t.notes, e)
	return t.ctx.Err()
}

func (t *tx) write(k key, r store.Record) {
	r.Version = t.s.feed.Head + 1
	old := t.s.set(k, &r)
	t.steps = append(t.steps, step{k, old})
	if old == nil || old.Version != r.Version {
		t.s.log = append(t.s.log, entry{r.Version, k})
	}
}

// commit makes all of it so.
func (t *tx) commit() store.Change {
	s := t.s
	var told int64 // the change that the notes tell of
	if len(t.steps) > 0 {
		s.feed.Head++
		told = s.feed.Head
		s.hints.Send()
	}
	for _, e := range t.notes {
		s.feed.Audit++
		e.Seq, e.Change, e.At = s.feed.Audit, told, t.at
		s.audit = append(s.audit, e.Normal())
	}
	t.steps = nil
	if len(s.log) > 2*len(s.records)+1000 {
		s.log = slices.DeleteFunc(s.log, func(e entry) bool {
			r, ok := s.records[e.key]
			return !ok || r.Version != e.version
		})
	}
	return store.Change{Number: s.feed.Head, At: t.at}
}

// undo takes back what was not committed.
func (t *tx) undo() {
	for _, step := range slices.Backward(t.steps) {
		t.s.set(step.key, step.old)
	}
	if len(t.steps) > 0 {
		t.s.log = t.s.log[:t.logged]
	}
}
