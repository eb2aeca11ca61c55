package jose

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
)

// The addresses to which a fetch must not lead. forbiddenNetworks are never a place
// for keys, but where clouds keep their credentials, or where a packet does not go
// to one known host; no option opens them. privateNetworks are the inside of
// somebody's network, where a name that an outsider controls must not lead.
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

// checkAddress refuses an address to which a fetch must not lead.
func checkAddress(ip netip.Addr, allowPrivate bool) error {
	ip = ip.Unmap().WithZone("")
	within := func(p netip.Prefix) bool { return p.Contains(ip) }
	switch {
	case !ip.IsValid():
		return errors.New("no IP address")
	case slices.ContainsFunc(forbiddenNetworks, within):
		return fmt.Errorf("the address %s is never a place for keys", ip)
	case slices.ContainsFunc(privateNetworks, within):
		if allowPrivate {
			return nil
		}
		return fmt.Errorf("the address %s is not public; insecure_allow_private_addresses permits it", ip)
	}
	for _, e := range embedding {
		if e.Contains(ip) {
			b := ip.As16()
			return checkAddress(netip.AddrFrom4([4]byte(b[e.at:e.at+4])), allowPrivate)
		}
	}
	return nil
}

// newTransport returns a transport that connects to permitted addresses only,
// directly: a proxy would resolve the name itself, out of reach of the check.
// Each fetch has its own connection. Fetches are minutes apart, and so a key
// server that moved is found.
func newTransport(cfg *SourceConfig, roots *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{
		// Control sees the address after the name was resolved and before the
		// first packet, for each address that is tried.
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("no IP address: %w", err)
			}
			return checkAddress(at.Addr(), cfg.InsecureAllowPrivateAddresses)
		},
		KeepAlive: -1,
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
}
