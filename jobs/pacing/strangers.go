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
	return &budget{window: limit.NewWindow(limit.NewSlots(perSecond, shared), time.Second), lines: map[string]*limit.Line{}}
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

// trial is a client's callbacks to addresses at which a receiver has not proven itself, since its
// name moved: one at a time, at a stranger's rate. A client that fails there holds up no other.
type trial struct {
	underWay bool
	pace     pace      // once it failed
	next     time.Time // no sooner, zero before it failed
	line     limit.Line
}

func (t *trial) hasFailed() bool { return !t.next.IsZero() }

func (t *trial) fail(k kind, now time.Time) {
	if !t.hasFailed() {
		t.pace = newPace(now)
	}
	t.pace.fail(k)
	t.next = now.Add(limit.PerSecond(t.pace.rate))
}

// reserve tells a callback when to come back that finds another under way, or a failure not long
// ago. More come back than the rate has room for: once the address is proven, all may leave.
func (t *trial) reserve(now time.Time) time.Time {
	step := limit.PerSecond(t.pace.rate) / 10
	return t.line.Reserve(limit.Latest(t.next, now.Add(step)), step, limit.PerSecond(startRate))
}

// admit tells whether a callback, or the question before it, may be sent to an address. It takes
// room in the budgets where the receiver has not proven itself there.
func (p *Pacing) admit(pass *Pass, address netip.Prefix, keeps bool, now time.Time) limit.Decision {
	r, client := pass.receiver, pass.party.client
	isGranted := !p.required || pass.ask || r.consent.covers(address, now)
	switch {
	case r.ruling.isAllowed() || isGranted && r.isProvenAt(address):
		pass.dialled = now
		return limit.Decision{}
	case keeps || pass.over: // its dial goes on when it doesn't need it any more
		return limit.Decision{Reason: Strangers}
	case !isGranted:
		pass.refused = p.askThere(pass, address, now)
		return pass.refused
	}
	if pass.stranger && !pass.trial {
		r.address = address
	}
	b := p.addressBudget(address, now)
	switch back := (Callback{Client: client, CameBack: true}); {
	case !b.room(back, now):
		pass.refused = limit.Decision{Reason: Strangers, RetryAt: b.reserve(client, now)}
		return pass.refused
	case !pass.stranger:
		if pass.refused = p.try(pass, back, now); !pass.refused.OK() {
			return pass.refused
		}
	}
	b.window.Take(client, now)
	pass.dialled = now
	return limit.Decision{}
}

// try lets a callback of a proven receiver go to an address at which it has not proven itself, in
// the room of strangers, or says when it may come back.
func (p *Pacing) try(pass *Pass, callback Callback, now time.Time) limit.Decision {
	r, c := pass.receiver, pass.party
	switch t := &c.trial; {
	case t.hasFailed() && (t.underWay || t.next.After(now)):
		return limit.Decision{Reason: Strangers, RetryAt: t.reserve(now)}
	case t.underWay:
		return limit.Decision{Reason: Strangers, RetryAt: p.reserve(r, c, p.allowance(r, c, now), now.Add(r.expected(c, now)), now)}
	case !p.strangers.room(callback, now):
		return limit.Decision{Reason: Strangers, RetryAt: p.strangers.reserve(c.client, now)}
	case !p.strangerSlots.Take(c.client, 1):
		return limit.Decision{Reason: Strangers, RetryAt: p.reserveSlot(c.client, p.strangerSlots.Of(c.client), now)}
	}
	p.strangers.window.Take(c.client, now)
	pass.stranger, pass.trial, c.trial.underWay = true, true, true
	return limit.Decision{}
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
