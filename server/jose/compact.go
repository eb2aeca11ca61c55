package jose

import (
	"fmt"
	"strings"
	"time"
)

// A token goes through two steps that cannot be confused, because the second
// takes what only the first returns:
//
//	ParseCompact   text  → *Token   one reading or none; nothing is proven yet
//	Verify         Token → *Key     the key that signed it, or an error
//
// Strict means that two implementations cannot read one token in two ways, and
// that two texts cannot be one token: exactly three parts, base64url without
// padding, line breaks or loose bits, JSON without duplicate members and with
// nothing after it, header parameters of the right type, and none that changes
// how the rest is to be read (crit, b64, zip, enc).
//
// Where a key comes from is never the token's choice: jku, x5u, jwk and x5c are
// ignored. The caller asks the Keys of the issuer that it expects.

// Token is a compact JWS that was read and not yet verified. What it says is
// the sender's claim until Verify has returned a key.
type Token struct {
	alg            *algorithm
	kid            string
	header, claims Value
	// signed is the text that the signature is over: the first two parts.
	signed    string
	signature []byte

	doc document
	// room holds the values of an ordinary token, so that it needs no more
	// memory than this struct and its text.
	room [40]node
}

// Algorithm returns the header's alg, one that this package knows.
func (t *Token) Algorithm() string { return t.alg.name }

// KeyID returns the header's kid; empty if it has none.
func (t *Token) KeyID() string { return t.kid }

// Header returns the protected header, an object.
func (t *Token) Header() Value { return t.header }

// Claims returns the payload, an object.
func (t *Token) Claims() Value { return t.claims }

// ParseCompact reads a JWS in compact serialization (RFC 7515 section 7.1)
// whose payload is a JSON object. Nothing is looked at if it is longer than
// limits.Bytes. Errors wrap ErrTooLarge, ErrMalformed or ErrAlgorithm; they
// quote nothing of the token.
func ParseCompact(token string, limits Limits) (*Token, error) {
	t, payload, err := parseSigned(token, limits)
	if err != nil {
		return nil, err
	}
	if t.claims, err = t.object("payload", payload, limits); err != nil {
		return nil, err
	}
	return t, nil
}

// span is a part of a Token's text.
type span struct{ start, end int }

// parseSigned reads everything but the payload, which may be any bytes.
func parseSigned(token string, limits Limits) (t *Token, payload span, err error) {
	// 1. Size, before anything is done with the text.
	limits = limits.withDefaults()
	if len(token) > limits.Bytes {
		return nil, span{}, fmt.Errorf("%w: token of %d bytes, at most %d", ErrTooLarge, len(token), limits.Bytes)
	}

	// 2. Three parts, into one buffer.
	header, rest, ok1 := strings.Cut(token, ".")
	body, signature, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || strings.IndexByte(signature, '.') >= 0 {
		return nil, span{}, fmt.Errorf("%w: a compact JWS has three parts", ErrMalformed)
	}
	t = &Token{signed: token[:len(header)+1+len(body)]}
	t.doc = document{text: make([]byte, 0, len(token)*3/4), nodes: t.room[:0]}
	var spans [3]span
	for i, part := range [...]string{header, body, signature} {
		start := len(t.doc.text)
		if t.doc.text, ok1 = appendBase64(t.doc.text, part); !ok1 {
			return nil, span{}, fmt.Errorf("%w: the %s is not base64url (RFC 7515 section 2)", ErrMalformed, [...]string{"header", "payload", "signature"}[i])
		}
		spans[i] = span{start, len(t.doc.text)}
	}
	t.signature = t.doc.text[spans[2].start:]
	if len(t.signature) == 0 {
		return nil, span{}, fmt.Errorf("%w: no signature", ErrMalformed)
	}

	// 3. The header, which says how to read the rest.
	if t.header, err = t.object("header", spans[0], limits); err != nil {
		return nil, span{}, err
	}
	if err := t.readHeader(); err != nil {
		return nil, span{}, err
	}
	return t, spans[1], nil
}

// object reads a part that must be a JSON object.
func (t *Token) object(name string, s span, limits Limits) (Value, error) {
	v, err := t.doc.read(s.start, s.end, limits.withDefaults())
	if err == nil && v.Kind() != Object {
		err = fmt.Errorf("%w: %s, not an object", ErrMalformed, v.Kind())
	}
	if err != nil {
		return Value{}, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// changing are the header parameters that change what the rest means. Nothing
// here understands one of them, so that each is refused, whatever its value:
// critical extensions (RFC 7515 section 4.1.11), an unencoded payload (RFC
// 7797), and what belongs to encryption (RFC 7516 section 4.1).
var changing = [...]string{"crit", "b64", "zip", "enc"}

// readHeader checks the types of the parameters that anybody acts on.
func (t *Token) readHeader() error {
	for _, name := range changing {
		if t.header.Get(name).Exists() {
			return fmt.Errorf("%w: header: %s is not supported", ErrMalformed, name)
		}
	}
	for _, name := range [...]string{"kid", "typ", "cty"} {
		if v := t.header.Get(name); v.Exists() && v.Kind() != String {
			return fmt.Errorf("%w: header: %s is %s, not a string", ErrMalformed, name, v.Kind())
		}
	}
	if kid := t.header.Get("kid"); kid.Exists() {
		if t.kid, _ = kid.Text(); t.kid == "" {
			return fmt.Errorf("%w: header: kid is empty", ErrMalformed)
		}
	}
	alg := t.header.Get("alg")
	if alg.Kind() != String {
		return fmt.Errorf("%w: header: alg is %s", ErrAlgorithm, alg.Kind())
	}
	if t.alg = findAlgorithm(alg); t.alg == nil {
		return fmt.Errorf("%w: header: alg is none that is supported", ErrAlgorithm)
	}
	return nil
}

// base64Value maps the alphabet of RFC 4648 section 5 to its values, and
// everything else to 0xff.
var base64Value = func() (table [256]byte) {
	for i := range table {
		table[i] = 0xff
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		table[c] = byte(i)
	}
	return table
}()

// appendBase64 appends what the text encodes. It takes the one canonical
// encoding only: encoding/base64 skips line breaks even when it is strict,
// which gives one token many texts.
func appendBase64(dst []byte, text string) ([]byte, bool) {
	for ; len(text) >= 4; text = text[4:] {
		a, b, c, d := base64Value[text[0]], base64Value[text[1]], base64Value[text[2]], base64Value[text[3]]
		if a|b|c|d > 63 {
			return dst, false
		}
		dst = append(dst, a<<2|b>>4, b<<4|c>>2, c<<6|d)
	}
	switch len(text) {
	case 0:
		return dst, true
	case 2:
		a, b := base64Value[text[0]], base64Value[text[1]]
		return append(dst, a<<2|b>>4), a|b <= 63 && b&0xf == 0
	case 3:
		a, b, c := base64Value[text[0]], base64Value[text[1]], base64Value[text[2]]
		return append(dst, a<<2|b>>4, b<<4|c>>2), a|b|c <= 63 && c&3 == 0
	}
	return dst, false
}

// maxDate is the last second of the year 9999: what every time library and
// log format can hold.
const maxDate = 253402300799

// NumericDate returns the instant that a number names (RFC 7519 section 2):
// seconds since 1970, possibly with a fraction or an exponent; in UTC. It returns
// false for what is no number, and for negative and overflowing ones.
func (v Value) NumericDate() (time.Time, bool) {
	if v.Kind() != Number {
		return time.Time{}, false
	}
	if sec, ok := wholeSeconds(v.bytes()); ok {
		return time.Unix(sec, 0).UTC(), sec <= maxDate
	}
	number, _ := v.Number()
	f, err := number.Float64()
	if err != nil || !(f >= 0 && f <= maxDate) {
		return time.Time{}, false
	}
	sec := int64(f)
	return time.Unix(sec, int64((f-float64(sec))*1e9)).UTC(), true
}

// wholeSeconds reads plain digits, which dates nearly always are. Twelve of
// them reach past maxDate and not past int64.
func wholeSeconds(digits []byte) (int64, bool) {
	if len(digits) > 12 {
		return 0, false
	}
	n := int64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
