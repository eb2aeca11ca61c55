package dpop

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/server/authn"
)

// isTarget reports whether the claim htu names the target of the request (RFC 9449
// section 4.3, check 9). Both are compared as RFC 3986 section 6.2.2 and 6.2.3 normalize
// them: the case of scheme, host and escapes, escapes that need not be, dot segments,
// the scheme's own port and an empty path make no difference. A query and a fragment are
// left out of account. A user, or what cannot stand in a URI, fits nothing.
func isTarget(htu string, p *authn.Possession) bool {
	for i := range len(htu) {
		if htu[i] <= ' ' || htu[i] >= 0x7f {
			return false
		}
	}
	htu, _, _ = strings.Cut(htu, "#")
	htu, _, _ = strings.Cut(htu, "?")
	scheme, rest, ok := strings.Cut(htu, "://")
	if !ok || !strings.EqualFold(scheme, p.Scheme) {
		return false
	}
	authority, path := rest, ""
	if slash := strings.IndexByte(rest, '/'); slash >= 0 {
		authority, path = rest[:slash], rest[slash:]
	}
	host, port, ok := splitAuthority(authority)
	return ok && sameHost(host, p.Host) && portOf(port, p.Scheme) == portOf(p.Port, p.Scheme) && samePath(path, p.Path)
}

// splitAuthority returns host and port; 0 for none.
func splitAuthority(authority string) (host string, port uint16, ok bool) {
	host, digits := authority, ""
	// The colons of an IPv6 address stand in brackets.
	if colon := strings.LastIndexByte(authority, ':'); colon > strings.LastIndexByte(authority, ']') {
		host, digits = authority[:colon], authority[colon+1:]
	}
	if digits != "" {
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 || digits[0] == '+' {
			return "", 0, false
		}
		port = uint16(n)
	}
	return host, port, host != "" && strings.IndexByte(host, '@') < 0
}

// portOf returns the port that is meant.
func portOf(port uint16, scheme string) uint16 {
	switch {
	case port != 0:
		return port
	case strings.EqualFold(scheme, "https"):
		return 443
	case strings.EqualFold(scheme, "http"):
		return 80
	}
	return 0
}

// sameHost compares without regard to case, a last dot, and the ways to write an IPv6
// address.
func sameHost(a, b string) bool {
	if a[0] == '[' {
		x, errX := netip.ParseAddr(strings.Trim(a, "[]"))
		y, errY := netip.ParseAddr(strings.Trim(b, "[]"))
		return errX == nil && errY == nil && x == y
	}
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// samePath compares two paths as they are normalized; what is no path equals nothing.
func samePath(a, b string) bool {
	if a == "" {
		a = "/"
	}
	if b == "" {
		b = "/"
	}
	if isPlainPath(a) && isPlainPath(b) {
		return a == b
	}
	x, okX := normalizePath(a)
	y, okY := normalizePath(b)
	return okX && okY && x == y
}

// isPlainPath reports whether normalizing leaves the path as it is.
func isPlainPath(p string) bool {
	return p[0] == '/' && strings.IndexByte(p, '%') < 0 && !strings.Contains(p, "/.")
}

// normalizePath decodes the escapes of unreserved characters, writes the others in
// capitals (RFC 3986 sections 6.2.2.1 and 6.2.2.2), and removes dot segments (section
// 5.2.4), in that order. It returns false for a malformed escape, and for a path that
// does not begin with a slash.
func normalizePath(p string) (string, bool) {
	if p[0] != '/' {
		return "", false
	}
	b := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] != '%' {
			b = append(b, p[i])
			continue
		}
		if i+2 >= len(p) {
			return "", false
		}
		n, err := strconv.ParseUint(p[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		if c := byte(n); isUnreserved(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		}
		i += 2
	}
	return removeDotSegments(string(b)), true
}

// isUnreserved reports whether the character means the same with and without escaping
// (RFC 3986 section 2.3).
func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// removeDotSegments does so in a path that begins with a slash.
func removeDotSegments(p string) string {
	out := make([]byte, 0, len(p))
	for rest, more := p[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch segment {
		case ".", "..":
			if segment == ".." {
				out = out[:max(0, strings.LastIndexByte(string(out), '/'))]
			}
			if !more {
				out = append(out, '/') // "/a/." is "/a/"
			}
		default:
			out = append(append(out, '/'), segment...)
		}
	}
	return string(out)
}
