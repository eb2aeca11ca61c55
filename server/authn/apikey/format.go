package apikey

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// The lengths of the parts of a key, in base62 digits.
const (
	idLen     = 12 // 71 bits: public, only has to be unique
	secretLen = 43 // 256.03 bits: 62^43 > 2^256
	crcLen    = 6  // 35 bits hold the 32 of a CRC
	tailLen   = 1 + idLen + 1 + secretLen + crcLen
	wordLen   = 16 // longest prefix, kind or environment
	maxLen    = 3*wordLen + 2 + tailLen
)

// alphabet is base62 in the order of ASCII, so that sorting texts sorts numbers.
const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// DefaultPrefix starts every key unless the configuration names another.
const DefaultPrefix = "pst"

// Kind is the word in a key that says what it is.
type Kind string

// The kinds that this package proves. Other kinds share the format.
const (
	KindKey Kind = "key" // an integration's key
	KindPAT Kind = "pat" // a personal access token
)

var errShape = errors.New("not of the form prefix_kind[_environment]_id_secret")

// parts are the public parts of a key. They point into its text.
type parts struct {
	prefix, kind, env, id string
}

// parse takes a text apart. It reads from the end, where every length is fixed,
// so that a text has one reading whatever its words look like. It is strict: one
// alphabet, no white space, nothing after the checksum, which is for checksumFits
// to compare. It does not allocate.
func parse(text string) (parts, error) {
	head := len(text) - tailLen
	if head < 0 || len(text) > maxLen {
		return parts{}, errShape
	}
	tail := text[head:]
	p := parts{id: tail[1 : 1+idLen]}
	if tail[0] != '_' || tail[1+idLen] != '_' || !isBase62(p.id) || !isBase62(tail[2+idLen:]) {
		return parts{}, errShape
	}
	var more bool
	p.prefix, p.kind, _ = strings.Cut(text[:head], "_")
	p.kind, p.env, more = strings.Cut(p.kind, "_")
	if !isWord(p.prefix) || !isWord(p.kind) || more && !isWord(p.env) {
		return parts{}, errShape
	}
	return p, nil
}

// checksumFits compares the last digits with the CRC-32 of all before them. It
// finds typing errors and false alarms of secret scanners; whoever makes up a
// key can make up its checksum.
func checksumFits(text string) bool {
	want := appendChecksum(make([]byte, 0, crcLen), text[:len(text)-crcLen])
	return string(want) == text[len(text)-crcLen:]
}

// appendChecksum appends the CRC-32 (IEEE) of the text as six base62 digits. The
// loop is ours because hash/crc32 wants a slice, and making one allocates.
func appendChecksum(b []byte, text string) []byte {
	crc := ^uint32(0)
	for i := range len(text) {
		crc = crc32.IEEETable[byte(crc)^text[i]] ^ crc>>8
	}
	crc = ^crc
	var sum [crcLen]byte
	for i := crcLen - 1; i >= 0; i-- {
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

func isBase62(s string) bool {
	for i := range len(s) {
		if !digits[s[i]] {
			return false
		}
	}
	return s != ""
}

// isWord accepts what may stand as prefix, kind or environment: a lower-case
// letter, then lower-case letters and digits.
func isWord(s string) bool {
	if s == "" || len(s) > wordLen || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Spec says what sort of key to mint.
type Spec struct {
	// Prefix is the configured prefix; empty means DefaultPrefix.
	Prefix string
	// Kind is what the key is; empty means KindKey.
	Kind Kind
	// Environment, such as "live" or "test", stands in the key for the eyes of
	// people; empty leaves it out.
	Environment string
}

// Minted is a new key.
type Minted struct {
	// Secret is the whole key. It is shown to its owner once and kept nowhere.
	Secret policy.Secret
	// Key is the beginning of its entry in the keys file: id, digest, kind and
	// environment. The principal and the times are still to be said.
	Key Key
}

// Mint makes a key and its digest under the current pepper. The random source
// is crypto/rand.Reader but in tests; if it fails, so does Mint: a key is either
// fully random or not made at all.
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
		if !isWord(w.word) && (w.what != "environment" || w.word != "") {
			return Minted{}, fmt.Errorf("%s %q: use at most %d lower-case letters and digits, a letter first", w.what, w.word, wordLen)
		}
	}
	if peppers.none() {
		return Minted{}, errors.New("minting needs a pepper: set api_keys.pepper")
	}
	var secret [idLen + secretLen]byte
	if err := randomDigits(random, secret[:]); err != nil {
		return Minted{}, fmt.Errorf("no key was made: random source: %w", err)
	}
	id := string(secret[:idLen])
	text := spec.Prefix + "_" + string(spec.Kind) + "_"
	if spec.Environment != "" {
		text += spec.Environment + "_"
	}
	text += id + "_" + string(secret[idLen:])
	key := policy.NewSecret(string(appendChecksum([]byte(text), text)))
	return Minted{
		Secret: key,
		Key:    Key{ID: id, Digest: peppers.Digest(key), Kind: spec.Kind, Environment: spec.Environment},
	}, nil
}

// randomDigits fills b with base62 digits, all equally likely: of the 256 values
// of a byte the last 8 would favour the first digits, so they are thrown away
// (rejection sampling). A source that fails or is stuck is an error, which
// leaves nothing usable in b.
func randomDigits(random io.Reader, b []byte) error {
	const fair = 256 / 62 * 62
	var chunk [64]byte
	done := 0
	// A chunk yields 62 digits on average; a healthy source never needs 8 more.
	for range len(b)/len(chunk) + 8 {
		if _, err := io.ReadFull(random, chunk[:]); err != nil {
			clear(b)
			return err
		}
		for _, c := range chunk {
			if c < fair && done < len(b) {
				b[done] = alphabet[c%62]
				done++
			}
		}
		if done == len(b) {
			break
		}
	}
	if done < len(b) || distinct(b) < minDistinct {
		clear(b)
		return errStuck
	}
	return nil
}

// minDistinct is how many different digits an id and a secret hold at the very
// least. 55 fair digits hold 36 on average, and fewer than 16 about once in
// 10^20 keys; a source that repeats itself holds few.
const minDistinct = 16

var errStuck = errors.New("it repeats itself and cannot be trusted")

func distinct(b []byte) (n int) {
	var seen [256]bool
	for _, c := range b {
		if !seen[c] {
			seen[c] = true
			n++
		}
	}
	return n
}
