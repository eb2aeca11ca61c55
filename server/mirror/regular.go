package mirror

import (
	"bytes"
	"unicode/utf8"

	"github.com/postern-auth/postern/server/store"
)

// readRegular reads a credential as store.Encode writes most of them: JSON in one
// piece, without what few have, such as constraints, metadata or an end. That takes
// a quarter of the time of encoding/json, and most of a start with a million
// credentials is this. It returns false at anything else, and then encoding/json
// has to read the document from the beginning; both read alike what both read.
func readRegular(body []byte, c *store.Credential) bool {
	s := regular{rest: body}
	s.take('{')
	for !s.failed {
		name := s.text()
		s.take(':')
		s.field(name, c)
		if len(s.rest) == 0 || s.rest[0] != ',' {
			break
		}
		s.take(',')
	}
	s.take('}')
	return !s.failed && len(s.rest) == 0
}

// regular is what is left to read. After something unexpected, nothing is.
type regular struct {
	rest   []byte
	failed bool
}

func (s *regular) fail() {
	s.rest, s.failed = nil, true
}

func (s *regular) take(c byte) {
	if len(s.rest) == 0 || s.rest[0] != c {
		s.fail()
		return
	}
	s.rest = s.rest[1:]
}

// text reads a string without escapes.
func (s *regular) text() []byte {
	s.take('"')
	end := bytes.IndexByte(s.rest, '"')
	if end < 0 {
		s.fail()
		return nil
	}
	text := s.rest[:end]
	ascii := true
	for _, c := range text {
		if c < ' ' || c == '\\' {
			s.fail()
			return nil
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii && !utf8.Valid(text) {
		s.fail()
		return nil
	}
	s.rest = s.rest[end+1:]
	return text
}

// texts reads a list of strings that is not empty.
func (s *regular) texts() (all []string) {
	s.take('[')
	for !s.failed {
		all = append(all, string(s.text()))
		if len(s.rest) == 0 || s.rest[0] != ',' {
			break
		}
		s.take(',')
	}
	s.take(']')
	return all
}

// time reads a time as time.Time writes it.
func (s *regular) time(into interface{ UnmarshalText([]byte) error }) {
	if text := s.text(); !s.failed && into.UnmarshalText(text) != nil {
		s.fail()
	}
}

func (s *regular) field(name []byte, c *store.Credential) {
	switch string(name) {
	case "id":
		c.ID = string(s.text())
	case "type":
		c.Type = store.CredentialType(s.text())
	case "tenant":
		c.Tenant = string(s.text())
	case "principal":
		c.Principal = string(s.text())
	case "name":
		c.Name = string(s.text())
	case "environment":
		c.Environment = string(s.text())
	case "digest":
		c.Digest = string(s.text())
	case "roles":
		c.Roles = s.texts()
	case "scopes":
		c.Scopes = s.texts()
	case "permissions":
		c.Permissions = s.texts()
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
		s.time(&c.Period)
	case "parent":
		c.Parent = string(s.text())
	case "issued_by":
		c.IssuedBy = string(s.text())
	default:
		s.fail()
	}
}
