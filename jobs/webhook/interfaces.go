package webhook

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// interfaces knows the addresses of this machine's interfaces: public addresses among
// them would otherwise be callable.
type interfaces struct {
	read func() ([]net.Addr, error)

	mu        sync.Mutex
	readAt    time.Time
	addresses map[netip.Addr]bool // nil before the first success
}

// interfacesAge is how old they may be: addresses come and go with the cloud's
// wishes, and asking the kernel costs less than a dial.
const interfacesAge = time.Minute

func newInterfaces() *interfaces { return &interfaces{read: net.InterfaceAddrs} }

// has reports whether an address is this machine's. While the interfaces can't be read,
// every address counts as this machine's.
func (i *interfaces) has(address netip.Addr) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.readAt) >= interfacesAge {
		i.refresh()
	}
	return i.addresses == nil || i.addresses[address]
}

// refresh keeps the known addresses where the kernel doesn't tell.
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
