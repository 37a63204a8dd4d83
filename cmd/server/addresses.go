package main

import (
	"container/heap"
	"container/list"
	"net"
	"net/netip"
	"time"
)

// addresses knows the address of each connection, and since when each is idle. All
// connections from an IPv6 /64 count as one address, since a single host may have all of
// it.
type addresses struct {
	known  map[netip.Prefix]*address // that have a connection
	ranked ranking                   // addresses with an idle connection
	idling int                       // connections
}

// address is an origin of connections. Each connection of an exempt address has an
// address for itself, so that it is never among the greatest.
type address struct {
	prefix netip.Prefix
	exempt bool
	held   int
	idle   *list.List // of *boundConn, the longest idle first
	rank   int        // its index in the ranking, -1 without an idle connection
}

// idleConn is the idle state of a connection.
type idleConn struct {
	since time.Time
	place *list.Element // among its address's idle connections, nil when it isn't idle
}

func newAddresses() addresses { return addresses{known: map[netip.Prefix]*address{}} }

// of returns the address of a connection that may yet enter.
func (a *addresses) of(remote net.Addr, exempt []netip.Prefix) *address {
	fresh := &address{idle: list.New(), rank: -1}
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		fresh.exempt = true
		return fresh
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if fresh.exempt = containsAddr(exempt, ip); fresh.exempt {
		return fresh
	}
	fresh.prefix = prefixOf(ip)
	if known := a.known[fresh.prefix]; known != nil {
		return known
	}
	return fresh
}

func containsAddr(prefixes []netip.Prefix, ip netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

func prefixOf(ip netip.Addr) netip.Prefix {
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}

// enter adds a connection, which is idle until its first call comes.
func (a *addresses) enter(c *boundConn, now time.Time) {
	c.address.held++
	if !c.address.exempt {
		a.known[c.address.prefix] = c.address
	}
	a.idle(c, now)
}

func (a *addresses) leave(c *boundConn) {
	c.address.held--
	if c.address.held == 0 && !c.address.exempt {
		delete(a.known, c.address.prefix)
	}
	a.busy(c)
}

func (a *addresses) idle(c *boundConn, now time.Time) {
	if c.place == nil {
		c.since, c.place = now, c.address.idle.PushBack(c)
		a.idling++
	}
	a.rank(c.address)
}

func (a *addresses) busy(c *boundConn) {
	if c.place != nil {
		c.address.idle.Remove(c.place)
		c.place = nil
		a.idling--
	}
	a.rank(c.address)
}

// rank moves an address that changed to its position in the ranking.
func (a *addresses) rank(of *address) {
	switch idle := of.idle.Len() > 0; {
	case idle && of.rank < 0:
		heap.Push(&a.ranked, of)
	case idle:
		heap.Fix(&a.ranked, of.rank)
	case of.rank >= 0:
		heap.Remove(&a.ranked, of.rank)
	}
}

// greatest is the address that holds the most connections, among addresses with an idle
// connection; of equals, the one whose idle connection is the oldest. It is nil where no
// connection is idle.
func (a *addresses) greatest() *address {
	if len(a.ranked) == 0 {
		return nil
	}
	return a.ranked[0]
}

// longestIdle is nil where none is idle.
func (a *address) longestIdle() *boundConn {
	if front := a.idle.Front(); front != nil {
		return front.Value.(*boundConn)
	}
	return nil
}

// ranking is a heap.Interface.
type ranking []*address

func (r ranking) Len() int { return len(r) }

func (r ranking) Less(i, j int) bool {
	if r[i].held != r[j].held {
		return r[i].held > r[j].held
	}
	return r[i].longestIdle().since.Before(r[j].longestIdle().since)
}

func (r ranking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].rank, r[j].rank = i, j
}

// Push is heap.Interface's.
func (r *ranking) Push(of any) {
	of.(*address).rank = len(*r)
	*r = append(*r, of.(*address))
}

// Pop is heap.Interface's.
func (r *ranking) Pop() any {
	last := (*r)[len(*r)-1]
	last.rank = -1
	*r = (*r)[:len(*r)-1]
	return last
}
