package webhook

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"ringback/internal/bubble"
)

func TestInterfacesAreReadAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		address, reads := net.IPv4(8, 8, 8, 8), 0
		var failure error
		own := &interfaces{read: func() ([]net.Addr, error) {
			reads++
			return []net.Addr{&net.IPNet{IP: address, Mask: net.CIDRMask(24, 32)}}, failure
		}}
		hold := func(step, asked string, want bool, wantReads int) {
			t.Helper()
			if got := own.has(netip.MustParseAddr(asked)); got != want || reads != wantReads {
				t.Errorf("%s: holds %s is %v after %d reads; want %v after %d", step, asked, got, reads, want, wantReads)
			}
		}
		failure = errors.New("no kernel")
		hold("not known", "1.1.1.1", true, 1)
		failure = nil
		hold("known", "8.8.8.8", true, 2)
		hold("another", "8.8.8.9", false, 2)
		address = net.IPv4(8, 8, 8, 9)
		time.Sleep(interfacesAge - time.Nanosecond)
		hold("within the minute", "8.8.8.9", false, 2)
		time.Sleep(time.Nanosecond)
		hold("after it", "8.8.8.9", true, 3)
		hold("the old one", "8.8.8.8", false, 3)
		failure = errors.New("no kernel")
		time.Sleep(interfacesAge)
		hold("known from before", "8.8.8.9", true, 4)
	})
}

func TestInterfacesOfThisMachine(t *testing.T) {
	t.Parallel()
	if !newInterfaces().has(netip.MustParseAddr("127.0.0.1")) {
		t.Error("127.0.0.1 isn't held; want the addresses of the machine")
	}
}
