package canonical

import (
	"net/netip"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// clientRules say where the client's address stands.
type clientRules struct {
	// hop counts addresses in forwardedFor from the right, 1 being the last; 0
	// means the peer of the gateway's connection.
	hop          int
	forwardedFor string
	trustProto   bool
}

func newClientRules(c *ClientConfig) clientRules {
	r := clientRules{hop: c.TrustedHops, forwardedFor: c.ForwardedFor, trustProto: c.TrustForwardedProto}
	if !defaultTrue(c.UseRemoteAddress) {
		r.hop++
	}
	if r.forwardedFor == "" {
		r.forwardedFor = "x-forwarded-for"
	}
	return r
}

// address returns the address that Envoy would take for the trusted client
// address, with one difference: where the header is there and does not hold an
// address at the trusted place, Envoy falls back to the peer, which is one of our
// own proxies, and this returns the unknown address, which fits no network.
func (r *clientRules) address(a *policy.Attributes) netip.Addr {
	peer := a.Source.Address.Addr().Unmap().WithZone("")
	if r.hop == 0 {
		return peer
	}
	hop, present := r.hop, false
	for i := len(a.Headers) - 1; i >= 0; i-- {
		if a.Headers[i].Name != r.forwardedFor {
			continue
		}
		present = true
		for rest, more := a.Headers[i].Value, true; more; hop-- {
			var last string
			if rest, last, more = cutLast(rest); hop == 1 {
				return parseForwarded(last)
			}
		}
	}
	if !present {
		return peer
	}
	return netip.Addr{}
}

// cutLast cuts the last member off a list separated by commas.
func cutLast(list string) (rest, last string, more bool) {
	if i := strings.LastIndexByte(list, ','); i >= 0 {
		return list[:i], list[i+1:], true
	}
	return "", list, false
}

// parseForwarded reads an address as proxies write it: alone, with a port, or an
// IPv6 address in brackets with or without one. The result is unmapped and has no
// zone; it is invalid if the text is anything else.
func parseForwarded(s string) netip.Addr {
	s = strings.Trim(s, " \t")
	if len(s) > maxAddress {
		return netip.Addr{}
	}
	host, port, hasPort := s, "", false
	if inner, ok := strings.CutPrefix(s, "["); ok {
		end := strings.IndexByte(inner, ']')
		if end < 0 || !strings.Contains(inner[:end], ":") {
			return netip.Addr{}
		}
		host = inner[:end]
		if rest := inner[end+1:]; rest != "" {
			if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort {
				return netip.Addr{}
			}
		}
	} else if strings.Count(s, ":") == 1 {
		host, port, hasPort = strings.Cut(s, ":")
	}
	if _, ok := parsePort(port); hasPort && !ok {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}

// maxAddress bounds the text of an address with zone and port.
const maxAddress = 128

// parsePort reads a port: digits without a leading zero, 1 to 65535.
func parsePort(s string) (uint16, bool) {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return uint16(n), n <= 0xffff
}
