package webhook

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// interfaces knows the addresses of this machine, so that callbacks can't reach it at a
// public address.
type interfaces struct {
	read func() ([]net.Addr, error)

	mu        sync.Mutex
	readAt    time.Time
	addresses map[netip.Addr]bool // nil before the first success
}

// interfacesAge is how old the known addresses may be: a cloud may add and remove addresses
// at any time, and asking the kernel costs less than a dial.
const interfacesAge = time.Minute

func newInterfaces() *interfaces { return &interfaces{read: net.InterfaceAddrs} }

// has tells whether an address is this machine's. Until the interfaces were read once, every
// address counts as this machine's.
func (i *interfaces) has(address netip.Addr) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.readAt) >= interfacesAge {
		i.refresh()
	}
	return i.addresses == nil || i.addresses[address]
}

// refresh keeps the known addresses where the interfaces can't be read.
func (i *interfaces) refresh() {
	read, err := i.read()
	if err != nil {
		return
	}
	i.readAt, i.addresses = time.Now(), map[netip.Addr]bool{}
	for _, one := range read {
		if prefix, err := netip.ParsePrefix(one.String()); err == nil {
			i.addresses[prefix.Addr().Unmap().WithZone("")] = true
		}
	}
}
