package mtls

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
)

// The header x-forwarded-client-cert, as Envoy writes it:
//
//	header  =  element *( "," element )        one for each hop, the nearest one last
//	element =  pair *( ";" pair )
//	pair    =  key "=" value
//	value   =  *visible                        without , ; and "
//	        |  DQUOTE *( char | "\" char ) DQUOTE
//
// Keys are case-insensitive. Within quotes a backslash belongs to the character behind
// it, and \" stands for a quote; other pairs are left as they are, because names of
// subjects (RFC 2253) have escapes of their own.
//
// Envoy puts the names of a certificate into the header as they are. So whoever gets a
// certificate with a comma in a URI can write an element of his own behind the true one.
// Where the certificate is sent as well it decides, and there can be only one; but an
// element can hold somebody else's certificate. A proxy that replaces the header sends
// one element, and Config.MaxElements 1 refuses what is more.

// element is what one hop says, in order.
type element []pair

// pair is a key, as in keys where it is known and else in lower case, and its value.
type pair struct{ key, value string }

// knownKey is a key that Envoy writes, and whether an element may have more than one.
type knownKey struct {
	name string
	many bool
}

var keys = []knownKey{
	{"By", true}, {"Hash", false}, {"Cert", false}, {"Chain", false}, {"Subject", false}, {"URI", true}, {"DNS", true},
}

// maxPairs is how many pairs an element may have.
const maxPairs = 64

var (
	errElements   = errors.New("has too many elements")
	errPairs      = errors.New("an element has too many pairs")
	errPair       = errors.New("a pair is not key=value")
	errQuote      = errors.New("a quoted value is not closed, or something stands behind it")
	errCharacter  = errors.New("holds a character that has no place there")
	errTwice      = errors.New("a key is there twice")
	errHash       = errors.New("the hash is missing, or is not 64 hexadecimal digits")
	errEscaped    = errors.New("a value that is used holds a backslash or a quote")
	errURIs       = errors.New("there is more than one URI")
	errKey        = errors.New("the nearest hop's element has a key that is not known")
	errOtherChain = errors.New("the chain does not begin with the certificate")
)

// parseXFCC reads the header. It returns at least one element, or an error that quotes
// nothing of it.
func parseXFCC(text string, most int) ([]element, error) {
	var all []element
	for more := true; more; {
		if len(all) == most {
			return nil, errElements
		}
		var e element
		var err error
		if e, text, more, err = parseElement(text); err != nil {
			return nil, err
		}
		all = append(all, e)
		text = strings.TrimLeft(text, " \t") // a list of HTTP may have spaces behind its commas
	}
	return all, nil
}

// parseElement reads up to the comma behind the element, and says whether there was one.
func parseElement(s string) (e element, rest string, more bool, err error) {
	for {
		if len(e) == maxPairs {
			return nil, "", false, errPairs
		}
		var p pair
		if p, s, err = parsePair(s); err != nil {
			return nil, "", false, err
		}
		if e.has(p.key) && !repeatable(p.key) {
			return nil, "", false, errTwice
		}
		e = append(e, p)
		switch {
		case s == "":
			return e, "", false, nil
		case s[0] == ',':
			return e, s[1:], true, nil
		}
		s = s[1:] // the semicolon
	}
}

// parsePair reads a pair. What is left is empty or begins with a comma or a semicolon.
func parsePair(s string) (p pair, rest string, err error) {
	key, rest, found := strings.Cut(s, "=")
	if !found || key == "" || strings.Trim(strings.ToLower(key), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return p, "", errPair
	}
	p.key = canonicalKey(key)
	if strings.HasPrefix(rest, `"`) {
		p.value, rest, err = parseQuoted(rest[1:])
		return p, rest, err
	}
	end := strings.IndexAny(rest, ",;")
	if end < 0 {
		end = len(rest)
	}
	p.value, rest = rest[:end], rest[end:]
	if strings.ContainsFunc(p.value, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }) {
		return p, "", errCharacter
	}
	return p, rest, nil
}

// parseQuoted reads a value behind its opening quote.
func parseQuoted(s string) (value, rest string, err error) {
	escaped := false
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f:
			return "", "", errCharacter
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			value, rest = s[:i], s[i+1:]
			if rest != "" && rest[0] != ',' && rest[0] != ';' {
				return "", "", errQuote
			}
			return unquote(value), rest, nil
		}
	}
	return "", "", errQuote
}

// unquote replaces \" by a quote, and leaves every other pair of a backslash and a
// character as it is.
func unquote(s string) string {
	if !strings.Contains(s, `\"`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			if i++; s[i] != '"' {
				b = append(b, '\\')
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func canonicalKey(key string) string {
	for _, k := range keys {
		if strings.EqualFold(k.name, key) {
			return k.name
		}
	}
	return strings.ToLower(key)
}

func isKnown(key string) bool {
	return slices.ContainsFunc(keys, func(k knownKey) bool { return k.name == key })
}

// repeatable reports whether a key may stand in an element more than once. Farther hops
// may have keys that mean nothing here.
func repeatable(key string) bool {
	return !slices.Contains(keys, knownKey{name: key})
}

func (e element) has(key string) bool {
	return slices.ContainsFunc(e, func(p pair) bool { return p.key == key })
}

// all returns the values of a key that are not empty: Envoy writes "URI=" for a
// certificate without one.
func (e element) all(key string) (values []string) {
	for _, p := range e {
		if p.key == key && p.value != "" {
			values = append(values, p.value)
		}
	}
	return values
}

// first returns the first value of a key, or "".
func (e element) first(key string) string {
	if values := e.all(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// hop is what the nearest hop says of its client's certificate.
type hop struct {
	hash        string // in lower case
	cert, chain string // URL-encoded PEM
	hasCert     bool
	hasChain    bool
	names       names
}

// readHop takes from an element what is used. What Envoy writes has a hash always.
func readHop(e element) (hop, error) {
	h := hop{
		hash: strings.ToLower(e.first("Hash")),
		cert: e.first("Cert"), hasCert: e.has("Cert"), chain: e.first("Chain"), hasChain: e.has("Chain"),
		names: names{uris: e.all("URI"), dns: e.all("DNS")},
	}
	switch {
	case slices.ContainsFunc(e, func(p pair) bool { return !isKnown(p.key) }):
		return h, errKey
	case !isFingerprint(h.hash):
		return h, errHash
	case len(h.names.uris) > 1:
		return h, errURIs
	case slices.ContainsFunc(slices.Concat(h.names.uris, h.names.dns, []string{h.cert, h.chain}), hasEscape):
		return h, errEscaped
	}
	return h, nil
}

// hasEscape reports whether a value that never needs any holds quotes or escapes.
func hasEscape(s string) bool { return strings.ContainsAny(s, `\"`) }

// certificates returns the leaf and the rest of its chain; none if the hop sent none.
func (h *hop) certificates(maxChain int) ([]*x509.Certificate, error) {
	var leaf, chain []*x509.Certificate
	var err error
	if h.hasCert {
		if leaf, err = parseEncodedPEM(h.cert, 1); err != nil {
			return nil, err
		}
	}
	if !h.hasChain {
		return leaf, nil
	}
	if chain, err = parseEncodedPEM(h.chain, maxChain+1); err != nil {
		return nil, err
	}
	if leaf != nil && !leaf[0].Equal(chain[0]) {
		return nil, errOtherChain
	}
	return chain, nil
}
