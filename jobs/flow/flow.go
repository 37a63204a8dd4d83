// Package flow decides when a run of the work may begin. A job passes the waiting room and the
// slots of all runs (Slots), and then the bounds of its own kind of work (Flow). There, sync
// requests go before jobs.
package flow

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"ringback/jobs/limit"
	"ringback/work"
)

// Flow bounds the runs of a kind of work: by its limit, and for work of an HTTP service
// (work.Work.Paced) by breakers and a slow start. A run may begin, or gets a time to come
// back. A job whose turn is near waits for its turn.
//
// A client's runs that fail hold up that client alone: a service may fail by one client's
// inputs, and any number of clients may send such inputs. Only runs that got no connection
// hold up all clients, since no input is the cause.
//
// Where the service fails for all clients, each client finds out by a single failure, and
// sends probes of its own.
//
// Breakers of services differ from breakers of receivers, since the service is the
// operator's own: it gets full speed from the start, and frequent probes.
type Flow struct {
	paced bool
	tell  func(down bool, cause error) // when the service is down, again while it is, and when it is back
	warn  func(*work.SettingError)     // of answers that the operator must act on, once a minute
	limit int                          // runs at a time, 0 for no limit
	door  *limit.Gate                  // lets as many jobs through as there are slots; nil without a limit
	runs  *limit.Gate                  // the slots, for sync requests before jobs; nil without a limit
	room  *Room                        // for jobs that wait at the door
	// shared says that clients share the turns of sync requests.
	shared  bool
	waiting atomic.Int64 // sync requests that wait

	mu           sync.Mutex
	parties      map[string]*party
	reach        breaker       // of all clients: it counts runs that got no connection
	row          int           // failures in a row, of all clients together
	back         time.Time     // when a connection to the service was last found to be possible again
	took         time.Duration // moving average of all clients' runs, 0 before the first
	rising       time.Time     // when slow start last began
	tat          time.Time     // of the rate of slow start
	lastProgress time.Time     // when a run last began or ended
	told         time.Time     // when tell last told that the service is down
	warned       time.Time     // when warn was last called
}

// party is one client at a service.
type party struct {
	clientState
	breaker breaker
	pause   time.Time // end of the client's Retry-After
	back    time.Time // when the client's breaker last closed
}

// party returns a client's party. There are no more parties than clients.
func (f *Flow) party(client string) *party {
	c := f.parties[client]
	if c == nil {
		c = &party{}
		f.parties[client] = c
	}
	return c
}

const (
	// longestPause is the longest time for which a Retry-After to one run holds up its client's
	// other runs.
	longestPause = time.Minute
	// Slow start begins with firstRate runs a second, and doubles them each half second
	// until lastRate, after 3 s.
	firstRate  = 20.0
	lastRate   = 1000.0
	askStep    = time.Millisecond // between two jobs that come back and ask
	risingStep = 500 * time.Millisecond
	// jobPatience is how near a job's turn must be for the job to wait. Within that time, 64
	// slots do as many jobs as may wait by default, 500, if each takes 128 ms.
	jobPatience = time.Second
	// longestTurn is how long a job waits for its turn at most: the runs before it may take
	// longer than earlier runs.
	longestTurn = 2 * jobPatience
)

// LongestWait is how long a job that holds a worker waits for its run at most. It waits at the
// door, for a slot of all runs, and for a slot of its kind of work.
const LongestWait = 2*longestTurn + slotPatience

// Reasons for which a run waits, besides a slot, and for which a sync request is
// refused.
const (
	KindLimit  limit.Reason = "kind_limit"  // the slots of the kind of work are used up
	WorkDown   limit.Reason = "work_down"   // the service failed in a row
	WorkPaused limit.Reason = "work_paused" // the client got a Retry-After
	WorkPace   limit.Reason = "work_pace"   // the service has just come back
)

// Reasons returns all reasons for which a run waits.
func Reasons() []limit.Reason {
	return []limit.Reason{WorkSlots, KindLimit, WorkDown, WorkPaused, WorkPace}
}

// OfCatalog returns the flows by name of the work: one for each kind of work that has a limit, or
// a service.
func OfCatalog(catalog *work.Catalog, room *Room, shared bool, logger *slog.Logger) map[string]*Flow {
	flows := map[string]*Flow{}
	for _, offer := range catalog.All() {
		if offer.Paced || offer.Limit > 0 {
			f := New(offer, room, shared)
			f.tell, f.warn = tellOfWork(logger, offer), warnOfWork(logger, offer)
			flows[offer.Name] = f
		}
	}
	return flows
}

// New returns the flow of a kind of work, which tells nobody what it learns.
func New(offer *work.Offer, room *Room, shared bool) *Flow {
	f := &Flow{
		paced: offer.Paced, limit: offer.Limit, room: room, shared: shared, parties: map[string]*party{},
		tell: func(bool, error) {}, warn: func(*work.SettingError) {},
	}
	if f.limit > 0 {
		gate := func() *limit.Gate {
			return limit.NewGate(limit.NewSlots(f.limit, shared), limit.OldestFirst, KindLimit, KindLimit)
		}
		f.door, f.runs = gate(), gate()
	}
	return f
}

// tellOfWork returns a function that logs that the service of a kind of work is down, and
// when it is back.
func tellOfWork(logger *slog.Logger, offer *work.Offer) func(down bool, cause error) {
	return func(down bool, cause error) {
		if !down {
			logger.Info("work_back", "work", offer.Name, "service", offer.Service)
			return
		}
		logger.Error("work_down", "work", offer.Name, "service", offer.Service, "cause", cause,
			"remedy", remedyOfDown(cause)+"; async requests wait meanwhile, and sync requests get 503")
	}
}

// remedyOfDown is what an operator may do about a service that fails one run after the other.
func remedyOfDown(cause error) string {
	told, _ := errors.AsType[*work.Error](cause)
	if _, unreached := errors.AsType[*work.UnreachedError](cause); unreached {
		return "start the service of WORK_URL or WORKS, or correct its URL"
	}
	if told != nil && told.Code == work.CodeDeadline {
		return "look into the log of the service of WORK_URL or WORKS, raise WORK_TIMEOUT (or its timeout in WORKS), or let it answer 202 and report later"
	}
	return "look into the log of the service of WORK_URL or WORKS, and make sure that its URL names the service"
}

// warnOfWork returns a function that logs that a service refuses all requests.
func warnOfWork(logger *slog.Logger, offer *work.Offer) func(*work.SettingError) {
	return func(mistake *work.SettingError) {
		logger.Warn("work_refused_by_service", "work", offer.Name, "service", offer.Service, "status", mistake.Status, "cause", mistake.Err, "remedy", mistake.Remedy)
	}
}

// pass is a run under way, with the epochs of the breakers in which it began.
type pass struct {
	client     string
	reach, own int
}

// Enter lets a job begin that Await let through. The job must call leave with its outcome.
// Otherwise leave is nil, and the decision tells the reason and the time to come back. The job
// waits while sync requests are before it. It holds a slot of all runs meanwhile, so it takes no
// place in the waiting room. After the end of ctx, leave is nil and the decision means nothing.
// A nil flow lets all jobs begin.
func (f *Flow) Enter(ctx context.Context, client string) (leave func(work.Outcome), decision limit.Decision) {
	if f == nil {
		return func(work.Outcome) {}, limit.Decision{}
	}
	if f.runs != nil {
		decision := f.runs.Enter(ctx, client, func(queue limit.Queue) time.Duration { return f.patience(client, queue, time.Now()) })
		if !decision.OK() {
			if ctx.Err() != nil {
				return nil, limit.Decision{}
			}
			return nil, f.postpone(client, decision, time.Now())
		}
	}
	p, decision := f.start(client, false, time.Now())
	if !decision.OK() {
		return nil, f.postpone(client, decision, time.Now())
	}
	return f.leaver(p), decision
}

// leaver returns the function that ends a run.
func (f *Flow) leaver(p pass) func(work.Outcome) {
	return func(outcome work.Outcome) { f.leave(p, outcome, time.Now()) }
}

// start begins a run that has its slot, or gives the slot back and tells why. A timed run has
// reserved its time at the rate of slow start, and any other run needs room at that rate.
func (f *Flow) start(client string, timed bool, now time.Time) (p pass, decision limit.Decision) {
	defer func() {
		if !decision.OK() {
			f.giveBack(client)
		}
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	if decision = f.shut(client, now); !decision.OK() {
		return pass{}, decision
	}
	if !timed {
		if f.tat, decision = f.pace(client, now); !decision.OK() {
			return pass{}, decision
		}
	}
	f.lastProgress = now
	return pass{client, f.reach.enter(now), f.party(client).breaker.enter(now)}, limit.Decision{}
}

// giveBack gives a slot to the next run that waits.
func (f *Flow) giveBack(client string) {
	if f.runs != nil {
		f.runs.Leave(client)
	}
}

// Await lets a job through the door, before the job takes a slot of all runs. The job must call
// leave. Otherwise leave is nil, and the decision tells the reason and the time to come back.
// After the end of ctx, leave is nil and the decision means nothing.
//
// No more jobs are through at a time than there are slots, and the next jobs wait where their
// turn is near. River hands out jobs by the hundred. Without a wait, the slots would be idle
// until the next hundred, and postponing the rest costs Postgres as much as doing them.
func (f *Flow) Await(ctx context.Context, client string) (leave func(), decision limit.Decision) {
	if f == nil {
		return func() {}, limit.Decision{}
	}
	if decision := f.look(client, time.Now()); !decision.OK() {
		return nil, f.postpone(client, decision, time.Now())
	}
	if f.door == nil {
		return func() {}, limit.Decision{}
	}
	waited := false
	decision = f.door.Enter(ctx, client, func(queue limit.Queue) time.Duration {
		patience := f.patience(client, queue, time.Now())
		if patience == 0 || !f.room.enter(client) {
			return 0
		}
		waited = true
		return patience
	})
	if waited {
		f.room.leave(client)
	}
	if !decision.OK() {
		if ctx.Err() != nil {
			return nil, limit.Decision{}
		}
		return nil, f.postpone(client, decision, time.Now())
	}
	return func() { f.door.Leave(client) }, decision
}

// look is closed for callers that don't hold the lock.
func (f *Flow) look(client string, now time.Time) limit.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed(client, now)
}

// shutNow is shut for callers that don't hold the lock.
func (f *Flow) shutNow(client string, now time.Time) limit.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shut(client, now)
}

// patience is how long a client's job waits for a slot. It is 0 where the job's turn is far, and
// where no run has begun or ended for a while: the service may hang.
func (f *Flow) patience(client string, queue limit.Queue, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	turn := f.perSlot(client) * time.Duration(queue.All+1)
	if turn > jobPatience || now.Sub(f.lastProgress) > jobPatience {
		return 0
	}
	return longestTurn
}

// postpone gives a client's refused job a time of its own to come back. Each client has a line of
// its own. In a common line, a job of a client with short runs would wait behind hundreds of jobs
// of one client with long runs.
func (f *Flow) postpone(client string, refused limit.Decision, now time.Time) limit.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := &f.party(client).line
	earliest := limit.Latest(refused.RetryAt, now.Add(Soonest))
	spacing, horizon := f.spacing(client, now), limit.Horizon
	if refused.Reason == KindLimit { // slots that have long been busy may stay busy for as long again, or not
		spacing, horizon = max(spacing, now.Sub(f.lastProgress)/2), limit.Near(line.Stood(now))
	}
	refused.RetryAt = line.ReserveWithin(horizon, earliest, spacing, askStep)
	return refused
}

// closed tells why no job of a client may begin now, even in a free slot, and when a job may.
func (f *Flow) closed(client string, now time.Time) limit.Decision {
	if decision := f.shut(client, now); !decision.OK() {
		return decision
	}
	_, decision := f.pace(client, now)
	return decision
}

// shut is closed without the rate of slow start.
func (f *Flow) shut(client string, now time.Time) limit.Decision {
	if f.reach.isOut(longestConnect, now) {
		f.reached(now)
	}
	c := f.party(client)
	for _, opens := range []time.Time{f.reach.opens(now), c.breaker.opens(now)} {
		if opens.After(now) {
			return limit.Decision{Reason: WorkDown, RetryAt: opens}
		}
	}
	if c.pause.After(now) {
		return limit.Decision{Reason: WorkPaused, RetryAt: c.pause}
	}
	return limit.Decision{}
}

// pace decides by the rate of slow start, and returns the new TAT of the rate.
func (f *Flow) pace(client string, now time.Time) (time.Time, limit.Decision) {
	rate := f.rate(client, now)
	if rate.PerSecond == 0 {
		return f.tat, limit.Decision{}
	}
	return rate.Decide(f.tat, now, 1, WorkPace)
}

// rate is the rate of slow start for a client at a time.
func (f *Flow) rate(client string, at time.Time) limit.Rate {
	if !f.isSlowed(client) {
		return limit.Rate{Burst: 1}
	}
	perSecond := risen(f.rising, at)
	if perSecond >= lastRate {
		return limit.Rate{Burst: 1}
	}
	return limit.Rate{PerSecond: perSecond, Burst: 1 + perSecond*0.15} // the queue hands jobs out every tenth of a second
}

// isSlowed tells whether slow start binds a client: the service came back for the client, or for
// all clients, since slow start began.
func (f *Flow) isSlowed(client string) bool {
	back := limit.Latest(f.back, f.party(client).back)
	return !f.rising.IsZero() && !back.Before(f.rising)
}

// spacing is the time between two jobs of a client that come back, by the speed of runs at that
// time. Clients whose jobs wait as well take turns.
func (f *Flow) spacing(client string, now time.Time) time.Duration {
	c := f.party(client)
	began, opens := time.Time{}, limit.Latest(f.reach.until, c.breaker.until)
	switch {
	case f.reach.trips > 0 || c.breaker.trips > 0: // slow start is still to come
		began = limit.Latest(now, opens)
	case f.isSlowed(client):
		began = f.rising
	}
	spacing := askStep / 4
	if at := limit.Latest(now, opens, c.line.Last()); !began.IsZero() && risen(began, at) < lastRate {
		spacing = limit.PerSecond(risen(began, at))
	}
	if f.limit > 0 {
		spacing = max(spacing, f.perSlot(client))
	}
	waiting := 1
	for _, other := range f.parties {
		if other != c && other.line.Due(now, now.Add(limit.Horizon)) {
			waiting++
		}
	}
	return spacing * time.Duration(waiting)
}

// perSlot is the time from one free slot to the next while all slots are in use. It goes by the
// client's own runs, since no client with longer runs holds all slots. The first runs of a client
// are expected to take assumedWork at most, though runs of other clients take longer.
func (f *Flow) perSlot(client string) time.Duration {
	took := f.party(client).took
	if took == 0 {
		took = min(cmp.Or(f.took, assumedWork), assumedWork)
	}
	return took / time.Duration(f.limit)
}

// risen is the rate at a time of a slow start that began at another.
func risen(began, at time.Time) float64 {
	return firstRate * math.Exp2(math.Floor(max(0, at.Sub(began).Seconds())/risingStep.Seconds()))
}
