package rego

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
)

// value is one JSON value of a request, still in its Go form. It becomes a part
// of the input document (term) or of a cache key (appendKey); getting it does
// not allocate. The zero value is absent.
type value struct {
	kind    kind
	text    string
	number  int64
	list    []string
	address netip.Addr
	tree    any
	special special
}

type kind uint8

const (
	kindAbsent kind = iota
	kindText
	kindNumber
	kindBoolean // number is 0 or 1
	kindList
	kindAddress
	kindSecret // a text whose key is its digest
	kindTree   // nil, bool, string, numbers, []any, []string and maps of them
	kindSpecial
)

// special is a value that takes some work to make. Its key is what it is made
// from, so that a cache hit does not do that work: two requests of one key have
// one value.
type special interface {
	appendKey(*reader)
	term(*reader) *ast.Term
	// at returns the value below, or one whose key covers it.
	at(*reader, string) value
	// tag is its JSON type; tagUnknown if that takes the work.
	tag() byte
}

func text(s string) value              { return value{kind: kindText, text: s} }
func number(n int64) value             { return value{kind: kindNumber, number: n} }
func list(l []string) value            { return value{kind: kindList, list: l} }
func tree[M any](m map[string]M) value { return value{kind: kindTree, tree: m} }
func specially(s special) value        { return value{kind: kindSpecial, special: s} }

func boolean(b bool) value {
	v := value{kind: kindBoolean}
	if b {
		v.number = 1
	}
	return v
}

func address(ip netip.Addr) value {
	if !ip.IsValid() {
		return value{}
	}
	return value{kind: kindAddress, address: ip}
}

func textIfAny(s string) value {
	if s == "" {
		return value{}
	}
	return text(s)
}

func numberIfAny(n int64) value {
	if n == 0 {
		return value{}
	}
	return number(n)
}

func mapIfAny(m map[string]string) value {
	if len(m) == 0 {
		return value{}
	}
	return tree(m)
}

// at returns the value below one step of a Path.
func (v value) at(r *reader, step string) value {
	switch v.kind {
	case kindSpecial:
		return v.special.at(r, step)
	case kindList:
		if i, ok := position(step, len(v.list)); ok {
			return text(v.list[i])
		}
	case kindTree:
		return treeAt(v.tree, step)
	}
	return value{}
}

func treeAt(t any, step string) value {
	switch t := t.(type) {
	case map[string]any:
		if below, ok := t[step]; ok {
			return value{kind: kindTree, tree: below}
		}
	case map[string]string:
		if s, ok := t[step]; ok {
			return text(s)
		}
	case []any:
		if i, ok := position(step, len(t)); ok {
			return value{kind: kindTree, tree: t[i]}
		}
	case []string:
		if i, ok := position(step, len(t)); ok {
			return text(t[i])
		}
	}
	return value{}
}

// position reads a step as a position in an array of n elements.
func position(step string, n int) (int, bool) {
	if !isPosition(step) {
		return 0, false
	}
	i, err := strconv.Atoi(step)
	return i, err == nil && i < n
}

// Every value in a key begins with a tag that says what it is, and every text
// and list with its length: a key can be read back in only one way, so that two
// different inputs never have one key.
const (
	tagAbsent byte = iota
	tagNull
	tagFalse
	tagTrue
	tagNumber
	tagText
	tagArray
	tagObject
	tagDigest  // SHA-256 of a text that must not stand in memory for long
	tagUnknown // never in a key
)

// errTooLarge and errUnreadable say that the request holds something, where the
// policy looks, that is not handed to a policy: a deny, not a fault.
var (
	errTooLarge   = errors.New("the request holds a value that is too large for the policy")
	errUnreadable = errors.New("the request holds a value that cannot be read in one way")
)

// noJSON names a Go type that has no place in an Input: a defect of the caller.
type noJSON string

// Error implements error.
func (e noJSON) Error() string { return string(e) }

// reader turns the values of one request into a key or into terms. It keeps the
// first error. Readers are pooled; keys are appended to buf.
type reader struct {
	view  *view
	buf   []byte
	names []string
	err   error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) appendTag(tag byte) { r.buf = append(r.buf, tag) }

func (r *reader) appendCount(tag byte, n int) {
	r.buf = binary.AppendUvarint(append(r.buf, tag), uint64(n))
}

func (r *reader) appendText(tag byte, s string) {
	if len(s) > r.view.maxValue {
		r.fail(errTooLarge)
		return
	}
	r.appendCount(tag, len(s))
	r.buf = append(r.buf, s...)
}

func (r *reader) appendDigest(s []byte) {
	sum := sha256.Sum256(s)
	r.buf = append(append(r.buf, tagDigest), sum[:]...)
}

func (r *reader) appendInt(n int64) {
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], n, 10)
	r.appendCount(tagNumber, len(d))
	r.buf = append(r.buf, d...)
}

// appendKey appends the value's encoding.
func (r *reader) appendKey(v value) {
	switch v.kind {
	case kindAbsent:
		r.appendTag(tagAbsent)
	case kindText:
		r.appendText(tagText, v.text)
	case kindSecret:
		r.appendDigest([]byte(v.text))
	case kindNumber:
		r.appendInt(v.number)
	case kindBoolean:
		r.appendTag(tagFalse + byte(v.number))
	case kindList:
		r.appendCount(tagArray, len(v.list))
		for _, s := range v.list {
			r.appendText(tagText, s)
		}
	case kindAddress:
		var digits [48]byte
		d := v.address.AppendTo(digits[:0])
		r.appendCount(tagText, len(d))
		r.buf = append(r.buf, d...)
	case kindTree:
		r.appendTree(v.tree, maxDocumentDepth)
	case kindSpecial:
		v.special.appendKey(r)
	}
}

// appendShape appends only the JSON type.
func (r *reader) appendShape(v value) {
	switch tag := r.tagOf(v); tag {
	case tagUnknown:
		r.appendKey(v)
	case tagTrue:
		r.appendTag(tagFalse)
	default:
		r.appendTag(tag)
	}
}

func (r *reader) tagOf(v value) byte {
	switch v.kind {
	case kindAbsent:
		return tagAbsent
	case kindText, kindSecret, kindAddress:
		return tagText
	case kindNumber:
		return tagNumber
	case kindBoolean:
		return tagFalse
	case kindList:
		return tagArray
	case kindSpecial:
		return v.special.tag()
	}
	switch v.tree.(type) {
	case nil:
		return tagNull
	case bool:
		return tagFalse
	case string:
		return tagText
	case []any, []string:
		return tagArray
	case map[string]any, map[string]string:
		return tagObject
	}
	return tagNumber
}

func (r *reader) appendTree(t any, depth int) {
	if depth == 0 {
		r.fail(errTooLarge)
		return
	}
	switch t := t.(type) {
	case nil:
		r.appendTag(tagNull)
	case bool:
		r.appendKey(boolean(t))
	case string:
		r.appendText(tagText, t)
	case []string:
		r.appendKey(list(t))
	case []any:
		r.appendCount(tagArray, len(t))
		for _, e := range t {
			r.appendTree(e, depth-1)
		}
	case map[string]string:
		appendMap(r, t, func(s string) { r.appendText(tagText, s) })
	case map[string]any:
		appendMap(r, t, func(e any) { r.appendTree(e, depth-1) })
	default:
		r.appendText(tagNumber, r.numberText(t))
	}
}

// appendMap appends the members in the order of their names. The names are
// sorted in the reader's own scratch space, below which nested maps put theirs.
func appendMap[V any](r *reader, m map[string]V, each func(V)) {
	r.appendCount(tagObject, len(m))
	from := len(r.names)
	for name := range m {
		r.names = append(r.names, name)
	}
	slices.Sort(r.names[from:])
	for i := from; i < from+len(m); i++ {
		name := r.names[i]
		r.appendText(tagText, name)
		each(m[name])
	}
	r.names = r.names[:from]
}

// numberText returns a number's digits. Numbers that no arithmetic can hold are
// refused here: reading 1e9999999 costs OPA an error or a gigabyte, depending on
// where the policy uses it.
func (r *reader) numberText(t any) string {
	switch n := t.(type) {
	case json.Number:
		if !isReasonable(string(n)) {
			r.fail(errUnreadable)
			return "0"
		}
		return string(n)
	case float64:
		digits, err := json.Marshal(n)
		if err != nil { // NaN, infinities
			r.fail(errUnreadable)
			return "0"
		}
		return string(digits)
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(n)
	case float32:
		return r.numberText(float64(n))
	}
	r.fail(noJSON(fmt.Sprintf("a value of the Go type %T has no JSON form", t)))
	return "0"
}

// isReasonable accepts JSON numbers of up to 400 characters and exponents of up
// to three digits: more than any float64 needs.
func isReasonable(n string) bool {
	if len(n) == 0 || len(n) > 400 || !json.Valid([]byte(n)) {
		return false
	}
	for i := range n {
		if n[i] == 'e' || n[i] == 'E' {
			exp, err := strconv.Atoi(n[i+1:])
			return err == nil && exp > -1000 && exp < 1000
		}
	}
	return n[0] == '-' || n[0] >= '0' && n[0] <= '9'
}

// term returns the value as a term; nil if it is absent.
func (r *reader) term(v value) *ast.Term {
	switch v.kind {
	case kindText, kindSecret:
		return r.textTerm(v.text)
	case kindNumber:
		return ast.NumberTerm(json.Number(strconv.FormatInt(v.number, 10)))
	case kindBoolean:
		return ast.InternedTerm(v.number == 1)
	case kindList:
		return r.listTerm(v.list)
	case kindAddress:
		return ast.StringTerm(v.address.String())
	case kindTree:
		return r.treeTerm(v.tree, maxDocumentDepth)
	case kindSpecial:
		return v.special.term(r)
	}
	return nil
}

func (r *reader) textTerm(s string) *ast.Term {
	if len(s) > r.view.maxValue {
		r.fail(errTooLarge)
		return ast.InternedTerm("")
	}
	return ast.StringTerm(s)
}

func (r *reader) listTerm(l []string) *ast.Term {
	terms := make([]*ast.Term, len(l))
	for i, s := range l {
		terms[i] = r.textTerm(s)
	}
	return ast.NewTerm(ast.NewArray(terms...))
}

func (r *reader) treeTerm(t any, depth int) *ast.Term {
	if depth == 0 {
		r.fail(errTooLarge)
		return ast.InternedTerm("")
	}
	switch t := t.(type) {
	case nil:
		return ast.NullTerm()
	case bool:
		return ast.InternedTerm(t)
	case string:
		return r.textTerm(t)
	case []string:
		return r.listTerm(t)
	case []any:
		terms := make([]*ast.Term, len(t))
		for i, e := range t {
			terms[i] = r.treeTerm(e, depth-1)
		}
		return ast.NewTerm(ast.NewArray(terms...))
	case map[string]string:
		return objectTerm(r, t, r.textTerm)
	case map[string]any:
		return objectTerm(r, t, func(e any) *ast.Term { return r.treeTerm(e, depth-1) })
	}
	return ast.NumberTerm(json.Number(r.numberText(t)))
}

func objectTerm[V any](r *reader, m map[string]V, each func(V) *ast.Term) *ast.Term {
	items := make([][2]*ast.Term, 0, len(m))
	for name, e := range m {
		items = append(items, ast.Item(r.textTerm(name), each(e)))
	}
	return ast.ObjectTerm(items...)
}
