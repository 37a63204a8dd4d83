package pacing

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"ringback/db"
	"ringback/jobs/limit"
)

// memory is the database's knowledge of a receiver.
type memory struct {
	loaded  bool
	rate    float64     // callbacks a second that the receiver was known to take
	flight  float64     // callbacks in flight that it was known to take
	saved   db.Receiver // the row that was last read or written
	savedAt time.Time   // when saved was written, or long enough ago for the next write
	unsaved bool        // marked for saving
}

// pace is the first pace of a known receiver in this process: half of what it was known to take,
// and the starting pace at least.
func (m memory) pace(now time.Time) pace {
	begin := newPace(now)
	begin.rate, begin.flight = max(begin.rate, m.rate/2), max(begin.flight, m.flight/2)
	return begin
}

// closing is a party's part of a receiver's row: until when the receiver is closed to the client,
// and why.
type closing struct {
	Trips    int       `json:"openings,omitzero"` // of the party's breaker
	Down     time.Time `json:"down_until,omitzero"`
	Paused   time.Time `json:"paused_until,omitzero"`
	OneByOne time.Time `json:"one_by_one_until,omitzero"`
	Claimed  time.Time `json:"claimed_until,omitzero"` // hearsay: the client's Retry-After, for other clients
	Shook    bool      `json:"shook_hands,omitzero"`   // shookHands of the party
}

// mostTrips bounds the trips that somebody wrote by hand into a row: they are counted on from
// there.
const mostTrips = 1000

// recall takes in the database's row, the zero row where there is none.
func (r *receiver) recall(row db.Receiver, now time.Time) {
	r.memory = memory{loaded: true, rate: row.Rate, flight: float64(row.InFlight), saved: row, savedAt: now.Add(-saveAgain)}
	if row.Openings > 0 {
		r.breaker, r.closedAt = breaker{failures: failuresToTrip, trips: row.Openings, until: row.ClosedUntil}, now
	}
	if len(row.AnsweredFrom) > 0 {
		r.proven, r.answeredFrom, r.pace = true, row.AnsweredFrom, r.memory.pace(now)
		r.together = row.InFlight > 2 // the limit in flight passes two only once that is shown
	}
	if len(row.Prefixes) > 0 && !row.GrantedUntil.IsZero() {
		r.consent = consent{until: row.GrantedUntil, perMinute: row.PerMinute, prefixes: row.Prefixes, askAt: row.GrantedUntil.Add(-renewBefore)}
	}
	if known := append(slices.Clone(row.AnsweredFrom), row.Prefixes...); len(known) > 0 {
		r.address = known[len(known)-1] // until the first attempt shows the present address
	}
	for client, closed := range closingsOf(row) {
		c := r.party(client, now)
		c.breaker = breaker{trips: max(0, min(closed.Trips, mostTrips)), until: closed.Down}
		c.pause, c.oneByOne, c.shookHands = closed.Paused, closed.OneByOne, closed.Shook
		if closed.Claimed.After(r.hearsay.until) {
			r.hearsay = hearsay{client: client, until: closed.Claimed}
		}
	}
}

// Whether a receiver takes callbacks, for an operator.
const (
	TakesAll    = "yes"
	TakesNotYet = "not yet" // the receiver was called, and has taken none
	TakesProbes = "probes"  // one at a time, until a probe is answered
	TakesSome   = "of some clients"
	TakesNone   = "no"
)

// Takes tells by a receiver's row whether the receiver takes callbacks, and until when it is closed
// to all clients or to some. The time is zero where the receiver is closed to none. Of a row that is
// a ruling, Takes tells nothing.
func Takes(row db.ListedReceiver, now time.Time) (takes string, closed time.Time) {
	toSome := closedToClient(row.Receiver)
	switch {
	case row.IsRuling():
		return "", time.Time{}
	case row.Effect == db.ReceiverDenied:
		return TakesNone, time.Time{}
	case row.ClosedUntil.After(now):
		return TakesNone, limit.Latest(row.ClosedUntil, toSome)
	case toSome.After(now):
		return TakesSome, toSome
	case row.Openings > 0:
		return TakesProbes, time.Time{}
	case len(row.AnsweredFrom) == 0 && row.LastOutcome != "":
		return TakesNotYet, time.Time{}
	}
	return TakesAll, time.Time{}
}

// closedToClient is until when a row closes a receiver to at least one client, the zero time
// where it is open to each.
func closedToClient(row db.Receiver) (until time.Time) {
	for _, closed := range closingsOf(row) {
		until = limit.Latest(until, closed.Down, closed.Paused)
	}
	return until
}

// closingsOf reads the closings of a row. Closings that a later version wrote in another
// form are ignored, and learned again.
func closingsOf(row db.Receiver) (closings map[string]closing) {
	if json.Unmarshal(row.Closings, &closings) != nil {
		return nil
	}
	return closings
}

// ByClock returns a row with its times as another clock shows them.
func ByClock(row db.Receiver, clock func(time.Time) time.Time) db.Receiver {
	row.GrantedUntil, row.ClosedUntil, row.ExpiresAt = clock(row.GrantedUntil), clock(row.ClosedUntil), clock(row.ExpiresAt)
	closings := closingsOf(row)
	for client, c := range closings {
		closings[client] = closing{c.Trips, clock(c.Down), clock(c.Paused), clock(c.OneByOne), clock(c.Claimed), c.Shook}
	}
	if len(closings) > 0 {
		row.Closings = encodeClosings(closings)
	}
	return row
}

func encodeClosings(closings map[string]closing) []byte {
	encoded, _ := json.Marshal(closings, json.Deterministic(true)) // fails for no value of this type
	return encoded
}

// known is the pace that a receiver is known to take: its own, or the greatest that its clients
// have where a pace of its own binds each.
func (r *receiver) known() (rate, flight float64) {
	for _, c := range r.parties {
		if !c.bound {
			return r.pace.rate, r.pace.flight
		}
		rate, flight = max(rate, c.pace.rate), max(flight, c.pace.flight)
	}
	return min(rate, r.pace.rate), min(flight, r.pace.flight)
}

const (
	day = 24 * time.Hour
	// metFor is how long a receiver that took callbacks is remembered, until it takes one more than
	// a day after the first. Names cost nothing: a client could name new receivers without end, and
	// none of them twice.
	metFor = 2 * day
	// provenFor is how long a receiver is remembered that took a callback on a later day, too.
	provenFor = 30 * day
	// calledFor is how long a receiver is listed that has taken no callback. That is shorter than
	// any closing is remembered, so that strangers without end displace no closing. It is short
	// enough for a process to store fewer strangers than MostReceivers.
	calledFor = 10 * time.Minute
)

// provenUntil is until when a proven receiver is remembered that takes callbacks now. On its first
// day that is the end of the saved row, two days after the first meeting.
//
// A row with one to three days left is taken for a row of the first day. A row of 30 days looks
// the same after about four weeks without a callback. A callback doesn't renew it then, but a
// callback on its last day does. Without that, the receiver begins as a stranger again.
func (m memory) provenUntil(now time.Time) time.Time {
	left := m.saved.ExpiresAt.Sub(now)
	switch {
	case len(m.saved.AnsweredFrom) == 0:
		return now.Add(metFor)
	case left > metFor-day && left < metFor+day:
		return m.saved.ExpiresAt
	}
	return now.Add(provenFor)
}

// row is the part of a receiver's state that outlives the process.
func (r *receiver) row(now time.Time) db.Receiver {
	row := db.Receiver{
		Name: r.name, GrantedUntil: r.consent.until, PerMinute: r.consent.perMinute, Prefixes: r.consent.prefixes,
		ClosedUntil: r.breaker.until, Openings: r.breaker.trips,
		LastOutcome: string(r.outcome),
	}
	// A half-open breaker is remembered for as long as it might have been open, so that the next
	// trip continues the doubling.
	row.ExpiresAt = limit.Latest(now, row.GrantedUntil, row.ClosedUntil.Add(longestClosing))
	if r.outcome != "" {
		row.ExpiresAt = limit.Latest(row.ExpiresAt, now.Add(calledFor))
	}
	if r.proven {
		rate, flight := r.known()
		row.Rate, row.InFlight, row.AnsweredFrom = rate, int(flight), r.answeredFrom
		row.ExpiresAt = limit.Latest(row.ExpiresAt, r.memory.provenUntil(now))
	}
	closings := r.closings(now)
	for _, c := range closings {
		row.ExpiresAt = limit.Latest(row.ExpiresAt, c.Down.Add(longestClosing), c.Paused, c.OneByOne)
	}
	if len(closings) > 0 {
		row.Closings = encodeClosings(closings)
	}
	return row
}

// closings are the closings of single clients that last longer than a minute, or that are
// hearsay to the others.
func (r *receiver) closings(now time.Time) map[string]closing {
	found := map[string]closing{}
	for client, c := range r.parties {
		claimed := time.Time{}
		if client == r.hearsay.client && r.hearsay.until.After(now) {
			claimed = r.hearsay.until
		}
		if !claimed.IsZero() || limit.Latest(c.closedUntil(), c.oneByOne).After(now.Add(sharedPause)) {
			found[client] = closing{c.breaker.trips, c.breaker.until, c.pause, c.oneByOne, claimed, c.shookHands}
		}
	}
	return found
}

const (
	// saveInterval is how long a changed receiver waits, to be saved with others.
	saveInterval = time.Second
	// saveAgain is the least time between two writes of a receiver.
	saveAgain = 10 * time.Second
	// showAgain is how old the row of a receiver that is called may be. The operator sees its
	// present pace there.
	showAgain = time.Minute
	// renewAfter is by how much a row must last longer to be written again without another change.
	renewAfter = day
)

// markUnsaved marks a receiver for saving, if its row has changed or is old.
func (p *Pacing) markUnsaved(r *receiver, now time.Time) {
	if r.memory.unsaved || p.receivers[r.name] != r {
		return
	}
	isOld := r.outcome != "" && now.Sub(r.memory.savedAt) >= showAgain
	if isOld || differs(r.memory.saved, r.row(now)) {
		r.memory.unsaved = true
		p.unsaved[r.name] = r
	}
}

// differs tells whether a row differs enough from the saved row to be written.
func differs(saved, row db.Receiver) bool {
	apart := func(a, b float64) bool { return a >= 2*b || b >= 2*a }
	switch {
	case row.Openings != saved.Openings, !row.ClosedUntil.Equal(saved.ClosedUntil), string(row.Closings) != string(saved.Closings):
	case !row.GrantedUntil.Equal(saved.GrantedUntil), !slices.Equal(row.Prefixes, saved.Prefixes):
	case !slices.Equal(row.AnsweredFrom, saved.AnsweredFrom):
	case row.Rate > 0 && (apart(row.Rate, saved.Rate) || apart(float64(row.InFlight), float64(saved.InFlight))):
	case row.LastOutcome != saved.LastOutcome:
	case len(row.AnsweredFrom) > 0 && row.ExpiresAt.Sub(saved.ExpiresAt) > renewAfter:
	default:
		return false
	}
	return true
}

// remember saves changed receivers until ctx ends.
func (p *Pacing) remember(ctx context.Context) {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.save(ctx, saveAgain)
		case <-ctx.Done():
			return
		}
	}
}

// SaveAll saves all receivers that were called since they were last saved. It is for the end of a
// process.
func (p *Pacing) SaveAll(ctx context.Context) {
	p.mu.Lock()
	for _, r := range p.receivers {
		if r.memory.loaded && r.used.After(r.memory.savedAt) && (r.proven || r.row(r.used).ExpiresAt.After(r.used)) {
			p.unsaved[r.name] = r
		}
	}
	p.mu.Unlock()
	p.save(ctx, 0)
}

// takeUnsaved returns the changes of receivers that were last saved at least since ago, and takes
// them for saved.
func (p *Pacing) takeUnsaved(now time.Time, since time.Duration) (changes []Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, r := range p.unsaved {
		if now.Sub(r.memory.savedAt) < since {
			continue
		}
		delete(p.unsaved, name)
		change := Change{Row: r.row(now), Before: r.memory.saved}
		r.memory.unsaved, r.memory.saved, r.memory.savedAt = false, change.Row, now
		changes = append(changes, change)
	}
	return changes
}

// saveTimeout bounds one write.
const saveTimeout = 10 * time.Second

// save writes the changes of receivers that were last saved at least since ago. After a failure
// they are written with the next changes.
func (p *Pacing) save(ctx context.Context, since time.Duration) {
	p.writing <- struct{}{}
	defer func() { <-p.writing }()
	changes := p.takeUnsaved(time.Now(), since)
	if len(changes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	err := p.outside.Save(ctx, changes)
	if err == nil {
		return
	}
	p.logger.WarnContext(ctx, "callback_origins_not_saved", "error", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	again := map[string]*receiver{}
	for _, change := range changes {
		if r := p.receivers[change.Row.Name]; r != nil {
			r.memory.unsaved, r.memory.saved = true, change.Before
			again[r.name] = r
		}
	}
	maps.Copy(p.unsaved, again)
}
