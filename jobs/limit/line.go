package limit

import "time"

// Horizon is how far ahead a time is reserved at most: a limit may have grown by then.
const Horizon = time.Minute

// Near is the horizon of times that are reserved because of a delay that has lasted so long, and
// may end as suddenly. Callers with times far ahead would then be passed by callers that come
// anew. A caller asks again each time that the delay has doubled, about.
func Near(lasted time.Duration) time.Duration { return min(max(time.Second, lasted), Horizon) }

// overdue is how long a caller that doesn't come at its time is waited for.
const overdue = time.Second

// Line is the callers that a limit refused. Each caller reserves a time of its own at which it
// comes back, so that it comes back once and not again and again.
type Line struct {
	first, last time.Time // the first and the last reserved time
	waiting     int       // callers with reserved times, from first to last
	recalled    time.Time // the last time given without a reservation
	began       time.Time // since then the line has not been empty
}

// Reserve reserves the next free time in the line: no sooner than earliest, and spacing after the
// last reserved time. Where that is beyond the Horizon, Reserve returns a time to come back and
// ask instead, as Recall does with step.
func (l *Line) Reserve(earliest time.Time, spacing, step time.Duration) time.Time {
	return l.ReserveWithin(Horizon, earliest, spacing, step)
}

// ReserveWithin is Reserve with a horizon of its own.
func (l *Line) ReserveWithin(horizon time.Duration, earliest time.Time, spacing, step time.Duration) time.Time {
	if !Latest(l.last, l.recalled).Add(overdue).After(earliest) {
		l.began = earliest
	}
	at := Latest(earliest, l.last.Add(spacing))
	if beyond := earliest.Add(horizon); at.After(beyond) {
		return l.Recall(beyond, step)
	}
	if l.waiting == 0 || !l.last.Add(overdue).After(earliest) {
		l.first, l.waiting = at, 0
	}
	l.last = at
	l.waiting++
	return at
}

// Recall returns a time to come back and ask: no sooner than earliest, and step after the
// last such time.
func (l *Line) Recall(earliest time.Time, step time.Duration) time.Time {
	l.recalled = Latest(earliest, l.recalled.Add(step))
	return l.recalled
}

// Hold puts a caller that came back into the line again, with a time near the head.
func (l *Line) Hold(until time.Time) {
	if l.waiting == 0 || !l.last.Add(overdue).After(until) {
		l.first, l.last, l.waiting = until, until, 0
	}
	if until.Before(l.first) {
		l.first = until
	}
	l.waiting++
}

// CameBack takes a caller out of the line.
func (l *Line) CameBack() {
	if l.waiting == 0 {
		return
	}
	if l.waiting--; l.waiting > 0 {
		l.first = l.first.Add(l.last.Sub(l.first) / time.Duration(l.waiting))
	}
}

// Missed takes callers out of the line that didn't come at their time, and tells whether there were
// any. They may never come: a job was cancelled, say, or another process has it.
func (l *Line) Missed(now time.Time) (missed bool) {
	for l.waiting > 0 && !l.first.Add(overdue).After(now) {
		l.CameBack()
		missed = true
	}
	return missed
}

// Stood is for how long callers of Reserve have been in the line without a gap.
func (l *Line) Stood(now time.Time) time.Duration {
	if !Latest(l.last, l.recalled).Add(overdue).After(now) {
		return 0
	}
	return now.Sub(l.began)
}

// Last is the last time that was reserved.
func (l *Line) Last() time.Time { return l.last }

// Due tells whether the next caller in the line comes before a time, or should have come just now.
func (l *Line) Due(now, before time.Time) bool {
	return l.waiting > 0 && !l.first.After(before) && l.last.Add(overdue).After(now)
}
