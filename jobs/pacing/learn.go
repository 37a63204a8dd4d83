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
	// sharedPause is how long a Retry-After to one client closes a receiver at most to
	// other clients, and how long it closes it to nobody else after a callback of another
	// client was answered.
	sharedPause = time.Minute
	// oneByOneFor is how long a receiver is believed to serve one connection at a time:
	// another test costs a callback ten seconds.
	oneByOneFor = 24 * time.Hour
	// maxPrefixes is how many addresses of a receiver are known to be proven: a load
	// balancer may have dozens, and change them.
	maxPrefixes = 64
)

// conclude ends a pass, and takes in the attempt's evidence.
func (p *Pacing) conclude(pass *Pass, sent webhook.Attempt, now time.Time) {
	r, c, k := pass.receiver, pass.party, kindOf(sent)
	r.moved, c.moved, p.clientele(c.client).moved = now, now, now
	if sent.Outcome == "" {
		p.release(pass, verdict{})
		return
	}
	r.roll(c, now)
	took := sent.EndedAt.Sub(sent.StartedAt)
	r.outcome = sent.Outcome
	c.latest = [2]time.Duration{took, c.latest[0]}
	if sent.Outcome != webhook.Timeout || r.took == 0 {
		r.took = average(r.took, took)
	}
	p.clientele(c.client).took = average(p.clientele(c.client).took, took)
	r.seenAt(pass, sent, k, now)
	explained := r.learnOneByOne(pass, sent, now)
	p.release(pass, verdict{good: k == good, failed: k.isFailure(), late: k == good && c.health.isLate(took)})
	r.catchUp(c, now)
	if !explained {
		r.learnPace(pass, k, took, now)
	}
	r.learnBreakers(c, k, now)
	r.hearsay.tested(pass, k, now)
	if sent.Outcome == webhook.Throttled {
		r.learnPause(c, now.Add(sent.RetryAfter), now)
	}
	p.keep(r, now)
}

// roll ends half seconds that are over.
func (r *receiver) roll(c *party, now time.Time) {
	slope := c.health.slope()
	if c.bound && now.Sub(c.pace.now.began) >= halfASec {
		c.pace.troubled, c.pace.share = r.troubled(c, now)
	}
	r.pace.roll(now, 1, r.attemptTime())
	c.pace.roll(now, slope, r.attemptTime())
	if c.bound && c.pace.rate >= min(Unlimited, r.pace.rate) && c.pace.flight >= r.pace.flight {
		c.bound = false
	}
}

// troubled is how many clients had trouble in the last minute, and a client's share of the growth
// that one of them would have: by number, or by the callbacks that the receiver takes, where that
// is more. Else many clients that fail on purpose would leave none to another. The shares of all
// are two at most.
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

// catchUp raises the limit in flight of a receiver in slow start so that a client has as
// much of it as its own answers allow, beside others whose callbacks take longer. Those would
// otherwise keep the limit as it is: a round lasts until the last of its answers. Where all
// answers take long, it may be for the load.
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

// isSlowerForOthers tells whether callbacks of another client, some of them under way, take
// several times as long as a client's.
func (r *receiver) isSlowerForOthers(c *party, now time.Time) bool {
	for _, other := range r.parties {
		if other != c && other.inFlight > 0 && max(other.latest[0], silence(other.inFlight, other.moved, now)) > 4*c.latest[0] {
			return true
		}
	}
	return false
}

// seenAt takes in where an attempt went, and whether it proves the address.
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
		pass.party.trial.fail(k, now)
	}
}

// prove takes in that a stranger took a callback. What it refused before says nothing of its pace.
func (r *receiver) prove(now time.Time) {
	r.proven, r.pace = true, newPace(now)
	for _, c := range r.parties {
		c.pace = newPace(now)
	}
}

// isProof tells whether an attempt shows that the receiver of a name that took callbacks
// elsewhere is at this address, too. By https it has shown the name's certificate, so any answer
// that isn't its own failure does.
func (r *receiver) isProof(k kind) bool {
	return k == good || k < failing && strings.HasPrefix(r.name, "https:")
}

// fewTroubled is how many clients may have trouble for one of them to find that a slower pace of
// its own doesn't mend its failures. With more, the pace of the others may be their cause.
const fewTroubled = 5

// learnPace lets the paces follow an attempt's evidence. Trouble of a client binds that
// client, and all clients where it came before HTTP: else clients on paths that fail for them
// would slow it for the others.
func (r *receiver) learnPace(pass *Pass, k kind, took time.Duration, now time.Time) {
	c := pass.party
	slowed := c.bound && c.pace.troubled <= fewTroubled && c.pace.rate < c.pace.worst/2 && pass.left.Sub(c.pace.halved) > time.Second
	shown := c.health.note(k, took, pass.few, slowed, now)
	if !r.proven {
		c.pace.fail(k)
		return
	}
	if shown == noTrouble {
		return
	}
	c.bind(r)
	c.pace.answer(shown, pass.left, now)
	if k == unreachable {
		r.pace.answer(shown, pass.left, now)
	}
}

// bind gives a client a pace of its own.
func (c *party) bind(r *receiver) {
	if !c.bound {
		c.bound, c.pace.rate, c.pace.flight, c.pace.steady, c.pace.knee = true, r.pace.rate, r.pace.flight, r.pace.steady, r.pace.knee
	}
}

// learnOneByOne recognises a receiver that serves one connection at a time: of callbacks
// sent together one got no answer, and no two were answered at once on two connections. An
// answer with which a connection was closed is no evidence that the receiver takes two. Then the
// missing answer is no evidence of too much load: a halved rate would give the callbacks that
// wait times of their own up to a minute ahead.
func (r *receiver) learnOneByOne(pass *Pass, sent webhook.Attempt, now time.Time) (explained bool) {
	switch {
	case kindOf(sent) < failing:
		isBeside := !pass.stranger && pass.left.Before(r.taken.end) && sent.Conn != r.taken.conn
		r.together = r.together || r.proven && (isBeside || r.isPast(pass, sent))
		r.taken = taken{}
		if sent.Outcome == webhook.Delivered {
			r.taken = taken{now, sent.Conn}
		}
	case sent.Outcome == webhook.Timeout && !r.together && r.taken.end.After(pass.left):
		pass.party.oneByOne = now.Add(oneByOneFor)
		pass.party.shookHands = sent.Conn != "" && strings.HasPrefix(r.name, "https:")
		return true
	}
	return false
}

// isPast tells whether an answer came on a new connection, past a callback that has an older
// connection and no answer. A receiver that takes one connection at a time takes the older
// first: so that callback waits for something of its own.
func (r *receiver) isPast(pass *Pass, sent webhook.Attempt) bool {
	return sent.Connect > 0 && slices.ContainsFunc(r.underWay, func(other *Pass) bool {
		return !other.dialled.IsZero() && other.dialled.Before(pass.left) || pass.left.Sub(other.left) >= courtesy
	})
}

// learnBreakers counts failures in a row, for the client and for all.
func (r *receiver) learnBreakers(c *party, k kind, now time.Time) {
	if !k.isDown() {
		if c.breaker.openings > 0 || r.breaker.openings > 0 && r.failedSince(c) {
			// It is back, and its client starts slowly. The others did not fail, or start so, too.
			c.pace, c.bound = newPace(now), true
		}
		r.breaker, r.failed, c.breaker = breaker{}, evidence{}, breaker{}
		return
	}
	c.failed = now
	c.breaker = c.breaker.afterFailure(k == failing, now, now)
	if r.breaker.isOpen(now) {
		return // it was under way
	}
	openings := r.breaker.openings
	for range r.failed.add(c.client, k, now) {
		r.breaker = r.breaker.afterFailure(r.failed.answered, r.failed.since, now)
	}
	if r.breaker.openings > openings {
		r.failed, r.closedAt = evidence{}, now
		r.took = 0 // when it comes back it will be as it was before
	}
}

// learnPause closes the receiver to a client as long as it said. To others it is hearsay,
// for a minute at most.
func (r *receiver) learnPause(c *party, until, now time.Time) {
	c.pause = limit.Latest(c.pause, until)
	shared := now.Add(sharedPause)
	if shared.After(c.pause) {
		shared = c.pause
	}
	r.hearsay.made(c.client, shared, now)
}
