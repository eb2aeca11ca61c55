package password

import (
	"crypto/sha256"
	"io"
)

// Cheap makes the Hasher compute hashes that cost nothing, and lets each of them
// wait for what hold does; nil holds none.
func (h *Hasher) Cheap(hold func()) {
	h.derive = func(k *hash, password []byte) ([]byte, error) {
		if hold != nil {
			hold()
		}
		sum := sha256.Sum256(append(password, k.salt...))
		return sum[:], nil
	}
}

// SetRandom replaces the source of salts.
func (h *Hasher) SetRandom(r io.Reader) { h.random = r }

// Cost is what a hash asks for, in KiB times passes, rounds or 2^cost; false if the
// text is no hash.
func Cost(phc string) (memory, work uint64, ok bool) {
	h, err := parse(phc)
	switch {
	case err != nil:
		return 0, 0, false
	case h.scheme == bcrypted:
		return 0, 1 << h.passes, true
	case h.memory > 0:
		return uint64(h.memory), uint64(h.memory) * uint64(h.passes), true
	}
	return 0, uint64(h.passes), true
}

// Again writes an Argon2id hash from its parts.
func Again(phc string) (string, bool) {
	h, err := parse(phc)
	return h.String(), err == nil && h.scheme == argon2id
}
