package mirror

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// skew is how far the clocks of two starts may be apart.
const skew = 5 * time.Second

// decodeSnapshot reads a snapshot to its end before anybody sees any of it.
func (m *Mirror) decodeSnapshot(from io.Reader) (*world, View, error) {
	r := &reader{from: from}
	if string(r.read(len(snapshotMagic))) != snapshotMagic {
		return nil, View{}, errForeignSnapshot
	}
	text := r.counted(maxHeader)
	var h header
	if r.err != nil || json.Unmarshal(text, &h) != nil || h.Epoch == "" || h.Number < 0 {
		return nil, View{}, errBrokenSnapshot
	}
	var err error
	if r.sum, err = m.snapshotSeal(h.Pepper); err != nil {
		return nil, View{}, err
	}
	w, whole := m.readRecords(r, &h)
	if want := r.sealed(); !whole || !hmac.Equal(r.read(sha256.Size), want) || !r.over() {
		return nil, View{}, errBrokenSnapshot
	}
	if h.Since.After(m.deps.Now().Add(skew)) {
		return nil, View{}, errFutureSnapshot
	}
	return w, h.view(), nil
}

// view is what the header says that was seen.
func (h *header) view() View {
	v := View{Number: h.Number, Epoch: h.Epoch, Since: h.Since, Snapshot: true}
	if h.Witness != nil && h.Number > 1 && len(*h.Witness) <= maxWitness {
		v.witness = &witness{number: h.Number, wrote: *h.Witness}
	}
	return v
}

// readRecords reads all records into a world, and reports whether there were as
// many as there should be.
func (m *Mirror) readRecords(r *reader, h *header) (w *world, whole bool) {
	l := m.newLoading(h.Epoch)
	defer l.settle()
	var records []store.Record
	for n := uint64(0); ; n++ {
		kind := r.uvarint()
		if kind == 0 || len(records) == page {
			l.add(records, h.Number)
			records = records[:0]
		}
		if kind == 0 {
			return l.settle(), r.uvarint() == n && r.err == nil
		}
		rec, ok := r.record(kind, h.Number)
		if !ok {
			return nil, false
		}
		records = append(records, rec)
	}
}

// record reads what follows the kind of a record.
func (r *reader) record(kind uint64, number int64) (rec store.Record, ok bool) {
	version := r.uvarint()
	id, body := string(r.counted(maxID)), r.counted(maxBody)
	if r.err != nil || kind >= uint64(len(snapshotKinds)) || version > uint64(number) {
		return rec, false
	}
	return store.Record{Kind: snapshotKinds[kind], ID: id, Version: int64(version), Body: body}, true
}

// reader reads the parts of a snapshot, and sums up what was read. After an error
// it returns nothing.
//
// It reads chunks, each into memory of its own, so that parts can be handed out
// without a copy.
type reader struct {
	from  io.Reader
	chunk []byte
	at    int // how much of the chunk was handed out
	sum   hash.Hash
	added int // how much of the chunk is in the sum
	err   error
}

// chunkSize is much more than nearly every record.
const chunkSize = 1 << 20

// fill makes sure that there are at least so many bytes to hand out. What is not in
// the sum yet stays in the chunk.
func (r *reader) fill(n int) bool {
	if r.err != nil || len(r.chunk)-r.at >= n {
		return r.err == nil
	}
	r.add()
	r.at -= r.added
	next := make([]byte, max(chunkSize, r.at+n))
	had := copy(next, r.chunk[r.added:])
	got, err := io.ReadAtLeast(r.from, next[had:], r.at+n-had)
	r.chunk, r.added, r.err = next[:had+got], 0, err
	return err == nil
}

// add adds to the sum what was handed out.
func (r *reader) add() {
	if r.sum != nil {
		_, _ = r.sum.Write(r.chunk[r.added:r.at])
		r.added = r.at
	}
}

// sealed returns the sum of all that was handed out. What follows is not in it.
func (r *reader) sealed() []byte {
	r.add()
	want := r.sum.Sum(nil)
	r.sum = nil
	return want
}

// over reports whether nothing follows.
func (r *reader) over() bool { return r.err == nil && !r.fill(1) && errors.Is(r.err, io.EOF) }

func (r *reader) read(n int) []byte {
	if !r.fill(n) {
		return nil
	}
	r.at += n
	return r.chunk[r.at-n : r.at : r.at]
}

func (r *reader) uvarint() (n uint64) {
	for shift := 0; r.fill(1); shift += 7 {
		b := r.chunk[r.at]
		r.at++
		if shift == 63 && b > 1 {
			break // more than 64 bits
		}
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			return n
		}
	}
	if r.err == nil {
		r.err = errBrokenSnapshot
	}
	return 0
}

func (r *reader) counted(most int) []byte {
	n := r.uvarint()
	if n > uint64(most) {
		r.err = errBrokenSnapshot
		return nil
	}
	return r.read(int(n))
}
