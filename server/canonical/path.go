package canonical

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
)

// pathClass tells at a look what a raw segment holds.
var pathClass = func() (t [256]uint8) {
	for b := range 256 {
		switch c := byte(b); {
		case c == '%':
			t[b] = pathEscape
		case c == ';':
			t[b] = pathParameter
		case c <= ' ', c >= 0x7f, c == '\\', c == '#', c == '?':
			t[b] = pathBad
		}
	}
	return t
}()

const (
	pathEscape = 1 << iota
	pathParameter
	pathBad // cannot stand in a path as it is (RFC 3986 section 3.3), or is read in two ways
)

// readPath fills in path and segments. It returns what is wrong, or "".
func (r *Reader) readPath(raw string, q *policy.Request) string {
	if detail := checkForm(raw); detail != "" {
		return detail
	}
	if r.encodedSlash == EncodedSlashDecode {
		raw = decodeSlashes(raw)
	}
	if strings.HasPrefix(raw, "//") {
		return "path: two slashes at the start name another host"
	}
	changed := false
	for rest, more := raw[1:], true; more; {
		var s string
		s, rest, more = strings.Cut(rest, "/")
		text, detail := r.readSegment(s, !more)
		if detail != "" {
			return detail
		}
		if text == "" && more { // only a last segment may be empty
			if !r.mergeSlashes {
				return "path: an empty segment"
			}
			changed = true
			continue
		}
		changed = changed || len(text) != len(s) || text != s
		q.Segments = append(q.Segments, text)
	}
	q.Path = raw
	if changed {
		q.Path = "/" + strings.Join(q.Segments, "/")
	}
	q.Folded = Fold(q.Path)
	return ""
}

// checkForm accepts the origin form of RFC 9112 section 3.2.1 only: gateways turn
// the absolute form into it, and "*" names no resource.
func checkForm(raw string) string {
	switch {
	case raw == "":
		return "path: missing"
	case raw[0] != '/':
		return `path: does not start with "/"`
	}
	return ""
}

// decodeSlashes turns %2F into a slash, whichever way it is written.
func decodeSlashes(raw string) string {
	if !strings.Contains(raw, "%") {
		return raw
	}
	return strings.NewReplacer("%2F", "/", "%2f", "/").Replace(raw)
}

// readSegment returns the canonical text of one raw segment, or what is wrong
// with it. The text is empty if the raw segment is.
func (r *Reader) readSegment(raw string, last bool) (text, detail string) {
	var classes uint8
	for i := range len(raw) {
		classes |= pathClass[raw[i]]
	}
	switch {
	case classes == 0:
		return raw, checkShape(raw)
	case classes&pathBad != 0:
		return "", "path: a character that paths do not have"
	case classes&pathParameter != 0 && !r.stripParameters:
		return "", "path: parameters"
	case classes&pathEscape != 0 && r.encodedSlash == EncodedSlashKeep:
		return r.readKept(raw, classes, last)
	}
	return r.decodeSegment(raw, last)
}

// readKept reads a segment in which encoded slashes stay: each part between them
// must pass as a segment of its own, since an upstream may split it there.
func (r *Reader) readKept(raw string, classes uint8, last bool) (text, detail string) {
	parts := strings.Split(strings.ReplaceAll(raw, "%2f", "%2F"), "%2F")
	if len(parts) == 1 {
		return r.decodeSegment(raw, last)
	}
	if classes&pathParameter != 0 {
		return "", "path: parameters beside an encoded slash"
	}
	for i, p := range parts {
		if parts[i], detail = r.decodeSegment(p, false); detail != "" {
			return "", detail
		}
		if parts[i] == "" {
			return "", "path: an encoded slash beside another"
		}
	}
	return strings.Join(parts, "%2F"), ""
}

// decodeSegment decodes a raw segment once, checks it with its parameters and
// returns it without them.
func (r *Reader) decodeSegment(raw string, last bool) (text, detail string) {
	decoded, end, detail := r.unescape(raw)
	if detail != "" {
		return "", detail
	}
	if detail := checkDecoded(decoded); detail != "" {
		return "", detail
	}
	if text = decoded[:end]; text == "" {
		// Only parameters: "/a/;v=1" is "/a/", but in the middle one reader would
		// see an empty segment to merge and another one a name.
		if raw != "" && !last {
			return "", "path: a segment of parameters only"
		}
		return "", ""
	}
	return text, checkShape(text)
}

// unescape decodes percent escapes once. end is where the parameters start.
func (r *Reader) unescape(raw string) (decoded string, end int, detail string) {
	buf := make([]byte, 0, len(raw))
	end = -1
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == ';' && end < 0:
			end = len(buf)
		case c == '%':
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return "", 0, "path: a malformed escape"
			}
			c = unhex(raw[i+1])<<4 | unhex(raw[i+2])
			i += 2
			switch {
			case c == '/':
				return "", 0, "path: an encoded slash"
			case (c == '?' || c == '#') && !r.decodeDelimiters:
				return "", 0, "path: an encoded delimiter"
			}
		}
		buf = append(buf, c)
	}
	if end < 0 {
		end = len(buf)
	}
	return string(buf), end, ""
}

// checkDecoded checks what no part of a decoded segment may hold, its parameters
// included, because an upstream may not strip them.
func checkDecoded(s string) string {
	if detail := checkText(s); detail != "" {
		return "path: " + detail
	}
	if detail := checkStructure(s); detail != "" || isASCII(s) {
		return detail
	}
	folded := skeleton(s)
	if strings.ContainsFunc(folded, isSlashAlike) {
		return "path: a character that some servers turn into a slash"
	}
	return checkStructure(folded)
}

func checkStructure(s string) string {
	switch {
	case strings.ContainsAny(s, `/\`):
		return "path: a slash or backslash in disguise"
	case hasEscape(s):
		return "path: a second layer of escapes"
	case firstControl(s, 0) < len(s):
		return "path: a control character in disguise"
	}
	return ""
}

// isSlashAlike names the characters that best-fit tables of Windows code pages
// turn into a slash, which normalization does not. U+2044 also stands in the
// normal form of fractions such as U+00BD, so these are refused too.
func isSlashAlike(c rune) bool {
	switch c {
	case '\u2044', '\u2215', '\u2216', '\u29f5', '\u29f8', '\u29f9':
		return true
	}
	return false
}

// checkText refuses what may not stand in any decoded text: broken UTF-8,
// overlong forms included; control characters and line separators, which forge
// log lines; noncharacters; U+FFFD, the trace of a lossy decoder; and the
// invisible marks of writing direction (RFC 3987 section 4.1).
func checkText(s string) string {
	if firstControl(s, 0) < len(s) {
		return "a control character"
	}
	if isASCII(s) {
		return ""
	}
	if !utf8.ValidString(s) {
		return "not UTF-8"
	}
	for _, c := range s {
		switch {
		case unicode.Is(unicode.Bidi_Control, c):
			return "a mark of writing direction"
		case unicode.IsControl(c), c == '\u2028', c == '\u2029', c == utf8.RuneError,
			0xfdd0 <= c && c <= 0xfdef, c&0xfffe == 0xfffe:
			return "a control character"
		}
	}
	return ""
}

// hasEscape reports whether decoding once more would change s: %HH, or the %uHHHH
// of old Microsoft servers.
func hasEscape(s string) bool {
	for i := strings.IndexByte(s, '%'); i >= 0 && i+2 < len(s); i++ {
		if s[i] == '%' && (isHex(s[i+1]) && isHex(s[i+2]) || lower(s[i+1]) == 'u') {
			return true
		}
	}
	return false
}

// checkShape checks the edges of a segment and of its skeleton.
func checkShape(s string) string {
	if detail := checkEdges(s); detail != "" || isASCII(s) {
		return detail
	}
	folded := skeleton(s)
	if folded == "" {
		return "path: an invisible segment"
	}
	return checkEdges(folded)
}

// checkEdges refuses a segment that starts with dots unless a word follows, and
// with that ".", "..", "..;x", ". .", "..:stream" and whatever else some reader
// cuts down to a dot segment; and one with spaces or a dot at an edge, which
// Windows drops. What stands behind an (encoded) delimiter does not count as the
// edge, because some reader cuts there.
func checkEdges(s string) string {
	if s == "" {
		return ""
	}
	name := base(s)
	word := strings.TrimLeft(name, ".")
	switch {
	case name == "":
		return "path: a segment of parameters only"
	case word == "":
		return "path: a dot segment"
	case len(word) < len(name) && !startsWord(word):
		return "path: a dot segment in disguise"
	}
	first, _ := utf8.DecodeRuneInString(name)
	last, _ := utf8.DecodeLastRuneInString(name)
	if unicode.IsSpace(first) || unicode.IsSpace(last) || last == '.' {
		return "path: a segment starts with a space, or ends with a space or a dot"
	}
	return ""
}

func startsWord(s string) bool {
	c, _ := utf8.DecodeRuneInString(s)
	return c == '-' || c == '_' || c == '~' || unicode.IsLetter(c) || unicode.IsNumber(c)
}

// base cuts a decoded segment at the first delimiter that some reader gives a
// meaning to.
func base(s string) string {
	for i := range len(s) {
		if c := s[i]; c == ';' || c == '?' || c == '#' {
			return s[:i]
		}
	}
	return s
}

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= lower(c) && lower(c) <= 'f'
}

func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return lower(c) - 'a' + 10
}

// checkQuery keeps the query raw but refuses what cannot stand in one, and a
// _method parameter that overrides the method, as some frameworks let it.
func checkQuery(query, method string) string {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return "query: a character that queries do not have"
		}
	}
	for rest, more := query, query != ""; more; {
		i := strings.IndexAny(rest, "&;")
		pair := rest
		if more = i >= 0; more {
			pair, rest = rest[:i], rest[i+1:]
		}
		name, value, _ := strings.Cut(pair, "=")
		if isMethodParameter(name) && !decodesTo(value, method) {
			return "query: the method is overridden by another"
		}
	}
	return ""
}

// isMethodParameter recognizes "_method", also as PHP reads it: behind spaces,
// with "." or space for "_", and as an array.
func isMethodParameter(name string) bool {
	name = strings.TrimLeft(name, "+")
	for strings.HasPrefix(name, "%20") {
		name = name[len("%20"):]
	}
	i, want := 0, "_method"
	for i < len(name) && want != "" {
		c, n := decodeByte(name[i:])
		if c == '.' || c == ' ' {
			c = '_'
		}
		if lower(c) != want[0] {
			return false
		}
		i, want = i+n, want[1:]
	}
	if want != "" {
		return false
	}
	if i == len(name) {
		return true
	}
	c, _ := decodeByte(name[i:])
	return c == '[' || c == 0
}

// decodesTo reports whether s, decoded, is want but for case.
func decodesTo(s, want string) bool {
	for i := 0; i < len(s); {
		c, n := decodeByte(s[i:])
		if want == "" || lower(c) != lower(want[0]) {
			return false
		}
		i, want = i+n, want[1:]
	}
	return want == ""
}

// decodeByte returns the first byte of a form-encoded text, and how many bytes
// it is written with.
func decodeByte(s string) (c byte, n int) {
	switch {
	case s[0] == '+':
		return ' ', 1
	case s[0] == '%' && len(s) > 2 && isHex(s[1]) && isHex(s[2]):
		return unhex(s[1])<<4 | unhex(s[2]), 3
	}
	return s[0], 1
}
