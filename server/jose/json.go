package jose

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits bound what is read. A zero field means its default.
type Limits struct {
	// Bytes is the length of the longest text that is looked at; default 8192.
	Bytes int
	// Depth is how deep arrays and objects may nest, the outermost included;
	// default 16.
	Depth int
	// Members is how many members one object may have; default 128.
	Members int
}

// The defaults of Limits.
const (
	DefaultBytes   = 8 << 10
	DefaultDepth   = 16
	DefaultMembers = 128
)

// maxText keeps offsets within uint32, and maxDigits numbers short enough that
// nobody's big-number arithmetic becomes work for an attacker to order.
const (
	maxText   = 1 << 30
	maxDigits = 100
)

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	if l.Depth <= 0 {
		l.Depth = DefaultDepth
	}
	if l.Members <= 0 {
		l.Members = DefaultMembers
	}
	l.Bytes = min(l.Bytes, maxText)
	return l
}

// Why a text is refused. Errors of this package wrap one of them.
var (
	// ErrTooLarge says that a text exceeds one of the Limits.
	ErrTooLarge = errors.New("over the limit")
	// ErrMalformed says that a text is not what it has to be, or can be read in
	// more than one way.
	ErrMalformed = errors.New("malformed")
)

// Kind is the type of a JSON value. The zero Kind is no value at all.
type Kind uint8

// The kinds of JSON values.
const (
	Absent Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String returns the name as error messages use it.
func (k Kind) String() string {
	return [...]string{"absent", "null", "a boolean", "a number", "a string", "an array", "an object"}[min(k, Object)]
}

// Value is one value of a text that was read strictly. The zero Value is
// absent, and so is every member that an object does not have; asking it
// anything is safe and finds nothing. A Value is read-only and safe for
// concurrent use.
type Value struct {
	doc *document
	at  uint32
}

// document is a text and its values in the order in which they stand: a flat
// list, so that a whole token costs one allocation. An object is followed by
// name, value, name, value; an array by its elements.
type document struct {
	text  []byte
	nodes []node
}

// node is one value or name. start and end delimit its text: of a string what
// stands between the quotes, already unescaped. next is the index after
// everything inside it.
type node struct {
	kind       Kind
	start, end uint32
	next       uint32
}

// ParseJSON reads one JSON value (RFC 8259) so that no two readers can differ
// about it: valid UTF-8 without a byte order mark, no member name twice in an
// object (compared after unescaping), no lone surrogate, no number that a
// float64 cannot hold, nothing but whitespace after it. The text is copied.
// Errors wrap ErrTooLarge or ErrMalformed and quote nothing of the text.
func ParseJSON(text []byte, limits Limits) (Value, error) {
	limits = limits.withDefaults()
	if len(text) > limits.Bytes {
		return Value{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(text), limits.Bytes)
	}
	doc := &document{
		text:  append([]byte(nil), text...),
		nodes: make([]node, 0, len(text)/12+8),
	}
	return doc.read(0, len(text), limits)
}

// read reads the one value in text[start:end], whose bytes it may change.
func (d *document) read(start, end int, limits Limits) (Value, error) {
	if !utf8.Valid(d.text[start:end]) {
		return Value{}, fmt.Errorf("%w: JSON that is not UTF-8", ErrMalformed)
	}
	r := reader{doc: d, pos: start, end: end, depth: limits.Depth, members: limits.Members}
	root := uint32(len(d.nodes))
	r.space()
	err := r.value()
	if err == nil {
		if r.space(); r.pos != r.end {
			err = r.malformed("something after the value")
		}
	}
	if err != nil {
		return Value{}, fmt.Errorf("%w at byte %d", err, r.pos-start)
	}
	return Value{d, root}, nil
}

// reader is one pass over a text.
type reader struct {
	doc            *document
	pos, end       int
	depth, members int
	// names are those of large objects, for which comparing each with each takes too long.
	names map[member]bool
}

func (r *reader) malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }
func (r *reader) tooLarge(what string) error  { return fmt.Errorf("%w: %s", ErrTooLarge, what) }

// peek returns the next byte, or 0 at the end; 0 is no part of any JSON text.
func (r *reader) peek() byte {
	if r.pos < r.end {
		return r.doc.text[r.pos]
	}
	return 0
}

func (r *reader) space() {
	for r.pos < r.end {
		switch r.doc.text[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

func (r *reader) value() error {
	switch c := r.peek(); c {
	case '{':
		return r.nested(Object, '}')
	case '[':
		return r.nested(Array, ']')
	case '"':
		return r.string()
	case 't':
		return r.literal("true", Bool)
	case 'f':
		return r.literal("false", Bool)
	case 'n':
		return r.literal("null", Null)
	default:
		return r.number()
	}
}

// nested reads what stands between two brackets: items separated by commas.
func (r *reader) nested(kind Kind, closing byte) error {
	if r.depth--; r.depth < 0 {
		return r.tooLarge("JSON nested too deep")
	}
	self := r.open(kind, r.pos)
	r.pos++
	r.space()
	for n := 0; r.peek() != closing || n > 0; n++ {
		if err := r.item(kind, self, n); err != nil {
			return err
		}
		r.space()
		if r.peek() == closing {
			break
		}
		if r.peek() != ',' {
			return r.malformed("no comma or bracket after a value")
		}
		r.pos++
		r.space()
	}
	r.pos++
	r.depth++
	r.close(self, r.pos)
	return nil
}

func (r *reader) item(kind Kind, self uint32, n int) error {
	if kind == Object {
		return r.member(self, n)
	}
	return r.value()
}

// member reads the n-th name and value of the object at self.
func (r *reader) member(self uint32, n int) error {
	if n == r.members {
		return r.tooLarge("too many members in an object")
	}
	if r.peek() != '"' {
		return r.malformed("a member without a name in quotes")
	}
	name := uint32(len(r.doc.nodes))
	if err := r.string(); err != nil {
		return err
	}
	if r.twice(self, name, n) {
		return r.malformed("the same member twice")
	}
	r.space()
	if r.peek() != ':' {
		return r.malformed("no colon after a name")
	}
	r.pos++
	r.space()
	return r.value()
}

// fewMembers are compared with each other; of more, the names are hashed.
const fewMembers = 32

// member is a name in the object at a node.
type member struct {
	object uint32
	name   string
}

// twice reports whether the name, that of the n-th member, stands in the object at self
// already.
func (r *reader) twice(self, name uint32, n int) bool {
	if n < fewMembers {
		return r.doc.find(self, name, r.doc.bytes(name)) != name
	}
	if r.names == nil {
		r.names = map[member]bool{}
	}
	if n == fewMembers {
		for at := self + 1; at < name; at = r.doc.nodes[at+1].next {
			r.names[member{self, string(r.doc.bytes(at))}] = true
		}
	}
	key := member{self, string(r.doc.bytes(name))}
	found := r.names[key]
	r.names[key] = true
	return found
}

// open and close add a node; in between, it has no end.
func (r *reader) open(kind Kind, start int) uint32 {
	r.doc.nodes = append(r.doc.nodes, node{kind: kind, start: uint32(start)})
	return uint32(len(r.doc.nodes) - 1)
}

func (r *reader) close(at uint32, end int) {
	n := &r.doc.nodes[at]
	n.end, n.next = uint32(end), uint32(len(r.doc.nodes))
}

func (r *reader) literal(word string, kind Kind) error {
	if string(r.doc.text[r.pos:min(r.end, r.pos+len(word))]) != word {
		return r.malformed("no JSON value")
	}
	self := r.open(kind, r.pos)
	r.pos += len(word)
	r.close(self, r.pos)
	return nil
}

// number reads a number by the grammar of RFC 8259 section 6.
func (r *reader) number() error {
	self := r.open(Number, r.pos)
	start, plain := r.pos, true
	if r.peek() == '-' {
		r.pos++
	}
	if r.peek() == '0' {
		r.pos++
	} else if !r.digits() {
		return r.malformed("no JSON value")
	}
	if r.peek() == '.' {
		r.pos++
		if !r.digits() {
			return r.malformed("no digit after the point")
		}
	}
	if c := r.peek(); c == 'e' || c == 'E' {
		plain = false
		r.pos++
		if c := r.peek(); c == '+' || c == '-' {
			r.pos++
		}
		if !r.digits() {
			return r.malformed("no digit in the exponent")
		}
	}
	if r.pos-start > maxDigits {
		return r.tooLarge("a number with too many digits")
	}
	if !plain { // without an exponent, maxDigits cannot overflow
		if _, err := strconv.ParseFloat(string(r.doc.text[start:r.pos]), 64); err != nil {
			return r.malformed("a number out of range")
		}
	}
	r.close(self, r.pos)
	return nil
}

func (r *reader) digits() bool {
	start := r.pos
	for c := r.peek(); '0' <= c && c <= '9'; c = r.peek() {
		r.pos++
	}
	return r.pos > start
}

// string reads a string and unescapes it where it stands: no escape is shorter
// than what it stands for, so the text never has to move forward.
func (r *reader) string() error {
	r.pos++
	self, write := r.open(String, r.pos), r.pos
	text := r.doc.text
	for r.pos < r.end {
		switch c := text[r.pos]; {
		case c == '"':
			r.pos++
			r.close(self, write)
			return nil
		case c == '\\':
			char, err := r.escape()
			if err != nil {
				return err
			}
			write = len(utf8.AppendRune(text[:write], char))
		case c < ' ':
			return r.malformed("a control character in a string")
		default:
			text[write] = c
			write++
			r.pos++
		}
	}
	return r.malformed("a string without an end")
}

// escape reads what follows a backslash (RFC 8259 section 7).
func (r *reader) escape() (rune, error) {
	r.pos++
	c := r.peek()
	if c == 'u' {
		return r.unicode()
	}
	i := strings.IndexByte(`"\/bfnrt`, c)
	if i < 0 {
		return 0, r.malformed("an unknown escape")
	}
	r.pos++
	return rune("\"\\/\b\f\n\r\t"[i]), nil
}

// unicode reads the "u0000" of an escape, and the second half of a pair.
func (r *reader) unicode() (rune, error) {
	high, ok := r.hex()
	if !ok {
		return 0, r.malformed("an escape without four hex digits")
	}
	if !utf16.IsSurrogate(high) {
		return high, nil
	}
	if r.peek() == '\\' {
		r.pos++
		if low, ok := r.hex(); ok {
			if char := utf16.DecodeRune(high, low); char != utf8.RuneError {
				return char, nil
			}
		}
	}
	return 0, r.malformed("half of a surrogate pair")
}

func (r *reader) hex() (char rune, ok bool) {
	if r.end-r.pos < 5 || r.doc.text[r.pos] != 'u' {
		return 0, false
	}
	for _, c := range r.doc.text[r.pos+1 : r.pos+5] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = (c | 0x20) - 'a' + 10
		default:
			return 0, false
		}
		char = char<<4 | rune(c)
	}
	r.pos += 5
	return char, true
}

// bytes returns the text of the node.
func (d *document) bytes(at uint32) []byte { return d.text[d.nodes[at].start:d.nodes[at].end] }

// find returns the index of the name in the object at self, or end. The names
// from end on are not looked at.
func (d *document) find(self, end uint32, name []byte) uint32 {
	for at := self + 1; at < end; at = d.nodes[at+1].next {
		if string(d.bytes(at)) == string(name) {
			return at
		}
	}
	return end
}

func (v Value) node() node {
	if v.doc == nil {
		return node{}
	}
	return v.doc.nodes[v.at]
}

func (v Value) bytes() []byte {
	if v.doc == nil {
		return nil
	}
	return v.doc.bytes(v.at)
}

// Kind returns the value's type.
func (v Value) Kind() Kind { return v.node().kind }

// Exists reports whether there is a value; null is one.
func (v Value) Exists() bool { return v.doc != nil }

// Get returns the member of an object; absent if v is no object or has none of
// that name. Names match exactly, case included.
func (v Value) Get(name string) Value {
	n := v.node()
	if n.kind != Object {
		return Value{}
	}
	for at := v.at + 1; at < n.next; at = v.doc.nodes[at+1].next {
		if string(v.doc.bytes(at)) == name {
			return Value{v.doc, at + 1}
		}
	}
	return Value{}
}

// Text returns the text of a string; false if v is none.
func (v Value) Text() (string, bool) {
	if v.Kind() != String {
		return "", false
	}
	return string(v.bytes()), true
}

// Is reports whether v is the string s. It does not allocate.
func (v Value) Is(s string) bool { return v.Kind() == String && string(v.bytes()) == s }

// Bool returns a boolean; false, false if v is none.
func (v Value) Bool() (value, ok bool) {
	if v.Kind() != Bool {
		return false, false
	}
	return string(v.bytes()) == "true", true
}

// Number returns a number as it is written; false if v is none. It is finite
// as a float64.
func (v Value) Number() (json.Number, bool) {
	if v.Kind() != Number {
		return "", false
	}
	return json.Number(v.bytes()), true
}

// Len returns how many elements an array or members an object has.
func (v Value) Len() int {
	n := 0
	for range v.Elements() {
		n++
	}
	for range v.Members() {
		n++
	}
	return n
}

// Elements yields the elements of an array in order; nothing if v is none.
func (v Value) Elements() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		n := v.node()
		if n.kind != Array {
			return
		}
		for at := v.at + 1; at < n.next; at = v.doc.nodes[at].next {
			if !yield(Value{v.doc, at}) {
				return
			}
		}
	}
}

// Members yields the names and values of an object in order; nothing if v is
// none.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		n := v.node()
		if n.kind != Object {
			return
		}
		for at := v.at + 1; at < n.next; at = v.doc.nodes[at+1].next {
			if !yield(string(v.doc.bytes(at)), Value{v.doc, at + 1}) {
				return
			}
		}
	}
}

// Any returns the value as encoding/json would decode it with UseNumber: nil,
// bool, json.Number, string, []any or map[string]any. It shares nothing with v.
func (v Value) Any() any {
	switch v.Kind() {
	case Bool:
		b, _ := v.Bool()
		return b
	case Number:
		n, _ := v.Number()
		return n
	case String:
		s, _ := v.Text()
		return s
	case Array:
		all := make([]any, 0, v.Len())
		for e := range v.Elements() {
			all = append(all, e.Any())
		}
		return all
	case Object:
		all := make(map[string]any, v.Len())
		for name, m := range v.Members() {
			all[name] = m.Any()
		}
		return all
	}
	return nil
}
