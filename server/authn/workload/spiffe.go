package workload

import "strings"

const spiffeScheme = "spiffe://"

// The longest SPIFFE id and trust domain in bytes (SPIFFE-ID section 2.3).
const (
	maxSPIFFE      = 2048
	maxTrustDomain = 255
)

// trustDomainOf returns the trust domain of what looks like a SPIFFE id, to choose whose
// keys may prove it.
func trustDomainOf(sub string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(sub, spiffeScheme)
	if !ok {
		return "", false
	}
	name, _, _ = strings.Cut(rest, "/")
	return name, true
}

// isWorkload reports whether the text is the SPIFFE id of a workload (SPIFFE-ID section
// 2): a trust domain and a path, both in the one way in which they can be written. The id
// of a trust domain itself, which has no path, is no workload's.
func isWorkload(id string) bool {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	domain, path, hasPath := strings.Cut(rest, "/")
	if !ok || !hasPath || len(id) > maxSPIFFE || !isTrustDomain(domain) {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || !isMadeOf(segment, isPathByte) {
			return false
		}
	}
	return true
}

// isTrustDomain reports whether the text is the name of one (SPIFFE-ID section 2.1).
func isTrustDomain(name string) bool {
	return name != "" && len(name) <= maxTrustDomain && isMadeOf(name, isDomainByte)
}

func isDomainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

func isPathByte(c byte) bool { return isDomainByte(c) || c >= 'A' && c <= 'Z' }

func isMadeOf(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}
