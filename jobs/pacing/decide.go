package pacing

import (
	"net/netip"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// Pass is what a callback holds while it is under way.
type Pass struct {
	pacing   *Pacing
	receiver *receiver
	party    *party
	left     time.Time
	number   int
	few      bool // in flight when it left
	stranger bool // it holds a slot of the strangers
	locate   bool // where it goes is to be found out first
	ask      bool // the receiver is to be asked first
}

// decide lets a callback leave, or says when it may come back, and why. What says
// no for all clients comes before what says no for one, and what is the receiver's
// before what is ours, so that nothing is taken that isn't used.
func (p *Pacing) decide(r *receiver, callback Callback, now time.Time) (*Pass, limit.Decision) {
	r.used = now
	c := r.party(callback.Client, now)
	if callback.CameBack {
		c.line.CameBack()
	}
	r.roll(c, now)
	r.word = p.wordOf(r.name)
	a := p.allowance(r, c, now)
	if r.word.isDenied() {
		return nil, limit.Decision{Reason: Denied}
	}
	if closed := r.closed(c, now); !closed.OK() {
		return nil, limit.Decision{Reason: closed.Reason, RetryAt: p.reserve(r, c, a, closed.RetryAt, now)}
	}
	ask := p.mustAsk(r, now)
	if ask && !r.consent.due(now) {
		at := c.line.Recall(limit.Latest(r.consent.askAt, now.Add(halfASec)), recallStep(a))
		return nil, limit.Decision{Reason: Consent, RetryAt: at}
	}
	if !r.room(c, a, now, callback.CameBack) {
		return nil, limit.Decision{Reason: Pace, RetryAt: p.reserve(r, c, a, now, now)}
	}
	stranger := !r.proven && !r.word.isAllowed()
	if stranger {
		if decision := p.strangerRoom(r, callback, now); !decision.OK() {
			return nil, decision
		}
	}
	if client := p.clientele(callback.Client); !p.slots.Room(callback.Client, 1+spare(&client.line, callback, now)) {
		return nil, limit.Decision{Reason: Workers, RetryAt: p.reserveWorker(client, callback.Client, now)}
	}
	return p.pass(r, c, a, stranger, ask || p.required && r.consent.due(now) && !r.word.isAllowed(), now), limit.Decision{}
}

// mustAsk tells whether a receiver has to consent and has not.
func (p *Pacing) mustAsk(r *receiver, now time.Time) bool {
	return p.required && !r.word.isAllowed() && !r.consent.covers(r.address, now)
}

// spare is the slot that a callback which comes for the first time leaves to those
// of its client that were promised one.
func spare(line *limit.Line, callback Callback, now time.Time) int {
	if !callback.CameBack && line.Last().After(now) {
		return 1
	}
	return 0
}

// strangerRoom tells whether the budgets that strangers share have room for one
// more.
func (p *Pacing) strangerRoom(r *receiver, callback Callback, now time.Time) limit.Decision {
	short := p.strangers
	switch {
	case r.address.IsValid() && !p.addressBudget(r.address, now).room(callback, now):
		short = p.addressBudget(r.address, now)
	case p.strangers.room(callback, now) && p.strangerSlots.Room(callback.Client, 1):
		return limit.Decision{}
	}
	return limit.Decision{Reason: Strangers, RetryAt: short.reserve(callback.Client, now)}
}

func (p *Pacing) clientele(client string) *clientele {
	known := p.clients[client]
	if known == nil {
		known = &clientele{}
		p.clients[client] = known
	}
	return known
}

// reserveWorker tells a callback to come back when its client has a worker for it.
func (p *Pacing) reserveWorker(client *clientele, name string, now time.Time) time.Time {
	took := client.took
	if took == 0 {
		took = time.Second
	}
	spacing := took / time.Duration(max(1, p.slots.Of(name)))
	return client.line.Reserve(now.Add(spacing), spacing, limit.PerSecond(Unlimited))
}

// pass takes what a callback holds while it is under way.
func (p *Pacing) pass(r *receiver, c *party, a allowance, stranger, ask bool, now time.Time) *Pass {
	p.slots.Take(c.client, 1)
	r.number++
	pass := &Pass{
		pacing: p, receiver: r, party: c, left: now, number: r.number,
		few: 4*r.inFlight <= a.most && (!c.bound || 4*c.inFlight <= int(c.pace.flight)), stranger: stranger, ask: ask,
	}
	r.inFlight++
	c.inFlight++
	c.turn = now
	r.pace.take(now, a.rate, pass.number, r.inFlight)
	c.pace.take(now, a.own, pass.number, c.inFlight)
	if ask {
		r.consent.askAt = now.Add(askPatience + halfASec) // the others don't ask meanwhile
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

// located takes in where a stranger's callback goes, and tells whether there is
// room for it. What isn't found out is for the attempt to tell.
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

// asked takes in what a receiver said to our question, and tells whether the
// callback may go on.
func (p *Pacing) asked(pass *Pass, answer webhook.Consent, err error, now time.Time) limit.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := pass.receiver
	r.consent = r.consent.answered(answer, err, now)
	if prefix := prefixOf(answer.Address); prefix.IsValid() {
		r.address = prefix
	}
	p.keep(r, now)
	if !r.consent.covers(r.address, now) {
		p.release(pass, verdict{})
		return limit.Decision{Reason: Consent, RetryAt: limit.Latest(r.consent.askAt, now.Add(halfASec))}
	}
	if pass.stranger && r.address.IsValid() {
		return p.takeAddress(pass, now)
	}
	return limit.Decision{}
}

// release gives back what a pass holds, with what came of the callback.
func (p *Pacing) release(pass *Pass, v verdict) {
	p.slots.Release(pass.party.client, 1)
	if pass.stranger {
		p.strangerSlots.Release(pass.party.client, 1)
	}
	pass.receiver.inFlight--
	pass.party.inFlight--
	v.number, v.together = pass.number, pass.receiver.together
	pass.receiver.pace.answered(v)
	pass.party.pace.answered(v)
}
