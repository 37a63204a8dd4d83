package webhook

import (
	"net/netip"
	"slices"
	"testing"
)

func TestAllows(t *testing.T) {
	t.Parallel()
	const never, always, locally = "never", "always", "locally"
	for want, addresses := range map[string][]string{
		always: {
			"1.0.0.0", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
			"168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
			"192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
			"2001:200::", "2001:db7:ffff::", "2001:db9::", "2001:4860:4860::8888", "2003::", "2606:4700::1111", "2c0f:f248::1",
			"2cff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2a00:1450::5eff:7f00:1", "2a00:1450::100:5efe:7f00:1", "2a00:1450::1:5efe:1:1",
		},
		locally: {"127.0.0.0", "127.0.0.1", "127.255.255.255", "::1"},
		never: {
			"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "168.63.129.16", "169.254.0.0",
			"169.254.169.254", "169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
			"192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.0", "255.255.255.255",
			"::", "::2", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "1fff:ffff::",
			"2001::1", "2001:1ff:ffff::", "2001:db8::1", "2002:808:808::", "2620:4f:8000::1",
			"2d00::", "2dff:ffff::", "2e00::", "2fff:ffff::", "3000::", "3ffe::1", "3fff::1", "3fff:ffff::", "4000::", "5f00::1",
			"fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "2a00:1450::8%eth0", "::1%lo", "fec0::1", "ff02::1",
			"2a00:1450::5efe:808:808", "2a00:1450::200:5efe:7f00:1",
		},
	} {
		for _, address := range addresses {
			t.Run(want+" "+address, func(t *testing.T) {
				t.Parallel()
				parsed := netip.MustParseAddr(address)
				if got := strict.mayDial(parsed); got != (want == always) {
					t.Errorf("strict policy mayDial(%s) = %v; want it %s", address, got, want)
				}
				if got := local.mayDial(parsed); got != (want != never) {
					t.Errorf("local policy mayDial(%s) = %v; want it %s", address, got, want)
				}
			})
		}
	}
	if strict.mayDial(netip.Addr{}) || local.mayDial(netip.Addr{}) {
		t.Error("no address at all is allowed; want it refused")
	}
}

// forbidden is copied from IANA's registries of special-purpose and of IPv6 unicast
// addresses, independent of the guard's own list.
var forbidden = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",

	"::/3", "4000::/2", "8000::/1", // all but global unicast
	"::/128", "::1/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "5f00::/16", "fc00::/7", "fe80::/10",
	"2001::/23", "2001::/32", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "2d00::/8", "2e00::/7", "3000::/4", "3ffe::/16", "3fff::/20",
)

func isForbidden(address netip.Addr) bool { return contain(forbidden, address) || isISATAP(address) }

func TestAllowsTheNeighbours(t *testing.T) {
	t.Parallel()
	for _, prefix := range forbidden {
		first, last := prefix.Addr(), lastOf(prefix)
		for _, address := range []netip.Addr{first.Prev(), first, last, last.Next()} {
			if want := address.IsValid() && !isForbidden(address); strict.mayDial(address) != want {
				t.Errorf("%s, at the edge of %s: allowed is %v; want %v", address, prefix, !want, want)
			}
		}
	}
}

// lastOf returns the highest address of a range.
func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func TestAllowsAsTheOperatorSays(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"9.255.255.255": true, "10.0.0.0": true, "10.0.8.255": true, "10.0.10.0": true, "10.255.255.255": true, "11.0.0.0": true,
		"fd00::": true, "fdff:ffff::1": true, "8.8.4.3": true, "8.8.4.5": true, "2a00:64::1:0:0": true, "2a00:63:ffff::1": true,
		"10.0.9.0": false, "10.0.9.255": false, "fcff::1": false, "fe00::1": false, "192.168.0.1": false, "127.0.0.1": false, "::1": false,
		"8.8.4.4": false, "2a00:64::": false, "2a00:64::ffff:ffff": false, "::ffff:10.1.2.3": false, "fd00::1%eth0": false,
	} {
		if got := operated.mayDial(netip.MustParseAddr(address)); got != want {
			t.Errorf("mayDial(%s) = %v; want %v", address, got, want)
		}
	}
}

func TestReachableInside(t *testing.T) {
	t.Parallel()
	const (
		all4      = "every IPv4 address, all of the private network among them"
		all6      = "every IPv6 address, all of the private network among them"
		machine   = "this machine"
		linkLocal = "link-local addresses, such as metadata services of clouds with their credentials"
		metadata  = "other metadata services of clouds"
	)
	for name, test := range map[string]struct {
		allowed, denied []string
		local           bool
		want            []string
	}{
		"Nothing":                      {},
		"APrivateRange":                {allowed: []string{"10.1.0.0/16", "fd00:1::/32"}},
		"AllOfIPv4":                    {allowed: []string{"0.0.0.0/0"}, want: []string{all4, machine, linkLocal, metadata}},
		"AllOfIPv6":                    {allowed: []string{"::/0"}, want: []string{all6, machine, linkLocal, metadata}},
		"AllOfIPv4InLocalMode":         {allowed: []string{"0.0.0.0/0"}, local: true, want: []string{all4, linkLocal, metadata}},
		"APartOfLoopback":              {allowed: []string{"127.1.0.0/16"}, want: []string{machine}},
		"AllThatBeginsWithLoopback":    {allowed: []string{"126.0.0.0/7"}, want: []string{machine}},
		"LoopbackInLocalMode":          {allowed: []string{"127.0.0.0/8"}, local: true},
		"Loopback6":                    {allowed: []string{"::1/128"}, want: []string{machine}},
		"AMetadataAddress":             {allowed: []string{"169.254.169.254/32"}, local: true, want: []string{linkLocal}},
		"UniqueLocalAddresses":         {allowed: []string{"fc00::/7"}, want: []string{metadata}},
		"LoopbackWithoutThisAddress":   {allowed: []string{"127.0.0.0/8"}, denied: []string{"127.0.0.1/32"}, want: []string{machine}},
		"LoopbackThatIsDenied":         {allowed: []string{"127.0.0.0/8"}, denied: []string{"127.0.0.0/8"}},
		"AllButWhatIsDenied":           {allowed: []string{"0.0.0.0/0"}, denied: []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "100.64.0.0/10"}, want: []string{all4}},
		"UniqueLocalWithoutAWSAddress": {allowed: []string{"fc00::/7"}, denied: []string{"fd00:ec2::/32"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy := Policy{Local: test.local, Allowed: prefixes(test.allowed...), Denied: prefixes(test.denied...)}
			if got := policy.ReachableInside(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
