package webhook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a DNS server that knows the records it is given. It answers
// NXDOMAIN for other names and nothing at all for "silent.".
type nameServer struct {
	address   netip.AddrPort
	questions atomic.Int32
}

func serveDNS(t *testing.T, records map[string][]netip.Addr) *nameServer {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	server := &nameServer{address: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	go func() {
		packet := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			server.questions.Add(1)
			if answer := answerDNS(packet[:n], records); answer != nil {
				_, _ = conn.WriteToUDPAddrPort(answer, from)
			}
		}
	}()
	return server
}

func answerDNS(packet []byte, records map[string][]netip.Addr) []byte {
	var message dnsmessage.Message
	if message.Unpack(packet) != nil || len(message.Questions) != 1 {
		return nil
	}
	question := message.Questions[0]
	known, exists := records[question.Name.String()]
	answer := dnsmessage.Message{Header: dnsmessage.Header{ID: message.ID, Response: true}, Questions: message.Questions}
	if !exists {
		answer.RCode = dnsmessage.RCodeNameError
	}
	for _, address := range known {
		resource := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET}}
		switch {
		case !address.IsValid():
			return nil
		case address.Is4() && question.Type == dnsmessage.TypeA:
			resource.Body = &dnsmessage.AResource{A: address.As4()}
		case address.Is6() && question.Type == dnsmessage.TypeAAAA:
			resource.Body = &dnsmessage.AAAAResource{AAAA: address.As16()}
		default:
			continue
		}
		answer.Answers = append(answer.Answers, resource)
	}
	packed, err := answer.Pack()
	if err != nil {
		return nil
	}
	return packed
}

var records = map[string][]netip.Addr{
	"public.example.com.": addresses("8.8.8.8 2a00:1450::8"),
	"mapped.example.com.": addresses("::ffff:127.0.0.1"),
	"mixed.example.com.":  addresses("8.8.8.8 10.0.0.1"),
	"silent.example.com.": {{}},
}

func TestLookup(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]netip.Addr{
		"public.example.com.": addresses("2a00:1450::8 8.8.8.8"),
		"mapped.example.com.": addresses("127.0.0.1"),
	} {
		server := serveDNS(t, records)
		got, err := newResolvers([]netip.AddrPort{server.address}).lookup(t.Context(), name)
		slices.SortFunc(got, func(a, b netip.Addr) int { return b.Compare(a) })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("lookup(%q) = %v, %v; want %v", name, got, err, want)
		}
	}
}

func TestLookupAsksTheNextResolver(t *testing.T) {
	t.Parallel()
	mute := serveDNS(t, map[string][]netip.Addr{"public.example.com.": {{}}})
	knows := serveDNS(t, records)
	asked := newResolvers([]netip.AddrPort{mute.address, knows.address})

	withMoreTime(t, func(limit time.Duration) (bool, any) { // half of it for the silent resolver
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		got, err := asked.lookup(ctx, "public.example.com.")
		return err == nil && len(got) == 2, err
	})
	before := knows.questions.Load()
	_, err := asked.lookup(t.Context(), "nowhere.example.com.")
	if failure, ok := errors.AsType[*net.DNSError](err); !ok || !failure.IsNotFound || knows.questions.Load() != before {
		t.Errorf("after one that says no: got %v and %d more questions; want no such host at once", err, knows.questions.Load()-before)
	}
}

func TestSendToNames(t *testing.T) {
	t.Parallel()
	server := serveDNS(t, records)
	for name, want := range map[string]struct{ address, cause string }{
		"mapped.example.com":  {"127.0.0.1:443", "address not allowed"},
		"mixed.example.com":   {"10.0.0.1:443", "address not allowed"},
		"nowhere.example.com": {"", "no such host"},
	} {
		sender := NewSender(Policy{Resolvers: []netip.AddrPort{server.address}}, "test")
		beUnhurried(sender)
		got := sender.Send(t.Context(), message("https://"+name+"/"))
		expect(t, got, Attempt{Outcome: ConnectionFailed, Cause: want.cause})
		if got.Address != want.address || got.DNS <= 0 || got.Connect != 0 {
			t.Errorf("%s: address is %q, lookup took %s, connect %s; want %q, some time, none", name, got.Address, got.DNS, got.Connect, want.address)
		}
	}
	sender := NewSender(Policy{Resolvers: []netip.AddrPort{server.address}}, "test")
	beUnhurried(sender)
	sender.guard.resolveLimit = 10 * time.Millisecond
	expect(t, sender.Send(t.Context(), message("https://silent.example.com/")), Attempt{Outcome: ConnectionFailed, Cause: "name resolution took too long"})
}
