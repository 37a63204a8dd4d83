package pacing

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

const (
	// sharedPause is how long a Retry-After to one client closes a receiver to other clients at
	// most. It is also how long no Retry-After does so after a callback of another client was
	// answered.
	sharedPause = time.Minute
	// oneByOneFor is how long a receiver is believed to serve one connection at a time. Another
	// second connection that hangs costs a callback ten seconds.
	oneByOneFor = 24 * time.Hour
	// maxPrefixes bounds the proven addresses that are remembered of a receiver. A load balancer
	// may have dozens of addresses, and change them.
	maxPrefixes = 64
)

// conclude ends a pass, and lets the receiver, the party and the client learn from the attempt.
func (p *Pacing) conclude(pass *Pass, sent webhook.Attempt, now time.Time) {
	r, c, k := pass.receiver, pass.party, kindOf(sent)
	r.lastProgress, c.lastProgress, p.clientState(c.client).lastProgress = now, now, now
	if sent.Outcome == "" {
		p.release(pass, verdict{})
		return
	}
	r.roll(c, now)
	lasted := sent.EndedAt.Sub(sent.StartedAt)
	r.outcome = sent.Outcome
	c.latest = [2]time.Duration{lasted, c.latest[0]}
	if sent.Outcome != webhook.Timeout || r.averageTime == 0 {
		r.averageTime = average(r.averageTime, lasted)
	}
	p.clientState(c.client).averageTime = average(p.clientState(c.client).averageTime, lasted)
	r.seenAt(pass, sent, k, now)
	explained := r.learnOneByOne(pass, sent, now)
	p.release(pass, verdict{good: k == good, failed: k.isFailure(), late: k == good && c.health.isLate(lasted)})
	r.catchUp(c, now)
	if !explained {
		r.learnPace(pass, k, lasted, now)
	}
	r.learnBreakers(c, k, now)
	r.hearsay.tested(pass, k, now)
	if sent.Outcome == webhook.Throttled {
		r.learnPause(c, now.Add(sent.RetryAfter), now)
	}
	p.markUnsaved(r, now)
}

// roll ends the periods of the receiver's pace and of the client's own, where their time is over.
// A client whose own pace is no longer below the receiver's is bound no more.
func (r *receiver) roll(c *party, now time.Time) {
	slope := c.health.slope()
	if c.bound && now.Sub(c.pace.now.began) >= halfASec {
		c.pace.troubled, c.pace.growthPart = r.troubled(c, now)
	}
	r.pace.roll(now, 1, r.attemptTime())
	c.pace.roll(now, slope, r.attemptTime())
	if c.bound && c.pace.rate >= min(Unlimited, r.pace.rate) && c.pace.flight >= r.pace.flight {
		c.bound = false
	}
}

// troubled is how many clients had trouble in the last minute, and a client's part of the growth
// that one of them would have. The part goes by the number of clients, or by the callbacks that
// the receiver takes of each, where that is more. Otherwise many clients that fail on purpose would
// leave hardly any growth to another. The parts of all clients add up to two at most.
func (r *receiver) troubled(c *party, now time.Time) (clients int, share float64) {
	taken := 0.0
	for _, other := range r.parties {
		if other.bound && now.Sub(other.pace.halved) < time.Minute {
			clients++
			taken += other.pace.takenRate(now)
		}
	}
	share = 1 / float64(max(1, clients))
	if taken > 0 {
		share = max(share, min(1, c.pace.takenRate(now)/taken))
	}
	return clients, share
}

// catchUp raises the limit in flight of a receiver in slow start to what a client's own answers
// allow, beside clients whose callbacks take longer. Without it, slow callbacks would keep the
// limit as it is, since a round lasts until the last of its answers. Where all answers take long,
// the load may be the reason, so the limit stays.
func (r *receiver) catchUp(c *party, now time.Time) {
	if c.bound || r.pace.steady || r.inFlight == c.inFlight || !r.isSlowerForOthers(c, now) {
		return
	}
	own := c.pace.flight
	if !r.together {
		own = min(own, 2)
	}
	r.pace.flight = max(r.pace.flight, own*float64(r.clients(c)))
}

// isSlowerForOthers tells whether another client has callbacks under way that take over four
// times as long as the given client's.
func (r *receiver) isSlowerForOthers(c *party, now time.Time) bool {
	for _, other := range r.parties {
		if other != c && other.inFlight > 0 && max(other.latest[0], silence(other.inFlight, other.lastProgress, now)) > 4*c.latest[0] {
			return true
		}
	}
	return false
}

// seenAt takes in the address of an attempt, and whether the attempt proves the receiver there.
func (r *receiver) seenAt(pass *Pass, sent webhook.Attempt, k kind, now time.Time) {
	address, err := netip.ParseAddrPort(sent.Address)
	if err == nil {
		r.address = prefixOf(address.Addr())
		r.consent = r.consent.seenAt(r.address, now)
	}
	if k == good && !r.proven {
		r.prove(now)
	}
	switch isNew := r.address.IsValid() && !r.isProvenAt(r.address); {
	case isNew && r.proven && r.isProof(k):
		r.answeredFrom = append(slices.Clone(r.answeredFrom[max(0, len(r.answeredFrom)+1-maxPrefixes):]), r.address)
		pass.party.trial = trial{underWay: pass.party.trial.underWay}
	case pass.trial && k != good:
		pass.party.trial.slowDown(k, now)
	}
}

// prove takes in that a stranger took a callback. Callbacks that it refused before say nothing of
// its pace, so all paces begin anew. What left already counts in a rate that the operator allowed.
func (r *receiver) prove(now time.Time) {
	tat := r.pace.tat
	r.proven, r.pace = true, newPace(now)
	r.pace.tat = tat
	for _, c := range r.parties {
		c.pace = newPace(now)
	}
}

// isProof tells whether an attempt shows that a receiver that is proven elsewhere is at this
// address, too. By https the address has shown the name's certificate, so any answer below 500 is
// proof.
func (r *receiver) isProof(k kind) bool {
	return k == good || k < failing && strings.HasPrefix(r.name, "https:")
}

// fewTroubled is how many clients may have trouble while a client learns which failures a slower
// pace of its own doesn't mend. With more, the pace of the others may be the cause.
const fewTroubled = 5

// learnPace lets the paces follow an attempt's evidence. Trouble of a client slows that client's
// own pace. Only trouble before HTTP slows the pace of the receiver, for all clients: otherwise
// clients on paths that fail for them would slow the others.
func (r *receiver) learnPace(pass *Pass, k kind, lasted time.Duration, now time.Time) {
	c := pass.party
	slowed := c.bound && c.pace.troubled <= fewTroubled && c.pace.rate < c.pace.highestKnee/2 && pass.left.Sub(c.pace.halved) > time.Second
	shown := c.health.note(k, lasted, pass.few, slowed, now)
	if !r.proven {
		c.pace.slowDown(k)
		return
	}
	if shown == noTrouble {
		return
	}
	c.bind(r)
	c.pace.slowFor(shown, pass.left, now)
	if k == unreachable {
		r.pace.slowFor(shown, pass.left, now)
	}
}

// bind lets a client's own pace bind it, which begins as the receiver's.
func (c *party) bind(r *receiver) {
	if !c.bound {
		c.bound, c.pace.rate, c.pace.flight, c.pace.steady, c.pace.knee = true, r.pace.rate, r.pace.flight, r.pace.steady, r.pace.knee
	}
}

// learnOneByOne recognises a receiver that serves one connection at a time: of callbacks sent
// together one got no answer, and no two were answered at once on two connections. It returns
// whether that explains the missing answer. If so, the missing answer is no evidence of too much
// load: a halved rate would send the waiting callbacks away for up to a minute.
//
// Connections to strangers are closed after their answer, so that a receiver of one connection
// at a time answers the next at once. Answers to strangers' callbacks are no evidence that the
// receiver takes two.
func (r *receiver) learnOneByOne(pass *Pass, sent webhook.Attempt, now time.Time) (explained bool) {
	switch {
	case kindOf(sent) < failing:
		isBeside := !pass.stranger && pass.left.Before(r.lastTaken.end) && sent.Conn != r.lastTaken.conn
		r.together = r.together || r.proven && (isBeside || r.isPast(pass, sent))
		r.lastTaken = taken{}
		if sent.Outcome == webhook.Delivered {
			r.lastTaken = taken{now, sent.Conn}
		}
	case sent.Outcome == webhook.Timeout && !r.together && r.lastTaken.end.After(pass.left):
		pass.party.oneByOne = now.Add(oneByOneFor)
		pass.party.shookHands = sent.Conn != "" && strings.HasPrefix(r.name, "https:")
		return true
	}
	return false
}

// isPast tells whether an answer came on a new connection, past a callback that has an older
// connection and no answer. A receiver of one connection at a time takes the older connection
// first. So this receiver has taken both, and the older callback waits for its own answer.
func (r *receiver) isPast(pass *Pass, sent webhook.Attempt) bool {
	return sent.Connect > 0 && slices.ContainsFunc(r.underWay, func(other *Pass) bool {
		return !other.dialled.IsZero() && other.dialled.Before(pass.left) || pass.left.Sub(other.left) >= courtesy
	})
}

// learnBreakers counts failures in a row, for the client's breaker and for the breaker of all
// clients. An answer below 500 closes both.
func (r *receiver) learnBreakers(c *party, k kind, now time.Time) {
	if !k.isDown() {
		if c.breaker.trips > 0 || r.breaker.trips > 0 && r.failedSince(c) {
			// The receiver is back, and the client starts slowly. Other clients whose own breakers
			// tripped will do so, too.
			c.pace, c.bound = newPace(now), true
		}
		r.breaker, r.failures, c.breaker = breaker{}, evidence{}, breaker{}
		return
	}
	c.lastDown = now
	c.breaker = c.breaker.afterFailure(k == failing, now, now)
	if r.breaker.isOpen(now) {
		return // the callback left before the breaker opened
	}
	trips := r.breaker.trips
	for range r.failures.add(c.client, k, now) {
		r.breaker = r.breaker.afterFailure(r.failures.hasAnswer, r.failures.since, now)
	}
	if r.breaker.trips > trips {
		r.failures, r.closedAt = evidence{}, now
		r.averageTime = 0 // the failures may have taken long: the next attempt counts alone
	}
}

// learnPause closes the receiver to a client until the end of its Retry-After. To others the
// Retry-After is hearsay, for a minute at most.
func (r *receiver) learnPause(c *party, until, now time.Time) {
	c.pause = limit.Latest(c.pause, until)
	shared := now.Add(sharedPause)
	if shared.After(c.pause) {
		shared = c.pause
	}
	r.hearsay.made(c.client, shared, now)
}
