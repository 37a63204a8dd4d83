package pacing

import (
	"time"

	"ringback/jobs/limit"
)

// reserve tells a refused callback when to come back: at a time of its own, by the pace
// that the receiver will have without trouble.
func (p *Pacing) reserve(r *receiver, c *party, a allowance, from, now time.Time) time.Time {
	at := limit.Latest(from, c.line.Last())
	earliest, spacing := p.opening(r, c, a, from, at, now)
	return c.line.ReserveWithin(r.horizon(c, now), earliest, spacing, r.recallStep(a))
}

// horizon is how far ahead a client's callbacks reserve times. While callbacks take much
// longer than usual, it is half as long as they have done so: the receiver may be well again
// soon, and new callbacks would then pass callbacks whose times are far ahead. It notes since
// when they take so long.
func (r *receiver) horizon(c *party, now time.Time) time.Duration {
	expected, usual := r.expected(c, now), c.health.usual
	switch {
	case expected <= usual+slack:
		c.slow = time.Time{}
	case expected > 2*usual+slack && c.slow.IsZero():
		c.slow = now
	}
	if c.slow.IsZero() {
		return limit.Horizon
	}
	return limit.Near(now.Sub(c.slow) / 2)
}

// reserveAgain is reserve for a callback that came back at its time and found no room. The
// queue hands out at one moment all that have become due since its last poll, of which a
// receiver of few at a time takes the first. The others get the next times, if these come
// before the next poll: at the end of the line they would come back a whole queue later, and
// the receiver would get no more than it takes at a time in each poll. Where clients take
// turns at one slot, they share these times, and the first of each is kept waiting no longer
// than a callback under way may.
func (p *Pacing) reserveAgain(r *receiver, c *party, a allowance, now time.Time) time.Time {
	earliest, spacing := p.opening(r, c, a, now, now, now)
	head := earliest
	if r.takesTurns() {
		spacing = max(a.rate.Interval(), a.own.Interval(), r.expected(c, now))
		earliest = limit.Latest(r.freeAt(c, a, now), r.again)
	}
	spacing = max(spacing+spacing/8, leastWait) // a callback that comes just before the slot is free loses its turn
	at := limit.Latest(earliest, now.Add(spacing), c.again.Add(spacing))
	switch {
	case !at.After(now.Add(pollInterval)):
		r.again = at.Add(spacing)
	case r.takesTurns() && r.keeps(c, now) && !c.again.After(now): // the first of its client's
		at = head
	default:
		return p.reserve(r, c, a, now, now)
	}
	c.again = at
	c.line.Hold(at)
	return at
}

// leastWait is the least time between two callbacks of a client that look for room again.
const leastWait = time.Millisecond

// opening is when there may be room for a client's callback from a time on, and the time
// between two by the pace at another time.
func (p *Pacing) opening(r *receiver, c *party, a allowance, from, at, now time.Time) (earliest time.Time, spacing time.Duration) {
	spacing = r.spacing(c, a, p.share, at, now)
	spacing = max(spacing, a.own.Interval(), r.expected(c, now)/time.Duration(max(1, a.ownMost)))
	earliest = limit.Latest(from, r.freeAt(c, a, now))
	if !earliest.After(now) {
		earliest = now.Add(min(spacing, r.expected(c, now), r.horizon(c, now)))
		if until := r.awaits(c); r.keeps(c, now) && until.Before(earliest) {
			earliest = until
		}
	}
	return earliest, spacing
}

// freeAt is when the rates have room for a client's callback.
func (r *receiver) freeAt(c *party, a allowance, now time.Time) time.Time {
	free := limit.Latest(a.rate.FreeAt(r.pace.tat, 1), a.own.FreeAt(c.pace.tat, 1))
	if r.isStranger() {
		free = limit.Latest(free, r.attempts.FreeAt(now))
	}
	return free
}

// spacing is the time between two callbacks of a client at a time, where others
// wait as well.
func (r *receiver) spacing(c *party, a allowance, share int, at, now time.Time) time.Duration {
	rate, most := a.rate.PerSecond, float64(a.most)
	if !r.ruling.isAllowed() && (r.proven || !c.hasFailed()) {
		rate, most = r.pace.rateAt(at, now, r.attemptTimeOf(c)), min(float64(share), r.pace.flightAt(at, now, r.attemptTimeOf(c)))
		if a.ceiling > 0 {
			rate = min(rate, a.ceiling)
		}
	}
	waiting := 1
	for _, other := range r.parties {
		if !r.isStranger() && other != c && other.line.Due(now, now.Add(limit.Horizon)) {
			waiting++
		}
	}
	return max(limit.PerSecond(rate), time.Duration(float64(r.expected(c, now))/max(1, most))) * time.Duration(waiting)
}

// recallStep is the time between two that come to ask when there is no telling how
// fast the receiver will be.
func (r *receiver) recallStep(a allowance) time.Duration {
	if a.rate.PerSecond == 0 && (r.proven || r.ruling.isAllowed()) {
		return limit.PerSecond(Unlimited)
	}
	return limit.PerSecond(max(50, a.rate.PerSecond))
}

func (p *Pacing) clientele(client string) *clientele {
	known := p.clients[client]
	if known == nil {
		known = &clientele{}
		p.clients[client] = known
	}
	return known
}

// reserveSlot tells a callback to come back when its client gives back one of the slots
// that it holds.
func (p *Pacing) reserveSlot(name string, held int, now time.Time) time.Time {
	client := p.clientele(name)
	took := client.took
	if took == 0 {
		took = time.Second
	}
	took = max(took, silence(p.slots.Of(name), client.moved, now)/2)
	spacing := took / time.Duration(max(1, held))
	return client.line.Reserve(now.Add(spacing), spacing, limit.PerSecond(Unlimited))
}
