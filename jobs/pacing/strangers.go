package pacing

import (
	"net/netip"
	"time"

	"ringback/jobs/limit"
)

// Strangers share budgets, since names are free and addresses are cheap: one budget for all
// strangers, and one for the strangers at each address. Besides, strangerSlots leave half of the
// workers to proven receivers.
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

// room tells whether there is room for a callback now, and notes that the budget was asked.
func (b *budget) room(callback Callback, now time.Time) bool {
	b.used = now
	return b.window.Room(callback.Client, now, 1+spare(b.line(callback.Client), callback, now))
}

// reserve returns when a refused callback of a client comes back.
func (b *budget) reserve(client string, now time.Time) time.Time {
	step := b.window.Interval()
	return b.line(client).Reserve(limit.Latest(b.window.FreeAt(now), now.Add(step)), step, step)
}

// addressBudget returns the budget of the strangers at an address.
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
