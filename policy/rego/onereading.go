package rego

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// hasOneReading reports whether a JSON text is surely one that decodeJSON reads: valid,
// without a name that stands twice in an object, not nested too deeply. It makes no
// values: data of megabytes is looked at before it is known to come from who may say
// something, and what is made here has to be taken away again beside requests. False
// says nothing; ask decodeJSON, which also says what is wrong.
func hasOneReading(text []byte, depth int) bool {
	if !json.Valid(text) {
		return false
	}
	s := survey{text: text}
	return s.value(depth)
}

// survey walks over a text that is valid.
type survey struct {
	text []byte
	at   int
	// names are those of the objects that are open, in quotes.
	names [][]byte
}

// next skips blanks, commas and colons, and returns the byte after them.
func (s *survey) next() byte {
	for ; ; s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
		default:
			return c
		}
	}
}

func (s *survey) value(depth int) bool {
	switch c := s.next(); c {
	case '{', '[':
		s.at++
		return depth > 0 && s.members(c == '{', depth-1)
	case '"':
		s.quoted()
	default:
		for s.at < len(s.text) && !endsLiteral(s.text[s.at]) {
			s.at++
		}
	}
	return true
}

// endsLiteral reports whether a number, or one of true, false and null, ends before it.
func endsLiteral(c byte) bool {
	return c <= ' ' || c == ',' || c == ']' || c == '}'
}

// members walks over what is in an object or an array, to its end.
func (s *survey) members(named bool, depth int) bool {
	mine := len(s.names)
	for c := s.next(); c != '}' && c != ']'; c = s.next() {
		if named {
			name := s.quoted()
			// Two spellings of one name, escaped or broken, are for the decoder to compare.
			if bytes.IndexByte(name, '\\') >= 0 || !utf8.Valid(name) {
				return false
			}
			s.names = append(s.names, name)
		}
		if !s.value(depth) {
			return false
		}
	}
	s.at++
	names := s.names[mine:]
	s.names = s.names[:mine]
	return areDifferent(names)
}

// quoted walks over a string and returns it, in quotes.
func (s *survey) quoted() []byte {
	from := s.at
	for s.at++; s.text[s.at] != '"'; s.at++ {
		if s.text[s.at] == '\\' {
			s.at++
		}
	}
	s.at++
	return s.text[from:s.at]
}

// areDifferent sorts the names.
func areDifferent(names [][]byte) bool {
	slices.SortFunc(names, bytes.Compare)
	for i := 1; i < len(names); i++ {
		if bytes.Equal(names[i-1], names[i]) {
			return false
		}
	}
	return true
}
