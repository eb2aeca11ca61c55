package seal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// The lengths of the parts, in base62 digits.
const (
	// IDLen is the length of an id: 71 bits, which is public and only has to be
	// unique.
	IDLen = 12
	// SecretLen is the length of the secret: 256.03 bits, as 62^43 > 2^256.
	SecretLen = 43
	// ChecksumLen is the length of the checksum: 35 bits hold the 32 of a CRC.
	ChecksumLen = 6
	// WordLen is the longest prefix, kind or environment.
	WordLen = 16
	// MaxLen is the longest text of the form.
	MaxLen  = 3*WordLen + 2 + tailLen
	tailLen = 1 + IDLen + 1 + SecretLen + ChecksumLen
	// MaxSignedLen is the longest secret of ours that is not of the form: a personal
	// access token that is a JWT.
	MaxSignedLen = 2048
)

// alphabet is base62 in the order of ASCII, so that sorting texts sorts numbers.
const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// DefaultPrefix starts every secret unless the configuration names another.
const DefaultPrefix = "pst"

// Issuer is who vouches for the principals that these secrets prove.
const Issuer = "postern"

// Kind is the word that says what a secret is. Others than these may occur: other
// authenticators share the form.
type Kind string

// The kinds.
const (
	KindKey     Kind = "key" // an API key, of an integration
	KindPAT     Kind = "pat" // a personal access token
	KindSession Kind = "ses" // the cookie of a session
)

var errShape = errors.New("not of the form prefix_kind[_environment]_id_secret")

// Parts are the public parts of a secret. They point into its text.
type Parts struct {
	// Prefix is the prefix of the installation that made it.
	Prefix string
	// Kind says what it is, Env where it is meant to be used; empty if it does not
	// say.
	Kind Kind
	Env  string
	// ID is the public id under which logs and records know it.
	ID string
}

// Parse takes a text apart. It reads from the end, where every length is fixed,
// so that a text has one reading whatever its words look like. It is strict: one
// alphabet, no white space, nothing after the checksum, which is for ChecksumFits
// to compare. It does not allocate, and its error does not repeat the text.
func Parse(text string) (Parts, error) {
	head := len(text) - tailLen
	if head < 0 || len(text) > MaxLen {
		return Parts{}, errShape
	}
	tail := text[head:]
	p := Parts{ID: tail[1 : 1+IDLen]}
	if tail[0] != '_' || tail[1+IDLen] != '_' || !IsBase62(p.ID) || !IsBase62(tail[2+IDLen:]) {
		return Parts{}, errShape
	}
	var kind string
	var more bool
	p.Prefix, kind, _ = strings.Cut(text[:head], "_")
	kind, p.Env, more = strings.Cut(kind, "_")
	if !IsWord(p.Prefix) || !IsWord(kind) || more && !IsWord(p.Env) {
		return Parts{}, errShape
	}
	p.Kind = Kind(kind)
	return p, nil
}

// Begins reports whether a text begins as secrets with the prefix do; without a prefix,
// as those of any installation do. Parse knows the whole ones: this is for those that
// are misspelt or were cut off, and still are nobody else's business.
func Begins(text, prefix string) bool {
	word, rest, _ := strings.Cut(text, "_")
	kind, _, more := strings.Cut(rest, "_")
	if !more || !IsWord(word) || prefix != "" && word != prefix {
		return false
	}
	switch Kind(kind) {
	case KindKey, KindPAT, KindSession:
		return true
	}
	return false
}

// IsID reports whether a text can be the id of one of our own secrets.
func IsID(s string) bool { return len(s) == IDLen && IsBase62(s) }

// ChecksumFits compares the last digits with the CRC-32 of all before them. It
// finds typing errors and false alarms of secret scanners; whoever makes up a
// secret can make up its checksum.
func ChecksumFits(text string) bool {
	if len(text) < ChecksumLen {
		return false
	}
	body := text[:len(text)-ChecksumLen]
	want := AppendChecksum(make([]byte, 0, ChecksumLen), body)
	return string(want) == text[len(body):]
}

// AppendChecksum appends the CRC-32 (IEEE) of the text as six base62 digits. The
// loop is ours because hash/crc32 wants a slice, and making one allocates.
func AppendChecksum(b []byte, text string) []byte {
	crc := ^uint32(0)
	for i := range len(text) {
		crc = crc32.IEEETable[byte(crc)^text[i]] ^ crc>>8
	}
	crc = ^crc
	var sum [ChecksumLen]byte
	for i := ChecksumLen - 1; i >= 0; i-- {
		sum[i] = alphabet[crc%62]
		crc /= 62
	}
	return append(b, sum[:]...)
}

// digits holds the bytes of the alphabet.
var digits = func() (set [256]bool) {
	for i := range len(alphabet) {
		set[alphabet[i]] = true
	}
	return set
}()

// IsBase62 reports whether the text holds base62 digits and nothing else, and at
// least one.
func IsBase62(s string) bool {
	for i := range len(s) {
		if !digits[s[i]] {
			return false
		}
	}
	return s != ""
}

// IsWord accepts what may stand as prefix, kind or environment: a lower-case
// letter, then lower-case letters and digits, WordLen at most.
func IsWord(s string) bool {
	if s == "" || len(s) > WordLen || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Spec says what sort of secret to mint.
type Spec struct {
	// Prefix is the configured prefix; empty means DefaultPrefix.
	Prefix string
	// Kind is what it is; empty means KindKey.
	Kind Kind
	// Environment, such as "live" or "test", stands in it for the eyes of people;
	// empty leaves it out.
	Environment string
}

// Minted is a new secret.
type Minted struct {
	// Secret is the whole text. It is shown to its owner once and kept nowhere.
	Secret policy.Secret
	// ID and Digest are what is kept of it.
	ID     string
	Digest Digest
}

// ErrNoPepper says that nothing can be minted without a pepper.
var ErrNoPepper = errors.New("minting needs a pepper")

// Mint makes a secret and its digest under the current pepper. The random source
// is crypto/rand.Reader but in tests; if it fails, so does Mint: a secret is
// either fully random or not made at all.
func Mint(random io.Reader, spec Spec, peppers *Peppers) (Minted, error) {
	if spec.Prefix == "" {
		spec.Prefix = DefaultPrefix
	}
	if spec.Kind == "" {
		spec.Kind = KindKey
	}
	for _, w := range []struct{ what, word string }{
		{"prefix", spec.Prefix}, {"kind", string(spec.Kind)}, {"environment", spec.Environment},
	} {
		if !IsWord(w.word) && (w.what != "environment" || w.word != "") {
			return Minted{}, fmt.Errorf("%s %q: use at most %d lower-case letters and digits, a letter first", w.what, w.word, WordLen)
		}
	}
	if peppers.None() {
		return Minted{}, ErrNoPepper
	}
	var secret [IDLen + SecretLen]byte
	if err := randomDigits(random, secret[:]); err != nil {
		return Minted{}, fmt.Errorf("no secret was made: random source: %w", err)
	}
	id := string(secret[:IDLen])
	text := spec.Prefix + "_" + string(spec.Kind) + "_"
	if spec.Environment != "" {
		text += spec.Environment + "_"
	}
	text += id + "_" + string(secret[IDLen:])
	whole := policy.NewSecret(string(AppendChecksum([]byte(text), text)))
	return Minted{Secret: whole, ID: id, Digest: peppers.Digest(whole)}, nil
}

// NewID makes an id like those of secrets, for records that have no secret of ours.
// It is public: whether the source can be trusted is not looked at, only that it
// yields digits at all.
func NewID(random io.Reader) (string, error) {
	var id [IDLen]byte
	if err := drawDigits(random, id[:]); err != nil {
		return "", fmt.Errorf("no id was made: random source: %w", err)
	}
	return string(id[:]), nil
}

// randomDigits fills b with base62 digits of which nobody knows any. A source that
// fails or is stuck is an error, which leaves nothing usable in b.
func randomDigits(random io.Reader, b []byte) error {
	err := drawDigits(random, b)
	if err == nil && distinct(b) < minDistinct {
		err = errStuck
	}
	if err != nil {
		clear(b)
	}
	return err
}

// drawDigits fills b with base62 digits, all equally likely: of the 256 values of a
// byte the last 8 would favour the first digits, so they are thrown away (rejection
// sampling).
func drawDigits(random io.Reader, b []byte) error {
	const fair = 256 / 62 * 62
	var chunk [64]byte
	done := 0
	// A chunk yields 62 digits on average; a healthy source never needs 8 more.
	for range len(b)/len(chunk) + 8 {
		if _, err := io.ReadFull(random, chunk[:]); err != nil {
			return err
		}
		for _, c := range chunk {
			if c < fair && done < len(b) {
				b[done] = alphabet[c%62]
				done++
			}
		}
		if done == len(b) {
			return nil
		}
	}
	return errStuck
}

// minDistinct is how many different digits an id and a secret hold at the very
// least. 55 fair digits hold 36 on average, and fewer than 16 about once in
// 10^20 secrets; a source that repeats itself holds few.
const minDistinct = 16

var errStuck = errors.New("it repeats itself and cannot be trusted")

func distinct[T string | []byte](s T) (n int) {
	var seen [256]bool
	for i := range len(s) {
		if !seen[s[i]] {
			seen[s[i]] = true
			n++
		}
	}
	return n
}
