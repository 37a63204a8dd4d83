package main

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAddressOf(t *testing.T) {
	t.Parallel()
	exempt := append([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, loopback...)
	for remote, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8::1": "2001:db8::/64", "2001:db8::ffff:2": "2001:db8::/64", "2001:db8:0:1::1": "2001:db8:0:1::/64", "fe80::1%eth0": "fe80::/64",
		"10.1.2.3": "exempt", "::ffff:10.1.2.3": "exempt", "127.0.0.1": "exempt", "::1": "exempt",
	} {
		known := newAddresses()
		got := known.of(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(remote), 1)), exempt)
		if got.exempt != (want == "exempt") || !got.exempt && got.prefix.String() != want {
			t.Errorf("%s: got %v, exempt %v, want %s", remote, got.prefix, got.exempt, want)
		}
	}
}

// After any sequence of connections that come, fall idle, are used and go, the greatest
// address has the most connections of all addresses with an idle connection, and its
// longest idle connection is known.
func TestAddressesKnowTheGreatest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, now := newAddresses(), time.Unix(0, 0)
		var open []*boundConn
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Second)
			if step := rapid.IntRange(0, 3).Draw(t, "step"); step == 0 || len(open) == 0 {
				remote := &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(rapid.IntRange(0, 5).Draw(t, "from"))), Port: 1}
				c := &boundConn{address: a.of(remote, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/32")})}
				a.enter(c, now)
				open = append(open, c)
			} else {
				at := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				switch step {
				case 1:
					a.busy(open[at])
				case 2:
					a.idle(open[at], now)
				case 3:
					a.leave(open[at])
					open = append(open[:at], open[at+1:]...)
				}
			}
			checkGreatest(t, &a, open)
		}
	})
}

func checkGreatest(t *rapid.T, a *addresses, open []*boundConn) {
	idling, known := 0, map[netip.Prefix]bool{}
	var longest *boundConn // of the greatest, as all connections say it
	for _, c := range open {
		if !c.address.exempt {
			known[c.address.prefix] = true
		}
		if c.place == nil {
			continue
		}
		idling++
		if longest == nil || c.address.held > longest.address.held || c.address.held == longest.address.held && c.since.Before(longest.since) {
			longest = c
		}
	}
	if a.idling != idling || len(a.known) != len(known) {
		t.Fatalf("got %d idle and %d addresses, want %d and %d", a.idling, len(a.known), idling, len(known))
	}
	greatest := a.greatest()
	if longest == nil && greatest != nil || longest != nil && (greatest == nil || greatest.longestIdle() != longest) {
		t.Fatalf("got the greatest %+v, want the one of %+v", greatest, longest)
	}
}
