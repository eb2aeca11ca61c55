package seal

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// Digest is what is kept of a secret: never the secret, and nothing from which it
// could be found. It is written
//
//	hmac-sha256:v1:<64 hex digits>   one of our own, under version 1 of the pepper
//	sha256:<64 hex digits>           one that was made elsewhere and imported
//
// The pepper makes an own digest worthless to whoever reads the records, and
// impossible to make up for whoever writes to them.
type Digest struct {
	sum [sha256.Size]byte
	// pepper is the version of the pepper; 0 for an imported secret, which has none.
	pepper uint16
}

const (
	ownAlgorithm      = "hmac-sha256"
	importedAlgorithm = "sha256"
)

// ImportedDigest returns the digest under which a secret of a foreign form is
// found. It is as strong as the secret is random: import none that people chose.
func ImportedDigest(secret policy.Secret) Digest {
	return Digest{sum: sha256.Sum256([]byte(secret.Reveal()))}
}

// DigestOf returns the digest that has the sum and the version of the pepper.
func DigestOf(sum [sha256.Size]byte, pepper uint16) Digest { return Digest{sum: sum, pepper: pepper} }

// Imported reports whether the digest is of a secret of a foreign form.
func (d Digest) Imported() bool { return d.pepper == 0 }

// IsZero reports whether there is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// Sum is the HMAC, or the SHA-256 of an imported secret.
func (d Digest) Sum() [sha256.Size]byte { return d.sum }

// Pepper is the version of the pepper; 0 if the secret was imported.
func (d Digest) Pepper() uint16 { return d.pepper }

// String returns the digest as records hold it.
func (d Digest) String() string {
	if d.Imported() {
		return importedAlgorithm + ":" + hex.EncodeToString(d.sum[:])
	}
	return fmt.Sprintf("%s:v%d:%x", ownAlgorithm, d.pepper, d.sum)
}

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a digest. What stands in its place by mistake may be the
// secret itself, so no error repeats it.
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
	number, ok := strings.CutPrefix(s, "v")
	n, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil || number[0] == '0' || n > maxPepperVersion {
		return 0, errVersion
	}
	return uint16(n), nil
}

// MaxForeignLen is the longest secret of a foreign form, in bytes.
const MaxForeignLen = 512

// ForeignSum returns the SHA-256 by which a secret of a foreign form is found. It
// does not allocate. It is false, and no sum is computed, if the text is empty or
// longer than MaxForeignLen.
func ForeignSum(text string) (sum [sha256.Size]byte, ok bool) {
	if text == "" || len(text) > MaxForeignLen {
		return sum, false
	}
	observed()
	var buf [MaxForeignLen]byte
	n := copy(buf[:], text)
	return sha256.Sum256(buf[:n]), true
}

// Equal compares two sums in constant time.
func Equal(a, b *[sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// observer, if a test has set it, hears of every digest that is computed for a
// verification.
var observer atomic.Pointer[func()]

// Observe calls fn for every digest that anybody computes for a verification,
// until stop is called. It is for tests that count them.
func Observe(fn func()) (stop func()) {
	observer.Store(&fn)
	return func() { observer.Store(nil) }
}

func observed() {
	if fn := observer.Load(); fn != nil {
		(*fn)()
	}
}
