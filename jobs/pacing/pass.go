package pacing

import (
	"slices"
	"time"

	"ringback/jobs/limit"
)

// Pass is the slots that a callback holds while it is under way.
type Pass struct {
	pacing   *Pacing
	receiver *receiver
	party    *party
	left     time.Time      // when the callback left
	dialled  time.Time      // when admit let it be dialled; zero before, and on a kept connection
	number   int            // of the callback, by receiver
	few      bool           // few callbacks were in flight when it left
	stranger bool           // it holds a slot of the strangers
	trial    bool           // at an address where the receiver, proven elsewhere, has not proven itself
	probe    bool           // the receiver was closed by evidence of other clients when it left
	ask      bool           // the receiver is to be asked first
	over     bool           // its slots are given back
	refused  limit.Decision // the latest refusal of admit
}

// pass takes the slots that a callback holds while it is under way.
func (p *Pacing) pass(r *receiver, c *party, a allowance, ask bool, now time.Time) *Pass {
	if client := p.clientState(c.client); p.slots.Of(c.client) == 0 {
		client.lastProgress = now
	}
	p.slots.Take(c.client, 1)
	if r.inFlight == 0 {
		r.lastProgress = now
	}
	if c.inFlight == 0 {
		c.lastProgress = now
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
	r.pace.depart(now, a.rate, pass.number, r.inFlight)
	c.pace.depart(now, a.own, pass.number, c.inFlight)
	if ask {
		meanwhile := now.Add(askPatience + halfASec) // no other callback asks until then
		r.consent.askAt, c.refusal.askAt = meanwhile, meanwhile
	}
	if pass.stranger {
		r.attempts.Take(c.client, now)
		p.strangers.window.Take(c.client, now)
		p.strangerSlots.Take(c.client, 1)
	}
	return pass
}

// release gives a pass's slots back, and tells the paces the callback's verdict.
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
	pass.receiver.pace.note(v)
	pass.party.pace.note(v)
}
