package pacing

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

const (
	grantLasts      = 24 * time.Hour
	renewBefore     = time.Hour       // before the end of a grant, the receiver is asked again
	askAfterRefusal = time.Hour       // so that a receiver that learns to grant is soon found out
	askAfterSilence = 5 * time.Minute // after a question without an answer
	askAfterMove    = time.Second     // the least between two questions, for a receiver whose address changes all the time
	askPatience     = 3 * time.Second // for an answer
	ratePerMinute   = 6000            // callbacks that a question asks for
)

// consent is a receiver's answer to the question whether it wants callbacks, by the
// handshake of CloudEvents' HTTP webhook.
type consent struct {
	until     time.Time      // end of the grant, zero for none
	perMinute int            // callbacks that were granted, 0 for no limit
	prefixes  []netip.Prefix // of the addresses that granted them
	asked     time.Time      // when the receiver was last asked
	askAt     time.Time      // the receiver is asked no sooner; zero before the first question
}

// refusal is an answer to a client's question that is no grant. It binds that client alone: the
// question went to a path of the client's choice, of which other clients may know nothing.
type refusal struct {
	stands bool      // the latest answer was no grant
	askAt  time.Time // the client's callbacks ask no sooner
}

// mustAsk tells whether a receiver has to consent to a client's callbacks and has not.
func (p *Pacing) mustAsk(r *receiver, c *party, now time.Time) bool {
	return p.required && !r.ruling.isAllowed() && (c.refusal.stands || !r.consent.covers(r.address, now))
}

// mayAsk tells whether a callback of a client may ask the receiver now.
func (r *receiver) mayAsk(c *party, now time.Time) bool { return !r.asksAt(c).After(now) }

// asksAt is when a callback of a client may ask the receiver.
func (r *receiver) asksAt(c *party) time.Time {
	if c.refusal.stands { // another client may have a grant, whose askAt is its renewal
		return c.refusal.askAt
	}
	return limit.Latest(r.consent.askAt, c.refusal.askAt)
}

// askFirst asks the receiver for its consent where decide says so, before the callback leaves.
// Without a grant it refuses the callback.
func (p *Pacing) askFirst(ctx context.Context, pass *Pass, url string) (*Pass, limit.Decision) {
	if pass.ask {
		limited, cancel := context.WithTimeout(ctx, askPatience)
		defer cancel()
		answer, err := p.outside.Ask(limited, url, ratePerMinute, pass.Admission())
		if ctx.Err() != nil { // the caller cut the question off
			err = ctx.Err()
		}
		if decision := p.asked(pass, answer, err, time.Now()); !decision.OK() {
			return nil, decision
		}
	}
	if ctx.Err() != nil {
		pass.Leave(webhook.Attempt{})
		return nil, limit.Decision{}
	}
	return pass, limit.Decision{}
}

// asked takes in a receiver's answer to the question, and tells whether the callback may go on.
func (p *Pacing) asked(pass *Pass, answer webhook.Consent, err error, now time.Time) limit.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := pass.receiver
	c := pass.party
	if errors.Is(err, webhook.ErrTurnedAway) {
		r.consent.askAt, c.refusal.askAt = now, now // admit let the question go to no address
		p.release(pass, verdict{})
		return pass.refused
	}
	r.consent, c.refusal = r.consent.answered(answer, err, now), c.refusal.answered(answer, err, now)
	if prefix := prefixOf(answer.Address); prefix.IsValid() {
		r.address = prefix
	}
	pass.ask = false
	p.markUnsaved(r, now)
	if p.mustAsk(r, c, now) {
		p.release(pass, verdict{})
		return limit.Decision{Reason: Consent, RetryAt: limit.Latest(r.asksAt(c), now.Add(halfASec))}
	}
	return limit.Decision{}
}

// askThere lets the next callback ask an address that has granted nothing.
func (p *Pacing) askThere(pass *Pass, address netip.Prefix, now time.Time) limit.Decision {
	r := pass.receiver
	r.address, r.consent = address, r.consent.seenAt(address, now)
	return limit.Decision{Reason: Consent, RetryAt: limit.Latest(r.asksAt(pass.party), now.Add(halfASec))}
}

// answered is the refusal after an answer to the client's question.
func (f refusal) answered(answer webhook.Consent, err error, now time.Time) refusal {
	switch {
	case err != nil:
		return refusal{f.stands, now.Add(askAfterSilence)}
	case !answer.Granted:
		return refusal{true, now.Add(askAfterRefusal)}
	}
	return refusal{}
}

// covers tells whether a grant is valid for an address. A grant by another address is no
// grant: a name that grants and then points to a victim would send the flood there.
func (c consent) covers(address netip.Prefix, now time.Time) bool {
	return now.Before(c.until) && slices.Contains(c.prefixes, address)
}

func (c consent) due(now time.Time) bool { return !c.askAt.After(now) }

// answered is the consent after an answer. An answer that grants nothing leaves a grant as it is.
func (c consent) answered(answer webhook.Consent, err error, now time.Time) consent {
	c.asked = now
	if err != nil || !answer.Granted {
		return c
	}
	prefix := prefixOf(answer.Address)
	if now.Before(c.until.Add(-renewBefore)) { // the question was for a further address
		others := slices.DeleteFunc(slices.Clone(c.prefixes), func(p netip.Prefix) bool { return p == prefix })
		c.prefixes = append(others[max(0, len(others)+1-maxPrefixes):], prefix)
	} else {
		c.until, c.prefixes = now.Add(grantLasts), []netip.Prefix{prefix}
	}
	c.perMinute, c.askAt = answer.PerMinute, c.until.Add(-renewBefore)
	return c
}

// seenAt is the consent after a callback went to an address. An address that has granted
// nothing is asked, too.
func (c consent) seenAt(address netip.Prefix, now time.Time) consent {
	if now.Before(c.until) && !slices.Contains(c.prefixes, address) {
		c.askAt = limit.Latest(now, c.asked.Add(askAfterMove))
	}
	return c
}
