package pacing

import (
	"net/netip"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// Admission is what the sender asks before it looks a name up, and before it dials.
func (pass *Pass) Admission() webhook.Admission {
	return webhook.Admission{Lookup: pass.Lookup, Dial: pass.Admit}
}

// Admit tells whether the callback may be dialled at an address. The sender calls it just before
// the dial, since a name may change its address at any time. With isKept, later callbacks will use
// the connection, too. Admit allows that only where the receiver has proven itself. Elsewhere the
// callback needs room in the budgets of strangers.
func (pass *Pass) Admit(address netip.Addr, isKept bool) bool {
	p := pass.pacing
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.admit(pass, prefixOf(address), isKept, time.Now()).OK()
}

// Refused tells when a callback that was admitted nowhere may come back, and why.
func (pass *Pass) Refused() limit.Decision {
	p := pass.pacing
	p.mu.Lock()
	defer p.mu.Unlock()
	return pass.refused
}

// admit tells whether a callback, or the question before it, may be sent to an address. Where the
// receiver has not proven itself there, admit takes room in the budgets.
func (p *Pacing) admit(pass *Pass, address netip.Prefix, isKept bool, now time.Time) limit.Decision {
	r, client := pass.receiver, pass.party.client
	isGranted := !p.required || pass.ask || r.consent.covers(address, now)
	switch {
	case r.ruling.isAllowed() || isGranted && r.isProvenAt(address):
		pass.dialled = now
		return limit.Decision{}
	case isKept || pass.over: // over: the callback has ended, or got another connection, but its dial goes on
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

// try lets a callback of a proven receiver go to an address at which the receiver has not proven
// itself, in the room of strangers. Without room, it says when the callback may come back.
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

// trial is a client's callbacks to addresses at which a receiver that was proven elsewhere has not
// proven itself. The client has one at a time, at a stranger's rate. A client that fails there
// holds up no other.
type trial struct {
	underWay bool
	pace     pace      // after the first failure
	next     time.Time // the next callback leaves no sooner; zero before the first failure
	line     limit.Line
}

func (t *trial) hasFailed() bool { return !t.next.IsZero() }

func (t *trial) slowDown(k kind, now time.Time) {
	if !t.hasFailed() {
		t.pace = newPace(now)
	}
	t.pace.slowDown(k)
	t.next = now.Add(limit.PerSecond(t.pace.rate))
}

// reserve returns when a callback comes back that found another under way, or a failure not long
// ago. More callbacks come back than the rate has room for, since all may leave once the address
// is proven.
func (t *trial) reserve(now time.Time) time.Time {
	step := limit.PerSecond(t.pace.rate) / 10
	return t.line.Reserve(limit.Latest(t.next, now.Add(step)), step, limit.PerSecond(startRate))
}

// prefixOf is the range of addresses that share a budget. In IPv6 it is a /64, which the
// owner of an address has whole.
func prefixOf(address netip.Addr) netip.Prefix {
	address = address.Unmap()
	bits := 64
	if address.Is4() {
		bits = 32
	}
	prefix, _ := address.Prefix(bits) // the zero Prefix for the zero Addr
	return prefix
}
