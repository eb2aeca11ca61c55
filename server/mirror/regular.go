package mirror

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-auth/postern/server/store"
)

// readRegular reads a credential as store.Encode writes most of them: JSON in one
// piece, without what few have, such as constraints, metadata or an end. That takes
// a quarter of the time of encoding/json, and much of a start with a million
// credentials is this. It returns false at anything else, and then encoding/json
// has to read the document from the beginning; both read alike what both read.
//
// Texts of the credential are parts of the body, and its lists lie where those of
// the one before it lay.
func readRegular(body string, c *store.Credential) bool {
	*c = store.Credential{Roles: c.Roles[:0], Scopes: c.Scopes[:0], Permissions: c.Permissions[:0]}
	s := regular{rest: body}
	s.take('{')
	for !s.failed {
		name := s.text()
		s.take(':')
		s.field(name, c)
		if !s.more() {
			break
		}
	}
	s.take('}')
	return !s.failed && s.rest == ""
}

// regular is what is left to read. After something unexpected, nothing is.
type regular struct {
	rest   string
	failed bool
}

func (s *regular) fail() {
	s.rest, s.failed = "", true
}

func (s *regular) take(c byte) {
	if s.rest == "" || s.rest[0] != c {
		s.fail()
		return
	}
	s.rest = s.rest[1:]
}

// more reports whether a comma follows, and takes it.
func (s *regular) more() bool {
	if s.rest == "" || s.rest[0] != ',' {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text reads a string without escapes.
func (s *regular) text() string {
	s.take('"')
	end := strings.IndexByte(s.rest, '"')
	if end < 0 {
		s.fail()
		return ""
	}
	text := s.rest[:end]
	ascii := true
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '\\' {
			s.fail()
			return ""
		} else if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	if !ascii && !utf8.ValidString(text) {
		s.fail()
		return ""
	}
	s.rest = s.rest[end+1:]
	return text
}

// texts reads a list of strings that is not empty, into the memory of another one.
func (s *regular) texts(into []string) []string {
	into = into[:0]
	s.take('[')
	for !s.failed {
		into = append(into, s.text())
		if !s.more() {
			break
		}
	}
	s.take(']')
	return into
}

// time reads a time. All are kept in UTC, and nearly all can be read quickly.
func (s *regular) time(into *time.Time) {
	text := s.text()
	if t, ok := quickTime(text); ok {
		*into = t
	} else if into.UnmarshalText([]byte(text)) != nil {
		s.fail()
	}
}

// quickTime reads a time in UTC as time.Time writes it (RFC 3339). It does not know
// how long the months are, so it leaves the days after the 28th to others.
func quickTime(text string) (time.Time, bool) {
	const form = "2006-01-02T15:04:05"
	if len(text) <= len(form) || text[len(text)-1] != 'Z' {
		return time.Time{}, false
	}
	for i := range len(form) {
		if isDigit(form[i]) != isDigit(text[i]) || !isDigit(form[i]) && form[i] != text[i] {
			return time.Time{}, false
		}
	}
	nanos, ok := fraction(text[len(form) : len(text)-1])
	year, month, day := number(text[:4]), number(text[5:7]), number(text[8:10])
	hour, minute, second := number(text[11:13]), number(text[14:16]), number(text[17:19])
	if !ok || month < 1 || month > 12 || day < 1 || day > 28 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC), true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// number reads digits.
func number(text string) (n int) {
	for i := range len(text) {
		n = 10*n + int(text[i]-'0')
	}
	return n
}

// fraction reads a point and up to nine digits as nanoseconds; nothing is 0.
func fraction(text string) (nanos int, ok bool) {
	if text == "" {
		return 0, true
	}
	if text[0] != '.' || len(text) < 2 || len(text) > 10 {
		return 0, false
	}
	for i, unit := 1, 100_000_000; i < len(text); i, unit = i+1, unit/10 {
		if !isDigit(text[i]) {
			return 0, false
		}
		nanos += unit * int(text[i]-'0')
	}
	return nanos, true
}

func (s *regular) field(name string, c *store.Credential) {
	switch name {
	case "id":
		c.ID = s.text()
	case "type":
		c.Type = store.CredentialType(s.text())
	case "tenant":
		c.Tenant = s.text()
	case "principal":
		c.Principal = s.text()
	case "name":
		c.Name = s.text()
	case "environment":
		c.Environment = s.text()
	case "format":
		c.Format = store.CredentialFormat(s.text())
	case "digest":
		c.Digest = s.text()
	case "roles":
		c.Roles = s.texts(c.Roles)
	case "scopes":
		c.Scopes = s.texts(c.Scopes)
	case "permissions":
		c.Permissions = s.texts(c.Permissions)
	case "created_at":
		s.time(&c.CreatedAt)
	case "updated_at":
		s.time(&c.UpdatedAt)
	case "not_before":
		s.time(&c.NotBefore)
	case "expires_at":
		s.time(&c.ExpiresAt)
	case "max_expires_at":
		s.time(&c.MaxExpiresAt)
	case "period":
		if c.Period.UnmarshalText([]byte(s.text())) != nil {
			s.fail()
		}
	case "parent":
		c.Parent = s.text()
	case "issued_by":
		c.IssuedBy = s.text()
	default:
		s.fail()
	}
}
