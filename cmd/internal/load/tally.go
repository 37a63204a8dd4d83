package load

import (
	"github.com/google/uuid"

	"ringback/cmd/internal/receivers"
)

// window is the time that rates and Quantiles are about.
type window struct {
	warmup micros // requests due before it are in the counts, and in no quantile
	end    micros // of sending
}

// holds tells whether a time is within the window. Goodput counts the time of completion,
// not the due time: a request in a backlog was due before.
func (w window) holds(done micros) bool { return done >= w.warmup && done <= w.end }

// perSecond is a rate within the window.
func (w window) perSecond(count int) float64 {
	if w.end <= w.warmup {
		return 0
	}
	return float64(count) / (w.end - w.warmup).duration().Seconds()
}

// tally goes through a ledger that nobody writes to any more, and holds callbacks against
// requests.
type tally struct {
	window
	Async       // the counts of callbacks
	sync, async series
	callback    *histogram // due to first delivery, at receivers that are prompt
	kinds       [receivers.Behaviours]kindTally
	left        *histogram // due to left
	lastLeft    micros     // when the last request left

	missing, pending []uuid.UUID
	uncalled         []uuid.UUID // of dead requests for which no attempt was made
}

// series are the requests of an endpoint.
type series struct {
	latency, service, shed *histogram
	good                   int // done within the window
}

// kindTally is the tally of receivers of one behaviour.
type kindTally struct {
	Kind
	callback *histogram
}

func newTally(window window) *tally {
	newSeries := func() series { return series{newHistogram(), newHistogram(), newHistogram(), 0} }
	t := &tally{window: window, sync: newSeries(), async: newSeries(), callback: newHistogram(), left: newHistogram()}
	for kind := range t.kinds {
		t.kinds[kind].callback = newHistogram()
	}
	return t
}

func (l *ledger) tally(window window) *tally {
	t := newTally(window)
	t.Orphans = l.orphans
	for number := range l.requests {
		t.add(&l.requests[number])
	}
	return t
}

func (t *tally) add(r *request) {
	series := &t.sync
	if r.isAsync {
		series = &t.async
		t.addCallbacks(r)
	} else if r.outcome == ok && t.holds(r.at+r.took) {
		series.good++
	}
	if r.outcome <= unsent {
		return
	}
	t.lastLeft = max(t.lastLeft, r.at+r.left)
	if r.at < t.warmup {
		return
	}
	t.left.record(r.left)
	switch r.outcome {
	case ok:
		series.latency.record(r.took)
		series.service.record(r.took - min(r.left, r.took))
	case shed:
		series.shed.record(r.took)
	}
}

func (t *tally) addCallbacks(r *request) {
	switch {
	case r.outcome == ok:
		t.addAcknowledged(r)
	case r.outcome != ambiguous:
		t.Orphans += int(r.attempts)
		return
	case r.taken > 0:
		t.Unacknowledged++
	}
	if r.taken == 0 {
		return
	}
	if r.hasResult() {
		t.Unverified++
	}
	t.Duplicates += int(r.taken) - 1
	count := func(counter *int, flags flag8) {
		if r.flags&flags != 0 {
			*counter++
		}
	}
	count(&t.WorkFailed, workFailed)
	count(&t.Mismatched, otherID|badBody|wrongResult)
	count(&t.BadSignatures, badSignature)
	count(&t.OutOfOrder, wrongOrder)
}

func (t *tally) addAcknowledged(r *request) {
	t.Acked++
	kind := &t.kinds[r.kind]
	kind.Acked++
	kind.Attempts += int(r.attempts)
	switch {
	case r.taken > 0:
		t.Delivered++
		kind.Delivered++
		t.addDelivery(r, kind)
	case !r.kind.Delivers():
		t.Dead++
		if r.attempts == 0 {
			t.uncalled = append(t.uncalled, r.id)
		}
	case r.kind.MayBePending():
		t.Pending++
		t.pending = append(t.pending, r.id)
	default:
		t.Missing++
		t.missing = append(t.missing, r.id)
	}
}

func (t *tally) addDelivery(r *request, kind *kindTally) {
	if t.holds(r.at + r.called) {
		t.async.good++
	}
	if r.at < t.warmup {
		return
	}
	kind.callback.record(r.called)
	if r.kind.IsPrompt() { // other kinds are slow by themselves
		t.callback.record(r.called)
	}
}

// byKind reports on each kind of receiver in the run, if there are several.
func (t *tally) byKind() map[string]Kind {
	kinds := make(map[string]Kind)
	for index, tally := range t.kinds {
		if tally.Acked > 0 {
			tally.TimeToCallback = tally.callback.quantiles()
			kinds[receivers.Behaviour(index).String()] = tally.Kind
		}
	}
	if len(kinds) == 1 {
		return nil
	}
	return kinds
}

// report tells of an endpoint.
func (s *series) report(lane lane, window window) Endpoint {
	sent := 0
	for _, count := range lane.counts[ok:] {
		sent += count
	}
	return Endpoint{
		Sent:      sent,
		OK:        lane.counts[ok],
		Shed:      lane.counts[shed],
		Rejected:  lane.counts[rejected],
		Failed:    lane.counts[failed],
		Ambiguous: lane.counts[ambiguous],
		Unsent:    lane.counts[unsent],

		Reasons: lane.reasons,
		Latency: s.latency.quantiles(),
		Service: s.service.quantiles(),
		Shedded: s.shed.quantiles(),
		Goodput: window.perSecond(s.good),
	}
}
