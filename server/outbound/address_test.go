package outbound

import (
	"net/netip"
	"testing"
)

// What an address is, and whether the option for private addresses opens it.
func TestCheckAddress(t *testing.T) {
	t.Parallel()
	for group, list := range map[string][]string{
		"public": {
			"1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "169.253.0.1", "198.17.0.1",
			"2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1", "::1.1.1.1",
		},
		"private": {
			"10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "127.255.255.254", "100.64.0.1", "198.18.0.1",
			"192.0.2.1", "::1", "fc00::1", "fd12::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1",
			"2002:7f00:1::1", "2002:a00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1",
		},
		"never": {
			"0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
			"224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254",
			"::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "::169.254.169.254", "::ffff:0:169.254.169.254",
			"2001:0:1::1", "100::1",
		},
	} {
		for _, text := range list {
			ip := netip.MustParseAddr(text)
			if err := checkAddress(ip, false); (err == nil) != (group == "public") {
				t.Errorf("%s is %s: %v", text, group, err)
			}
			if err := checkAddress(ip, true); (err == nil) != (group != "never") {
				t.Errorf("%s is %s, private ones allowed: %v", text, group, err)
			}
		}
	}
	if checkAddress(netip.Addr{}, true) == nil {
		t.Error("no address is an address")
	}
}
