package pacing

import (
	"errors"
	"net/netip"
	"slices"
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
	dialled  time.Time // zero before that, or where it has a kept connection
	number   int
	few      bool // in flight when it left
	stranger bool // it holds a slot of the strangers
	trial    bool // of a receiver that has proven itself elsewhere
	probe    bool // of a receiver that is closed by what other clients saw
	ask      bool // the receiver is to be asked first
	over     bool
	refused  limit.Decision // by admit, the latest
}

// pass takes the slots that a callback holds while it is under way.
func (p *Pacing) pass(r *receiver, c *party, a allowance, ask bool, now time.Time) *Pass {
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
		few: 4*r.inFlight <= a.most && (!c.bound || 4*c.inFlight <= int(c.pace.flight)), stranger: r.isStranger(), ask: ask,
		probe: r.breaker.isOpen(now) || r.hearsay.binds(c.client, now),
	}
	c.probing = c.probing || pass.probe
	if !r.together {
		r.underWay = append(r.underWay, pass)
	}
	r.inFlight++
	c.inFlight++
	c.turn = now
	r.pace.take(now, a.rate, pass.number, r.inFlight)
	c.pace.take(now, a.own, pass.number, c.inFlight)
	if ask {
		meanwhile := now.Add(askPatience + halfASec) // the others don't ask
		r.consent.askAt, c.refusal.askAt = meanwhile, meanwhile
	}
	if pass.stranger {
		r.attempts.Take(c.client, now)
		p.strangers.window.Take(c.client, now)
		p.strangerSlots.Take(c.client, 1)
	}
	return pass
}

// asked takes in a receiver's answer to the handshake, and tells whether the callback may
// go on.
func (p *Pacing) asked(pass *Pass, answer webhook.Consent, err error, now time.Time) limit.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := pass.receiver
	c := pass.party
	if errors.Is(err, webhook.ErrTurnedAway) {
		r.consent.askAt, c.refusal.askAt = now, now // it wasn't asked
		p.release(pass, verdict{})
		return pass.refused
	}
	r.consent, c.refusal = r.consent.answered(answer, err, now), c.refusal.answered(answer, err, now)
	if prefix := prefixOf(answer.Address); prefix.IsValid() {
		r.address = prefix
	}
	pass.ask = false
	p.keep(r, now)
	if p.mustAsk(r, c, now) {
		p.release(pass, verdict{})
		return limit.Decision{Reason: Consent, RetryAt: limit.Latest(r.asksAt(c), now.Add(halfASec))}
	}
	return limit.Decision{}
}

// askThere lets the next callback ask an address that has granted nothing.
func (p *Pacing) askThere(pass *Pass, address netip.Prefix, now time.Time) limit.Decision {
	r := pass.receiver
	r.address, r.consent = address, r.consent.seenAt(address, now)
	return limit.Decision{Reason: Consent, RetryAt: limit.Latest(r.asksAt(pass.party), now.Add(halfASec))}
}

// release gives a pass's slots back, with the callback's verdict.
func (p *Pacing) release(pass *Pass, v verdict) {
	p.slots.Release(pass.party.client, 1)
	if pass.stranger {
		p.strangerSlots.Release(pass.party.client, 1)
	}
	if pass.trial {
		pass.party.trial.underWay = false
	}
	if pass.probe {
		pass.party.probing = false
	}
	pass.over = true
	pass.receiver.underWay = slices.DeleteFunc(pass.receiver.underWay, func(other *Pass) bool { return other == pass })
	pass.receiver.inFlight--
	pass.party.inFlight--
	v.number, v.together = pass.number, pass.receiver.together
	pass.receiver.pace.answered(v)
	pass.party.pace.answered(v)
}
