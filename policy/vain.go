package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// What follows knows how requests and workloads are spelled once they are read, so that
// a limit which fits none of them is told to whoever writes it. That such a limit lets
// nobody in makes it safe, and hard to find.

// vain reports limits that fit no request.
func (c *Constraints) vain(report func(path, message, suggestion string)) {
	if c == nil {
		return
	}
	for i, m := range c.Methods {
		if suggestion := methodFault(m); m != "" && suggestion != "" {
			report(fmt.Sprintf("methods[%d]", i), fmt.Sprintf("%q fits no request", m), suggestion)
		}
	}
	for i, h := range c.Hosts {
		if suggestion := hostFault(h); suggestion != "" {
			report(fmt.Sprintf("hosts[%d]", i), "fits no request", suggestion)
		}
	}
	for i, p := range c.Peers {
		if suggestion := peerFault(p); p != "" && suggestion != "" {
			report(fmt.Sprintf("peers[%d]", i), fmt.Sprintf("%q fits no workload", p), suggestion)
		}
	}
}

const (
	lowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789"
	labelChars  = lowerDigits + "-_"
	domainChars = lowerDigits + "-_."
	pathChars   = domainChars + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	// tokenChars are those of a method, which is written in upper case here (RFC 9110
	// section 5.6.2).
	tokenChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

	maxHost   = 253 // bytes, RFC 1035 section 2.3.4
	maxLabel  = 63
	maxMethod = 40
	maxSPIFFE = 2048 // bytes, SPIFFE-ID section 2.3
)

// isOnly reports whether a text holds nothing but these characters, and at least one.
func isOnly(s, characters string) bool {
	return s != "" && strings.Trim(s, characters) == ""
}

// methodFault returns what to write in the place of a method that no request has, or "".
func methodFault(m string) (suggestion string) {
	switch {
	case m != strings.ToUpper(m):
		return "methods are written in upper case"
	case !isOnly(m, tokenChars) || len(m) > maxMethod || m == "*":
		return "write a method such as GET"
	case m == "CONNECT" || m == "PRI":
		return "remove it: such requests are not served"
	}
	return ""
}

// hostFault returns what to write in the place of a pattern that fits the host of no
// request, or "". Hosts are names in lower case without a dot at the end, addresses as
// RFC 6943 section 3.1.1 has IPv4, and as RFC 5952 has IPv6 in brackets.
func hostFault(p HostPattern) (suggestion string) {
	const form = "write the name as it stands in a URL, without port and trailing dot, other letters as punycode"
	host := p.text
	if host == "" {
		return "" // who parsed it has said so
	}
	if strings.HasPrefix(host, "[") {
		ip, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		switch own := "[" + ip.String() + "]"; {
		case err != nil || !ip.Is6() || ip.Zone() != "":
			return "write an address as in [2001:db8::1]"
		case own != host:
			return "write " + own
		}
		return ""
	}
	if len(host) > maxHost+len("*.") {
		return form
	}
	if plain, ok := strings.CutSuffix(host, "."); ok && plain != "" && hostFault(HostPattern{plain}) == "" {
		return fmt.Sprintf("write %q", plain)
	}
	if domain, ok := strings.CutPrefix(host, "*"); ok {
		host = "x" + domain
	}
	if len(host) > maxHost {
		return form
	}
	last := ""
	for last = range strings.SplitSeq(host, ".") {
		if !isOnly(last, labelChars) || len(last) > maxLabel {
			return form
		}
	}
	if _, err := netip.ParseAddr(host); err != nil && endsInNumber(last) {
		return "write an address in full, as in 192.0.2.1"
	}
	return ""
}

// endsInNumber reports whether the last label of a name makes some readers take all of it
// for an IPv4 address, such as 127.1 (WHATWG URL section 3.5).
func endsInNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return hex == "" || isOnly(hex, "0123456789abcdef")
	}
	return isOnly(label, "0123456789")
}

// peerFault returns what to write in the place of a name that no workload has, or "".
func peerFault(p string) (suggestion string) {
	const form = `write a SPIFFE id, a DNS name in lower case, or "sha256:" and 64 hex digits in lower case`
	hex, isHash := strings.CutPrefix(p, fingerprintPrefix)
	scheme, rest, isURI := strings.Cut(p, "://")
	switch {
	case isHash && !isFingerprint(hex):
		return form
	case isHash:
	case strings.EqualFold(scheme, "spiffe"):
		if scheme != "spiffe" || len(p) > maxSPIFFE || !isWorkload(rest) {
			return "write a SPIFFE id with a path, of one workload: patterns have no meaning here"
		}
	case isURI:
		if !isOnly(scheme, lowerDigits+"+-.") || rest == "" || strings.ContainsFunc(rest, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return form
		}
	case len(p) > maxHost:
		return form
	default:
		for label := range strings.SplitSeq(p, ".") {
			if !isOnly(label, labelChars) || len(label) > maxLabel || label[0] == '-' {
				return form
			}
		}
		if isOnly(p, "0123456789.") {
			return form // an address
		}
	}
	return ""
}

// isWorkload reports whether this is what stands behind spiffe:// in the id of a
// workload: a trust domain and a path (SPIFFE-ID section 2).
func isWorkload(s string) bool {
	domain, path, found := strings.Cut(s, "/")
	if !found || !isOnly(domain, domainChars) || len(domain) > 255 {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." || !isOnly(segment, pathChars) {
			return false
		}
	}
	return true
}
