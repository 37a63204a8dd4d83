package pacing

import "time"

// hearsay is what a Retry-After that one client got is to the other clients. It closes the
// receiver to them until one of them is answered: their callbacks probe.
type hearsay struct {
	client  string
	at      time.Time
	until   time.Time
	refuted time.Time // until then, no hearsay binds anybody
}

// probeAgain is the pause after a probe that failed.
const probeAgain = time.Second

// made is called for a Retry-After. A client that gets it again doesn't make a probe that is
// under way worthless.
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

// tested takes in how a receiver treated a callback since then.
func (h *hearsay) tested(pass *Pass, k kind, now time.Time) {
	if h.binds(pass.party.client, now) && !pass.left.Before(h.at) && k < throttled {
		*h = hearsay{refuted: now.Add(sharedPause)}
	}
}
