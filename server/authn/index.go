package authn

import "time"

// Sealed is the record of a secret that Postern handed out, or imported: a digest
// and what the secret proves. Whoever has one first compares the digest, in
// constant time, and only then opens it. An unknown id is compared with a made-up
// digest, so that it costs the same as a wrong secret.
//
// Seal and Open take no lock, wait for nothing, and do not allocate but when Open
// refuses or meets the record for the first time since it changed.
type Sealed interface {
	// Seal returns the digest and the version of the pepper that is in it. Version 0
	// is none: then it is the SHA-256 of a secret that was made elsewhere, which is
	// found by it.
	Seal() (sum *[32]byte, pepper uint16)
	// Open returns what the secret proves at an instant. A *Refusal says why it does
	// not count then; any other error, that this could not be found out.
	Open(now time.Time) (*Proof, error)
}

// Index finds records in RAM, without locks and without allocation.
type Index interface {
	// ByID returns the record of the id that stands in a secret, or nil.
	ByID(id string) Sealed
	// ByDigest returns the record of a secret of a foreign form by its SHA-256, or
	// nil.
	ByDigest(sum [32]byte) Sealed
}
