package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/postern-auth/postern/policy"
)

const (
	minPepperLen     = 32 // bytes: as strong as the HMAC itself
	maxPepperLen     = 4096
	maxPepperVersion = 9999
	maxPeppers       = 16
)

// Pepper is one version of the server's own secret in every digest.
type Pepper struct {
	// Version is written into the digests that it makes: 1, 2 and so on. It must
	// never be used again for another secret. Required.
	Version int `yaml:"version,required"`
	// Secret is at least 32 random bytes, for example from `openssl rand -hex 32`,
	// given as ${file:…} or ${env:…}. White space around it does not count.
	// Required. Keys cannot be verified without it: back it up, apart from the
	// keys file and the store.
	Secret policy.Secret `yaml:"secret,required"`
}

// Peppers are the versions of the pepper in force. They are immutable. Nil has no
// pepper.
type Peppers struct {
	list []pepper
	// decoy is what an unknown version costs, and the only pepper of those who have
	// none: made up at random, so that nothing fits.
	decoy pepper
}

// pepper holds the two padded keys of an HMAC (RFC 2104 section 2), so that a
// verification only has to append to them.
type pepper struct {
	version      uint16
	inner, outer [sha256.BlockSize]byte
}

// NewPeppers makes the peppers ready, the first being the one that mints. None is
// no error: then there are only imported secrets. Errors name the item as
// "peppers[0].secret", and never show a secret.
func NewPeppers(list []Pepper) (*Peppers, error) {
	var errs []error
	ps := ReadPeppers(list, func(i int, field, message string) {
		if field != "" {
			message = fmt.Sprintf("peppers[%d].%s: %s", i, field, message)
		}
		errs = append(errs, errors.New(message))
	})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return ps, nil
}

// ReadPeppers is NewPeppers for who reports mistakes in a way of their own. It
// reports each with its item and field; the field is empty for the list as such.
// What it returns holds those that are good.
func ReadPeppers(list []Pepper, report func(i int, field, message string)) *Peppers {
	ps := new(Peppers)
	var key [minPepperLen]byte
	_, _ = rand.Read(key[:]) // never fails: it ends the process instead
	ps.decoy = newPepper(0, key[:])
	if len(list) > maxPeppers {
		report(0, "", fmt.Sprintf("at most %d versions can be in force", maxPeppers))
		return ps
	}
	for i := range list {
		ps.add(&list[i], func(field, message string) { report(i, field, message) })
	}
	return ps
}

func (ps *Peppers) add(p *Pepper, report func(field, message string)) {
	secret := strings.TrimSpace(p.Secret.Reveal())
	switch {
	case p.Version < 1 || p.Version > maxPepperVersion:
		report("version", fmt.Sprintf("is a number from 1 to %d", maxPepperVersion))
	case ps.Has(uint16(p.Version)):
		report("version", fmt.Sprintf("%d occurs twice", p.Version))
	case len(secret) < minPepperLen:
		report("secret", fmt.Sprintf("has %d bytes and needs at least %d: make one with `openssl rand -hex 32`", len(secret), minPepperLen))
	case len(secret) > maxPepperLen:
		report("secret", fmt.Sprintf("is longer than %d bytes", maxPepperLen))
	case strings.Count(secret, secret[:1]) == len(secret):
		report("secret", "repeats one byte: make a random one with `openssl rand -hex 32`")
	default:
		ps.list = append(ps.list, newPepper(uint16(p.Version), []byte(secret)))
	}
}

// newPepper pads the key as HMAC does; a key longer than a block is hashed first.
func newPepper(version uint16, key []byte) pepper {
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	p := pepper{version: version}
	copy(p.inner[:], key)
	copy(p.outer[:], key)
	for i := range p.inner {
		p.inner[i] ^= 0x36
		p.outer[i] ^= 0x5c
	}
	return p
}

// Format implements fmt.Formatter for every verb and shows no pepper.
func (Peppers) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// None reports whether there is no pepper, so that nothing can be minted.
func (ps *Peppers) None() bool { return ps == nil || len(ps.list) == 0 }

// Current is the version that mints; 0 if there is none.
func (ps *Peppers) Current() uint16 {
	if ps.None() {
		return 0
	}
	return ps.list[0].version
}

// Has reports whether the version is in force.
func (ps *Peppers) Has(version uint16) bool { return ps.find(version) != nil }

func (ps *Peppers) find(version uint16) *pepper {
	if ps == nil {
		return nil
	}
	for i := range ps.list {
		if ps.list[i].version == version {
			return &ps.list[i]
		}
	}
	return nil
}

// Digest returns the digest of one of our own secrets under the current pepper,
// or the zero Digest if there is no pepper or the text is too long to be one.
func (ps *Peppers) Digest(secret policy.Secret) Digest {
	if ps.None() || len(secret.Reveal()) > MaxSignedLen {
		return Digest{}
	}
	p := &ps.list[0]
	return Digest{sum: p.mac(secret.Reveal()), pepper: p.version}
}

// Sum returns what the digest of the text under a version has to be equal to. It
// does not allocate. It is false if the version is not in force, at the same cost,
// with a sum that fits nothing; version 0 stands for the pepper of a record that
// does not exist. A text longer than MaxSignedLen has no sum.
func (ps *Peppers) Sum(version uint16, text string) (sum [sha256.Size]byte, known bool) {
	if ps == nil || len(text) > MaxSignedLen {
		return sum, false
	}
	p := ps.find(version)
	if p == nil {
		return ps.decoy.mac(text), false
	}
	return p.mac(text), true
}

// mac returns HMAC-SHA-256 of the text, which is at most MaxSignedLen long.
//
// The padded keys are hashed anew each time. Resuming from a saved SHA-256 state
// would save two of five blocks (0.2 instead of 0.3 µs) and cost a pool of
// hashers with secrets in them; two arrays on the stack need neither.
func (p *pepper) mac(text string) [sha256.Size]byte {
	observed()
	if len(text) > MaxLen {
		return p.wrap(p.innerOfSigned(text))
	}
	var inner [sha256.BlockSize + MaxLen]byte
	copy(inner[:], p.inner[:])
	n := copy(inner[sha256.BlockSize:], text)
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])
	wipe(inner[:])
	return p.wrap(sum)
}

// wipe empties memory of the stack that has held a secret: it stays as it was until
// another function happens to use it, which may be never.
func wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}

// innerOfSigned is apart so that a key does not pay for the room that a token needs.
//
//go:noinline
func (p *pepper) innerOfSigned(text string) [sha256.Size]byte {
	var inner [sha256.BlockSize + MaxSignedLen]byte
	copy(inner[:], p.inner[:])
	n := copy(inner[sha256.BlockSize:], text)
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])
	wipe(inner[:sha256.BlockSize+n])
	return sum
}

func (p *pepper) wrap(sum [sha256.Size]byte) [sha256.Size]byte {
	var outer [sha256.BlockSize + sha256.Size]byte
	copy(outer[:], p.outer[:])
	copy(outer[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(outer[:])
	wipe(outer[:])
	return sum
}

// Derive returns a key for another purpose than digests, such as authenticating a
// file, made from a version of the pepper. The purpose is a constant text of its
// own for each. Keys of different purposes say nothing about each other or about
// the pepper: they are HMACs of messages that none of our secrets can be, as those
// hold no space.
func (ps *Peppers) Derive(version uint16, purpose string) (key [sha256.Size]byte, ok bool) {
	p := ps.find(version)
	if p == nil {
		return key, false
	}
	sum := sha256.Sum256([]byte(purpose))
	return p.mac("derive " + string(sum[:])), true
}
