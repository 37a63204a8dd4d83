package pacing

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"ringback/jobs/limit"
)

// Strangers share budgets, since names are free and addresses are cheap: a budget for all
// strangers, which leaves half of the workers to proven receivers, and a budget for the
// strangers at each address.
const (
	strangersRate = 100 // a second
	addressRate   = 20  // a second
)

// budget is a rate that strangers share, by client.
type budget struct {
	window limit.Window
	lines  map[string]*limit.Line // by client
	used   time.Time
}

func newBudget(perSecond int, shared bool) *budget {
	return &budget{window: limit.NewWindow(perSecond, time.Second, shared), lines: map[string]*limit.Line{}}
}

func (b *budget) line(client string) *limit.Line {
	line := b.lines[client]
	if line == nil {
		line = &limit.Line{}
		b.lines[client] = line
	}
	return line
}

// room tells whether there is room for a callback now.
func (b *budget) room(callback Callback, now time.Time) bool {
	b.used = now
	return b.window.Room(callback.Client, now, 1+spare(b.line(callback.Client), callback, now))
}

// reserve tells a refused callback when to come back.
func (b *budget) reserve(client string, now time.Time) time.Time {
	step := b.window.Interval()
	return b.line(client).Reserve(limit.Latest(b.window.FreeAt(now), now.Add(step)), step, step)
}

// addressBudget returns the budget of an address.
func (p *Pacing) addressBudget(address netip.Prefix, now time.Time) *budget {
	b := p.addresses[address]
	if b == nil {
		forgetIdle(p.addresses, func(b *budget) time.Time { return b.used }, func(*budget) bool { return false })
		b = newBudget(addressRate, p.shared)
		b.used = now
		p.addresses[address] = b
	}
	return b
}

// maxReceivers bounds the receivers in memory, some 1,500 bytes each. Naming enough
// others to make the process forget a receiver takes minutes at the strangers' rate, and
// gains only the starting pace.
const maxReceivers = 10_000

// add begins to know a receiver.
func (p *Pacing) add(name string, now time.Time) *receiver {
	forgetIdle(p.receivers, func(r *receiver) time.Time { return r.used }, (*receiver).isBusy)
	r := newReceiver(name, now)
	p.receivers[name] = r
	return r
}

func (r *receiver) isBusy() bool { return r.inFlight > 0 || !r.memory.loaded || r.memory.unsaved }

// forgetIdle makes room in a full map, a tenth at a time, by dropping the longest unused
// entries.
func forgetIdle[K comparable, V any](known map[K]*V, used func(*V) time.Time, busy func(*V) bool) {
	if len(known) < maxReceivers {
		return
	}
	var idle []K
	for key, value := range known {
		if !busy(value) {
			idle = append(idle, key)
		}
	}
	slices.SortFunc(idle, func(a, b K) int { return cmp.Compare(used(known[a]).UnixNano(), used(known[b]).UnixNano()) })
	for _, key := range idle[:min(len(idle), maxReceivers/10)] {
		delete(known, key)
	}
}

// prefixOf is the range of addresses that share a budget. In IPv6 it is a /64, which the
// owner of an address has whole.
func prefixOf(address netip.Addr) netip.Prefix {
	address = address.Unmap()
	bits := 64
	if address.Is4() {
		bits = 32
	}
	prefix, _ := address.Prefix(bits) // zero for no address
	return prefix
}
