package apikey

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// Digest is what is kept of a key: never the key, and nothing from which it
// could be found. It is written
//
//	hmac-sha256:v1:<64 hex digits>   an own key, under version 1 of the pepper
//	sha256:<64 hex digits>           an imported key of a foreign format
//
// The pepper makes an own digest worthless to whoever reads the keys file, and
// impossible to make up for whoever writes to it.
type Digest struct {
	sum [sha256.Size]byte
	// pepper is the version of the pepper; 0 for an imported key, which has none.
	pepper uint16
}

const (
	ownAlgorithm      = "hmac-sha256"
	importedAlgorithm = "sha256"
)

// ImportedDigest returns the digest under which a key of a foreign format is
// found. It is as strong as the key is random: import none that people chose.
func ImportedDigest(key policy.Secret) Digest {
	return Digest{sum: sha256.Sum256([]byte(key.Reveal()))}
}

// Imported reports whether the digest is of a key of a foreign format.
func (d Digest) Imported() bool { return d.pepper == 0 }

// IsZero reports whether there is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns the digest as the keys file holds it.
func (d Digest) String() string {
	if d.Imported() {
		return importedAlgorithm + ":" + hex.EncodeToString(d.sum[:])
	}
	return fmt.Sprintf("%s:v%d:%x", ownAlgorithm, d.pepper, d.sum)
}

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a digest. What stands in its place by mistake may be the
// key itself, so no error repeats it.
func (d *Digest) UnmarshalText(text []byte) error {
	algorithm, rest, _ := bytes.Cut(text, []byte{':'})
	var version uint16
	switch string(algorithm) {
	case importedAlgorithm:
	case ownAlgorithm:
		var err error
		var v []byte
		v, rest, _ = bytes.Cut(rest, []byte{':'})
		if version, err = parseVersion(string(v)); err != nil {
			return err
		}
	default:
		return errPlaintext
	}
	var sum [sha256.Size]byte
	if len(rest) != hex.EncodedLen(len(sum)) || !decodeHex(sum[:], rest) {
		return fmt.Errorf("a digest ends in %d hex digits; the value is not shown", 2*sha256.Size)
	}
	if sum == [sha256.Size]byte{} {
		return errors.New("a digest of zeros is of no key")
	}
	*d = Digest{sum: sum, pepper: version}
	return nil
}

func decodeHex(into, text []byte) bool {
	_, err := hex.Decode(into, text)
	return err == nil
}

var errPlaintext = errors.New(`not a digest, perhaps the key itself: write "hmac-sha256:v1:…" or "sha256:…"; ` +
	`if a key stood here, replace that key, it has been exposed; the value is not shown`)

var errVersion = fmt.Errorf(`the version of a pepper is written "v1" to "v%d"`, maxPepperVersion)

func parseVersion(s string) (uint16, error) {
	digits, ok := strings.CutPrefix(s, "v")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || digits[0] == '0' || n > maxPepperVersion {
		return 0, errVersion
	}
	return uint16(n), nil
}

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
	// keys file.
	Secret policy.Secret `yaml:"secret,required"`
}

// Peppers are the versions of the pepper in force.
type Peppers struct {
	list []pepper
}

// pepper holds the two padded keys of an HMAC (RFC 2104 section 2), so that a
// verification only has to append to them.
type pepper struct {
	version      uint16
	inner, outer [sha256.BlockSize]byte
}

// NewPeppers reads the peppers of a configuration: Pepper is version 1, of
// Peppers the first is the one that mints. Errors name the version, never the
// secret. Neither set is no error: then there are only imported keys.
func NewPeppers(c Config) (*Peppers, error) {
	var errs []error
	ps := readPeppers(&c, func(path, message string) {
		errs = append(errs, fmt.Errorf("%s: %s", path, message))
	})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return ps, nil
}

func readPeppers(c *Config, report func(path, message string)) *Peppers {
	ps := &Peppers{}
	if len(c.Peppers) > maxPeppers {
		report("peppers", fmt.Sprintf("at most %d versions can be in force", maxPeppers))
		return ps
	}
	if !c.Pepper.IsZero() {
		if len(c.Peppers) > 0 {
			report("pepper", "is set beside peppers; it is the same as version 1 there, so set one of the two")
		}
		ps.add(1, c.Pepper, func(_, message string) { report("pepper", message) })
	}
	for i := range c.Peppers {
		at := fmt.Sprintf("peppers[%d].", i)
		ps.add(c.Peppers[i].Version, c.Peppers[i].Secret, func(path, message string) { report(at+path, message) })
	}
	return ps
}

func (ps *Peppers) add(version int, s policy.Secret, report func(path, message string)) {
	secret := strings.TrimSpace(s.Reveal())
	switch {
	case version < 1 || version > maxPepperVersion:
		report("version", fmt.Sprintf("is a number from 1 to %d", maxPepperVersion))
	case ps.find(uint16(version)) != nil:
		report("version", fmt.Sprintf("%d occurs twice", version))
	case len(secret) < minPepperLen:
		report("secret", fmt.Sprintf("has %d bytes and needs at least %d: make one with `openssl rand -hex 32`", len(secret), minPepperLen))
	case len(secret) > maxPepperLen:
		report("secret", fmt.Sprintf("is longer than %d bytes", maxPepperLen))
	case strings.Count(secret, secret[:1]) == len(secret):
		report("secret", "repeats one byte: make a random one with `openssl rand -hex 32`")
	default:
		ps.list = append(ps.list, newPepper(uint16(version), []byte(secret)))
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

func (ps *Peppers) none() bool { return ps == nil || len(ps.list) == 0 }

func (ps *Peppers) find(version uint16) *pepper {
	for i := range ps.list {
		if ps.list[i].version == version {
			return &ps.list[i]
		}
	}
	return nil
}

// Digest returns the digest of an own key under the current pepper, or the zero
// Digest if there is no pepper or the text is too long to be a key.
func (ps *Peppers) Digest(key policy.Secret) Digest {
	if ps.none() || len(key.Reveal()) > maxLen {
		return Digest{}
	}
	p := &ps.list[0]
	return Digest{sum: p.mac(key.Reveal()), pepper: p.version}
}

// mac returns HMAC-SHA-256 of the text, which is at most maxLen long. It covers
// the whole key, not only its secret: a digest that is moved to another id, or a
// key whose kind or environment was edited, proves nothing.
//
// The padded keys are hashed anew each time. Resuming from a saved SHA-256 state
// would save two of five blocks (0.2 instead of 0.3 µs) and cost a pool of
// hashers with secrets in them; two arrays on the stack need neither.
func (p *pepper) mac(text string) [sha256.Size]byte {
	countHash()
	var inner [sha256.BlockSize + maxLen]byte
	copy(inner[:], p.inner[:])
	n := copy(inner[sha256.BlockSize:], text)
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])

	var outer [sha256.BlockSize + sha256.Size]byte
	copy(outer[:], p.outer[:])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

// equal compares two sums in constant time.
func equal(a, b *[sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// onHash, if a test has set it, hears of every digest that a verification
// computes: that unknown and wrong keys cost the same is counted, not timed.
var onHash func()

func countHash() {
	if onHash != nil {
		onHash()
	}
}
