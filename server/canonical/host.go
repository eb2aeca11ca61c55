package canonical

import (
	"net/netip"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// Bounds of RFC 1035 section 2.3.4.
const (
	maxHost  = 253
	maxLabel = 63
)

// readAuthority reads the host and port, which field, pseudo header and host
// header must agree on. It returns what is wrong, or "".
func readAuthority(l *line, q *policy.Request) string {
	var read string // the text that q holds the reading of
	for _, text := range [...]string{l.host, l.authority, l.hostHeader} {
		if text == "" || text == read {
			continue
		}
		host, port, detail := parseAuthority(text, q.Scheme)
		switch {
		case detail != "":
			return detail
		case read == "":
			q.Host, q.Port, read = host, port, text
		case host != q.Host || port != q.Port:
			return "host: the authority and the host header differ"
		}
	}
	return ""
}

// parseAuthority reads "host" or "host:port" (RFC 3986 section 3.2 without user
// information). A port that is the scheme's default is left out (RFC 9110 section
// 4.2.3), so that one place has one name.
func parseAuthority(s, scheme string) (host string, port uint16, detail string) {
	if len(s) > maxHost+len(".:65535") {
		return "", 0, "host: too long"
	}
	var portText string
	var hasPort bool
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, "host: an open bracket"
		}
		rest := s[end+1:]
		host = s[:end+1]
		if portText, hasPort = strings.CutPrefix(rest, ":"); !hasPort && rest != "" {
			return "", 0, "host: text after the bracket"
		}
		host, detail = parseIPv6(host)
	} else {
		host, portText, hasPort = strings.Cut(s, ":")
		host, detail = parseName(host)
	}
	if detail != "" {
		return "", 0, detail
	}
	if hasPort {
		var ok bool
		if port, ok = parsePort(portText); !ok {
			return "", 0, "host: not a port"
		}
	}
	if port == 443 && scheme == "https" || port == 80 && scheme == "http" {
		port = 0
	}
	return host, port, ""
}

// parseIPv6 reads an address in brackets. A zone is local to one machine
// (RFC 6874) and means nothing to another.
func parseIPv6(bracketed string) (host, detail string) {
	ip, err := netip.ParseAddr(bracketed[1 : len(bracketed)-1])
	if err != nil || !ip.Is6() || ip.Zone() != "" {
		return "", "host: not an IPv6 address"
	}
	return "[" + ip.String() + "]", ""
}

// parseName reads a domain name or an IPv4 address into lower case without its
// trailing dot. Names in other scripts come as punycode, or two components could
// map them differently.
func parseName(s string) (host, detail string) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxHost {
		return "", "host: empty or too long"
	}
	label, upper := 0, false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if i == label {
				return "", "host: an empty label"
			}
			label = i + 1
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z', isDigit(c), c == '-', c == '_':
		default:
			return "", "host: a character that host names do not have"
		}
		if i-label >= maxLabel {
			return "", "host: a label is too long"
		}
	}
	if label == len(s) {
		return "", "host: an empty label"
	}
	if upper {
		s = strings.ToLower(s)
	}
	if isNumeric(s[label:]) {
		if _, err := netip.ParseAddr(s); err != nil {
			return "", "host: an IPv4 address in an unusual form"
		}
	}
	return s, ""
}

// isNumeric reports whether a last label makes some readers take the whole name
// for an IPv4 address: 127.1, 0x7f.1 or 2130706433 (WHATWG URL, "ends in a
// number").
func isNumeric(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}
