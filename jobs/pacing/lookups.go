package pacing

import (
	"context"
	"time"

	"ringback/jobs/limit"
)

// Clients share the lookups of names, since they share the name server. Otherwise names of one
// client that nobody answers for would use up all questions that the name server takes at a time,
// and the lookups of other clients would fail.
const (
	// lookupsAtATime is half of the questions, since a lookup asks for IPv4 and for IPv6. dnsmasq,
	// which many machines ask, refuses more than 150 questions at a time.
	lookupsAtATime = 64
	// askedFor is how long a name server goes on with a question that nobody answers, after the
	// sender has given up: ten seconds, in dnsmasq and in BIND.
	askedFor = 10 * time.Second
	// lookupPatience is the longest that a callback waits for a lookup. Most lookups take some
	// milliseconds, so hundreds of callbacks pass within it.
	lookupPatience = 250 * time.Millisecond
	lookupStep     = 10 * time.Millisecond // between two callbacks that come back without a reservation
)

// newLookups returns slots for lookups. A lookup without an answer keeps its slot for askedFor.
func newLookups(shared bool) *limit.Gate {
	return limit.NewGate(limit.NewHalves(lookupsAtATime, shared), limit.OldestFirst, Lookups, Lookups)
}

// Lookup tells whether the name of the receiver may be looked up, as soon as its client has a
// slot. If so, done must follow, which takes whether a name server answered. The sender calls
// Lookup. A callback that gets no slot is postponed.
func (pass *Pass) Lookup(ctx context.Context) (done func(answered bool), ok bool) {
	p, client := pass.pacing, pass.party.client
	if !p.lookups.Enter(ctx, client, func(limit.Queue) time.Duration { return lookupPatience }).OK() {
		p.mu.Lock()
		defer p.mu.Unlock()
		pass.refused = limit.Decision{Reason: Lookups, RetryAt: p.reserveLookup(client, time.Now())}
		return nil, false
	}
	began := time.Now()
	return func(answered bool) {
		if answered {
			p.lookups.Leave(client)
			return
		}
		time.AfterFunc(askedFor-time.Since(began), func() { p.lookups.Leave(client) })
	}, true
}

// reserveLookup returns when a callback comes back that waits for a lookup. The time is at most
// about as far ahead as the client's callbacks have had to wait so far: the name server may answer
// again.
func (p *Pacing) reserveLookup(name string, now time.Time) time.Time {
	client := p.clientState(name)
	spacing := askedFor / time.Duration(p.lookups.Share())
	return client.lookups.ReserveWithin(limit.Near(client.lookups.Stood(now)), now.Add(spacing), spacing, lookupStep)
}
