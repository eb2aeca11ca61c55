package extauthz

import (
	"errors"
	"math/bits"
	"unicode/utf8"
)

// Why a message cannot be read. Each is answered with a deny.
var (
	errWire = errors.New("not a valid protobuf message")
	errUTF8 = errors.New("a text is not UTF-8")
	errMany = errors.New("too many header fields, map entries or JSON values")
	errDeep = errors.New("nested too deeply")
)

// The wire types (https://protobuf.dev/programming-guides/encoding).
const (
	varint     = 0
	fixed64    = 1
	bytes      = 2
	startGroup = 3
	endGroup   = 4
	fixed32    = 5
)

// A key is a field's number and wire type, as they stand before its value. A
// field with another wire type has another key, and so is unknown and skipped, as
// protobuf wants it.
type key = uint64

func keyOf(number, wireType uint64) key { return number<<3 | wireType }

// field is one field of a message: the text of a length-delimited one, the
// number of the others. A group has neither.
type field struct {
	key    key
	number uint64
	text   string
}

// maxNumber is the highest field number.
const maxNumber = 1<<29 - 1

// maxGroups is how deep groups may be nested; nobody has sent one since proto3.
const maxGroups = 32

// next cuts the first field off a message.
func next(s string) (f field, rest string, err error) {
	if len(s) > 0 && s[0] < 0x80 { // the usual case: a field up to 15
		f.key, s = uint64(s[0]), s[1:]
	} else if f.key, s, err = number(s); err != nil {
		return f, s, err
	}
	if n := f.key >> 3; n < 1 || n > maxNumber {
		return f, s, errWire
	}
	switch f.key & 7 {
	case bytes:
		f.text, s, err = text(s)
	case varint:
		f.number, s, err = number(s)
	case fixed64:
		f.number, s, err = fixed(s, 8)
	case fixed32:
		f.number, s, err = fixed(s, 4)
	case startGroup:
		s, err = skipGroup(s, f.key>>3, 1)
	default: // an end without a start, or a type that does not exist
		err = errWire
	}
	return f, s, err
}

// each calls read for every field of a message, in order, until one fails.
func each(message string, read func(field) error) error {
	for len(message) > 0 {
		f, rest, err := next(message)
		if err != nil {
			return err
		}
		if err := read(f); err != nil {
			return err
		}
		message = rest
	}
	return nil
}

// number cuts a varint off: seven bits a byte, the lowest first, ten bytes at
// most and no more than 64 bits.
func number(s string) (n uint64, rest string, err error) {
	for i := range min(len(s), 10) {
		c := s[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if i == 9 && c > 1 {
				return 0, s, errWire
			}
			return n, s[i+1:], nil
		}
	}
	return 0, s, errWire
}

func text(s string) (value, rest string, err error) {
	n, s, err := number(s)
	if err != nil || n > uint64(len(s)) {
		return "", s, errWire
	}
	return s[:n], s[n:], nil
}

func fixed(s string, size int) (n uint64, rest string, err error) {
	if len(s) < size {
		return 0, s, errWire
	}
	for i := range size {
		n |= uint64(s[i]) << (8 * i)
	}
	return n, s[size:], nil
}

// skipGroup cuts off what follows the start of a group, its end included.
func skipGroup(s string, group uint64, depth int) (rest string, err error) {
	if depth > maxGroups {
		return s, errDeep
	}
	for {
		k, after, err := number(s)
		if err != nil {
			return s, err
		}
		if k == keyOf(group, endGroup) {
			return after, nil
		}
		if k == keyOf(k>>3, startGroup) {
			if n := k >> 3; n < 1 || n > maxNumber {
				return s, errWire
			}
			s, err = skipGroup(after, k>>3, depth+1)
		} else {
			_, s, err = next(s)
		}
		if err != nil {
			return s, err
		}
	}
}

// utf8Text refuses a string field that is not UTF-8, as proto3 does.
func utf8Text(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errUTF8
	}
	return s, nil
}

// entry reads an entry of a map<string, string>. The last of several keys or
// values counts.
func entry(s string) (name, value string, err error) {
	err = each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, bytes):
			name, err = utf8Text(f.text)
		case keyOf(2, bytes):
			value, err = utf8Text(f.text)
		}
		return err
	})
	return name, value, err
}

// The writer appends to a slice. A message goes between open and shut, which
// puts the length in front once it is known: most are shorter than 128 bytes, so
// one byte is kept for it, and what is longer is moved.

func appendNumber(b []byte, n uint64) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendVarint(b []byte, number, n uint64) []byte {
	return appendNumber(appendNumber(b, keyOf(number, varint)), n)
}

func appendFixed64(b []byte, number, n uint64) []byte {
	b = appendNumber(b, keyOf(number, fixed64))
	for range 8 {
		b = append(b, byte(n))
		n >>= 8
	}
	return b
}

func appendText(b []byte, number uint64, s string) []byte {
	b = appendNumber(b, keyOf(number, bytes))
	b = appendNumber(b, uint64(len(s)))
	return append(b, s...)
}

// open begins a message in the field and returns where its length belongs.
func open(b []byte, number uint64) (_ []byte, at int) {
	b = append(appendNumber(b, keyOf(number, bytes)), 0)
	return b, len(b) - 1
}

// shut ends the message that was opened there.
func shut(b []byte, at int) []byte {
	n := len(b) - at - 1
	if n < 0x80 {
		b[at] = byte(n)
		return b
	}
	size := (bits.Len(uint(n)) + 6) / 7
	for range size - 1 {
		b = append(b, 0)
	}
	copy(b[at+size:], b[at+1:at+1+n])
	appendNumber(b[:at], uint64(n))
	return b
}
