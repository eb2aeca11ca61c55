package mirror

import (
	"bytes"
	"testing/iotest"
	"time"
)

// SaveSnapshot writes a snapshot now, if there is reason to.
func SaveSnapshot(m *Mirror) { m.saveSnapshot() }

// ReadSnapshot reads one as from a file that comes in small parts.
func ReadSnapshot(m *Mirror, file []byte) error {
	w, v, err := m.decodeSnapshot(iotest.OneByteReader(bytes.NewReader(file)))
	if err == nil {
		m.swap(w, v)
	}
	return err
}

// Survey counts the credentials now.
func Survey(m *Mirror, now time.Time) { m.survey(now) }

// Forget lets go of old sessions now.
func Forget(m *Mirror, now time.Time) { m.forget(now) }

// Slots is how many places the mirror keeps for principals.
func Slots(m *Mirror) int { return m.world.Load().principals.len() }
