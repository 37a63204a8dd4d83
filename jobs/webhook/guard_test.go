package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestControl(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, network, address string
		strict, local          bool
	}{
		{"public", "tcp4", "8.8.8.8:443", true, true},
		{"public IPv6, any port", "tcp6", "[2a00:1450::8]:1", true, true},
		{"loopback", "tcp4", "127.0.0.1:443", false, true},
		{"IPv6 loopback", "tcp6", "[::1]:443", false, true},
		{"private", "tcp4", "10.0.0.1:443", false, false},
		{"mapped loopback", "tcp6", "[::ffff:127.0.0.1]:443", false, false},
		{"ISATAP", "tcp6", "[2a00:1450::5efe:808:808]:443", false, false},
		{"Azure", "tcp4", "168.63.129.16:80", false, false},
		{"zone", "tcp6", "[fe80::1%lo]:443", false, false},
		{"no host", "tcp", ":443", false, false},
		{"no port", "tcp4", "8.8.8.8", false, false},
		{"another transport", "udp4", "8.8.8.8:443", false, false},
		{"a socket file", "unix", "/run/a.sock", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for policy, want := range map[*Policy]bool{&strict: test.strict, &local: test.local} {
				err := newGuard(*policy).control(test.network, test.address, nil)
				if _, blocked := errors.AsType[*blockedError](err); blocked == want {
					t.Errorf("control(%q, %q), local %v: got %v; want it to pass: %v", test.network, test.address, policy.Local, err, want)
				}
			}
		})
	}
}

// stub is a network of names without connections.
type stub struct {
	guard   *guard
	answers [][]netip.Addr // of lookups one after the other
	names   []string       // that were looked up
	dialled []string
	takes   string // the address that connects
}

func newStub(policy Policy, answers ...string) *stub {
	s := &stub{guard: newGuard(policy)}
	for _, answer := range answers {
		s.answers = append(s.answers, addresses(answer))
	}
	s.guard.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		s.names = append(s.names, name)
		answer := s.answers[0]
		s.answers = s.answers[1:]
		return answer, nil
	}
	s.guard.dial = func(_ context.Context, network, address string) (net.Conn, error) {
		s.dialled = append(s.dialled, address)
		if address == s.takes {
			return &net.TCPConn{}, nil
		}
		return nil, syscall.ECONNREFUSED
	}
	return s
}

func addresses(list string) (parsed []netip.Addr) {
	for one := range strings.FieldsSeq(list) {
		parsed = append(parsed, netip.MustParseAddr(one))
	}
	return parsed
}

func TestDialJudgesEveryAnswer(t *testing.T) {
	t.Parallel()
	const blocked, refused = "address not allowed", "connection refused"
	for _, test := range []struct {
		name    string
		policy  Policy
		answers string
		takes   string
		dialled string // without their ports
		want    string // error; empty for a connection
	}{
		{"one good answer", strict, "8.8.8.8", "8.8.8.8:443", "8.8.8.8", ""},
		{"the next after one that refuses", strict, "2a00:1450::8 8.8.8.8", "8.8.8.8:443", "[2a00:1450::8] 8.8.8.8", ""},
		{"no answer", strict, "", "", "", "no addresses"},
		{"one bad answer", strict, "127.0.0.1", "", "", blocked},
		{"a bad answer after a good one", strict, "8.8.8.8 10.0.0.1", "", "", blocked},
		{"a bad answer before a good one", strict, "10.0.0.1 8.8.8.8", "", "", blocked},
		{"a bad answer beyond those that are tried", strict, "1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4 ::1", "", "", blocked},
		{"an embedded address", strict, "64:ff9b::a00:1", "", "", blocked},
		{"a zone", strict, "fe80::1%lo", "", "", blocked},
		{"an allowed range", operated, "10.1.2.3", "10.1.2.3:443", "10.1.2.3", ""},
		{"a denied part of it", operated, "10.0.9.1", "", "", blocked},
		{"loopback, locally", local, "127.0.0.1", "127.0.0.1:443", "127.0.0.1", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStub(test.policy, test.answers)
			s.takes = test.takes
			conn, err := s.guard.dialContext(t.Context(), "tcp", "example.com:443")
			if got := fmt.Sprint(err); test.want != "" && !strings.Contains(got, test.want) || test.want == "" && (err != nil || conn == nil) {
				t.Errorf("dial gives %v; want %q", err, test.want)
			}
			if got := strings.ReplaceAll(strings.Join(s.dialled, " "), ":443", ""); got != test.dialled {
				t.Errorf("dialled %q; want %q", got, test.dialled)
			}
			if !slices.Equal(s.names, []string{"example.com."}) {
				t.Errorf("looked up %q; want the absolute name once", s.names)
			}
		})
	}
}

func TestDialResolvesOnce(t *testing.T) {
	t.Parallel()
	s := newStub(strict, "8.8.8.8", "127.0.0.1")
	s.takes = "8.8.8.8:443"
	if _, err := s.guard.dialContext(t.Context(), "tcp", "rebind.example.com:443"); err != nil {
		t.Errorf("first dial gives %v; want the address of the first answer", err)
	}
	_, err := s.guard.dialContext(t.Context(), "tcp", "rebind.example.com:443")
	if blocked, ok := errors.AsType[*blockedError](err); !ok || blocked.address != "127.0.0.1:443" {
		t.Errorf("second dial gives %v; want the second answer blocked", err)
	}
	if len(s.names) != 2 || len(s.dialled) != 1 {
		t.Errorf("two dials looked up %q and dialled %q; want a lookup each and one address", s.names, s.dialled)
	}
}

func TestDialAsksNobodyAboutLiteralsAndLocalhost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"8.8.8.8": "8.8.8.8:443", "2a00:1450::8": "[2a00:1450::8]:443",
		"localhost": "127.0.0.1:443 [::1]:443", "a.localhost": "127.0.0.1:443 [::1]:443",
	} {
		s := newStub(local)
		_, err := s.guard.dialContext(t.Context(), "tcp", net.JoinHostPort(host, "443"))
		if got := strings.Join(s.dialled, " "); got != want || !errors.Is(err, syscall.ECONNREFUSED) || len(s.names) > 0 {
			t.Errorf("%s: dialled %q after looking up %q, %v; want %q", host, got, s.names, err, want)
		}
	}
}

func TestDialRefusesItself(t *testing.T) {
	t.Parallel()
	policy := Policy{Allowed: prefixes("10.0.0.0/8")}
	s := newStub(policy, "8.8.8.8", "2a00:1450::8", "8.8.4.4", "10.0.0.5")
	own := []net.Addr{
		&net.IPNet{IP: net.IPv4(8, 8, 8, 8), Mask: net.CIDRMask(24, 32)},
		&net.IPNet{IP: net.ParseIP("2a00:1450::8"), Mask: net.CIDRMask(64, 128)},
		&net.IPNet{IP: net.IPv4(10, 0, 0, 5), Mask: net.CIDRMask(8, 32)},
	}
	s.guard.own.read = func() ([]net.Addr, error) { return own, nil }
	for _, want := range []bool{false, false, true, true} {
		before := len(s.dialled)
		_, err := s.guard.dialContext(t.Context(), "tcp", "example.com:443")
		if got := len(s.dialled) > before; got != want {
			t.Errorf("dial gives %v after %q; want it dialled: %v", err, s.dialled, want)
		}
	}
	if strict.mayDial(netip.MustParseAddr("8.8.8.8")) != true {
		t.Error("the policy alone refuses 8.8.8.8; want it to know no interfaces")
	}
}

func TestDialGivesEachAddressItsShare(t *testing.T) {
	t.Parallel()
	s := newStub(strict, "1.1.1.1 1.1.1.2 1.1.1.3")
	var shares []time.Duration
	s.guard.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		deadline, _ := ctx.Deadline()
		shares = append(shares, time.Until(deadline))
		return nil, syscall.EHOSTUNREACH
	}
	_, err := s.guard.dialContext(t.Context(), "tcp", "example.com:443")
	if len(shares) != 3 || !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Fatalf("dial gives %v after shares of %v; want three", err, shares)
	}
	for i, share := range shares {
		if most := dialLimit / time.Duration(3-i); share > most {
			t.Errorf("address %d has %s; want at most %s", i+1, share, most)
		}
	}
}

func TestAddressesToTry(t *testing.T) {
	t.Parallel()
	for all, want := range map[string]string{
		"1.1.1.1":                                   "1.1.1.1",
		"1.1.1.2 1.1.1.1 1.1.1.3":                   "1.1.1.2 1.1.1.1 1.1.1.3",
		"2a00::1 2a00::2 1.1.1.1 1.1.1.2":           "2a00::1 1.1.1.1 2a00::2 1.1.1.2",
		"1.1.1.1 1.1.1.2 1.1.1.3 2a00::1":           "1.1.1.1 2a00::1 1.1.1.2 1.1.1.3",
		"2a00::1 2a00::2 2a00::3 2a00::4 1.1.1.1 …": "2a00::1 1.1.1.1 …",
		"1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4 1.1.1.5 …": "1.1.1.1 1.1.1.2 …",
		"1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4 2a00::1 …": "1.1.1.1 2a00::1 …",
	} {
		all, _ := strings.CutSuffix(all, " …")
		want, more := strings.CutSuffix(want, " …")
		got := toTry(addresses(all))
		if more && len(got) != maxAddresses || !slices.Equal(got[:len(strings.Fields(want))], addresses(want)) {
			t.Errorf("of %s: got %v, want %s", all, got, want)
		}
	}
}

// The first addresses of a host may be dead for longer than its callbacks are retried.
func TestDialReachesEachOfManyAddresses(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprintf("1.1.1.%d", i))
	}
	answers := make([]string, 2000) // none of them misses an address but once in 10^35
	for i := range answers {
		answers[i] = strings.Join(many, " ")
	}
	s := newStub(strict, answers...)
	for range answers {
		_, _ = s.guard.dialContext(t.Context(), "tcp", "example.com:443")
	}
	for _, address := range many {
		if !slices.Contains(s.dialled, address+":443") {
			t.Errorf("%s was never tried", address)
		}
	}
	if want := maxAddresses * len(answers); len(s.dialled) != want {
		t.Errorf("got %d dials, want %d, four for each call", len(s.dialled), want)
	}
}

// The dial itself, without Check: addresses that a public name could resolve to.
func TestDialRefusesLoopback(t *testing.T) {
	t.Parallel()
	target := receive(t, func(conn net.Conn) {})
	_, port, _ := net.SplitHostPort(target.address)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", ""} {
		t.Run("host "+host, func(t *testing.T) {
			t.Parallel()
			sender := NewSender(strict, "test")
			conn, err := sender.kept.pattern.DialContext(context.Background(), "tcp", net.JoinHostPort(host, port))
			if _, blocked := errors.AsType[*blockedError](err); !blocked && host != "" {
				t.Errorf("dialling %q gives %v, %v; want it blocked", host, conn, err)
			}
			if got := target.connections.Load(); got != 0 {
				t.Errorf("dialling %q made %d connections; want none", host, got)
			}
		})
	}
}
