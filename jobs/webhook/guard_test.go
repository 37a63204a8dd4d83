package webhook

import (
	"context"
	"errors"
	"net"
	"net/netip"
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
				if got := strict.allows(parsed); got != (want == always) {
					t.Errorf("strict policy allows(%s) = %v; want it %s", address, got, want)
				}
				if got := local.allows(parsed); got != (want != never) {
					t.Errorf("local policy allows(%s) = %v; want it %s", address, got, want)
				}
			})
		}
	}
	if strict.allows(netip.Addr{}) || local.allows(netip.Addr{}) {
		t.Error("no address at all is allowed; want it refused")
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, network, address string
		strict, local          error
	}{
		{"public", "tcp4", "8.8.8.8:443", nil, nil},
		{"public IPv6, any port", "tcp6", "[2a00:1450::8]:1", nil, nil},
		{"loopback", "tcp4", "127.0.0.1:443", errBlocked, nil},
		{"IPv6 loopback", "tcp6", "[::1]:443", errBlocked, nil},
		{"private", "tcp4", "10.0.0.1:443", errBlocked, errBlocked},
		{"mapped loopback", "tcp6", "[::ffff:127.0.0.1]:443", errBlocked, errBlocked},
		{"ISATAP", "tcp6", "[2a00:1450::5efe:808:808]:443", errBlocked, errBlocked},
		{"Azure", "tcp4", "168.63.129.16:80", errBlocked, errBlocked},
		{"zone", "tcp6", "[fe80::1%lo]:443", errBlocked, errBlocked},
		{"no host", "tcp", ":443", errBlocked, errBlocked},
		{"no port", "tcp4", "8.8.8.8", errBlocked, errBlocked},
		{"another transport", "udp4", "8.8.8.8:443", errBlocked, errBlocked},
		{"a socket file", "unix", "/run/a.sock", errBlocked, errBlocked},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := strict.control(test.network, test.address, nil); got != test.strict {
				t.Errorf("strict control(%q, %q) = %v; want %v", test.network, test.address, got, test.strict)
			}
			if got := local.control(test.network, test.address, nil); got != test.local {
				t.Errorf("local control(%q, %q) = %v; want %v", test.network, test.address, got, test.local)
			}
		})
	}
}

// The dial itself, past Check: what a public name could resolve to.
func TestDialRefusesLoopback(t *testing.T) {
	t.Parallel()
	target := receive(t, func(conn net.Conn) {})
	_, port, _ := net.SplitHostPort(target.address)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", ""} {
		t.Run("host "+host, func(t *testing.T) {
			t.Parallel()
			sender := NewSender(strict, "test")
			conn, err := sender.transport.DialContext(context.Background(), "tcp", net.JoinHostPort(host, port))
			if !errors.Is(err, errBlocked) {
				t.Errorf("dialling %q gives %v, %v; want %v", host, conn, err, errBlocked)
			}
			if got := target.connections.Load(); got != 0 {
				t.Errorf("dialling %q made %d connections; want none", host, got)
			}
		})
	}
}
