package pacing

import (
	"net/http"
	"time"

	"ringback/jobs/webhook"
)

// kind is an attempt's evidence about a receiver.
type kind int

const (
	good        kind = iota // it took the callback
	neutral                 // 410: it says nothing of other callbacks
	refused                 // it is up, and refused this callback
	throttled               // it is up, and said when to come back
	failing                 // it answered that it can't, or hung up
	silent                  // it took the callback's connection, and gave no answer in time
	unreachable             // it failed before HTTP
)

// kindOf takes what happens on a callback's connection for that callback's matter: a client
// may know a path on which a healthy receiver hangs up, or says nothing.
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

// isDown tells whether a breaker counts the attempt. A receiver that refuses a callback,
// with 404 say, is up: else a URL that isn't there would close it.
func (k kind) isDown() bool { return k > throttled }

// health is how a receiver answers one client: how fast, and how often it fails.
type health struct {
	usual, recent    time.Duration // moving averages of an answer's time: with few in flight, and of late
	calm             time.Time     // of the latest answer with few in flight
	answered, failed float64       // of late: halved each half second
	failing          float64       // share of failures that a slower pace doesn't mend
	rolled           time.Time
}

const (
	// slack is the time by which an answer may exceed any usual time. Where this machine
	// itself is full, answers take tens of milliseconds longer, without any fault of the
	// receiver: with 50 ms, a storm of twice the capacity cut the callbacks of a healthy
	// receiver to a tenth.
	slack      = 250 * time.Millisecond
	calmEvery  = 10 * time.Second // how often the usual time is measured at least, or 20 answers
	tolerance  = 1.5              // times the usual that leave the limit in flight as it is
	failSlack  = 0.03             // share of failures that is no evidence of load
	maxFailing = 0.2              // share that may pass for a receiver's own
)

// trouble is an attempt's evidence that a receiver has too much load.
type trouble int

const (
	noTrouble   trouble = iota
	slowAnswers         // answers take twice the usual time and the slack more
	failures            // more failures than are usual for the receiver
)

// note takes in an attempt, and returns the trouble that it shows. few says that few
// callbacks were in flight when the attempt left, slowed that the pace had been halved not
// long before.
func (h *health) note(k kind, took time.Duration, few, slowed bool, now time.Time) trouble {
	h.roll(now)
	h.answered++
	if slowed {
		h.failing = min(maxFailing, h.failing+(share(k)-h.failing)/32)
	}
	if k.isFailure() {
		h.failed++
		usual := h.failing
		if k == refused {
			usual = maxFailing // no load makes a receiver refuse a callback
		}
		if h.failed > (2*usual+failSlack)*h.answered+k.slack() {
			return failures
		}
		return noTrouble
	}
	if k != good {
		return noTrouble
	}
	h.recent = average(h.recent, took)
	if few || h.usual == 0 {
		h.calm = now
		h.usual = towards(h.usual, took)
	}
	if h.recent > 2*h.usual+slack {
		return slowAnswers
	}
	return noTrouble
}

// towards is the usual time after an answer with few in flight. It falls fast and rises
// slowly, since the causes of late answers are unusual.
func towards(usual, took time.Duration) time.Duration {
	switch {
	case usual == 0:
		return took
	case took < usual:
		return usual - (usual-took)/2
	default:
		return usual + (took-usual)/16
	}
}

// isLate tells whether an answer took clearly longer than is usual.
func (h *health) isLate(took time.Duration) bool { return took > h.usual+h.usual/4+slack }

// share is an attempt's part in the share of failures.
func share(k kind) float64 {
	if k.isFailure() {
		return 1
	}
	return 0
}

// slack is one failure. A single failure may be its callback's own.
func (k kind) slack() float64 {
	if k == refused || k == failing {
		return 1
	}
	return 0
}

func (h *health) roll(now time.Time) {
	for ; now.Sub(h.rolled) >= halfASec && h.answered > 0.01; h.rolled = h.rolled.Add(halfASec) {
		h.answered, h.failed = h.answered/2, h.failed/2
	}
	if now.Sub(h.rolled) >= halfASec {
		h.rolled = now
	}
}

// slope is how much of a limit in flight the answers' time leaves: all while it is
// about the usual, at least half (Gradient2 of Netflix's concurrency-limits).
func (h *health) slope() float64 {
	if h.recent <= h.usual+slack/5 {
		return 1
	}
	return min(1, max(0.5, tolerance*float64(h.usual)/float64(h.recent)))
}

// average is a moving average, of which the first value is all.
func average(before, next time.Duration) time.Duration {
	if before == 0 {
		return next
	}
	return before + (next-before)/8
}
