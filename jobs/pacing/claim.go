package pacing

import "time"

// claim is a Retry-After that one client alone got. It closes the receiver to the other
// clients until one of them is answered: their callbacks probe, one at a time.
type claim struct {
	client  string
	at      time.Time
	until   time.Time
	probing bool
	next    time.Time // when a probe may go after a probe that failed
	refuted time.Time // until then, a claim binds nobody
}

// probeAgain is the pause after a probe that failed.
const probeAgain = time.Second

// made is called for a Retry-After that no other client got.
func (c *claim) made(client string, until, now time.Time) {
	if !c.refuted.After(now) && until.After(c.until) {
		c.client, c.at, c.until = client, now, until
	}
}

func (c *claim) binds(client string, now time.Time) bool {
	return c.until.After(now) && client != c.client
}

// opens is when a client may probe, or call, where an attempt takes so long. It may now
// where that isn't later than now.
func (c *claim) opens(client string, took time.Duration, now time.Time) time.Time {
	switch {
	case !c.binds(client, now):
		return now
	case c.probing:
		return now.Add(took)
	default:
		return c.next
	}
}

// tested takes in how a receiver treated a callback since the claim.
func (c *claim) tested(pass *Pass, k kind, now time.Time) {
	if !c.binds(pass.party.client, now) || pass.left.Before(c.at) || k == throttled {
		return
	}
	if k.isDown() {
		c.next = now.Add(probeAgain)
		return
	}
	*c = claim{refuted: now.Add(sharedPause)}
}
