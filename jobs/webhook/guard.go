package webhook

import (
	"errors"
	"net/netip"
	"syscall"

	"code.dny.dev/ssrf"
)

// errBlocked is how a dial ends at the guard. It doesn't tell the address,
// which the attempt records on its own.
var errBlocked = errors.New("address not allowed")

// The verdicts are those of IANA's special-purpose registries, which package
// ssrf follows, plus the ranges below. The port is Check's business.
var (
	publicOnly       = newGuardian()
	publicOrLoopback = newGuardian(
		ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.0/8")),
		ssrf.WithAllowedV6Prefixes(netip.MustParsePrefix("::1/128")))
)

func newGuardian(options ...ssrf.Option) *ssrf.Guardian {
	return ssrf.New(append(options,
		ssrf.WithAnyPort(),
		ssrf.WithDeniedV4Prefixes(
			netip.MustParsePrefix("168.63.129.16/32"), // Azure's platform endpoint: public by number, answered by the host
		),
		ssrf.WithDeniedV6Prefixes( // reserved in IANA's registry of IPv6 global unicast assignments
			netip.MustParsePrefix("2d00::/8"),
			netip.MustParsePrefix("2e00::/7"),
			netip.MustParsePrefix("3000::/4"), // with 3ffe::/16, which was the 6bone's (RFC 3701)
		))...)
}

func (p Policy) guardian() *ssrf.Guardian {
	if p.Local {
		return publicOrLoopback
	}
	return publicOnly
}

// allows reports whether an address may be called. It is asked for the
// literals in URLs and, through control, at every dial.
func (p Policy) allows(address netip.Addr) bool {
	return address.IsValid() && !address.Is4In6() && !isISATAP(address) &&
		p.guardian().SafeAddr(address) == nil
}

// control is a net.Dialer's Control: it sees the address that the socket is
// about to connect to, which leaves a changed DNS answer no gap to slip through.
func (p Policy) control(network, address string, conn syscall.RawConn) error {
	if err := p.guardian().Safe(network, address, conn); err != nil {
		return errBlocked
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil || !p.allows(target.Addr()) {
		return errBlocked
	}
	return nil
}

// isISATAP tells an IPv6 address that carries an IPv4 one in its interface
// identifier, 0000:5efe or 0200:5efe and four bytes (RFC 5214, section 6.1):
// a router may unpack it into a private network.
func isISATAP(address netip.Addr) bool {
	b := address.As16()
	return address.Is6() && b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}
