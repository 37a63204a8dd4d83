package webhook

import (
	"net/netip"
	"slices"

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

// mayDial tells whether the policy lets an address be dialled. It judges the literals in
// URLs, every answer of DNS and, last, every dial.
func (p Policy) mayDial(address netip.Addr) bool {
	switch {
	case !address.IsValid(), address.Is4In6(), address.Zone() != "", contain(p.Denied, address):
		return false
	case p.isExempted(address):
		return true
	}
	return !isISATAP(address) && public.SafeAddr(address) == nil
}

// isExempted tells whether the operator allows an address though it isn't public.
func (p Policy) isExempted(address netip.Addr) bool {
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
		if p.isExempted(address) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// isISATAP tells whether an IPv6 address carries an IPv4 address in its interface identifier,
// 0000:5efe or 0200:5efe and four bytes (RFC 5214, section 6.1). A router may unpack the IPv4
// address into a private network.
func isISATAP(address netip.Addr) bool {
	b := address.As16()
	return address.Is6() && b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// inside are ranges without receivers, each with what callers reach there.
var inside = []struct {
	what   string
	ranges []netip.Prefix
}{
	{"this machine", prefixes("127.0.0.0/8", "0.0.0.0/8", "::1/128", "::/128")},
	{"link-local addresses, such as metadata services of clouds with their credentials", prefixes("169.254.0.0/16", "fe80::/10")},
	{"other metadata services of clouds", prefixes("fd00:ec2::254/128", "168.63.129.16/32", "100.100.100.200/32")},
}

func prefixes(all ...string) (parsed []netip.Prefix) {
	for _, one := range all {
		parsed = append(parsed, netip.MustParsePrefix(one))
	}
	return parsed
}

// ReachableInside says what callers reach by callbacks in ranges that the operator allows
// and that have no receivers. In local mode, this machine has receivers.
func (p Policy) ReachableInside() (reachable []string) {
	for _, allowed := range p.Allowed {
		if allowed.Bits() == 0 {
			family := "IPv4"
			if allowed.Addr().Is6() {
				family = "IPv6"
			}
			reachable = append(reachable, "every "+family+" address, all of the private network among them")
		}
	}
	for i, place := range inside {
		if (i > 0 || !p.Local) && slices.ContainsFunc(place.ranges, p.exemptsSomeOf) {
			reachable = append(reachable, place.what)
		}
	}
	return reachable
}

// exemptsSomeOf tells whether the operator allows some address of a range, and doesn't deny
// it.
func (p Policy) exemptsSomeOf(within netip.Prefix) bool {
	return slices.ContainsFunc(p.Allowed, func(allowed netip.Prefix) bool {
		common := allowed
		if within.Bits() > allowed.Bits() {
			common = within
		}
		return allowed.Overlaps(within) && !slices.ContainsFunc(p.Denied, func(denied netip.Prefix) bool {
			return denied.Bits() <= common.Bits() && denied.Contains(common.Addr())
		})
	})
}
