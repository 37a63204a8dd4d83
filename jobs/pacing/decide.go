package pacing

import (
	"cmp"
	"time"

	"ringback/jobs/limit"
)

// decide lets a callback leave, or says when it may come back, and why. It asks the
// operator's ruling first, then the client's own closing, the receiver's closing, consent,
// pace, strangers' budgets and workers. The shared slots come last, so that no slot is
// taken and left unused. Three more may refuse the callback afterwards: askFirst (consent.go),
// Lookup (lookups.go) and admit (admit.go).
func (p *Pacing) decide(r *receiver, callback Callback, now time.Time) (*Pass, limit.Decision) {
	r.used = now
	c := r.party(callback.Client, now)
	if callback.CameBack {
		c.line.CameBack()
	}
	r.roll(c, now)
	r.ruling = p.rulingOf(r.name)
	a := p.allowance(r, c, now)
	if r.ruling.isDenied() {
		return nil, limit.Decision{Reason: Denied}
	}
	if closed := r.closed(c, now); !closed.OK() {
		return nil, limit.Decision{Reason: closed.Reason, RetryAt: p.reserve(r, c, a, closed.RetryAt, now)}
	}
	ask := p.mustAsk(r, c, now)
	if ask && !r.mayAsk(c, now) {
		at := c.line.Recall(limit.Latest(r.asksAt(c), now.Add(halfASec)), r.recallStep(a))
		return nil, limit.Decision{Reason: Consent, RetryAt: at}
	}
	switch {
	case r.room(c, a, now, callback.CameBack):
	case p.holdsItsShare(callback, now): // a wait for a worker takes longer than a wait for the pace
		return nil, p.awaitWorker(callback.Client, now)
	case callback.CameBack && !callback.waitedNew:
		return nil, limit.Decision{Reason: Pace, RetryAt: p.reserveAgain(r, c, a, now)}
	default:
		return nil, limit.Decision{Reason: Pace, RetryAt: p.reserve(r, c, a, now, now)}
	}
	if r.isStranger() {
		if decision := p.strangerRoom(r, callback, now); !decision.OK() {
			return nil, decision
		}
	}
	if p.holdsItsShare(callback, now) {
		return nil, p.awaitWorker(callback.Client, now)
	}
	return p.pass(r, c, a, ask || p.required && r.mayAsk(c, now) && !r.ruling.isAllowed(), now), limit.Decision{}
}

// holdsItsShare tells whether a client's callbacks leave no worker of its share to a callback.
func (p *Pacing) holdsItsShare(callback Callback, now time.Time) bool {
	return !p.slots.Room(callback.Client, 1+spare(&p.clientState(callback.Client).line, callback, now))
}

func (p *Pacing) awaitWorker(client string, now time.Time) limit.Decision {
	return limit.Decision{Reason: Workers, RetryAt: p.reserveSlot(client, p.slots.Of(client), now)}
}

// closed tells until when the receiver is closed to a client, and why; OK where it is open.
func (r *receiver) closed(c *party, now time.Time) limit.Decision {
	for _, closing := range []limit.Decision{{Reason: Down, RetryAt: c.breaker.until}, {Reason: Paused, RetryAt: c.pause}} {
		if closing.RetryAt.After(now) {
			return closing
		}
	}
	if opens := r.opensTo(c, now); opens.After(now) {
		return limit.Decision{Reason: Closed, RetryAt: opens}
	}
	return limit.Decision{}
}

// opensTo is when a receiver that is closed by evidence of other clients may be called for a
// client. The client's own callbacks probe, one at a time, until a probe fails. Otherwise two
// other clients, on paths that fail for them, would close the receiver for as long as they go
// on.
func (r *receiver) opensTo(c *party, now time.Time) time.Time {
	closed, claimed := r.breaker.isOpen(now), r.hearsay.binds(c.client, now)
	switch {
	case closed && r.failedSince(c):
		return r.breaker.until
	case (closed || claimed) && c.probing:
		return now.Add(r.attemptTimeOf(c))
	case claimed:
		return c.lastDown.Add(probeAgain)
	}
	return now
}

// failedSince tells whether a client found the receiver down since the breaker for all opened.
func (r *receiver) failedSince(c *party) bool { return !c.lastDown.Before(r.closedAt) }

// room tells whether the pace of a receiver has room for a client's callback. It leaves a
// slot to each client that has waited longer since its last slot. It leaves another to the
// client's own callbacks with a reservation, unless this callback has one. Where there is no
// room, room notes in the paces that they held a callback back.
func (r *receiver) room(c *party, a allowance, now time.Time, cameBack bool) bool {
	need, own := 1+r.owed(c, a, now), 1
	if !cameBack && c.line.Due(now, r.soon(a, now)) {
		need, own = need+1, 2
	}
	full, ownFull := r.inFlight+need > a.most, c.inFlight+own > a.ownMost
	if c.inFlight < a.part && (need == 1 || !r.takesTurns()) {
		full = false
	}
	limited, ownLimited := !a.rate.Room(r.pace.tat, now, need), !a.own.Room(c.pace.tat, now, own)
	if r.isStranger() {
		limited = limited || !r.mayTry(c, now)
	}
	r.pace.refused(limited, full, now)
	c.pace.refused(ownLimited, ownFull, now)
	return !full && !ownFull && !limited && !ownLimited
}

// owed is how many other clients wait whose last slot was longer ago. A client whose
// callback doesn't come at its time has had its turn: owed takes the callback out of the
// client's line, and notes the turn.
func (r *receiver) owed(c *party, a allowance, now time.Time) (owed int) {
	if len(r.parties) == 1 {
		return 0
	}
	soon := r.soon(a, now)
	for _, other := range r.parties {
		if other.line.Missed(now) {
			other.turn = now
		}
		if other != c && r.comes(other, now, soon) && other.turn.Before(c.turn) && !other.closedUntil().After(now) && !r.hasItsShare(other, a) {
			owed++
		}
	}
	return owed
}

// comes tells whether a waiting callback of a client comes before a time. A slot that is free
// again before the next poll is kept only for callbacks that wait in their workers. All other
// callbacks come with that poll, and the slot would stay empty until then.
func (r *receiver) comes(c *party, now, before time.Time) bool {
	switch {
	case r.takesTurns() && c.inFlight > 0:
		return false
	case r.takesTurns() && len(r.underWay) == 0 && before.Before(now.Add(pollInterval)):
		return c.again.After(now) && !c.again.After(before)
	}
	return c.line.Due(now, before)
}

// soon is the earliest time at which a slot that this callback takes may be free again.
func (r *receiver) soon(a allowance, now time.Time) time.Time {
	return now.Add(max(a.rate.Interval(), r.attemptTime()/time.Duration(max(1, a.most))))
}

// spare is the slot that a new callback leaves to its client's callbacks with a
// reservation.
func spare(line *limit.Line, callback Callback, now time.Time) int {
	if !callback.CameBack && line.Last().After(now) {
		return 1
	}
	return 0
}

// strangerRoom tells whether the budgets that strangers share have room for a callback.
func (p *Pacing) strangerRoom(r *receiver, callback Callback, now time.Time) limit.Decision {
	short := p.strangers
	switch {
	case r.address.IsValid() && !p.addressBudget(r.address, now).room(callback, now):
		short = p.addressBudget(r.address, now)
	case !p.strangers.room(callback, now):
	case p.strangerSlots.Room(callback.Client, 1):
		return limit.Decision{}
	default:
		return limit.Decision{Reason: Strangers, RetryAt: p.reserveSlot(callback.Client, p.strangerSlots.Of(callback.Client), now)}
	}
	return limit.Decision{Reason: Strangers, RetryAt: short.reserve(callback.Client, now)}
}

// allowance is how much may go to a receiver now.
type allowance struct {
	rate    limit.Rate // of all clients
	own     limit.Rate // of the client
	most    int        // callbacks in flight, of all clients
	ownMost int        // callbacks in flight, of the client
	part    int        // a client with fewer in flight may exceed most
	fewest  int        // callbacks in flight of a client that called lately, where the operator allowed the receiver
	ceiling float64    // that the rate may grow to, 0 for no limit
}

func (p *Pacing) allowance(r *receiver, c *party, now time.Time) allowance {
	a := allowance{rate: limit.Rate{Burst: 1}, most: min(int(r.pace.flight), p.mostPerReceiver), own: limit.Rate{Burst: 1}, ownMost: p.workers}
	if r.proven {
		a.rate = r.pace.limit()
	}
	a.ceiling = p.ceiling(r)
	if r.ruling.isAllowed() {
		a.rate, a.most = r.ruling.rate(), cmp.Or(r.ruling.Concurrency, p.mostPerReceiver)
	} else if a.ceiling > 0 && (a.rate.PerSecond == 0 || a.rate.PerSecond > a.ceiling) {
		a.rate = limit.Rate{PerSecond: a.ceiling, Burst: burst(a.ceiling)}
	}
	switch {
	case r.ruling.isAllowed():
		a.fewest = r.fewest(now)
		a.ownMost = r.share(c, a)
	case r.isStranger() && c.hasFailed():
		a.own, a.ownMost = limit.Rate{PerSecond: c.pace.rate, Burst: 1}, 1
	case r.isStranger():
	case c.bound:
		a.own, a.ownMost = c.pace.limit(), c.most(now)
	}
	switch {
	case r.ruling.isAllowed():
	case r.together:
		a.part = r.part(c, a.most)
	default:
		a.most = min(a.most, r.mostUntilTogether(c, now))
		if !r.awaits(c).After(now) {
			a.part = 1
		}
	}
	switch {
	case r.breaker.isHalfOpen(now):
		a.most, a.part = 1, 0 // one probe of all clients together
		if !r.failedSince(c) {
			a.part = 1 // and one of each client that has not failed since
		}
	}
	if c.breaker.isHalfOpen(now) || c.oneByOne.After(now) && !r.together {
		a.ownMost = 1
	}
	return a
}

// fewest is the fewest callbacks in flight of a client that called within an hour.
func (r *receiver) fewest(now time.Time) int {
	fewest := r.inFlight
	for _, c := range r.parties {
		if now.Sub(c.turn) < time.Hour {
			fewest = min(fewest, c.inFlight)
		}
	}
	return fewest
}

// share is a client's most in flight at a receiver that the operator allowed. The operator's limit
// holds at any time, so no client may exceed it as by its part. Where another client has fewer in
// flight, the client leaves it slots, even if its own callbacks take long.
func (r *receiver) share(c *party, a allowance) int {
	if a.fewest < c.inFlight {
		return limit.FairShare(a.most - (r.inFlight - c.inFlight))
	}
	return a.most
}

// hasItsShare tells whether a client waits for its own callbacks at a receiver that the operator
// allowed. Nobody need leave it a slot.
func (r *receiver) hasItsShare(c *party, a allowance) bool {
	return r.ruling.isAllowed() && c.inFlight >= r.share(c, a)
}

// part is a client's part of the slots at a receiver, equal for all clients that hold some.
// Otherwise a client whose callbacks take long would hold all slots. The parts together exceed
// the limit only until callbacks of clients with more than their part are answered.
func (r *receiver) part(c *party, most int) int {
	clients := r.clients(c)
	if clients == 1 {
		return 1
	}
	return max(1, most/clients)
}

// clients is how many clients share the slots at a receiver: the client, and all others that
// hold some.
func (r *receiver) clients(c *party) int {
	clients := 1
	for _, other := range r.parties {
		if other != c && other.inFlight > 0 {
			clients++
		}
	}
	return clients
}

// takesTurns tells whether clients take turns at a receiver's slot, since it has not shown that
// it takes two callbacks at once.
func (r *receiver) takesTurns() bool { return r.proven && !r.together }

// A stranger gets strangerAttempts within strangerPeriod, of all clients together. Each
// client's attempts slow down by its own failures alone. Clients that failed at the stranger
// leave leftToFirst attempts to clients that have not: otherwise they would keep the others
// from proving it.
const (
	strangerAttempts = 20
	strangerPeriod   = 10 * time.Second
	leftToFirst      = 2
)

// mayTry tells whether a stranger has an attempt left for a client. Once the stranger took none
// of its first 20 callbacks, clients that failed there get half of the attempts.
func (r *receiver) mayTry(c *party, now time.Time) bool {
	switch {
	case !c.hasFailed():
		return r.attempts.Room(c.client, now, 1)
	case r.number >= strangerAttempts && r.attempts.Used(now) >= strangerAttempts/2:
		return false
	}
	return r.attempts.Room(c.client, now, 1+leftToFirst)
}

const (
	// courtesy is how long a callback under way keeps other clients waiting at a receiver that
	// has not shown that it takes two at once. A client whose callbacks hang there keeps the
	// others out for no longer.
	courtesy = halfASec
	// firstCourtesy is courtesy at a stranger. Each connection to a stranger is closed after its
	// answer, so a receiver that serves one connection at a time takes the next.
	firstCourtesy = aTenth
	// triedAgain is how long after a second connection hung another client tries a second
	// connection. It doubles with each client whose callback hung.
	triedAgain = 10 * time.Minute
)

// awaits is until when a client waits for the callbacks under way at a receiver that has not
// shown that it takes two at once. A client whose own answers take long waits for longer.
func (r *receiver) awaits(c *party) (until time.Time) {
	patience := max(courtesy, 2*c.health.recent)
	if !r.proven {
		patience = firstCourtesy
	}
	for _, pass := range r.underWay {
		until = limit.Latest(until, pass.left.Add(patience))
	}
	return until
}

// makesWait tells whether a callback under way makes a client's first callback wait.
func (r *receiver) makesWait(c *party, now time.Time) bool {
	return c.inFlight == 0 && r.awaits(c).After(now)
}

// mostUntilTogether is the limit in flight, for a client, of a receiver that has not shown that
// it takes two at once. It is two where the client may try a second connection. After a second
// connection hung it is one, until another client may try again.
func (r *receiver) mostUntilTogether(c *party, now time.Time) int {
	found, latest := 0, time.Time{}
	for _, other := range r.parties {
		if other.oneByOne.After(now) && !other.shookHands {
			latest = limit.Latest(latest, other.oneByOne.Add(-oneByOneFor))
			found++
		}
	}
	isTaken := c.health.recent > 0 // callbacks of a client of which the receiver took none may hang anywhere
	isRested := found == 0 || !latest.Add(min(triedAgain<<min(found-1, 10), oneByOneFor)).After(now)
	if isTaken && isRested && !c.oneByOne.After(now) {
		return 2
	}
	return 1
}

// most is a bound client's limit in flight. Where the usual time has not been measured for long,
// the limit is a quarter for a moment, to measure it with few in flight.
func (c *party) most(now time.Time) int {
	if c.health.recent > 0 && now.Sub(c.health.calm) > max(calmEvery, 20*c.health.recent) {
		return max(1, int(c.pace.flight)/4)
	}
	return int(c.pace.flight)
}

// ceiling is the rate that a receiver gets at most without a ruling of the operator, 0 for no
// limit.
func (p *Pacing) ceiling(r *receiver) float64 {
	ceiling := p.rate
	if granted := float64(r.consent.perMinute) / 60; p.required && granted > 0 && (ceiling == 0 || granted < ceiling) {
		ceiling = granted
	}
	return ceiling
}
