package mirror

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// A snapshot is the content of a world in a file:
//
//	postern mirror snapshot 1\n
//	length, header in JSON
//	records: kind, version, length, id, length, document in JSON
//	0, number of records
//	32 bytes: HMAC-SHA-256 of all before it
//
// Numbers are unsigned varints. The key of the HMAC is derived from the pepper whose
// version the header names: who can write to the file, but does not know the
// pepper, can put nothing into it, and at most put back an older one, which
// MaxStale bounds. Without a pepper it is a plain SHA-256, which only finds damage.
//
// The file is written while the world changes. It claims no more than what was
// complete when writing began; a record that is newer than that is not wrong,
// because the feed brings it once more.
const (
	snapshotMagic   = "postern mirror snapshot 1\n"
	snapshotPurpose = "postern mirror snapshot 1"
	maxSnapshot     = 8 << 30
	maxHeader       = 4096
	maxID           = 4096
)

// header says what a snapshot holds.
type header struct {
	Epoch  string    `json:"epoch"`
	Number int64     `json:"number"`
	Since  time.Time `json:"since"`
	Pepper uint16    `json:"pepper,omitempty"`
}

// The kinds of records as they are written. 0 ends them.
var snapshotKinds = []store.Kind{"", store.KindTenant, store.KindPrincipal, store.KindCredential, store.KindSession, store.KindDenial}

// The reasons to refuse a snapshot.
var (
	errForeignSnapshot = errors.New("it is no snapshot of this version")
	errBrokenSnapshot  = errors.New("it is cut off, damaged or forged")
	errFutureSnapshot  = errors.New("it is from the future: the clock is wrong")
	errUnsealed        = errors.New("it is not sealed with a pepper, and this server has one")
)

// snapshotSeal returns the hash that seals a snapshot.
func (m *Mirror) snapshotSeal(pepper uint16) (hash.Hash, error) {
	if pepper == 0 {
		if !m.deps.Peppers.None() {
			return nil, errUnsealed
		}
		return sha256.New(), nil
	}
	key, ok := m.deps.Peppers.Derive(pepper, snapshotPurpose)
	if !ok {
		return nil, fmt.Errorf("it is sealed with version %d of the pepper, which is not in force", pepper)
	}
	return hmac.New(sha256.New, key[:]), nil
}

// snapshots is how writing them goes.
type snapshots struct {
	writing sync.Mutex // one at a time

	mu     sync.Mutex
	number int64
	epoch  string
	since  time.Time
	at     time.Time
	bytes  int64
	err    error
}

func (s *snapshots) report(to *Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to.SnapshotAt, to.SnapshotBytes, to.SnapshotErr = s.at, s.bytes, s.err
}

// snapshotAll writes a snapshot when something has changed, and in the mode
// Available also when the last one has become old: how long it may be served counts
// from what it says of itself.
func (m *Mirror) snapshotAll(ctx context.Context) {
	if m.cfg.Snapshot == "" {
		<-ctx.Done()
		return
	}
	wait := m.cfg.SnapshotEvery
	for {
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		start := time.Now()
		m.saveSnapshot()
		wait = max(m.cfg.SnapshotEvery, 20*time.Since(start))
	}
}

// saveSnapshot writes a snapshot if there is reason to.
func (m *Mirror) saveSnapshot() {
	v := m.View()
	if m.cfg.Snapshot == "" || v.Epoch == "" || v.Snapshot {
		return
	}
	s := &m.snapshots
	s.writing.Lock()
	defer s.writing.Unlock()
	if !s.due(v, m.cfg) {
		return
	}
	n, err := m.writeSnapshot(v)
	if err != nil {
		m.deps.Logger.Error("the snapshot was not written", "file", m.cfg.Snapshot, "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.epoch, s.number, s.since, s.at, s.bytes = v.Epoch, v.Number, v.Since, m.deps.Now(), n
	}
}

func (s *snapshots) due(v *View, cfg Config) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != v.Epoch || s.number != v.Number || s.err != nil {
		return true
	}
	return cfg.Mode == Available && v.Since.Sub(s.since) >= cfg.MaxStale/3
}

// writeSnapshot replaces the file by renaming, so that there is always a whole one.
func (m *Mirror) writeSnapshot(v *View) (size int64, err error) {
	w := m.world.Load()
	if w.epoch != v.Epoch {
		return 0, errors.New("the store was replaced meanwhile")
	}
	temp := m.cfg.Snapshot + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	size, err = m.encodeSnapshot(f, w, v)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(temp, m.cfg.Snapshot); err != nil {
		return 0, err
	}
	return size, syncDir(filepath.Dir(m.cfg.Snapshot))
}

// syncDir makes a rename last.
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// scribe writes the parts of a snapshot.
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

func (s *scribe) uvarint(n uint64) { s.write(binary.AppendUvarint(s.scratch[:0], n)) }

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

func (m *Mirror) encodeSnapshot(to io.Writer, w *world, v *View) (int64, error) {
	h := header{Epoch: v.Epoch, Number: v.Number, Since: v.Since.Round(0).UTC(), Pepper: m.deps.Peppers.Current()}
	sum, err := m.snapshotSeal(h.Pepper)
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(h)
	if err != nil {
		return 0, err
	}
	s := &scribe{w: bufio.NewWriterSize(to, 1<<20), sum: sum, number: v.Number}
	s.write([]byte(snapshotMagic))
	s.counted(text)
	for t := range w.tenants.all() {
		if st := t.state.latest.Load(); st != nil && !st.gone {
			s.record(1, st.version, t.document(&st.body))
		}
	}
	for p := range w.principals.all() {
		if st := p.state.latest.Load(); st != nil && !st.gone {
			s.record(2, st.version, p.document(&st.body))
		}
	}
	for c := range w.credentials.all() {
		if st := c.state.latest.Load(); st != nil && !st.gone {
			s.record(3, st.version, c.document(&st.body))
		}
	}
	for c := range w.sessions.all() {
		if st := c.state.latest.Load(); st != nil && !st.gone {
			s.record(4, st.version, c.document(&st.body))
		}
	}
	for d := range w.denials.all() {
		s.record(5, d.version, d.doc)
	}
	s.uvarint(0)
	s.uvarint(s.records)
	s.write(sum.Sum(nil))
	if s.err != nil {
		return 0, s.err
	}
	return s.size, s.w.Flush()
}

func (t *tenant) document(b *tenantBody) *store.Tenant {
	return &store.Tenant{ID: t.id, Name: b.name, Disabled: ending(b.disabled || b.damaged)}
}

func ending(is bool) *store.Ending {
	if !is {
		return nil
	}
	return &store.Ending{}
}

func (p *principal) document(b *principalBody) *store.Principal {
	d := &store.Principal{Kind: policy.KindService, Name: b.name, Owner: b.ownerID(), Disabled: ending(b.disabled || b.damaged)}
	d.Tenant, d.ID = store.SplitPrincipalKey(p.key)
	if b.person != nil {
		v := &b.person.value
		d.Kind, d.Metadata = v.Kind, v.Metadata
		d.Roles, d.Scopes, d.Permissions = v.Roles, v.Scopes, v.Permissions
	}
	return d
}

// endings are the fields of a document that say the same as a life.
func (l *life) endings() (notBefore, expires time.Time, revoked, disabled, rotated *store.Ending) {
	notBefore = instant(l.notBefore)
	revoked, disabled = ending(l.over == policy.ReasonRevoked), ending(l.over == policy.ReasonDisabled)
	switch l.end {
	case policy.ReasonRotated:
		rotated = &store.Ending{At: instant(l.notAfter)}
	case policy.ReasonExpired:
		expires = time.Unix(0, l.notAfter).UTC() // not instant: an end is never left out
	}
	return notBefore, expires, revoked, disabled, rotated
}

func (c *credential) document(b *credentialBody) *store.Credential {
	d := &store.Credential{
		ID: c.id, Type: store.APIKey, Name: b.name, Digest: seal.DigestOf(c.sum, c.pepper).String(), CreatedAt: instant(b.created),
	}
	d.Tenant, d.Principal = store.SplitPrincipalKey(c.owner.key)
	d.NotBefore, d.ExpiresAt, d.Revoked, d.Disabled, d.Rotated = b.endings()
	if b.profile != nil {
		p := &b.profile.value
		d.Type, d.Environment, d.Metadata, d.Constraints = p.Type, p.Environment, p.Metadata, p.Constraints
		d.Roles, d.Scopes, d.Permissions = p.Roles, p.Scopes, p.Permissions
		d.Parent, d.Successor = p.Parent, p.Successor
	}
	return d
}

func (s *session) document(b *sessionBody) *store.Session {
	d := &store.Session{
		ID: s.id, Digest: seal.DigestOf(s.sum, s.pepper).String(),
		AMR: b.amr, ACR: b.acr, AuthTime: instant(b.authenticated), CreatedAt: instant(b.created),
		TouchedAt: instant(s.touched.Load()), Idle: store.Duration(b.idle), Successor: b.successor,
	}
	d.Tenant, d.Principal = store.SplitPrincipalKey(s.owner.key)
	_, d.ExpiresAt, d.Revoked, _, d.Rotated = b.endings()
	return d
}

// restore reads the snapshot and puts it in force, or none of it.
func (m *Mirror) restore() error {
	f, err := os.Open(m.cfg.Snapshot)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", m.cfg.Snapshot)
	}
	if info.Size() > maxSnapshot {
		return fmt.Errorf("%s is larger than %d bytes", m.cfg.Snapshot, int64(maxSnapshot))
	}
	w, h, err := m.decodeSnapshot(f)
	if err != nil {
		m.health.forgetDamage()
		return fmt.Errorf("%s: %w", m.cfg.Snapshot, err)
	}
	m.swap(w, View{Number: h.Number, Epoch: h.Epoch, Since: h.Since, Snapshot: true})
	return nil
}

// skew is how far the clocks of two starts may be apart.
const skew = 5 * time.Second

// decodeSnapshot reads a snapshot to its end before anybody sees any of it.
func (m *Mirror) decodeSnapshot(from io.Reader) (*world, *header, error) {
	r := &reader{r: bufio.NewReaderSize(from, 1<<20)}
	if string(r.read(len(snapshotMagic))) != snapshotMagic {
		return nil, nil, errForeignSnapshot
	}
	text := r.counted(maxHeader)
	var h header
	if r.err != nil || json.Unmarshal(text, &h) != nil || h.Epoch == "" || h.Number < 0 {
		return nil, nil, errBrokenSnapshot
	}
	sum, err := m.snapshotSeal(h.Pepper)
	if err != nil {
		return nil, nil, err
	}
	r.seal(sum, text)
	w := newWorld(m, h.Epoch)
	if !m.readRecords(r, w, h.Number) {
		return nil, nil, errBrokenSnapshot
	}
	want := sum.Sum(nil)
	if got := r.read(sha256.Size); r.err != nil || !hmac.Equal(got, want) {
		return nil, nil, errBrokenSnapshot
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return nil, nil, errBrokenSnapshot
	}
	if h.Since.After(m.deps.Now().Add(skew)) {
		return nil, nil, errFutureSnapshot
	}
	return w, &h, nil
}

// readRecords reads all records into the world.
func (m *Mirror) readRecords(r *reader, w *world, number int64) bool {
	var records []store.Record
	apply := func() {
		w.apply(m.decodeAll(records), number)
		records = records[:0]
	}
	for n := uint64(0); ; n++ {
		kind := r.uvarint()
		if kind == 0 {
			apply()
			return r.uvarint() == n && r.err == nil
		}
		if kind >= uint64(len(snapshotKinds)) {
			return false
		}
		version := r.uvarint()
		id := string(r.counted(maxID))
		body := r.counted(maxBody)
		if r.err != nil || version > uint64(number) {
			return false
		}
		records = append(records, store.Record{Kind: snapshotKinds[kind], ID: id, Version: int64(version), Body: body})
		if len(records) == page {
			apply()
		}
	}
}

// reader reads the parts of a snapshot. After an error it returns nothing.
type reader struct {
	r   *bufio.Reader
	sum hash.Hash
	err error
}

// seal starts the sum with what has been read of the file already.
func (r *reader) seal(sum hash.Hash, header []byte) {
	_, _ = sum.Write([]byte(snapshotMagic))
	_, _ = sum.Write(binary.AppendUvarint(nil, uint64(len(header))))
	_, _ = sum.Write(header)
	r.sum = sum
}

func (r *reader) read(n int) []byte {
	if r.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, r.err = io.ReadFull(r.r, b); r.err != nil {
		return nil
	}
	r.add(b)
	return b
}

func (r *reader) add(b []byte) {
	if r.sum != nil {
		_, _ = r.sum.Write(b)
	}
}

func (r *reader) uvarint() (n uint64) {
	if r.err == nil {
		if n, r.err = binary.ReadUvarint(r.r); r.err != nil {
			return 0
		}
		r.add(binary.AppendUvarint(nil, n))
	}
	return n
}

func (r *reader) counted(most int) []byte {
	n := r.uvarint()
	if n > uint64(most) {
		r.err = errBrokenSnapshot
		return nil
	}
	return r.read(int(n))
}
