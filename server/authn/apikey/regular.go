package apikey

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// entryReader reads the entries of a keys file one after another.
//
// What it reads is what Key.Entry writes, with fields in any order and comments
// between them: one field a line, texts in double quotes, nothing that could be
// written in another way. Everything else it leaves to strictyaml, in form as in
// content: it has no opinion on what strictyaml might refuse. Both fill in a
// fileKey, and the same checks follow.
type entryReader struct {
	key fileKey

	// Most keys say the same in most places.
	texts       memo[string]
	principals  memo[Principal]
	constraints memo[*policy.Constraints]
}

func newEntryReader() *entryReader {
	return &entryReader{texts: memo[string]{}, principals: memo[Principal]{}, constraints: memo[*policy.Constraints]{}}
}

// regularFields are the fields of an entry. The first three are required.
var regularFields = [...]struct {
	name string
	read func(r *entryReader, v *value) bool
}{
	{"id", func(r *entryReader, v *value) bool { return v.text(&r.key.ID) }},
	{"digest", (*entryReader).digest},
	{"principal", (*entryReader).principal},
	{"kind", func(r *entryReader, v *value) bool { return r.word(v, (*string)(&r.key.Kind)) }},
	{"name", func(r *entryReader, v *value) bool { return v.text(&r.key.Name) }},
	{"owner", func(r *entryReader, v *value) bool { return r.word(v, &r.key.Owner) }},
	{"environment", func(r *entryReader, v *value) bool { return r.word(v, &r.key.Environment) }},
	{"allow_wildcard", func(r *entryReader, v *value) bool { return v.yes(&r.key.AllowWildcard) }},
	{"constraints", (*entryReader).limitations},
	{"created_at", func(r *entryReader, v *value) bool { return v.time(&r.key.CreatedAt) }},
	{"not_before", func(r *entryReader, v *value) bool { return v.time(&r.key.NotBefore) }},
	{"expires_at", func(r *entryReader, v *value) bool { return v.time(&r.key.ExpiresAt) }},
	{"max_age", func(r *entryReader, v *value) bool { return v.duration(&r.key.MaxAge) }},
	{"disabled", func(r *entryReader, v *value) bool { return v.yes(&r.key.Disabled) }},
	{"revoked", (*entryReader).revoked},
	{"rotated", (*entryReader).rotated},
	{"released_at", func(r *entryReader, v *value) bool { return v.time(&r.key.ReleasedAt) }},
}

const requiredFields = 1<<0 | 1<<1 | 1<<2

// read returns the key of an entry, valid until the next one is read, or reports
// that the entry is not of the form that Entry writes.
func (r *entryReader) read(entry []byte) (*fileKey, bool) {
	r.key = fileKey{}
	indent, seen := "  - ", 0
	for line := range bytes.Lines(entry) {
		v := value(bytes.TrimSuffix(line, []byte{'\n'}))
		if saysNothing(v) {
			continue
		}
		if !v.take(indent) {
			return nil, false
		}
		i := 0
		for i < len(regularFields) && !v.name(regularFields[i].name) {
			i++
		}
		if i == len(regularFields) || seen&(1<<i) != 0 || !regularFields[i].read(r, &v) || len(v) > 0 {
			return nil, false
		}
		indent, seen = "    ", seen|1<<i
	}
	return &r.key, seen&requiredFields == requiredFields
}

func (r *entryReader) digest(v *value) bool {
	text, ok := v.quoted()
	if !ok || r.key.Digest.digest.UnmarshalText(text) != nil {
		return false
	}
	r.key.Key.Digest = r.key.Digest.digest
	return true
}

// word reads a text that is in many entries.
func (r *entryReader) word(v *value, into *string) bool {
	text, ok := r.texts.read(*v, func(v *value) (text string, ok bool) {
		ok = v.text(&text)
		return text, ok
	})
	*v, *into = nil, text
	return ok
}

// principal reads who calls. All but the id is often the same.
func (r *entryReader) principal(v *value) bool {
	var id string
	if !v.take("{") || !v.name("id") || !v.text(&id) {
		return false
	}
	p, ok := r.principals.read(*v, restOfPrincipal)
	p.ID = id
	*v, r.key.Principal = nil, p
	return ok
}

func restOfPrincipal(v *value) (p Principal, ok bool) {
	ok = v.members(", ",
		member{"kind", func() bool { return v.text((*string)(&p.Kind)) }},
		member{"tenant", func() bool { return v.text(&p.Tenant) }},
		member{"roles", func() bool { return v.texts(&p.Roles) }},
		member{"scopes", func() bool { return v.texts(&p.Scopes) }},
		member{"permissions", func() bool { return v.texts(&p.Permissions) }},
		member{"metadata", func() bool { return v.metadata(&p.Metadata) }},
	)
	return p, ok
}

func (r *entryReader) limitations(v *value) bool {
	c, ok := r.constraints.read(*v, readConstraints)
	*v, r.key.Constraints = nil, c
	return ok
}

func readConstraints(v *value) (c *policy.Constraints, ok bool) {
	c = &policy.Constraints{}
	ok = v.mapping(
		member{"networks", func() bool { return listOf(v, &c.Networks, policy.ParsePrefix) }},
		member{"methods", func() bool { return v.texts(&c.Methods) }},
		member{"hosts", func() bool { return listOf(v, &c.Hosts, policy.ParseHostPattern) }},
		member{"paths", func() bool { return listOf(v, &c.Paths, policy.ParsePathPattern) }},
		member{"audiences", func() bool { return v.texts(&c.Audiences) }},
		member{"resources", func() bool { return v.texts(&c.Resources) }},
		member{"peers", func() bool { return v.texts(&c.Peers) }},
		member{"windows", func() bool {
			return v.list(func() bool {
				c.Windows = append(c.Windows, policy.TimeWindow{})
				w := &c.Windows[len(c.Windows)-1]
				return v.mapping(
					member{"days", func() bool { return v.texts(&w.Days) }},
					member{"from", func() bool { return v.text(&w.From) }},
					member{"to", func() bool { return v.text(&w.To) }},
				)
			})
		}},
		member{"require_tls", func() bool { return v.yes(&c.RequireTLS) }},
	)
	return c, ok
}

func (r *entryReader) revoked(v *value) bool {
	r.key.Revoked = &Revoked{}
	return v.mapping(
		member{"at", func() bool { return v.time(&r.key.Revoked.At) }},
		member{"reason", func() bool { return v.text(&r.key.Revoked.Reason) }},
	)
}

func (r *entryReader) rotated(v *value) bool {
	r.key.Rotated = &Rotated{}
	return v.mapping(
		member{"to", func() bool { return v.text(&r.key.Rotated.To) }},
		member{"at", func() bool { return v.time(&r.key.Rotated.At) }},
	) && r.key.Rotated.To != ""
}

// memo remembers what the ends of lines were read as.
type memo[T any] map[string]T

// maxMemo bounds how much of a file is remembered that repeats nothing.
const maxMemo = 4096

// read reads all of v, or remembers having done so.
func (m memo[T]) read(v value, read func(*value) (T, bool)) (T, bool) {
	if t, ok := m[string(v)]; ok {
		return t, true
	}
	text := string(v)
	t, ok := read(&v)
	if ok = ok && len(v) == 0; ok && len(m) < maxMemo {
		m[text] = t
	}
	return t, ok
}

// value is what is left of a line. Each of its methods takes off its front what
// it is called after, and reports whether that stood there.
type value []byte

func (v *value) take(token string) bool {
	if len(*v) < len(token) || string((*v)[:len(token)]) != token {
		return false
	}
	*v = (*v)[len(token):]
	return true
}

// name takes the name of a field.
func (v *value) name(name string) bool {
	n := len(name)
	if len(*v) < n+2 || string((*v)[:n]) != name || (*v)[n] != ':' || (*v)[n+1] != ' ' {
		return false
	}
	*v = (*v)[n+2:]
	return true
}

// quoted takes a text in double quotes and returns what it says. The only
// escapes are those of quotes and backslashes.
func (v *value) quoted() ([]byte, bool) {
	if !v.take(`"`) {
		return nil, false
	}
	escapes := false
	for i := 0; i < len(*v); i++ {
		switch (*v)[i] {
		case '"':
			text := []byte((*v)[:i])
			*v = (*v)[i+1:]
			if escapes {
				text = unescape(text)
			}
			return text, isOrdinary(text)
		case '\\':
			if i++; i < len(*v) && (*v)[i] != '"' && (*v)[i] != '\\' {
				return nil, false
			}
			escapes = true
		}
	}
	return nil, false
}

func unescape(text []byte) (out []byte) {
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' {
			i++
		}
		out = append(out, text[i])
	}
	return out
}

// isOrdinary reports whether a text is certainly none that strictyaml refuses
// wherever it stands: a reference, something unprintable, or what looks like a
// private key, a key of ours, a signed token or a password in a URL.
func isOrdinary(text []byte) bool {
	if !isPrintable(text) {
		return false
	}
	for _, sign := range [...]string{"${", "PRIVATE KEY", "pst_", "eyJ"} {
		if bytes.Contains(text, []byte(sign)) {
			return false
		}
	}
	if len(text) >= shortestKey && bytes.IndexByte(text, '_') >= 0 {
		return false
	}
	return !bytes.Contains(text, []byte("://")) || bytes.IndexByte(text, '@') < 0
}

// shortestKey is the length of a key of ours with a prefix of one letter.
const shortestKey = len("a_key_") + seal.IDLen + len("_") + seal.SecretLen + seal.ChecksumLen

// isPrintable reports whether the bytes are UTF-8 of letters, marks, numbers,
// punctuation, symbols and blanks.
func isPrintable(text []byte) bool {
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		c, size := utf8.DecodeRune(text[i:])
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return false
		}
		i += size
	}
	return true
}

func (v *value) text(into *string) bool {
	text, ok := v.quoted()
	*into = string(text)
	return ok
}

func (v *value) texts(into *[]string) bool {
	return v.list(func() bool {
		*into = append(*into, "")
		return v.text(&(*into)[len(*into)-1])
	})
}

// listOf takes a list of texts that parse reads.
func listOf[T policy.HostPattern | policy.PathPattern | netip.Prefix](v *value, into *[]T, parse func(string) (T, error)) bool {
	return v.list(func() bool {
		var text string
		ok := v.text(&text)
		item, err := parse(text)
		*into = append(*into, item)
		return ok && err == nil
	})
}

// yes takes the only truth value that is written.
func (v *value) yes(into *bool) bool {
	*into = v.take("true")
	return *into
}

func (v *value) time(into *time.Time) bool {
	text, ok := v.quoted()
	if !ok {
		return false
	}
	t, err := time.Parse(time.RFC3339, string(text))
	*into = t
	return err == nil && !t.IsZero()
}

// duration takes the whole value, which has no quotes.
func (v *value) duration(into *time.Duration) bool {
	text := string(*v)
	d, err := time.ParseDuration(text)
	*v, *into = nil, d
	return err == nil && d > 0 && d.String() == text
}

// list takes a list of at least one item in brackets.
func (v *value) list(item func() bool) bool {
	if !v.take("[") {
		return false
	}
	for item() {
		if v.take("]") {
			return true
		}
		if !v.take(",") {
			return false
		}
		v.take(" ")
	}
	return false
}

// member is a field of a mapping in braces.
type member struct {
	name string
	read func() bool
}

func (v *value) mapping(all ...member) bool { return v.take("{") && v.members("", all...) }

// members takes the rest of a mapping. No member stands there twice.
func (v *value) members(separator string, all ...member) bool {
	for !v.take("}") {
		if !v.take(separator) {
			return false
		}
		i := slices.IndexFunc(all, func(m member) bool { return m.read != nil && v.name(m.name) })
		if i < 0 || !all[i].read() {
			return false
		}
		all[i].read, separator = nil, ", "
	}
	return true
}

func (v *value) metadata(into *map[string]any) bool {
	if !v.take("{") {
		return false
	}
	m, ok := v.object(maxDepth)
	*into = m
	return ok
}

const (
	maxDepth = 16 // of metadata
	maxName  = 256
	maxDigit = 32 // of numbers in metadata
)

// json takes a JSON value as Go writes it, with numbers as they stand there.
func (v *value) json(depth int) (any, bool) {
	switch {
	case depth == 0 || len(*v) == 0:
		return nil, false
	case (*v)[0] == '"':
		var text string
		ok := v.text(&text)
		return text, ok
	case v.take("{"):
		return v.object(depth - 1)
	case v.take("[]"):
		return []any{}, true
	case (*v)[0] == '[':
		return v.array(depth - 1)
	case v.take("true"):
		return true, true
	case v.take("false"):
		return false, true
	case v.take("null"):
		return nil, true
	}
	return v.number()
}

func (v *value) array(depth int) (items []any, ok bool) {
	ok = v.list(func() bool {
		item, ok := v.json(depth)
		items = append(items, item)
		return ok
	})
	return items, ok
}

// object takes a JSON object behind its brace.
func (v *value) object(depth int) (map[string]any, bool) {
	m := map[string]any{}
	for separator := ""; !v.take("}"); separator = "," {
		var name string
		if !v.take(separator) || !v.text(&name) || !v.take(":") || len(name) > maxName {
			return nil, false
		}
		if _, twice := m[name]; twice {
			return nil, false
		}
		item, ok := v.json(depth)
		if !ok {
			return nil, false
		}
		m[name] = item
	}
	return m, true
}

// number takes a JSON number that is one in YAML, too: none that overflows.
func (v *value) number() (json.Number, bool) {
	n := len(*v) - len(bytes.TrimLeft(*v, "+-.0123456789eE"))
	text := string((*v)[:n])
	*v = (*v)[n:]
	_, err := strconv.ParseFloat(text, 64)
	return json.Number(text), err == nil && n <= maxDigit && json.Valid([]byte(text)) && !strings.HasPrefix(text, "+")
}
