package basic

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/postern-auth/postern/server/authn"
)

// key makes names for what is remembered. It is random and never leaves the process, so
// the names say nothing about the passwords, even to who finds them in a dump of its
// memory without the key.
type key [32]byte

// maxParts is more than the parts of most tries have, with their lengths: user-id and
// password have 256 bytes each, the line of a file up to 4 KiB.
const maxParts = 1 << 10

// of returns HMAC-SHA-256 (RFC 2104) over the parts of a try and the version of its
// subject, each with its length before it. It does not allocate but for a subject of the
// file with a very long line.
func (k *key) of(t *Try, is subject) [32]byte {
	var scratch [sha256.BlockSize + maxParts]byte
	inner := scratch[:sha256.BlockSize]
	for i := range inner {
		inner[i] = 0x36
	}
	for i, b := range k {
		inner[i] ^= b
	}
	inner = appendPart(inner, t.Tenant)
	inner = appendPart(inner, t.Name)
	inner = appendPart(inner, t.Password.Reveal())
	if is.user != nil {
		inner = appendPart(inner, Issuer)
		inner = appendPart(inner, is.user.line)
	} else {
		inner = appendVersion(inner, is.version)
	}
	sum := sha256.Sum256(inner)

	var outer [sha256.BlockSize + sha256.Size]byte
	for i := range sha256.BlockSize {
		outer[i] = 0x5c
	}
	for i, b := range k {
		outer[i] ^= b
	}
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

func appendPart(b []byte, part string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
	return append(b, part...)
}

func appendVersion(b []byte, v authn.Version) []byte {
	b = appendPart(b, "store")
	b = appendPart(b, v.Epoch)
	return binary.BigEndian.AppendUint64(b, uint64(v.Change))
}
