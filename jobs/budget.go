package jobs

import "time"

// limit is how many callbacks a budget allows.
type limit struct {
	rate    float64 // a second, 0 for no limit
	ceiling float64 // a second, that the rate may grow to
	burst   int     // that may leave at once after a pause
	most    int     // at a time
}

func (l limit) interval() time.Duration { return perSecond(l.rate) }

// perSecond is the time between two of so many a second, 0 for no limit.
func perSecond(rate float64) time.Duration {
	if rate == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / rate)
}

// budget is what of a limit is used. The limit is handed in, since it changes.
type budget struct {
	underWay int
	paid     time.Time // until when those that left have used the rate up
	promised time.Time // the last slot that a callback was put off to
	recalled time.Time // the last time that one was told to come and ask again
	used     time.Time // last
}

// maxPutOff bounds promises: what a budget allows may have grown by then.
const maxPutOff = time.Minute

// room tells whether a callback may leave now. While slots are promised to
// others, one that comes for the first time leaves a place and a slot to them.
func (b *budget) room(now time.Time, l limit, cameBack bool) bool {
	spare := 0
	if !cameBack && b.promised.After(now) {
		spare = 1
	}
	return b.underWay+spare < l.most && !b.free(l, 1+spare).After(now)
}

// free is when the rate has so many callbacks to give.
func (b *budget) free(l limit, callbacks int) time.Time {
	return b.paid.Add(-time.Duration(l.burst-callbacks) * l.interval())
}

// take uses the budget for a callback, which gives its place back with leave.
func (b *budget) take(now time.Time, l limit) {
	b.underWay++
	b.paid = latest(b.paid, now).Add(l.interval())
}

func (b *budget) leave() { b.underWay-- }

// promise returns the next slot, from a time on, that no other callback was
// promised, so that a callback put off until then comes back when there is room,
// and not to ask again and again. Took is how long an attempt takes. Where the
// slots go beyond maxPutOff, the callback is to come back and ask, one by one
// and at the greatest rate that the limit may have by then.
func (b *budget) promise(from time.Time, l limit, took time.Duration) time.Time {
	spacing := max(l.interval(), took/time.Duration(max(l.most, 1)))
	slot := latest(from, b.promised.Add(spacing), b.free(l, 1))
	if b.underWay >= l.most {
		slot = latest(slot, from.Add(spacing))
	}
	if horizon := from.Add(maxPutOff); slot.After(horizon) {
		return b.recall(horizon, perSecond(l.ceiling))
	}
	b.promised = slot
	return slot
}

// recall returns a time, from a time on, to come back at and ask: no sooner
// than step after the one before.
func (b *budget) recall(from time.Time, step time.Duration) time.Time {
	b.recalled = latest(from, b.recalled.Add(step))
	return b.recalled
}

func latest(first time.Time, others ...time.Time) time.Time {
	for _, other := range others {
		if other.After(first) {
			first = other
		}
	}
	return first
}
