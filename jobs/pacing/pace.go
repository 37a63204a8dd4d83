package pacing

import (
	"cmp"
	"math"
	"time"

	"ringback/jobs/limit"
)

// pace is how fast callbacks may go to a receiver: a rate, and a limit in flight. Both follow the
// receiver's answers, as in congestion control. A pace doubles in slow start, until the first
// trouble halves it, and grows slowly from then on.
type pace struct {
	rate        float64 // callbacks a second; from Unlimited on only flight counts
	flight      float64 // limit in flight, at least 1
	steady      bool    // slow start is over
	knee        float64 // up to this rate the rate doubles again after trouble, as up to TCP's ssthresh
	highestKnee float64 // highest knee in a row of troubles; well below it, a pace is slower than load demands
	troubled    int     // clients that had trouble within a minute, with this one
	growthPart  float64 // the client's part of one client's growth, which they share; 0 for all of it
	clean       int     // periods without trouble since the rate reached the knee

	tat      time.Time // of the rate
	halved   time.Time // when trouble last halved the pace
	good     int       // callbacks taken since halved; halved each period
	failures int       // callbacks failed since halved; halved each period

	limited time.Time // since when the rate holds callbacks back without growing; zero where it holds none back
	full    time.Time // since when the limit in flight holds callbacks back without growing; zero where it holds none back

	wellUntil time.Time // the latest trouble before which most callbacks went well; zero once the pace grows
	wellKnee  float64   // the knee of that trouble
	before    period
	now       period
	round     round
}

// period is how long a pace is tried before it grows.
type period struct {
	began   time.Time
	lasted  time.Duration // once it is over
	left    int           // callbacks that left
	good    int           // callbacks that the receiver took
	peak    int           // the most callbacks in flight
	limited bool          // the rate held a callback back
	full    bool          // the limit in flight was reached
	trouble bool
}

// round is the callbacks that were in flight when the limit was reached.
type round struct {
	last     int // number of the latest callback; 0 for no round
	count    int // callbacks
	awaiting int // callbacks that have no answer yet
	late     int // answers that took longer than is usual
}

const (
	startRate = 20.0 // a second
	// Unlimited is the rate from which only the limit in flight counts. A pace that gets
	// there jumps to twice as much, so that a restart at half of the known rate is still
	// unlimited.
	Unlimited = 1000.0
	leastRate = 0.1 // one callback in 10 s
	// goneRate is the least rate of a receiver that answers 410. Each such answer ends its
	// callback, and callbacks of the same ordering key wait behind it.
	goneRate  = 1.0
	halfASec  = 500 * time.Millisecond
	aTenth    = 100 * time.Millisecond
	kneePart  = 0.85
	downAfter = 3 * halfASec // of failures that follow each other
)

func newPace(now time.Time) pace {
	return pace{rate: startRate, flight: 1, now: period{began: now}}
}

// burst is how many callbacks may leave together: the queue hands callbacks out every tenth of a
// second. At low rates it is one and a fraction, so that a callback that comes late for this reason
// delays no later callback.
func burst(rate float64) float64 { return 1 + rate*0.15 }

// limit is the rate as a limit, without a limit from Unlimited on.
func (p *pace) limit() limit.Rate {
	if p.rate >= Unlimited {
		return limit.Rate{Burst: 1}
	}
	return limit.Rate{PerSecond: p.rate, Burst: burst(p.rate)}
}

// lasts is how long a period lasts where an answer takes answerTime: half a second, and four
// callbacks at least. In slow start it lasts no longer than answers need to tell of trouble.
// Otherwise a busy new receiver would leave thousands of callbacks to wait in the queue.
func (p *pace) lasts(answerTime time.Duration) time.Duration {
	interval := limit.PerSecond(p.rate)
	switch {
	case !p.steady && p.rate < Unlimited:
		return max(min(halfASec, max(aTenth, 2*answerTime)), 4*interval)
	case p.steady && p.rate < p.knee:
		return max(halfASec, interval)
	}
	return max(halfASec, 4*interval)
}

// roll ends the period when its time is over, and lets the pace grow by the period's evidence.
// slope is the part of the limit in flight that the time of answers allows.
func (p *pace) roll(now time.Time, slope float64, answerTime time.Duration) {
	lasted := now.Sub(p.now.began)
	if lasted < p.lasts(answerTime) {
		return
	}
	if p.now.good > 0 && !p.now.trouble {
		p.grow(lasted, slope)
	}
	if !p.now.limited {
		p.limited = time.Time{}
	}
	if !p.now.full {
		p.full = time.Time{}
	}
	p.before, p.now = p.now, period{began: now}
	p.before.lasted = lasted
	p.good, p.failures = p.good/2, p.failures/2
}

// grow lets the pace grow after a period without trouble in which the receiver took callbacks.
func (p *pace) grow(lasted time.Duration, slope float64) {
	p.wellUntil = time.Time{}
	if p.now.limited || float64(p.now.left) >= 0.75*p.rate*lasted.Seconds() {
		p.rate, p.limited = p.faster(), time.Time{}
	}
	if p.rate > p.highestKnee {
		p.highestKnee = 0
	}
	if !p.steady {
		return // each round doubles the limit in flight
	}
	p.flight = max(1, p.flight*slope)
	if p.now.full && slope == 1 {
		p.flight += max(1, p.flight/20)
	}
}

// faster is the rate after a period that used it, without trouble. Up to the knee it doubles.
// Beyond the knee it grows by 1 % a period, and by up to 5 % the longer all goes well. It grows by
// half a callback a second at least. Clients that had trouble share one client's growth.
// Otherwise forty would grow past the receiver's limit sooner than each finds it again.
func (p *pace) faster() float64 {
	next := p.rate
	switch {
	case !p.steady:
		next *= 2
	case next < p.knee:
		next = min(p.knee, 2*next)
	default:
		p.clean++
		next += max(0.5, next*0.01*float64(min(p.clean, 5))) * cmp.Or(p.growthPart, 1)
	}
	if next >= Unlimited {
		return 2 * Unlimited
	}
	return next
}

// depart counts a callback that leaves, with its number and the callbacks then in flight.
func (p *pace) depart(now time.Time, rate limit.Rate, number, inFlight int) {
	p.tat = rate.Spend(p.tat, now, 1)
	p.now.left++
	p.now.peak = max(p.now.peak, inFlight)
	if inFlight < int(p.flight) {
		return
	}
	p.now.full = true
	if p.round.last == 0 {
		p.round = round{last: number, count: inFlight, awaiting: inFlight}
	}
}

// refused notes whether the rate or the limit in flight held a callback back.
func (p *pace) refused(limited, full bool, now time.Time) {
	p.now.limited, p.now.full = p.now.limited || limited, p.now.full || full
	if limited && p.limited.IsZero() {
		p.limited = now
	}
	if full && p.full.IsZero() {
		p.full = now
	}
}

// stalled is for how long a pace has held callbacks back without growing, 0 where since is zero.
func stalled(since, now time.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	return now.Sub(since)
}

// verdict is a callback's result, for the pace: neither good nor failed without an attempt.
type verdict struct {
	number   int  // of the callback
	good     bool // the receiver took the callback
	failed   bool
	late     bool // the answer took longer than is usual
	together bool // the receiver has shown that it takes two callbacks at once
}

// note takes in a callback's verdict. In slow start the limit in flight doubles when a round is
// over: all its callbacks ended, the last was taken, and most answers came in the usual time. The
// limit exceeds two only once the receiver has shown that it takes two at once.
func (p *pace) note(v verdict) {
	if v.good {
		p.now.good++
		p.good++
	}
	if v.failed {
		p.failures++
	}
	if p.round.last == 0 || v.number > p.round.last {
		return
	}
	if v.late {
		p.round.late++
	}
	if p.round.awaiting--; p.round.awaiting > 0 {
		return
	}
	wasPrompt := 4*p.round.late <= p.round.count
	p.round = round{}
	if v.good && wasPrompt && !p.steady && !p.now.trouble && (p.flight < 2 || v.together) {
		p.flight, p.full = p.flight*2, time.Time{}
	}
}

// slowFor slows the pace for the trouble that a callback showed, which left at a time. Callbacks
// that left before the last trouble say nothing of the pace since.
//
// Failures halve the rate and the limit in flight. Slow answers halve the limit alone, since they
// lower the rate by themselves. With the rate halved as well, a recovered receiver would get a
// few callbacks a second for minutes.
func (p *pace) slowFor(shown trouble, left, now time.Time) {
	p.now.trouble = true
	if left.Before(p.halved) || now.Sub(p.halved) < halfASec {
		return
	}
	base, peak, threshold := p.carried(now), float64(max(p.before.peak, p.now.peak)), p.threshold(now)
	p.halved, p.clean, p.round, p.good, p.failures = now, 0, round{}, 0, 0
	p.flight = max(1, min(p.flight, peak)/2)
	if shown == slowAnswers {
		return
	}
	p.steady = true
	p.rate, p.knee = max(leastRate, base/2), threshold
}

// threshold is the knee after trouble. It is a little less than the rate that was carried before
// the trouble, or than the last knee, where that led to trouble at once.
//
// Where many callbacks have failed since the last trouble, the receiver may fail at any rate. That
// says nothing of its rate when it is well. Or it may have a lower limit. So the knee falls at
// first. After downAfter it returns to its value at the first trouble, as TCP's ssthresh stays
// while a segment times out repeatedly.
func (p *pace) threshold(now time.Time) float64 {
	knee, atKnee := kneePart*p.carried(now), p.rate >= p.knee
	p.highestKnee = max(p.highestKnee, knee)
	switch {
	case 3*p.failures <= p.good:
		if atKnee && p.knee > 0 && p.clean < 3 {
			knee = min(knee, kneePart*p.knee)
		}
		if atKnee {
			p.highestKnee = knee
		}
		p.wellUntil, p.wellKnee = now, knee
	case p.wellUntil.IsZero(): // few callbacks left since the pace grew
		p.wellUntil, p.wellKnee = now, max(p.knee, p.rate/2)
		return p.wellKnee
	case now.Sub(p.wellUntil) >= downAfter:
		return p.wellKnee
	default:
		return max(knee, kneePart*p.wellKnee)
	}
	return knee
}

// carried is the rate at which the receiver took callbacks until the trouble. It is no less than
// the starting rate, unless the rate of the pace is.
func (p *pace) carried(now time.Time) float64 {
	return min(p.rate, max(startRate, p.takenRate(now)))
}

// takenRate is how many callbacks a second the receiver took within this period and the last.
func (p *pace) takenRate(now time.Time) float64 {
	lasted, taken := p.before.lasted+now.Sub(p.now.began), p.before.good+p.now.good
	return float64(taken) / max(halfASec, lasted).Seconds()
}

// slowDown halves the rate after an attempt that was no success, at a stranger or in a trial.
func (p *pace) slowDown(k kind) {
	least := leastRate
	if k == neutral {
		least = goneRate
	}
	p.rate = min(p.rate, max(least, p.rate/2))
}

// rateAt is the rate that a pace has at a time if all goes well, where an answer takes answerTime.
// It is infinite from Unlimited on. A pace that holds callbacks back and has not grown for a while
// is expected to grow as seldom. Otherwise callbacks would come back for growth that doesn't come,
// and find no room, again and again.
//
// No callback leaves before from. After trouble, the pace doubles up to its knee from then on.
func (p *pace) rateAt(at, from, now time.Time, answerTime time.Duration) float64 {
	rate := p.rate
	if p.steady {
		for next := limit.Latest(from, p.now.began); rate < p.knee; rate = min(p.knee, 2*rate) {
			if next = next.Add(max(halfASec, limit.PerSecond(rate), stalled(p.limited, now))); next.After(at) {
				break
			}
		}
	} else if at.After(p.now.began) {
		rate *= math.Exp2(math.Floor(float64(at.Sub(p.now.began)) / float64(max(p.lasts(answerTime), stalled(p.limited, now)))))
	}
	if rate >= Unlimited {
		return math.Inf(1)
	}
	return rate
}

// flightAt is the limit in flight that a pace has at a time if all goes well, where an answer
// takes answerTime, and no callback leaves before from.
func (p *pace) flightAt(at, from, now time.Time, answerTime time.Duration) float64 {
	if p.steady || !at.After(from) {
		return p.flight
	}
	return p.flight * math.Exp2(min(20, math.Floor(float64(at.Sub(from))/float64(max(answerTime, 50*time.Millisecond, stalled(p.full, now))))))
}
