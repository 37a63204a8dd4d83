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

// made is called for a Retry-After that no other client got. A client that repeats its
// claim doesn't make a probe that is under way worthless.
func (c *claim) made(client string, until, now time.Time) {
	if c.refuted.After(now) || !until.After(c.until) {
		return
	}
	if client != c.client || !c.until.After(now) {
		c.client, c.at = client, now
	}
	c.until = until
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

// isWitness tells whether a Retry-After to a client still says something of the receiver.
// It doesn't once a callback left afterwards, of another client then, and was answered.
func (r *receiver) isWitness(c *party, now time.Time) bool {
	return c.pause.After(now) && !r.served.After(c.told)
}
