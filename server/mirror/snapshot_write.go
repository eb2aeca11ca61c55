package mirror

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash"
	"io"

	"github.com/postern-auth/postern/server/store"
)

// encodeSnapshot writes a world as a view has seen it, and returns the size.
func (m *Mirror) encodeSnapshot(to io.Writer, w *world, v *View) (int64, error) {
	h := headerOf(v)
	h.Pepper = m.deps.Peppers.Current()
	sum, err := m.snapshotSeal(h.Pepper)
	if err != nil {
		return 0, err
	}
	text, err := h.encode()
	if err != nil {
		return 0, err
	}
	s := &scribe{w: bufio.NewWriterSize(to, 1<<20), sum: sum, number: v.Number}
	s.write([]byte(snapshotMagic))
	s.counted(text)
	writeAll(s, store.KindTenant, w.tenants)
	writeAll(s, store.KindPrincipal, w.principals)
	writeAll(s, store.KindCredential, w.credentials)
	writeAll(s, store.KindSession, w.sessions)
	writeAll(s, store.KindDenial, w.denials)
	writeAll(s, store.KindApproval, w.approvals)
	writeAll(s, store.KindConsent, w.consents)
	s.uvarint(0)
	s.uvarint(s.records)
	s.write(sum.Sum(nil))
	if s.err != nil {
		return 0, s.err
	}
	return s.size, s.w.Flush()
}

func headerOf(v *View) *header {
	h := &header{Epoch: v.Epoch, Number: v.Number, Since: v.Since.Round(0).UTC()}
	if v.witness != nil {
		h.Witness = &v.witness.wrote
	}
	return h
}

// encode leaves the witness out if its ids are too long.
func (h *header) encode() ([]byte, error) {
	text, err := json.Marshal(h)
	if len(text) > maxHeader {
		h.Witness = nil
		return json.Marshal(h)
	}
	return text, err
}

// scribe writes the parts of a snapshot. Its first error stays.
type scribe struct {
	w       *bufio.Writer
	sum     hash.Hash
	scratch []byte
	size    int64
	records uint64
	number  int64
	err     error
}

func (s *scribe) write(b []byte) {
	if s.err == nil {
		_, _ = s.sum.Write(b)
		_, s.err = s.w.Write(b)
		s.size += int64(len(b))
	}
}

func (s *scribe) uvarint(n uint64) {
	s.scratch = binary.AppendUvarint(s.scratch[:0], n)
	s.write(s.scratch)
}

func (s *scribe) counted(b []byte) {
	s.uvarint(uint64(len(b)))
	s.write(b)
}

func (s *scribe) record(kind byte, version int64, d store.Document) {
	r, err := store.Encode(d)
	if err != nil {
		s.err = errors.Join(s.err, err)
		return
	}
	s.uvarint(uint64(kind))
	s.uvarint(uint64(min(version, s.number)))
	s.counted([]byte(r.ID))
	s.counted(r.Body)
	s.records++
}

// documented is a thing that can be written down. The document is nil if there is
// nothing at its place, and version the change that wrote it.
type documented[E any] interface {
	*E
	document() (d store.Document, version int64)
}

// writeAll writes all things of a kind.
func writeAll[K comparable, E any, P documented[E]](s *scribe, kind store.Kind, from *table[K, E]) {
	number := snapshotKind(kind)
	for e := range from.all() {
		if d, version := P(e).document(); d != nil && s.err == nil {
			s.record(number, version, d)
		}
	}
}
