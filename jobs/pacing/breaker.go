package pacing

import "time"

// A receiver that fails so often in a row is down: it is left alone for a while
// that doubles, up to the longest, each time that a probe finds it so.
const (
	failuresToOpen = 10
	firstOpening   = 30 * time.Second
	longestOpening = 15 * time.Minute
)

// breaker is a circuit breaker: closed (its zero value), open, or half open, when a probe
// at a time decides.
//
//	        10 failures in a row            its time is over
//	closed ─────────────────────► open ─────────────────────► half open
//	   ▲                            ▲                              │
//	   │                            └──────── the probe fails ─────┤
//	   └───────────────────────────────── the probe succeeds ──────┘
type breaker struct {
	failures int       // in a row
	since    time.Time // the first of them
	openings int       // in a row, with no success in between
	until    time.Time // open until then
}

func (b breaker) isOpen(now time.Time) bool { return b.until.After(now) }

func (b breaker) isHalfOpen(now time.Time) bool { return b.openings > 0 && !b.isOpen(now) }

// overloadLasts is the least time of failures of a receiver that answers. An overloaded
// receiver answers with many failures within a moment.
const overloadLasts = 3 * time.Second

// afterFailure is the breaker after a failure that counts, with an answer or without.
// since is when the row of failures began.
func (b breaker) afterFailure(answered bool, since, now time.Time) breaker {
	if b.failures++; b.failures == 1 {
		b.since = since
	}
	wasUnderWay := b.isOpen(now) // when the breaker opened
	isEarly := b.failures < failuresToOpen || answered && now.Sub(b.since) < overloadLasts
	if wasUnderWay || b.openings == 0 && isEarly {
		return b
	}
	b.until = now.Add(min(firstOpening<<min(b.openings, 10), longestOpening))
	b.openings++
	return b
}

// evidence counts the failures in a row, by client, since the last success or
// opening. To the breaker for all clients they count where they came before
// HTTP, and otherwise where two clients saw as many.
type evidence struct {
	since    time.Time      // the first of them
	of       map[string]int // by client
	preHTTP  int
	answered bool // one of them, at least
	counted  int  // that the breaker has been told
}

// add takes in a failure, and returns how many more count now.
func (e *evidence) add(client string, k kind, now time.Time) (more int) {
	if e.of == nil {
		e.since, e.of = now, map[string]int{}
	}
	e.of[client]++
	e.answered = e.answered || k == failing
	if k == unreachable {
		e.preHTTP++
	}
	count := max(e.preHTTP, e.seenByTwo())
	more = max(0, count-e.counted)
	e.counted = max(e.counted, count)
	return more
}

// seenByTwo is the number of failures, without those by which the leading client exceeds
// every other.
func (e *evidence) seenByTwo() (seen int) {
	most, second := 0, 0
	for _, count := range e.of {
		seen += count
		if count > most {
			most, second = count, most
		} else {
			second = max(second, count)
		}
	}
	return seen - (most - second)
}
