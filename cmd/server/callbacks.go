package main

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ringback/jobs/webhook"
)

// callbackPolicy says which callback URLs this server accepts and calls.
func callbackPolicy(c Config) webhook.Policy {
	return webhook.Policy{
		Local:     c.dev,
		Allowed:   c.CallbackAllowCIDRs,
		Denied:    slices.Concat(c.CallbackDenyCIDRs, c.PublicHosts.ranges),
		Ports:     c.CallbackPorts,
		Names:     c.PublicHosts.names,
		Resolvers: c.CallbackDNS,
	}
}

// ranges are address ranges.
type ranges []netip.Prefix

// UnmarshalText reads range,range, such as 10.0.0.0/8,fd00::/8.
func (r *ranges) UnmarshalText(text []byte) error {
	*r = nil
	for one := range items(text) {
		prefix, err := netip.ParsePrefix(one)
		if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return fmt.Errorf("must be address ranges such as 10.0.0.0/8,fd00::/8, not %q", one)
		}
		*r = append(*r, prefix)
	}
	return nil
}

// ports are TCP ports.
type ports []uint16

// UnmarshalText reads port,port.
func (p *ports) UnmarshalText(text []byte) error {
	*p = nil
	for one := range items(text) {
		port, err := strconv.ParseUint(one, 10, 16)
		if err != nil || port == 0 {
			return fmt.Errorf("must be ports from 1 to 65535, not %q", one)
		}
		*p = append(*p, uint16(port))
	}
	return nil
}

// resolvers are the addresses of name servers.
type resolvers []netip.AddrPort

// UnmarshalText reads address,address:port. The port is 53 where none is given.
func (r *resolvers) UnmarshalText(text []byte) error {
	*r = nil
	for one := range items(text) {
		server, err := netip.ParseAddrPort(one)
		if address, plain := netip.ParseAddr(one); plain == nil {
			server, err = netip.AddrPortFrom(address, 53), nil
		}
		if err != nil || server.Port() == 0 {
			return fmt.Errorf("must be addresses of name servers such as 10.0.0.53,10.0.1.53:5353, not %q", one)
		}
		*r = append(*r, server)
	}
	return nil
}

// consent is whether receivers must grant callbacks before they get any.
type consent bool

// UnmarshalText reads required or off. The word earned of earlier versions means off: a
// receiver's own answers decided how many callbacks it got, as they do for all now.
func (c *consent) UnmarshalText(text []byte) error {
	switch string(text) {
	case "required":
		*c = true
	case "off", "earned":
		*c = false
	default:
		return fmt.Errorf("must be required or off, not %q", text)
	}
	return nil
}

// hosts are the service's own public names, and its public addresses as ranges of one
// address.
type hosts struct {
	names  []string
	ranges []netip.Prefix
}

// UnmarshalText reads name,address.
func (h *hosts) UnmarshalText(text []byte) error {
	*h = hosts{}
	for one := range items(text) {
		name, err := webhook.PublicName(one)
		address, notAddress := netip.ParseAddr(one)
		switch {
		case notAddress == nil && address.Zone() == "" && !address.Is4In6():
			h.ranges = append(h.ranges, netip.PrefixFrom(address, address.BitLen()))
		case err == nil:
			h.names = append(h.names, name)
		default:
			return fmt.Errorf("must be public host names and IP addresses, not %q: %w", one, err)
		}
	}
	return nil
}

// items yields the items between the commas.
func items(text []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for one := range strings.SplitSeq(string(text), ",") {
			if !yield(strings.TrimSpace(one)) {
				return
			}
		}
	}
}
