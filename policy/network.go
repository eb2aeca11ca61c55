package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ParsePrefix reads a network of the configuration, such as 10.0.0.0/8. A bare
// address stands for itself alone. An IPv4 network written as IPv6
// (::ffff:10.0.0.0/104) becomes the IPv4 one, because addresses of clients are
// unmapped before they are compared.
//
// Bits set behind the length are an error: 10.0.0.1/8 may mean one address or all
// of 10.0.0.0/8, and a guess would be wrong for one of them. So are zones and
// leading zeros.
func ParsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return netip.Prefix{}, errors.New("a network is written as 10.0.0.0/8 or 2001:db8::/32")
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("a network is written as 10.0.0.0/8 or 2001:db8::/32")
	}
	if masked := p.Masked(); masked != p {
		return netip.Prefix{}, fmt.Errorf("it has bits behind the prefix: write %s for the network or %s for the address", masked, p.Addr())
	}
	if p.Addr().Is4In6() {
		// The bits of ::ffff are set, so the length is at least 96 here.
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}
