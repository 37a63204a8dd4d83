package pacing

import (
	"net/netip"
	"slices"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

const (
	grantLasts      = 24 * time.Hour
	renewBefore     = time.Hour       // the grant's end
	askAfterRefusal = time.Hour       // so that a receiver that learns to grant is soon found out
	askAfterSilence = 5 * time.Minute // when there was no answer
	askAfterMove    = time.Second     // the least, when it answers from ever new addresses
	askPatience     = 3 * time.Second
	ratePerMinute   = 6000 // that is asked for
)

// consent is a receiver's answer to the question whether it wants callbacks, by the
// handshake of CloudEvents' HTTP webhook.
type consent struct {
	until     time.Time      // end of the grant, zero for none
	perMinute int            // callbacks that were granted, 0 for no limit
	prefixes  []netip.Prefix // of the addresses that granted them
	asked     time.Time      // last
	askAt     time.Time      // no sooner; zero when there was no answer yet
}

// refusal is an answer to a client's question that is no grant. It binds that client alone: a
// path of its choice was asked, of which the other clients may know nothing.
type refusal struct {
	stands bool
	askAt  time.Time // no sooner
}

// answered is the refusal after a question.
func (f refusal) answered(answer webhook.Consent, err error, now time.Time) refusal {
	switch {
	case err != nil:
		return refusal{f.stands, now.Add(askAfterSilence)}
	case !answer.Granted:
		return refusal{true, now.Add(askAfterRefusal)}
	}
	return refusal{}
}

// covers tells whether a grant is valid for an address. A grant by another address is
// not: a name that grants and then points to a victim would send the flood there.
func (c consent) covers(address netip.Prefix, now time.Time) bool {
	return now.Before(c.until) && slices.Contains(c.prefixes, address)
}

func (c consent) due(now time.Time) bool { return !c.askAt.After(now) }

// answered is the consent after it was asked for. An answer that grants nothing changes nothing.
func (c consent) answered(answer webhook.Consent, err error, now time.Time) consent {
	c.asked = now
	if err != nil || !answer.Granted {
		return c
	}
	prefix := prefixOf(answer.Address)
	if now.Before(c.until.Add(-renewBefore)) { // asked since it answered from another address
		others := slices.DeleteFunc(slices.Clone(c.prefixes), func(p netip.Prefix) bool { return p == prefix })
		c.prefixes = append(others[max(0, len(others)+1-maxPrefixes):], prefix)
	} else {
		c.until, c.prefixes = now.Add(grantLasts), []netip.Prefix{prefix}
	}
	c.perMinute, c.askAt = answer.PerMinute, c.until.Add(-renewBefore)
	return c
}

// seenAt is the consent after a callback went to an address. An address that has
// not granted it is asked, too.
func (c consent) seenAt(address netip.Prefix, now time.Time) consent {
	if now.Before(c.until) && !slices.Contains(c.prefixes, address) {
		c.askAt = limit.Latest(now, c.asked.Add(askAfterMove))
	}
	return c
}
