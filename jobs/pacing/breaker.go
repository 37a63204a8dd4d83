package pacing

import "time"

// A receiver that fails so often in a row is down. It is closed for a time that doubles, up to
// the longest, each time that a probe fails.
const (
	failuresToTrip = 10
	firstClosing   = 30 * time.Second
	longestClosing = 15 * time.Minute
)

// breaker is a circuit breaker: closed (its zero value), open, or half open, when a probe at a
// time decides. The words are the field's, and an open breaker means a closed receiver: no
// callback leaves. A breaker trips when it opens.
//
//	        10 failures in a row            its time is over
//	closed ─────────────────────► open ─────────────────────► half open
//	   ▲                            ▲                              │
//	   │                            └──────── the probe fails ─────┤
//	   └───────────────────────────────── the probe succeeds ──────┘
type breaker struct {
	failures int       // in a row
	since    time.Time // when the row of failures began
	trips    int       // how often it tripped, with no success in between
	until    time.Time // open until then
}

func (b breaker) isOpen(now time.Time) bool { return b.until.After(now) }

func (b breaker) isHalfOpen(now time.Time) bool { return b.trips > 0 && !b.isOpen(now) }

// overloadLasts is how long a receiver that answers must fail before its breaker trips. An
// overloaded receiver answers with many failures within a moment.
const overloadLasts = 3 * time.Second

// afterFailure is the breaker after a failure. answered says that the receiver answered, since is
// when the row of failures began.
func (b breaker) afterFailure(answered bool, since, now time.Time) breaker {
	if b.failures++; b.failures == 1 {
		b.since = since
	}
	wasUnderWay := b.isOpen(now) // the failed callback left before the breaker opened
	isEarly := b.failures < failuresToTrip || answered && now.Sub(b.since) < overloadLasts
	if wasUnderWay || b.trips == 0 && isEarly {
		return b
	}
	b.until = now.Add(min(firstClosing<<min(b.trips, 10), longestClosing))
	b.trips++
	return b
}

// evidence counts the failures in a row, by client, since the last success, or since the breaker
// for all clients last opened. That breaker counts failures before HTTP. Other failures count
// for it as far as the leading client has no more of them than the next.
type evidence struct {
	since     time.Time      // when the row of failures began
	of        map[string]int // failures, by client
	preHTTP   int            // failures before HTTP
	hasAnswer bool           // at least one failure was an answer
	counted   int            // failures that the breaker has counted
}

// add takes in a failure, and returns how many more failures the breaker has to count.
func (e *evidence) add(client string, k kind, now time.Time) (more int) {
	if e.of == nil {
		e.since, e.of = now, map[string]int{}
	}
	e.of[client]++
	e.hasAnswer = e.hasAnswer || k == failing
	if k == unreachable {
		e.preHTTP++
	}
	count := max(e.preHTTP, e.withoutLeadersExcess())
	more = max(0, count-e.counted)
	e.counted = max(e.counted, count)
	return more
}

// withoutLeadersExcess is the number of failures, without those by which the leading client
// exceeds the next.
func (e *evidence) withoutLeadersExcess() (seen int) {
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
