package jobs

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

// origins decides when which callback may leave this process. Each origin has a
// budget for all callers together, and those that granted nothing share two more:
// one with all others at their address, since names are free, and, until they
// take their first callback, one with all such in the process, since addresses
// are cheap.
type origins struct {
	mode   ConsentMode
	share  int // callbacks to one origin or address at a time
	logger *slog.Logger
	originIO

	mu        sync.Mutex
	known     map[string]*origin
	addresses map[netip.Prefix]*budget
	unproven  budget
	unsaved   map[string]db.CallbackOrigin
	changed   chan struct{} // tells that there is something unsaved
}

func newOrigins(mode ConsentMode, workers int, logger *slog.Logger, io originIO) *origins {
	return &origins{
		mode: mode, share: max(1, workers/4), logger: logger, originIO: io,
		known: map[string]*origin{}, addresses: map[netip.Prefix]*budget{},
		unsaved: map[string]db.CallbackOrigin{}, changed: make(chan struct{}, 1),
	}
}

// addressLimit is for all strangers behind an address, and as much as one of
// them may earn: less would let those that fail hold up the others of a shared
// host, and more would let a victim be called by many names.
func (s *origins) addressLimit() limit {
	return limit{rate: mostEarned.rate, ceiling: mostEarned.rate, burst: mostEarned.most, most: s.share}
}

// unprovenLimit leaves half of the workers to receivers that are known to work,
// and bounds what names without end may do to an address that isn't known to be
// theirs before the first contact. At its rate ten thousand receivers are met
// again within two minutes of a restart.
func (s *origins) unprovenLimit() limit {
	return limit{rate: 100, ceiling: 100, burst: 200, most: max(1, 2*s.share)}
}

// maxOrigins bounds what is remembered, some 500 bytes each. To make the process
// forget an origin by naming so many others takes minutes at unprovenLimit, and
// gains a newcomer's budget.
const maxOrigins = 10_000

// meet returns what is known of an origin.
func (s *origins) meet(name string) *origin {
	o := s.known[name]
	if o == nil {
		forgetIdle(s.known, func(o *origin) *budget { return &o.budget }, (*origin).isBusy)
		o = newOrigin(name)
		s.known[name] = o
	}
	return o
}

// counts returns how many origins are known, and how many of them may not be
// called now.
func (s *origins) counts(now time.Time) (known, closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.known {
		if o.opens().After(now) {
			closed++
		}
	}
	return len(s.known), closed
}

func (o *origin) isBusy() bool { return o.budget.underWay > 0 || o.meeting != nil }

func (s *origins) budgetAt(address netip.Prefix) *budget {
	b := s.addresses[address]
	if b == nil {
		forgetIdle(s.addresses, func(b *budget) *budget { return b }, func(b *budget) bool { return b.underWay > 0 })
		b = &budget{}
		s.addresses[address] = b
	}
	return b
}

// forgetIdle makes room in a full map, a tenth at a time, by what was not used
// for the longest.
func forgetIdle[K comparable, V any](known map[K]*V, budgetOf func(*V) *budget, busy func(*V) bool) {
	if len(known) < maxOrigins {
		return
	}
	var idle []K
	for key, value := range known {
		if !busy(value) {
			idle = append(idle, key)
		}
	}
	slices.SortFunc(idle, func(a, b K) int { return budgetOf(known[a]).used.Compare(budgetOf(known[b]).used) })
	for _, key := range idle[:min(len(idle), maxOrigins/10)] {
		delete(known, key)
	}
}

// verdict is what a callback is to do next: exactly one of its fields is set.
type verdict struct {
	leave *pass
	load  bool            // ask the database, then for another verdict
	ask   *pass           // ask the receiver, then for another verdict
	wait  <-chan struct{} // and ask for another verdict
	until time.Time       // come back then
}

// pass is what a callback holds while it is under way.
type pass struct {
	origin *origin
	held   []*budget
}

// claim is what a callback needs of a budget.
type claim struct {
	*budget
	limit limit
	took  time.Duration
}

// decide says what a callback to an origin is to do. One that came back has been
// put off or has failed before; one that is patient can wait for a moment.
func (s *origins) decide(o *origin, now time.Time, cameBack, patient bool) verdict {
	o.budget.used = now
	if o.meeting != nil && !s.hasMet(o) {
		return s.waitForMeeting(o, now, patient)
	}
	if !o.loaded {
		return verdict{load: true}
	}
	limit := o.limit(now, s.share)
	if opens := o.opens(); opens.After(now) {
		return verdict{until: o.budget.promise(opens, limit, o.attemptTime())}
	}
	if s.mode != ConsentOff && o.meeting == nil && o.consent.due(now) {
		return s.decideAsk(o, now, cameBack)
	}
	if s.mode == ConsentRequired && !o.granted(now) {
		return verdict{until: o.budget.recall(latest(o.consent.askAt, now.Add(meetingPutOff)), perSecond(limit.ceiling))}
	}
	claims := s.claims(o, limit, now)
	if lacking, ok := haveRoom(claims, now, cameBack); !ok {
		return s.putOff(o, lacking, now, patient)
	}
	return verdict{leave: s.pass(o, claims, now)}
}

// hasMet tells whether all is known of an origin that can be.
func (s *origins) hasMet(o *origin) bool {
	return o.loaded && (s.mode == ConsentOff || !o.consent.askAt.IsZero())
}

const (
	// slotPatience is how long a worker waits for a place at an origin that is quick
	// or unknown: putting the job off would take longer.
	slotPatience = 50 * time.Millisecond
	// meetingPutOff is how long callbacks are put off at least while their origin is
	// asked for its consent: it may be there in a moment, and without limit.
	meetingPutOff = 500 * time.Millisecond
	// slowMeeting is after how long a receiver is one that takes its time to answer,
	// if it ever does. Of the thousands that may be queued for it, slowest come back
	// a second.
	slowMeeting = time.Second
	slowest     = 200
)

// waitForMeeting lets as many wait for what another finds out of a new origin
// as could call it then.
func (s *origins) waitForMeeting(o *origin, now time.Time, patient bool) verdict {
	if patient && o.waiting < s.share {
		return verdict{wait: o.meeting}
	}
	step := perSecond(fastest)
	if now.Sub(o.meetingSince) > slowMeeting {
		step = perSecond(slowest)
	}
	return verdict{until: o.budget.recall(now.Add(meetingPutOff), step)}
}

// decideAsk lets a callback ask for consent, which strangers are bothered with
// no more often than with callbacks.
func (s *origins) decideAsk(o *origin, now time.Time, cameBack bool) verdict {
	claims := s.unprovenClaims(o, now)
	if lacking, ok := haveRoom(claims, now, cameBack); !ok {
		return s.putOff(o, lacking, now, false)
	}
	return verdict{ask: s.pass(o, claims, now)}
}

func (s *origins) unprovenClaims(o *origin, now time.Time) []claim {
	if o.proven || o.granted(now) {
		return nil
	}
	return []claim{{&s.unproven, s.unprovenLimit(), assumedAttempt}}
}

func (s *origins) claims(o *origin, limit limit, now time.Time) []claim {
	claims := append(s.unprovenClaims(o, now), claim{&o.budget, limit, o.attemptTime()})
	if !o.granted(now) && o.address.IsValid() {
		claims = append(claims, claim{s.budgetAt(o.address), s.addressLimit(), assumedAttempt})
	}
	return claims
}

// haveRoom tells whether all budgets have room, or the first that has none.
func haveRoom(claims []claim, now time.Time, cameBack bool) (lacking claim, ok bool) {
	for _, c := range claims {
		c.used = now
		if !c.room(now, c.limit, cameBack) {
			return c, false
		}
	}
	return claim{}, true
}

// putOff lets a callback wait only where a place is all that it lacks.
func (s *origins) putOff(o *origin, lacking claim, now time.Time, patient bool) verdict {
	if patient && lacking.budget == &o.budget && lacking.limit.rate == 0 && !o.breaker.halfOpen(now) && o.took <= slotPatience {
		return verdict{wait: o.freed}
	}
	return verdict{until: lacking.promise(now, lacking.limit, lacking.took)}
}

func (s *origins) pass(o *origin, claims []claim, now time.Time) *pass {
	p := &pass{origin: o}
	for _, c := range claims {
		c.take(now, c.limit)
		p.held = append(p.held, c.budget)
	}
	return p
}

// giveBack ends what a callback holds.
func (s *origins) giveBack(p *pass) {
	for _, held := range p.held {
		held.leave()
	}
	select {
	case p.origin.freed <- struct{}{}:
	default: // nobody waits
	}
}

// conclude takes in what an attempt showed, and notes what is to be kept of it.
func (s *origins) conclude(o *origin, sent webhook.Attempt, now time.Time) {
	before := *o
	o.learn(sent, now)
	if o.breaker.openings != before.breaker.openings || o.pausedUntil.After(latest(before.pausedUntil, now.Add(maxPutOff))) {
		s.keep(o, now)
	}
}

func (s *origins) keep(o *origin, now time.Time) {
	s.unsaved[o.name] = o.row(now)
	select {
	case s.changed <- struct{}{}:
	default: // it has been told before
	}
}
