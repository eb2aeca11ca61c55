package signer

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
)

// object writes a JSON object, member by member. What is empty is left out. Names are
// our own and need no escaping; no member is written twice.
type object struct{ b []byte }

func newObject(size int) object { return object{append(make([]byte, 0, size), '{')} }

// end closes the object and returns its text.
func (o *object) end() []byte { return append(o.b, '}') }

func (o *object) name(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(name, value string) {
	if value != "" {
		o.name(name)
		o.b = appendText(o.b, value)
	}
}

func (o *object) list(name string, items []string) {
	if len(items) == 0 {
		return
	}
	o.name(name)
	o.b = append(o.b, '[')
	for i, item := range items {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = appendText(o.b, item)
	}
	o.b = append(o.b, ']')
}

// time writes a NumericDate in whole seconds (RFC 7519 section 2). Many readers take no
// time before 1970.
func (o *object) time(name string, t time.Time) {
	if t.Unix() > 0 {
		o.name(name)
		o.b = strconv.AppendInt(o.b, t.Unix(), 10)
	}
}

// scope writes scopes as OAuth does, in one text (RFC 8693 section 4.2). A scope that
// holds a space would become two there, and one with a quote none: it is left out.
func (o *object) scope(scopes []string) {
	begun := false
	for _, s := range scopes {
		if !isScopeToken(s) {
			continue
		}
		if !begun {
			o.name("scope")
			o.b = append(o.b, '"')
		} else {
			o.b = append(o.b, ' ')
		}
		begun = true
		o.b = append(o.b, s...)
	}
	if begun {
		o.b = append(o.b, '"')
	}
}

// isScopeToken accepts a scope-token of RFC 6749 section 3.3.
func isScopeToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}

// actors writes a delegation chain, each actor within the one before it, the outermost
// first (RFC 8693 section 4.1).
func (o *object) actors(chain []policy.Actor) {
	for _, a := range chain {
		o.name("act")
		o.b = append(o.b, '{')
		o.text("sub", a.ID)
		o.text("kind", string(a.Kind))
	}
	for range chain {
		o.b = append(o.b, '}')
	}
}

const hexDigits = "0123456789abcdef"

// appendText appends a JSON string. What is not UTF-8 becomes U+FFFD, so that the text
// is one that every reader takes.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\uFFFD"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			start = i + 1
		}
		i++
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
