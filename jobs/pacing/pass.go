package pacing

import (
	"net/netip"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// Pass is the slots that a callback holds while it is under way.
type Pass struct {
	pacing   *Pacing
	receiver *receiver
	party    *party
	left     time.Time
	number   int
	few      bool // in flight when it left
	stranger bool // it holds a slot of the strangers
	probe    bool // of a receiver that is closed by what other clients saw
	locate   bool // where it goes is to be found out first
	ask      bool // the receiver is to be asked first
}

// pass takes the slots that a callback holds while it is under way.
func (p *Pacing) pass(r *receiver, c *party, a allowance, stranger, ask bool, now time.Time) *Pass {
	if client := p.clientele(c.client); p.slots.Of(c.client) == 0 {
		client.moved = now
	}
	p.slots.Take(c.client, 1)
	if r.inFlight == 0 {
		r.moved = now
	}
	if c.inFlight == 0 {
		c.moved = now
	}
	r.number++
	pass := &Pass{
		pacing: p, receiver: r, party: c, left: now, number: r.number,
		few: 4*r.inFlight <= a.most && (!c.bound || 4*c.inFlight <= int(c.pace.flight)), stranger: stranger, ask: ask,
		probe: r.breaker.isOpen(now) || r.hearsay.binds(c.client, now),
	}
	c.probing = c.probing || pass.probe
	r.inFlight++
	c.inFlight++
	c.turn = now
	r.pace.take(now, a.rate, pass.number, r.inFlight)
	c.pace.take(now, a.own, pass.number, c.inFlight)
	if ask {
		meanwhile := now.Add(askPatience + halfASec) // the others don't ask
		r.consent.askAt, c.refusal.askAt = meanwhile, meanwhile
	}
	if stranger {
		p.strangers.window.Take(c.client, now)
		p.strangerSlots.Take(c.client, 1)
		if pass.locate = !r.address.IsValid(); !pass.locate {
			p.addressBudget(r.address, now).window.Take(c.client, now)
		}
	}
	return pass
}

// located takes in a stranger's address, and tells whether there is room for the
// callback. An address that isn't found is left to the attempt.
func (p *Pacing) located(pass *Pass, address netip.Addr, err error, now time.Time) limit.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || !address.IsValid() {
		return limit.Decision{}
	}
	pass.receiver.address = prefixOf(address)
	return p.takeAddress(pass, now)
}

// takeAddress takes room at the address of a stranger, or ends the pass.
func (p *Pacing) takeAddress(pass *Pass, now time.Time) limit.Decision {
	callback := Callback{Client: pass.party.client, CameBack: true}
	b := p.addressBudget(pass.receiver.address, now)
	if !b.room(callback, now) {
		p.release(pass, verdict{})
		return limit.Decision{Reason: Strangers, RetryAt: b.reserve(callback.Client, now)}
	}
	b.window.Take(callback.Client, now)
	return limit.Decision{}
}

// asked takes in a receiver's answer to the handshake, and tells whether the callback may
// go on.
func (p *Pacing) asked(pass *Pass, answer webhook.Consent, err error, now time.Time) limit.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := pass.receiver
	c := pass.party
	r.consent, c.refusal = r.consent.answered(answer, err, now), c.refusal.answered(answer, err, now)
	if prefix := prefixOf(answer.Address); prefix.IsValid() {
		r.address = prefix
	}
	p.keep(r, now)
	if p.mustAsk(r, c, now) {
		p.release(pass, verdict{})
		return limit.Decision{Reason: Consent, RetryAt: limit.Latest(r.asksAt(c), now.Add(halfASec))}
	}
	if pass.stranger && r.address.IsValid() {
		return p.takeAddress(pass, now)
	}
	return limit.Decision{}
}

// release gives a pass's slots back, with the callback's verdict.
func (p *Pacing) release(pass *Pass, v verdict) {
	p.slots.Release(pass.party.client, 1)
	if pass.stranger {
		p.strangerSlots.Release(pass.party.client, 1)
	}
	if pass.probe {
		pass.party.probing = false
	}
	pass.receiver.inFlight--
	pass.party.inFlight--
	v.number, v.together = pass.number, pass.receiver.together
	pass.receiver.pace.answered(v)
	pass.party.pace.answered(v)
}
