package jobs

import (
	"log/slog"
	"math"
	"sync"
	"time"

	"ringback/jobs/limit"
	"ringback/work"
)

// flow bounds the runs of a kind of work: by its limit, and for work of an HTTP service
// (work.Work.Paced) by a breaker and a slow start. It never waits: a run may begin, or
// gets a time to come back.
//
//	        5 failures in a row           its time is over
//	closed ─────────────────────► open ─────────────────────► half open
//	   ▲                           ▲                              │
//	   │                           └──────── the probe fails ─────┤
//	   └──── slow start ◄──────────────────── the probe succeeds ─┘
//
// It differs from the breaker of receivers, since the service is the operator's own: it
// gets full speed from the start, and frequent probes.
type flow struct {
	paced bool
	tell  func(down bool, cause error) // when the breaker opens first, and when it closes

	mu       sync.Mutex
	limited  bool
	slots    limit.Slots
	line     limit.Line
	failures int           // in a row
	openings int           // in a row, with no success in between
	until    time.Time     // open until then
	pause    time.Time     // by a Retry-After
	epoch    int           // runs of earlier epochs, from before an opening or its end, are ignored
	inFlight int           // of this epoch
	took     time.Duration // moving average of a run, 0 before the first
	rising   time.Time     // since when slow start lasts; zero when it doesn't
	tat      time.Time     // of its rate
}

const (
	flowFailures     = 5
	flowFirstOpening = time.Second
	flowLongest      = 30 * time.Second
	// flowPause is the longest time for which a Retry-After to one request holds up all
	// others.
	flowPause = time.Minute
	// Slow start begins with flowStart runs a second, and doubles them each half second
	// until flowNoLimit, after 3 s.
	flowStart    = 20.0
	flowNoLimit  = 1000.0
	flowStep     = time.Millisecond // between two runs that come back and ask
	flowHalfStep = 500 * time.Millisecond
)

// Reasons for which a run waits, besides a slot, and for which a sync request is
// refused.
const (
	WorkLimit  limit.Reason = "work_limit"  // of the work's own runs at a time
	WorkDown   limit.Reason = "work_down"   // it failed in a row
	WorkPaused limit.Reason = "work_paused" // by its Retry-After
	WorkPace   limit.Reason = "work_pace"   // it has just come back
)

func workReasons() []limit.Reason {
	return []limit.Reason{workSlots, WorkLimit, WorkDown, WorkPaused, WorkPace}
}

// newFlows makes a flow for each kind of work that needs a flow.
func newFlows(catalog *work.Catalog, shared bool, logger *slog.Logger) map[string]*flow {
	flows := map[string]*flow{}
	for _, offer := range catalog.All() {
		if offer.Paced || offer.Limit > 0 {
			f := newFlow(offer, shared)
			f.tell = tellOfWork(logger, offer.Name)
			flows[offer.Name] = f
		}
	}
	return flows
}

func newFlow(offer *work.Offer, shared bool) *flow {
	return &flow{
		paced: offer.Paced, limited: offer.Limit > 0, slots: limit.NewSlots(offer.Limit, shared),
		tell: func(bool, error) {},
	}
}

// tellOfWork returns a function that logs when the service of a kind of work goes down,
// and when it is back.
func tellOfWork(logger *slog.Logger, name string) func(down bool, cause error) {
	return func(down bool, cause error) {
		if !down {
			logger.Info("work_back", "work", name)
			return
		}
		logger.Error("work_down", "work", name, "cause", cause,
			"remedy", "start the service of WORK_URL or WORKS, or correct its URL; async requests wait meanwhile, and sync requests get 503")
	}
}

// pass is a run under way.
type pass struct {
	client string
	epoch  int
}

// enter lets a run begin, which must leave, or returns the reason and the time to come back.
// With reserve it is told a time of its own. A nil flow lets all begin.
func (f *flow) enter(client string, reserve bool, now time.Time) (pass, limit.Decision) {
	if f == nil {
		return pass{}, limit.Decision{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if decision := f.closed(client, now); !decision.OK() {
		if reserve {
			decision.RetryAt = f.line.Reserve(decision.RetryAt, f.spacing(now), flowStep)
		}
		return pass{}, decision
	}
	if f.limited {
		f.slots.Take(client, 1)
	}
	if rate := f.rate(now); rate.PerSecond > 0 {
		f.tat = rate.Spend(f.tat, now, 1)
	}
	f.inFlight++
	return pass{client, f.epoch}, limit.Decision{}
}

// look is enter for a run that takes no slot yet.
func (f *flow) look(client string, now time.Time) limit.Decision {
	if f == nil {
		return limit.Decision{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	decision := f.closed(client, now)
	if !decision.OK() {
		decision.RetryAt = f.line.Reserve(decision.RetryAt, f.spacing(now), flowStep)
	}
	return decision
}

// closed tells why no run of a client may begin now, and when a run may.
func (f *flow) closed(client string, now time.Time) limit.Decision {
	switch {
	case f.until.After(now):
		return limit.Decision{Reason: WorkDown, RetryAt: f.until}
	case f.openings > 0 && f.inFlight > 0: // the probe is out
		return limit.Decision{Reason: WorkDown, RetryAt: now.Add(flowHalfStep)}
	case f.pause.After(now):
		return limit.Decision{Reason: WorkPaused, RetryAt: f.pause}
	case f.limited && !f.slots.Room(client, 1):
		return limit.Decision{Reason: WorkLimit, RetryAt: now.Add(soonest)}
	}
	_, decision := f.rate(now).Decide(f.tat, now, WorkPace)
	return decision
}

// rate is the rate of slow start.
func (f *flow) rate(now time.Time) limit.Rate {
	if f.rising.IsZero() {
		return limit.Rate{Burst: 1}
	}
	perSecond := risen(f.rising, now)
	if perSecond >= flowNoLimit {
		f.rising = time.Time{}
		return limit.Rate{Burst: 1}
	}
	return limit.Rate{PerSecond: perSecond, Burst: 1 + int(perSecond*0.15)} // the queue hands jobs out every tenth of a second
}

// spacing is the time between two runs that come back, by the speed of runs then.
func (f *flow) spacing(now time.Time) time.Duration {
	began := f.rising
	if f.openings > 0 { // slow start is still to come
		began = limit.Latest(now, f.until)
	}
	spacing := flowStep / 4
	if at := limit.Latest(now, f.until, f.line.Last()); !began.IsZero() && risen(began, at) < flowNoLimit {
		spacing = limit.PerSecond(risen(began, at))
	}
	if f.limited {
		took := f.took
		if took == 0 {
			took = assumedWork
		}
		spacing = max(spacing, took/time.Duration(f.slots.Free()+f.slots.Taken()))
	}
	return spacing
}

// risen is the rate of slow start at a time.
func risen(began, at time.Time) float64 {
	return flowStart * math.Exp2(math.Floor(max(0, at.Sub(began).Seconds())/flowHalfStep.Seconds()))
}

// leave ends a run with its outcome, the zero Outcome where the run says nothing
// of the work.
func (f *flow) leave(p pass, outcome work.Outcome, now time.Time) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.limited {
		f.slots.Release(p.client, 1)
	}
	if p.epoch != f.epoch {
		return
	}
	f.inFlight--
	if outcome.FinishedAt.IsZero() || outcome.Error != nil && outcome.Error.Code == work.CodeAbandoned {
		return
	}
	if f.took == 0 {
		f.took = outcome.FinishedAt.Sub(outcome.StartedAt)
	}
	f.took += (outcome.FinishedAt.Sub(outcome.StartedAt) - f.took) / 8
	if f.paced {
		f.learn(outcome, now)
	}
}

func (f *flow) learn(outcome work.Outcome, now time.Time) {
	switch {
	case outcome.Again == nil:
		if f.openings > 0 {
			f.rising, f.tat = now, now
			f.begin()
			f.tell(false, nil)
		}
		f.failures, f.openings, f.until = 0, 0, time.Time{}
	case outcome.Again.After > 0:
		f.pause = limit.Latest(f.pause, now.Add(min(outcome.Again.After, flowPause)))
	default:
		f.fail(outcome.Cause, now)
	}
}

func (f *flow) fail(cause error, now time.Time) {
	if f.failures++; f.failures < flowFailures && f.openings == 0 {
		return
	}
	if f.openings == 0 {
		f.tell(true, cause)
	}
	f.until = now.Add(min(flowFirstOpening<<min(f.openings, 10), flowLongest))
	f.openings++
	f.begin()
}

// begin starts an epoch: runs under way no longer count.
func (f *flow) begin() {
	f.epoch++
	f.inFlight = 0
}

// isDown tells whether nothing but a probe may go.
func (f *flow) isDown(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openings > 0 || f.pause.After(now)
}

// EnterWork lets a sync request run a work of the catalog, at once or not at all: the
// error is a *limit.Refusal. leave must be called with the outcome, the zero Outcome
// where the run says nothing of the work.
func (q *Queue) EnterWork(name, client string) (leave func(work.Outcome), err error) {
	f := q.flows[name]
	p, decision := f.enter(client, false, time.Now())
	if err := decision.Err(); err != nil {
		return nil, err
	}
	return func(outcome work.Outcome) { f.leave(p, outcome, time.Now()) }, nil
}
