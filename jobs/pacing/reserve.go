package pacing

import (
	"time"

	"ringback/jobs/limit"
)

// reserve returns when a refused callback comes back: at a time of its own, by the pace that
// the receiver will have without trouble.
func (p *Pacing) reserve(r *receiver, c *party, a allowance, from, now time.Time) time.Time {
	at := limit.Latest(from, c.line.Last())
	earliest, spacing := p.nextRoom(r, c, a, from, at, now)
	return c.line.ReserveWithin(r.horizon(c, now), earliest, spacing, r.recallStep(a))
}

// horizon is how far ahead a client's callbacks reserve times. While callbacks take much
// longer than usual, the horizon is half of the time that this has lasted. The receiver may be
// well again soon, and new callbacks would then pass callbacks whose times are far ahead.
// horizon writes c.slow, since when they take so long.
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

// reserveAgain is reserve for a callback that came back at its time and found no room.
//
// The queue hands out together all callbacks that have become due since its last poll. Of
// them, a receiver of few at a time takes the first. The others get the next times, if these
// come before the next poll. At the end of the line they would come back a whole queue later.
// Each poll would then bring the receiver no more than it takes at a time.
//
// Where clients take turns at one slot, they share these times. The first callback of each
// client waits no longer than awaits says for a callback under way.
func (p *Pacing) reserveAgain(r *receiver, c *party, a allowance, now time.Time) time.Time {
	earliest, spacing := p.nextRoom(r, c, a, now, now, now)
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
	case r.takesTurns() && r.makesWait(c, now) && !c.again.After(now): // the first callback of its client
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

// nextRoom is when a receiver may have room for a client's callback, no sooner than from. spacing
// is the time between two callbacks by the pace at the time at.
func (p *Pacing) nextRoom(r *receiver, c *party, a allowance, from, at, now time.Time) (earliest time.Time, spacing time.Duration) {
	spacing, own := r.spacing(c, a, p.mostPerReceiver, at, from, now), a.own.Interval()
	if own > 0 && c.bound {
		pace := r.paceOnceOpen(c, from)
		own = limit.PerSecond(pace.rateAt(at, from, now, r.attemptTimeOf(c)))
	}
	spacing = max(spacing, own, r.expected(c, now)/time.Duration(max(1, a.ownMost)))
	earliest = limit.Latest(from, r.freeAt(c, a, now))
	if !earliest.After(now) {
		earliest = now.Add(min(spacing, r.expected(c, now), r.horizon(c, now)))
		if until := r.awaits(c); r.makesWait(c, now) && until.Before(earliest) {
			earliest = until
		}
	}
	return earliest, spacing
}

// freeAt is when the receiver's rate and the client's own have room for a callback.
func (r *receiver) freeAt(c *party, a allowance, now time.Time) time.Time {
	free := limit.Latest(a.rate.FreeAt(r.pace.tat, 1), a.own.FreeAt(c.pace.tat, 1))
	if r.isStranger() {
		free = limit.Latest(free, r.attempts.FreeAt(now))
	}
	return free
}

// spacing is the time between two callbacks of a client by the pace at the time at, where none
// leaves before from, and other clients wait as well.
func (r *receiver) spacing(c *party, a allowance, share int, at, from, now time.Time) time.Duration {
	rate, most := a.rate.PerSecond, float64(a.most)
	if !r.ruling.isAllowed() && (r.proven || !c.hasFailed()) {
		rate, most = r.pace.rateAt(at, from, now, r.attemptTimeOf(c)), min(float64(share), r.pace.flightAt(at, from, now, r.attemptTimeOf(c)))
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

// paceOnceOpen is the pace of a client from a time on. Where a breaker tripped, the probe that
// opens the receiver lets the pace begin anew.
func (r *receiver) paceOnceOpen(c *party, from time.Time) pace {
	if c.breaker.trips > 0 || r.breaker.trips > 0 && r.failedSince(c) {
		return newPace(from)
	}
	return c.pace
}

// recallStep is the time between two callbacks that come back without a reservation, to ask.
func (r *receiver) recallStep(a allowance) time.Duration {
	if a.rate.PerSecond == 0 && (r.proven || r.ruling.isAllowed()) {
		return limit.PerSecond(Unlimited)
	}
	return limit.PerSecond(max(50, a.rate.PerSecond))
}

// reserveSlot returns when a callback comes back that waits for one of the slots that its
// client holds.
func (p *Pacing) reserveSlot(name string, held int, now time.Time) time.Time {
	client := p.clientState(name)
	averageTime := client.averageTime
	if averageTime == 0 {
		averageTime = time.Second
	}
	averageTime = max(averageTime, silence(p.slots.Of(name), client.lastProgress, now)/2)
	spacing := averageTime / time.Duration(max(1, held))
	return client.line.Reserve(now.Add(spacing), spacing, limit.PerSecond(Unlimited))
}
