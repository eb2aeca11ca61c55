package jose

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// Keys is where the keys of one issuer are.
//
// Find returns the keys that may have signed a token with that kid and alg; an
// empty kid asks for all that fit the alg. No key and no error means that there
// is no such key. An error means that this could not be found out; it is never
// an answer about the token. The result is shared and must not be changed.
// Implementations are safe for concurrent use.
type Keys interface {
	Find(ctx context.Context, kid, alg string) ([]*Key, error)
}

// The limits of a key set, and of whatever else is fetched.
const (
	// MaxKeys is how many keys a set may hold. A set with more is refused whole.
	MaxKeys = 1000
	// MaxDocumentBytes is the length of the longest document that is read, after
	// any decompression.
	MaxDocumentBytes = 1 << 20
)

// maxWarnings bounds what a set with a thousand bad keys has to say.
const maxWarnings = 20

// documentLimits bound key sets and discovery documents. They nest little, and
// discovery documents have many members.
var documentLimits = Limits{Bytes: MaxDocumentBytes, Depth: 8, Members: 256}

// A KeySet is an immutable set of keys. The nil and the zero KeySet are empty.
type KeySet struct {
	keys []*Key
	// byID holds one key each, in a list of one, ready to be returned.
	byID map[string][]*Key
	// byAlg holds for each algorithm the keys that fit it.
	byAlg map[string][]*Key
	// digest is the same for two sets if and only if they hold the same keys.
	digest [sha256.Size]byte
	// privateSeen says that the document had private members.
	privateSeen bool
	// bundle is what a SPIFFE bundle says besides its keys; nil for other sets.
	bundle *bundle
}

var _ Keys = (*KeySet)(nil)

// ParseKeySet reads a JWK set (RFC 7517 section 5), or a single JWK as a set of
// one. A key that cannot be used is left out, with a warning that names its kid
// and the cause: symmetric keys (kty "oct") among them, because who can read a
// published one can sign with it. Of keys with one kid, none is used. Warnings
// hold no key material. The error is for a document that is no key set at all, or
// that is over MaxDocumentBytes or MaxKeys. A set without any usable key is no
// error here.
func ParseKeySet(data []byte) (*KeySet, []string, error) {
	doc, err := ParseJSON(data, documentLimits)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a key set: %w", err)
	}
	entries, err := entriesOf(doc)
	if err != nil {
		return nil, nil, err
	}
	set, warnings := parseKeys(entries, useSignature)
	return set, warnings, nil
}

// parseKeys makes a set of the entries that are keys for the purpose.
func parseKeys(entries []jwk, purpose string) (*KeySet, []string) {
	p := parser{purpose: purpose}
	repeated := repeatedIDs(entries)
	var keys []*Key
	for i, j := range entries {
		k, err := p.key(j, repeated)
		if err != nil {
			p.warn("%s is not used: %v", nameKey(i, j), err)
			continue
		}
		if j.isPrivate() {
			p.privateSeen = true
			p.warn("%s was published with its private half: treat it as compromised and replace it", nameKey(i, j))
		}
		keys = append(keys, k)
	}
	set := newKeySet(keys)
	set.privateSeen = p.privateSeen
	return set, p.summary()
}

// NewKeySet makes a set of keys that came another way, such as a secret or a PEM
// file of the configuration. They are held to the same rules; the first that
// breaks one is the error.
func NewKeySet(keys ...*Key) (*KeySet, error) {
	seen := make(map[string]bool, len(keys))
	for i, k := range keys {
		if err := checkKey(k); err != nil {
			return nil, fmt.Errorf("key %d cannot be used: %w", i+1, err)
		}
		if k.ID != "" && seen[k.ID] {
			return nil, fmt.Errorf("key %d cannot be used: %w", i+1, errRepeatedID)
		}
		seen[k.ID] = true
	}
	return newKeySet(slices.Clone(keys)), nil
}

// Find returns the keys for a kid and an alg. The error is always nil: a KeySet
// knows all there is to know.
func (s *KeySet) Find(_ context.Context, kid, alg string) ([]*Key, error) {
	keys, _ := s.find(kid, alg)
	return keys, nil
}

// Len returns the number of keys.
func (s *KeySet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.keys)
}

// find also reports whether the set knows of the key at all. It may know a kid
// and have nothing to return, because the key does not fit the alg.
func (s *KeySet) find(kid, alg string) (keys []*Key, known bool) {
	if s == nil {
		return nil, false
	}
	if kid == "" {
		keys = s.byAlg[alg]
		return keys, len(keys) > 0
	}
	keys, known = s.byID[kid]
	if known && !keys[0].Fits(alg) {
		return nil, true
	}
	return keys, known
}

func newKeySet(keys []*Key) *KeySet {
	s := &KeySet{
		keys:  keys,
		byID:  make(map[string][]*Key, len(keys)),
		byAlg: make(map[string][]*Key, len(algorithms)),
	}
	for _, k := range keys {
		if k.ID != "" {
			s.byID[k.ID] = []*Key{k}
		}
		for _, alg := range Algorithms() {
			if k.Fits(alg) {
				s.byAlg[alg] = append(s.byAlg[alg], k)
			}
		}
	}
	for alg, list := range s.byAlg {
		s.byAlg[alg] = slices.Clip(list)
	}
	s.digest = digestOf(keys)
	return s
}

// digestOf hashes what makes a key: its kid, the alg it is bound to and its
// value. The order in which an issuer lists its keys makes no difference.
func digestOf(keys []*Key) [sha256.Size]byte {
	parts := make([]string, 0, len(keys))
	for _, k := range keys {
		h := sha256.New()
		hashPart(h, k.ID)
		hashPart(h, k.Alg)
		hashPart(h, k.Thumbprint())
		if secret, ok := k.Public.(SymmetricKey); ok {
			hashPart(h, string(secret.Reveal()))
		}
		parts = append(parts, string(h.Sum(nil)))
	}
	slices.Sort(parts)
	h := sha256.New()
	for _, p := range parts {
		hashPart(h, p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// hashPart writes a part with its length before it, so that no two lists of
// parts hash the same bytes.
func hashPart(h hash.Hash, part string) {
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(part)))
	h.Write(size[:])
	h.Write([]byte(part))
}

// parser is one reading of a set.
type parser struct {
	purpose     string
	privateSeen bool
	warnings    []string
	unsaid      int // warnings over maxWarnings
}

var errRepeatedID = errors.New("another key has the same kid")

func (p *parser) key(j jwk, repeated map[string]bool) (*Key, error) {
	k, err := readKey(j, p.purpose)
	if err != nil {
		return nil, err
	}
	if repeated[k.ID] {
		return nil, errRepeatedID
	}
	return k, nil
}

func (p *parser) warn(format string, args ...any) {
	if len(p.warnings) == maxWarnings {
		p.unsaid++
		return
	}
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

func (p *parser) summary() []string {
	if p.unsaid > 0 {
		return append(p.warnings, fmt.Sprintf("and %d more", p.unsaid))
	}
	return p.warnings
}

// entriesOf returns the keys of a set, or the one key that the document is.
func entriesOf(doc Value) ([]jwk, error) {
	if doc.Kind() != Object {
		return nil, fmt.Errorf("%w: a key set is an object, not %s", ErrMalformed, doc.Kind())
	}
	keys := doc.Get("keys")
	if !keys.Exists() && doc.Get("kty").Exists() {
		return []jwk{{doc}}, nil
	}
	if keys.Kind() != Array {
		return nil, fmt.Errorf(`%w: "keys" is %s, not an array`, ErrMalformed, keys.Kind())
	}
	var entries []jwk
	for e := range keys.Elements() {
		if len(entries) == MaxKeys {
			return nil, fmt.Errorf("%w: more than %d keys", ErrTooLarge, MaxKeys)
		}
		entries = append(entries, jwk{e})
	}
	return entries, nil
}

// repeatedIDs returns the kids that more than one key has, usable or not: which
// of them signed is not for a verifier to guess.
func repeatedIDs(entries []jwk) map[string]bool {
	repeated := make(map[string]bool, len(entries))
	for _, j := range entries {
		if id, ok := j.Get("kid").Text(); ok && id != "" {
			_, again := repeated[id]
			repeated[id] = again
		}
	}
	return repeated
}

// nameKey names a key in a warning: by kid if it has one, always by place.
func nameKey(i int, j jwk) string {
	if id, ok := j.Get("kid").Text(); ok && id != "" {
		return fmt.Sprintf("key %s (number %d)", quote(id), i+1)
	}
	return fmt.Sprintf("key number %d", i+1)
}
