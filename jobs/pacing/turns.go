package pacing

import (
	"time"

	"ringback/jobs/limit"
)

// room tells whether a callback of a client may go by the pace of its receiver. It
// leaves a slot to each client that waits and had none for longer, and to those of
// its own that were promised one, unless it is one of them.
func (r *receiver) room(c *party, a allowance, now time.Time, cameBack bool) bool {
	need, own := 1+r.owed(c, a, now), 1
	if !cameBack && c.line.Last().After(now) {
		need, own = need+1, 2
	}
	full, ownFull := r.inFlight+need > a.most, c.inFlight+own > a.ownMost
	if a.oneEach && c.inFlight == 0 {
		full = false
	}
	limited, ownLimited := a.rate.FreeAt(r.pace.tat, need).After(now), a.own.FreeAt(c.pace.tat, own).After(now)
	r.pace.now.full, c.pace.now.full = r.pace.now.full || full, c.pace.now.full || ownFull
	r.pace.now.limited, c.pace.now.limited = r.pace.now.limited || limited, c.pace.now.limited || ownLimited
	return !full && !ownFull && !limited && !ownLimited
}

// owed is how many other clients wait for a slot that had none for longer.
func (r *receiver) owed(c *party, a allowance, now time.Time) (owed int) {
	if len(r.parties) == 1 {
		return 0
	}
	soon := now.Add(max(a.rate.Interval(), r.attemptTime()/time.Duration(max(1, a.most))))
	for _, other := range r.parties {
		if other != c && other.line.Due(now, soon) && other.turn.Before(c.turn) && !other.opens().After(now) {
			owed++
		}
	}
	return owed
}

// reserve tells a callback that found no room when to come back: at a time of its
// own, by the pace that the receiver has then if all goes well.
func (p *Pacing) reserve(r *receiver, c *party, a allowance, from, now time.Time) time.Time {
	at := limit.Latest(from, c.line.Last())
	spacing := r.spacing(c, a, p.share, at, now)
	spacing = max(spacing, a.own.Interval(), r.attemptTime()/time.Duration(max(1, a.ownMost)))
	earliest := limit.Latest(from, a.rate.FreeAt(r.pace.tat, 1), a.own.FreeAt(c.pace.tat, 1))
	if !earliest.After(now) {
		earliest = now.Add(min(spacing, r.attemptTime()))
	}
	return c.line.Reserve(earliest, spacing, recallStep(a))
}

// spacing is the time between two callbacks of a client at a time, where others
// wait as well.
func (r *receiver) spacing(c *party, a allowance, share int, at, now time.Time) time.Duration {
	rate, most := a.rate.PerSecond, float64(a.most)
	if !r.word.isAllowed() && (r.proven || r.outcome == "") {
		rate, most = r.pace.rateAt(at), min(float64(share), r.pace.flightAt(at, now, r.attemptTime()))
		if a.ceiling > 0 {
			rate = min(rate, a.ceiling)
		}
	}
	waiting := 1
	for _, other := range r.parties {
		if other != c && other.line.Due(now, now.Add(limit.Horizon)) {
			waiting++
		}
	}
	return max(limit.PerSecond(rate), time.Duration(float64(r.attemptTime())/max(1, most))) * time.Duration(waiting)
}

// recallStep is the time between two that come to ask when there is no telling how
// fast the receiver will be.
func recallStep(a allowance) time.Duration {
	if a.rate.PerSecond == 0 {
		return limit.PerSecond(Unlimited)
	}
	return limit.PerSecond(max(50, a.rate.PerSecond))
}
