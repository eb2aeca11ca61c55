package outbound

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ErrAddress says that a name led to an address that is not permitted.
var ErrAddress = errors.New("the address is refused")

// The addresses to which a request must not lead. forbiddenNetworks are never a place
// to ask, but where clouds keep their credentials, or where a packet does not go to
// one known host; no option opens them. privateNetworks are the inside of somebody's
// network, where a name that an outsider controls must not lead.
var (
	forbiddenNetworks = prefixes(
		"0.0.0.0/8",          // this network (RFC 1122); reaches loopback on Linux
		"169.254.0.0/16",     // link-local, and the metadata service of most clouds
		"100.100.100.200/32", // metadata service of Alibaba Cloud
		"168.63.129.16/32",   // wire server of Azure
		"192.0.0.0/24",       // protocol assignments, and Oracle Cloud's metadata
		"224.0.0.0/4",        // multicast
		"240.0.0.0/4",        // reserved and broadcast
		"::/128",             // unspecified
		"fd00:ec2::254/128",  // metadata service of AWS
		"fd20:ce::254/128",   // metadata service of Google Cloud
		"fe80::/10",          // link-local
		"fec0::/10",          // site-local, deprecated
		"ff00::/8",           // multicast
		"100::/64",           // discard only (RFC 6666)
		"2001::/32",          // Teredo: hides an IPv4 address
	)
	privateNetworks = prefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
		"100.64.0.0/10",   // shared address space (RFC 6598)
		"127.0.0.0/8",     // loopback
		"198.18.0.0/15",   // benchmarks (RFC 2544)
		"192.0.2.0/24",    // documentation (RFC 5737), as are the next two
		"198.51.100.0/24", //
		"203.0.113.0/24",  //
		"::1/128",         // loopback
		"fc00::/7",        // unique local
		"2001:db8::/32",   // documentation
		"64:ff9b:1::/48",  // NAT64 of one's own network (RFC 8215)
	)
	// embedding lists IPv6 prefixes whose addresses carry an IPv4 address, and
	// at which byte: what counts is where the packet ends up.
	embedding = []struct {
		netip.Prefix
		at int
	}{
		{netip.MustParsePrefix("::/96"), 12},           // IPv4-compatible, deprecated
		{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // IPv4-translated (RFC 7915)
		{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64 (RFC 6052)
		{netip.MustParsePrefix("2002::/16"), 2},        // 6to4 (RFC 3056)
	}
)

func prefixes(list ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(list))
	for i, p := range list {
		all[i] = netip.MustParsePrefix(p)
	}
	return all
}

// checkAddress refuses an address to which a request must not lead.
func checkAddress(ip netip.Addr, allowPrivate bool) error {
	ip = ip.Unmap().WithZone("")
	within := func(p netip.Prefix) bool { return p.Contains(ip) }
	switch {
	case !ip.IsValid():
		return fmt.Errorf("%w: it is no IP address", ErrAddress)
	case slices.ContainsFunc(forbiddenNetworks, within):
		return fmt.Errorf("%w: %s is never a place to ask", ErrAddress, ip)
	case slices.ContainsFunc(privateNetworks, within):
		if allowPrivate {
			return nil
		}
		return fmt.Errorf("%w: %s is not public; insecure_allow_private_addresses permits it", ErrAddress, ip)
	}
	for _, e := range embedding {
		if e.Contains(ip) {
			b := ip.As16()
			return checkAddress(netip.AddrFrom4([4]byte(b[e.at:e.at+4])), allowPrivate)
		}
	}
	return nil
}

// newDialer returns a dialer that checks each address that it is about to try: after
// the name was resolved and before the first packet.
func newDialer(allowPrivate bool) *net.Dialer {
	return &net.Dialer{
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: it is no IP address", ErrAddress)
			}
			return checkAddress(at.Addr(), allowPrivate)
		},
		KeepAlive: -1,
	}
}

// ParseURL reads a URL that may be asked: absolute, https unless the Config permits
// http, without user or fragment, and not to an address that is refused. Names are
// checked when they are resolved. Errors do not repeat the text.
func ParseURL(text string, cfg *Config) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error of the URL package repeats the text.
		return nil, errors.New("it is not a URL")
	}
	switch {
	case u.Scheme == "http" && !cfg.InsecureAllowHTTP:
		return nil, errors.New("it is not https; insecure_allow_http permits that")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("it is not an https URL")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("it has no host")
	case u.User != nil:
		return nil, errors.New("it holds a user name or password")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return nil, errors.New("it has a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("its port is not a number from 1 to 65535")
		}
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := checkAddress(ip, cfg.InsecureAllowPrivateAddresses); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// SameOrigin compares scheme, host and port (RFC 6454 section 4).
func SameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
