package canonical

import (
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// guard is what is special about a header field; a bit set.
type guard uint8

const (
	// guardSingle: decides something, so it occurs once and is visible ASCII.
	guardSingle guard = 1 << iota
	// guardIdentity: only Postern may set it.
	guardIdentity
	// guardMethod: overrides the method at some servers.
	guardMethod
	// guardPath: overrides the path at some servers; the upstream must not see it.
	guardPath
	// guardHop: its value names fields, which a proxy may then drop.
	guardHop
	// guardPassed: must reach the upstream, so no guardHop field may name it.
	guardPassed
)

// field is one guarded name. bit numbers the single fields.
type field struct {
	guard guard
	bit   uint8
}

// singleHeaders decide something and may occur once. The first ones are read
// here; their places are the constants below.
var singleHeaders = []string{
	"content-length", "transfer-encoding", "content-type", "x-forwarded-proto", "host",
	"authorization", "proxy-authorization", "x-api-key", "dpop", "origin", "sec-fetch-site",
}

const (
	bitContentLength = iota
	bitTransferEncoding
	bitContentType
	bitForwardedProto
	bitHost
)

// maxSingle is how many single fields there may be: each has a bit of 64.
const maxSingle = 64

// otherHeaders are guarded but may occur more than once: cookies (RFC 9113
// section 8.2.3) and lists.
var otherHeaders = map[string]guard{
	"cookie":                  guardPassed,
	"x-forwarded-client-cert": guardPassed,
	"client-cert":             guardPassed,
	"client-cert-chain":       guardPassed,
	"x-forwarded-for":         guardPassed,
	"x-forwarded-host":        guardPassed,
	"forwarded":               guardPassed,
	"connection":              guardHop,
	"proxy-connection":        guardHop,
	"te":                      guardHop,
	"trailer":                 guardHop,
	"x-http-method-override":  guardMethod,
	"x-http-method":           guardMethod,
	"x-method-override":       guardMethod,
	"x-original-url":          guardPath,
	"x-rewrite-url":           guardPath,
}

// maxGuardedName bounds the names that are guarded, so that folding a name needs
// no more than a small buffer.
const maxGuardedName = 64

// isBuiltin reports whether the name, or with prefix any name that starts so, is
// one that means something already.
func isBuiltin(name string, prefix bool) bool {
	covers := func(n string) bool { return n == name || prefix && strings.HasPrefix(n, name) }
	for n := range otherHeaders {
		if covers(n) {
			return true
		}
	}
	return slices.ContainsFunc(singleHeaders, covers)
}

// headerRules are the guarded fields.
type headerRules struct {
	fields map[string]field
	// prefixes are the beginnings of identity headers.
	prefixes []string
}

func newHeaderRules(c *Config, forwardedFor string) headerRules {
	h := headerRules{fields: map[string]field{}}
	for name, g := range otherHeaders {
		h.fields[name] = field{guard: g}
	}
	h.fields[forwardedFor] = field{guard: guardPassed}
	var bit uint8
	for _, name := range slices.Concat(singleHeaders, c.CredentialHeaders) {
		if _, known := h.fields[name]; !known {
			h.fields[name] = field{guardSingle | guardPassed, bit}
			bit++
		}
	}
	for _, name := range c.identityHeaders() {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			h.prefixes = append(h.prefixes, prefix)
		} else {
			f := h.fields[name]
			f.guard |= guardIdentity | guardPassed
			h.fields[name] = f
		}
	}
	return h
}

// find returns what is special about a field name, seen as the most careless
// server sees it (foldName). exact says that the name is the guarded one itself
// rather than one that looks like it.
func (h *headerRules) find(name string, classes uint8) (f field, exact bool) {
	if classes == tokenPlain {
		f = h.fields[name]
		f.guard |= identityGuard(h.prefixes, name)
		return f, true
	}
	var buf [maxGuardedName]byte
	folded := foldName(buf[:0], name)
	f = h.fields[string(folded)]
	f.guard |= identityGuard(h.prefixes, folded)
	return f, false
}

func identityGuard[T string | []byte](prefixes []string, name T) guard {
	for _, p := range prefixes {
		if len(name) >= len(p) && string(name[:len(p)]) == p {
			return guardIdentity | guardPassed
		}
	}
	return 0
}

// foldName appends the name as the most careless server sees it: letters in lower
// case, all that is neither letter nor digit as "-" (as CGI variables do), what
// is invisible left out, "-" at the ends dropped. A name too long for dst is cut,
// which is enough to recognize a prefix.
func foldName(dst []byte, name string) []byte {
	for i := 0; i < len(name) && len(dst) < cap(dst); i++ {
		switch c := lower(name[i]); {
		case 'a' <= c && c <= 'z', isDigit(c):
			dst = append(dst, c)
		case c <= 0x1f || c >= 0x7f:
		case len(dst) > 0:
			dst = append(dst, '-')
		}
	}
	for len(dst) > 0 && dst[len(dst)-1] == '-' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

// read checks all header fields and takes from them what concerns the request
// line. It returns what is wrong, or "".
func (h *headerRules) read(headers policy.Headers, l *line) string {
	var seen uint64 // single fields
	var pseudo pseudoSeen
	var override string
	var overridden bool
	for i := range headers {
		name, value := headers[i].Name, headers[i].Value
		if strings.HasPrefix(name, ":") {
			if detail := readPseudo(name, value, l, &pseudo); detail != "" {
				return detail
			}
			continue
		}
		classes, ok := tokenClasses(name)
		if !ok || classes&tokenUpper != 0 {
			return "header: a name is not a lower-case token"
		}
		f, exact := h.find(name, classes)
		if f.guard&guardSingle == 0 && !isFieldValue(value) {
			return "header: a control character in a value"
		}
		switch {
		case f.guard&guardSingle != 0:
			if seen&(1<<f.bit) != 0 {
				return "header: a field that decides something occurs twice"
			}
			seen |= 1 << f.bit
			if !isVisibleASCII(value) {
				return "header: a field that decides something is not visible ASCII"
			}
			if exact && f.bit == bitHost && value == "" {
				return "host: empty"
			}
			if exact {
				l.note(f.bit, value)
			}
		case f.guard&guardMethod != 0:
			if overridden && !equalFoldASCII(value, override) {
				return "header: two method overrides"
			}
			override, overridden = value, true
		case f.guard&guardHop != 0 && h.namesPassed(value):
			return "header: a hop-by-hop list names a field that must reach the upstream"
		}
	}
	const framing = 1<<bitContentLength | 1<<bitTransferEncoding
	switch {
	case overridden && !equalFoldASCII(override, l.method):
		return "header: the method is overridden by another"
	case seen&framing == framing:
		return "header: both content-length and transfer-encoding"
	}
	return ""
}

// note keeps the value of a single field that the request line needs.
func (l *line) note(bit uint8, value string) {
	switch bit {
	case bitContentType:
		l.contentType, l.hasContentType = value, true
	case bitForwardedProto:
		l.forwardedProto = value
	case bitHost:
		l.hostHeader = value
	}
}

// pseudoSeen remembers which pseudo headers occurred.
type pseudoSeen struct{ method, scheme, authority, path bool }

// readPseudo takes a pseudo header (RFC 9113 section 8.3.1): each occurs once and
// says what the field of the same meaning says. Authorities are compared later,
// because the same one can be written in two ways.
func readPseudo(name, value string, l *line, seen *pseudoSeen) string {
	var told *string
	var again *bool
	same := func(s, t string) bool { return s == t }
	switch name {
	case ":method":
		told, again = &l.method, &seen.method
	case ":path":
		told, again = &l.path, &seen.path
	case ":scheme":
		told, again, same = &l.scheme, &seen.scheme, equalFoldASCII
	case ":authority":
		told, again = &l.authority, &seen.authority
	default:
		return "header: unknown pseudo header"
	}
	switch {
	case *again:
		return "header: a pseudo header occurs twice"
	case value == "" && told == &l.authority:
		return "host: empty"
	case *told == "":
		*told = value
	case !same(*told, value):
		return "header: a pseudo header and the request line differ"
	}
	*again = true
	return ""
}

// isFieldValue reports whether the value is free of control characters but tab
// (RFC 9110 section 5.5).
func isFieldValue(s string) bool {
	for i := firstControl(s, 0); i < len(s); i = firstControl(s, i+1) {
		if s[i] != '\t' {
			return false
		}
	}
	return true
}

// namesPassed reports whether a list of field names holds one that must reach
// the upstream.
func (h *headerRules) namesPassed(list string) bool {
	for len(list) > 0 {
		var name string
		name, list, _ = strings.Cut(list, ",")
		name, _, _ = strings.Cut(name, ";") // "te" has weights
		name = strings.Trim(name, " \t")
		if f, _ := h.find(name, tokenMark); f.guard&guardPassed != 0 {
			return true
		}
	}
	return false
}

// Smuggled appends to dst the names of header fields that must not reach the
// upstream as the client sent them, each once: identity headers, fields by which
// some servers replace the path, and names that some servers take for a guarded
// one, such as x_auth_roles or x.api.key. The names stand as they came, so that a
// gateway finds them.
func (r *Reader) Smuggled(headers policy.Headers, dst []string) []string {
	for i := range headers {
		name := headers[i].Name
		if strings.HasPrefix(name, ":") {
			continue
		}
		classes, ok := tokenClasses(name)
		if !ok {
			classes = tokenMark
		}
		f, exact := r.headers.find(name, classes)
		if f.guard&(guardIdentity|guardPath) == 0 && (exact || f.guard == 0) {
			continue
		}
		if !slices.Contains(dst, name) {
			dst = append(dst, name)
		}
	}
	return dst
}
