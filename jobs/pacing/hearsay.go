package pacing

import "time"

// hearsay is what a Retry-After that one client alone got is to the other clients. It
// closes the receiver to them until one of them is answered: their callbacks probe, one at
// a time.
type hearsay struct {
	client  string
	at      time.Time
	until   time.Time
	probing bool
	next    time.Time // when a probe may go after a probe that failed
	refuted time.Time // until then, no hearsay binds anybody
}

// probeAgain is the pause after a probe that failed.
const probeAgain = time.Second

// made is called for a Retry-After that no other client got. A client that gets
// it again doesn't make a probe that is under way worthless.
func (h *hearsay) made(client string, until, now time.Time) {
	if h.refuted.After(now) || !until.After(h.until) {
		return
	}
	if client != h.client || !h.until.After(now) {
		h.client, h.at = client, now
	}
	h.until = until
}

func (h *hearsay) binds(client string, now time.Time) bool {
	return h.until.After(now) && client != h.client
}

// opens is when a client may probe, or call, where an attempt takes so long. It may now
// where that isn't later than now.
func (h *hearsay) opens(client string, took time.Duration, now time.Time) time.Time {
	switch {
	case !h.binds(client, now):
		return now
	case h.probing:
		return now.Add(took)
	default:
		return h.next
	}
}

// tested takes in how a receiver treated a callback since then.
func (h *hearsay) tested(pass *Pass, k kind, now time.Time) {
	if !h.binds(pass.party.client, now) || pass.left.Before(h.at) || k == throttled {
		return
	}
	if k.isDown() {
		h.next = now.Add(probeAgain)
		return
	}
	*h = hearsay{refuted: now.Add(sharedPause)}
}

// isWitness tells whether a Retry-After to a client still says something of the receiver.
// It doesn't once a callback left afterwards, of another client then, and was answered.
func (r *receiver) isWitness(c *party, now time.Time) bool {
	return c.pause.After(now) && !r.served.After(c.told)
}
