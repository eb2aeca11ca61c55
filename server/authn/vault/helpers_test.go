package vault_test

import "net/netip"

// parseIP reads an address as canonical requests hold it; "-" is an unknown one.
func parseIP(s string) netip.Addr {
	if s == "-" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s).Unmap()
}

func parsePrefixes(all ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(all))
	for i, s := range all {
		list[i] = netip.MustParsePrefix(s)
	}
	return list
}
