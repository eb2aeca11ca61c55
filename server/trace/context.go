package trace

import (
	"net/url"
	"slices"
	"strings"

	"github.com/postern-auth/postern/server/audit"
)

// remote is a span of somebody else's, as they name it.
type remote struct {
	trace   audit.TraceID
	span    audit.SpanID
	sampled bool
}

// The form of a traceparent: version, trace, span and flags in lower-case hex, with
// hyphens between them (W3C Trace Context section 3.2).
const (
	parentLen   = 55
	sampledFlag = 1
)

// parseParent reads a traceparent. What comes after the four parts is of a later version
// of the format; version 00 has nothing there, and ff is none.
func parseParent(text string) (r remote, ok bool) {
	if len(text) < parentLen || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return remote{}, false
	}
	var version, flags [1]byte
	switch {
	case !unhex(version[:], text[:2]), !unhex(r.trace[:], text[3:35]), !unhex(r.span[:], text[36:52]), !unhex(flags[:], text[53:55]):
		return remote{}, false
	case version[0] == 0xff, version[0] == 0 && len(text) > parentLen, len(text) > parentLen && text[parentLen] != '-':
		return remote{}, false
	case r.trace == audit.TraceID{}, r.span == audit.SpanID{}:
		return remote{}, false
	}
	r.sampled = flags[0]&sampledFlag != 0
	return r, true
}

// unhex decodes hex, in lower case only. It does not allocate.
func unhex(into []byte, text string) bool {
	for i := range into {
		high, low := nibble(text[2*i]), nibble(text[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		into[i] = high<<4 | low
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// The bounds of a tracestate that is passed on (W3C Trace Context section 3.3.1.5).
const (
	maxState   = 512
	maxMembers = 32
)

// cleanState returns a tracestate that may be passed on, and "" for one that has to be
// left out whole: too long, too many members, or not of visible ASCII.
func cleanState(text string) string {
	if len(text) > maxState || strings.Count(text, ",") >= maxMembers {
		return ""
	}
	for member := range strings.SplitSeq(text, ",") {
		member = strings.Trim(member, " \t")
		name, value, found := strings.Cut(member, "=")
		if member == "" {
			continue
		}
		if !found || name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-*/@") != "" ||
			strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' || r == '=' }) {
			return ""
		}
	}
	return text
}

// maxBaggageBytes is how much of a baggage is looked at (W3C Baggage section 3.3.2).
const maxBaggageBytes = 8192

// readBaggage returns the entries that are wanted, each once: the first counts.
func readBaggage(fields, wanted []string) (entries [][2]string) {
	left := maxBaggageBytes
	for _, field := range fields {
		if left -= len(field); left < 0 {
			return entries
		}
		for member := range strings.SplitSeq(field, ",") {
			pair, _, _ := strings.Cut(member, ";") // what follows are properties
			name, value, found := strings.Cut(pair, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if !found || !slices.Contains(wanted, name) || slices.ContainsFunc(entries, func(e [2]string) bool { return e[0] == name }) {
				continue
			}
			if plain, err := url.PathUnescape(value); err == nil {
				entries = append(entries, [2]string{name, plain})
			}
		}
	}
	return entries
}
