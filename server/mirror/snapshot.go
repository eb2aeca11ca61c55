package mirror

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// A snapshot is the content of a world in a file:
//
//	postern mirror snapshot 2\n
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
	snapshotMagic   = "postern mirror snapshot 2\n"
	snapshotPurpose = "postern mirror snapshot 2"
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
	// Witness is what the change Number wrote (see witness); absent if that is not
	// known, or too long for a header.
	Witness *[]testimony `json:"witness,omitempty"`
}

// The kinds of records as they are written. 0 ends them.
var snapshotKinds = []store.Kind{"", store.KindTenant, store.KindPrincipal, store.KindCredential, store.KindSession, store.KindDenial, store.KindApproval, store.KindConsent}

func snapshotKind(k store.Kind) byte { return byte(slices.Index(snapshotKinds, k)) }

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
	w, v, err := m.decodeSnapshot(f)
	if err != nil {
		m.health.forgetDamage()
		return fmt.Errorf("%s: %w", m.cfg.Snapshot, err)
	}
	m.swap(w, v)
	return nil
}
