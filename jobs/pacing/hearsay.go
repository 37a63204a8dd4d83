package pacing

import "time"

// hearsay is a Retry-After to one client, as evidence for the other clients. It closes the
// receiver to them until a callback of the client is answered: their callbacks probe.
type hearsay struct {
	client  string    // that got the Retry-After
	at      time.Time // when the client got it first
	until   time.Time // the end of the hearsay
	refuted time.Time // until then, no hearsay binds anybody
}

// probeAgain is how long after a failed probe the next leaves.
const probeAgain = time.Second

// made takes in a Retry-After. A repeated Retry-After keeps at, so that a probe already under
// way still counts.
func (h *hearsay) made(client string, until, now time.Time) {
	if h.refuted.After(now) || !until.After(h.until) {
		return
	}
	if client != h.client || !h.until.After(now) {
		h.client, h.at = client, now
	}
	h.until = until
}

// binds tells whether the hearsay closes the receiver to a client.
func (h *hearsay) binds(client string, now time.Time) bool {
	return h.until.After(now) && client != h.client
}

// tested takes in a receiver's answer to a callback. A callback that left since the Retry-After and
// was answered below 500, without a Retry-After, refutes the hearsay.
func (h *hearsay) tested(pass *Pass, k kind, now time.Time) {
	if h.binds(pass.party.client, now) && !pass.left.Before(h.at) && k < throttled {
		*h = hearsay{refuted: now.Add(sharedPause)}
	}
}
