package webhook

import (
	"net/netip"

	"code.dny.dev/ssrf"
)

// public gives the verdicts of IANA's special-purpose registries, which package
// ssrf follows, plus the ranges below. The port is Check's business.
var public = ssrf.New(
	ssrf.WithAnyPort(),
	ssrf.WithDeniedV4Prefixes(
		netip.MustParsePrefix("168.63.129.16/32"), // Azure's platform endpoint: public by number, answered by the host
	),
	ssrf.WithDeniedV6Prefixes( // reserved in IANA's registry of IPv6 global unicast assignments
		netip.MustParsePrefix("2d00::/8"),
		netip.MustParsePrefix("2e00::/7"),
		netip.MustParsePrefix("3000::/4"), // with 3ffe::/16, which was the 6bone's (RFC 3701)
	))

// allows reports whether an address may be called. It is asked for the
// literals in URLs, for every answer of DNS and, last, at every dial.
func (p Policy) allows(address netip.Addr) bool {
	switch {
	case !address.IsValid(), address.Is4In6(), address.Zone() != "", contain(p.Denied, address):
		return false
	case p.permits(address):
		return true
	}
	return !isISATAP(address) && public.SafeAddr(address) == nil
}

// permits reports whether an address is in a range that the operator allows
// though it isn't public.
func (p Policy) permits(address netip.Addr) bool {
	if address.Is4In6() || address.Zone() != "" || contain(p.Denied, address) {
		return false
	}
	return p.Local && address.IsLoopback() || contain(p.Allowed, address)
}

func contain(prefixes []netip.Prefix, address netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// loopback returns the addresses that localhost stands for (RFC 6761, section
// 6.3), as far as they may be called.
func (p Policy) loopback() (addresses []netip.Addr) {
	for _, address := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if p.permits(address) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// isISATAP tells whether an IPv6 address carries an IPv4 address in its interface
// identifier, 0000:5efe or 0200:5efe and four bytes (RFC 5214, section 6.1): a router may
// unpack it into a private network.
func isISATAP(address netip.Addr) bool {
	b := address.As16()
	return address.Is6() && b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}
