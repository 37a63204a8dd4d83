package pacing

import (
	"net/http"
	"time"

	"ringback/jobs/webhook"
)

// kind is an attempt's evidence about a receiver. The kinds are in order, from the best evidence
// to the worst: comparisons such as k > throttled rely on it.
type kind int

const (
	good        kind = iota // the receiver took the callback
	neutral                 // 410: it says nothing of other callbacks
	refused                 // the receiver is up, and refused this callback
	throttled               // the receiver is up, and said when to come back
	failing                 // the receiver answered 5xx, or hung up
	silent                  // the receiver accepted the connection, and gave no answer in time
	unreachable             // the attempt failed before HTTP
)

// kindOf is the kind of an attempt. What happens on a connection may be for that callback alone:
// a client may know a path on which a healthy receiver hangs up, or says nothing. So unreachable
// is only an attempt without a connection.
func kindOf(sent webhook.Attempt) kind {
	noAnswer := sent.Outcome == webhook.Timeout || sent.Outcome == webhook.TLSFailed || sent.Outcome == webhook.ConnectionFailed
	if noAnswer && sent.Conn == "" {
		return unreachable
	}
	switch sent.Outcome {
	case webhook.Delivered:
		return good
	case webhook.Gone:
		return neutral
	case webhook.Timeout:
		return silent
	case webhook.Throttled:
		return throttled
	case webhook.HTTPStatus:
		if sent.Status < http.StatusInternalServerError {
			return refused
		}
	}
	return failing
}

// isFailure tells whether an attempt is no success.
func (k kind) isFailure() bool { return k > neutral }

// isDown tells whether a breaker counts the attempt. A receiver that refuses a callback, with 404
// say, is up: otherwise a URL that isn't there would close it.
func (k kind) isDown() bool { return k > throttled }

// health is how a receiver answers one client: how fast, and how often it fails.
type health struct {
	usual    time.Duration // moving average of an answer's time, with few callbacks in flight
	recent   time.Duration // moving average of an answer's time; both are 0 before the first 2xx
	calm     time.Time     // when the latest answer with few in flight came
	attempts float64       // recent attempts: the count is halved each half second
	failures float64       // recent attempts that failed
	unmended float64       // part of the attempts that fails even at a slower pace
	rolled   time.Time     // when the counts were last halved
}

const (
	// slack is the time by which an answer may exceed any usual time. Where this machine is full,
	// answers take tens of milliseconds longer without any fault of the receiver. With 50 ms, a
	// storm of twice the capacity cut the callbacks of a healthy receiver to a tenth.
	slack       = 250 * time.Millisecond
	calmEvery   = 10 * time.Second // how long the usual time may go unmeasured; 20 answers where they take longer
	tolerance   = 1.5              // answers that take so many times the usual leave the limit in flight as it is
	failSlack   = 0.03             // part of failures that is no evidence of load
	maxUnmended = 0.2              // the most that may pass for failures which a slower pace doesn't mend
)

// trouble is an attempt's evidence that a receiver has too much load.
type trouble int

const (
	noTrouble    trouble = iota
	slowAnswers          // answers take twice the usual time and the slack more
	manyFailures         // more failures than are usual for the receiver
)

// note takes in an attempt, and returns the trouble that it shows. few says that few callbacks
// were in flight when the callback left. slowed says that the client's pace is well below the
// load that gave trouble, and was so when the callback left: over a second after the halving.
func (h *health) note(k kind, lasted time.Duration, few, slowed bool, now time.Time) trouble {
	h.roll(now)
	h.attempts++
	if slowed {
		h.unmended = min(maxUnmended, h.unmended+(failurePart(k)-h.unmended)/32)
	}
	if k.isFailure() {
		h.failures++
		usual := h.unmended
		if k == refused {
			usual = maxUnmended // no load makes a receiver answer 4xx
		}
		if h.failures > (2*usual+failSlack)*h.attempts+k.slack() {
			return manyFailures
		}
		return noTrouble
	}
	if k != good {
		return noTrouble
	}
	h.recent = average(h.recent, lasted)
	if few || h.usual == 0 {
		h.calm = now
		h.usual = towards(h.usual, lasted)
	}
	if h.recent > 2*h.usual+slack {
		return slowAnswers
	}
	return noTrouble
}

// towards is the usual time after an answer with few in flight. The usual time falls fast and
// rises slowly, since the causes of late answers are unusual.
func towards(usual, lasted time.Duration) time.Duration {
	switch {
	case usual == 0:
		return lasted
	case lasted < usual:
		return usual - (usual-lasted)/2
	default:
		return usual + (lasted-usual)/16
	}
}

// isLate tells whether an answer took clearly longer than is usual.
func (h *health) isLate(lasted time.Duration) bool { return lasted > h.usual+h.usual/4+slack }

// failurePart is 1 for a failure and 0 otherwise, so that its average is the part of failures.
func failurePart(k kind) float64 {
	if k.isFailure() {
		return 1
	}
	return 0
}

// slack is how many failures beyond the usual are no trouble: one, since a single failure may be
// for its callback alone, and none for a callback without an answer.
func (k kind) slack() float64 {
	if k == refused || k == failing {
		return 1
	}
	return 0
}

// roll halves the counts each half second.
func (h *health) roll(now time.Time) {
	for ; now.Sub(h.rolled) >= halfASec && h.attempts > 0.01; h.rolled = h.rolled.Add(halfASec) {
		h.attempts, h.failures = h.attempts/2, h.failures/2
	}
	if now.Sub(h.rolled) >= halfASec {
		h.rolled = now
	}
}

// slope is the part of the limit in flight that the time of answers allows: all where it is about
// the usual, and half at least (Gradient2 of Netflix's concurrency-limits).
func (h *health) slope() float64 {
	if h.recent <= h.usual+slack/5 {
		return 1
	}
	return min(1, max(0.5, tolerance*float64(h.usual)/float64(h.recent)))
}

// average is a moving average with the next value, which is the average where it is the first.
func average(before, next time.Duration) time.Duration {
	if before == 0 {
		return next
	}
	return before + (next-before)/8
}
