package load

import "ringback/cmd/internal/receivers"

// window is the time that rates and Quantiles are about.
type window struct {
	warmup micros // requests due before it are in the counts, and in no quantile
	end    micros // of sending
}

// holds tells whether a time is within the window. Goodput counts the time of completion,
// not the due time: a request in a backlog was due before.
func (w window) holds(done micros) bool { return done >= w.warmup && done <= w.end }

func (w window) seconds() float64 { return (w.end.duration() - w.warmup.duration()).Seconds() }

// perSecond is a rate within the window.
func (w window) perSecond(count int) float64 {
	if w.end <= w.warmup {
		return 0
	}
	return float64(count) / w.seconds()
}

// tally goes through a ledger that nobody writes to any more.
type tally struct {
	window window
	sync   endpointTally
	async  endpointTally

	callback *histogram // due to first delivery, at receivers that are prompt
	byKind   [receivers.Behaviours]kindTally
	left     *histogram // due to left
	lastLeft micros     // when the last request left
}

type endpointTally struct {
	counts                 [outcomes]int
	latency, service, shed *histogram
	good                   int // done within the window
}

func newEndpointTally() endpointTally {
	return endpointTally{latency: newHistogram(), service: newHistogram(), shed: newHistogram()}
}

func (l *ledger) tally(window window) *tally {
	t := &tally{
		window:   window,
		sync:     newEndpointTally(),
		async:    newEndpointTally(),
		callback: newHistogram(),
		left:     newHistogram(),
	}
	for kind := range t.byKind {
		t.byKind[kind].callback = newHistogram()
	}
	for number := range l.entries {
		entry := &l.entries[number]
		t.addDeparture(entry)
		if l.mix.isAsync(number) {
			t.async.add(entry, window)
			t.addCallback(entry, &l.slots[l.mix.asyncs(number)])
			continue
		}
		t.sync.add(entry, window)
		if entry.outcome == ok && window.holds(entry.at+entry.took) {
			t.sync.good++
		}
	}
	return t
}

func (t *tally) addDeparture(entry *entry) {
	if entry.outcome == undue || entry.outcome == unsent {
		return
	}
	t.lastLeft = max(t.lastLeft, entry.at+entry.left)
	if entry.at >= t.window.warmup {
		t.left.recordMicros(entry.left)
	}
}

func (e *endpointTally) add(entry *entry, window window) {
	e.counts[entry.outcome]++
	if entry.at < window.warmup {
		return
	}
	switch entry.outcome {
	case ok:
		e.latency.recordMicros(entry.took)
		e.service.recordMicros(entry.took - min(entry.left, entry.took))
	case shed:
		e.shed.recordMicros(entry.took)
	}
}

// kindTally is the tally of receivers of one behaviour.
type kindTally struct {
	acked, delivered, attempts int
	callback                   *histogram
}

// addCallback looks at the callbacks of an acknowledged request.
func (t *tally) addCallback(entry *entry, slot *slot) {
	if entry.outcome != ok {
		return
	}
	kind := &t.byKind[slot.kind]
	kind.acked++
	kind.attempts += int(slot.attempts)
	if slot.taken == 0 {
		return
	}
	kind.delivered++
	if t.window.holds(slot.called) {
		t.async.good++
	}
	if entry.at < t.window.warmup {
		return
	}
	took := slot.called - min(entry.at, slot.called)
	kind.callback.recordMicros(took)
	if slot.kind.IsPrompt() { // other kinds are slow by themselves
		t.callback.recordMicros(took)
	}
}

// kinds reports on each kind of receiver in the run, if there are several.
func (t *tally) kinds() map[string]Kind {
	reports := make(map[string]Kind)
	for index, tally := range t.byKind {
		if tally.acked > 0 {
			reports[receivers.Behaviour(index).String()] = Kind{
				tally.acked, tally.delivered, tally.attempts, tally.callback.quantiles(),
			}
		}
	}
	if len(reports) == 1 {
		return nil
	}
	return reports
}

func (e *endpointTally) sent() int {
	sent := 0
	for outcome := ok; outcome < outcomes; outcome++ {
		sent += e.counts[outcome]
	}
	return sent
}

func (e *endpointTally) report(lane *lane, window window) Endpoint {
	return Endpoint{
		Sent:      e.sent(),
		OK:        e.counts[ok],
		Shed:      e.counts[shed],
		Rejected:  e.counts[rejected],
		Failed:    e.counts[failed],
		Ambiguous: e.counts[ambiguous],
		Unsent:    e.counts[unsent],
		Reasons:   lane.failures(),
		Latency:   e.latency.quantiles(),
		Service:   e.service.quantiles(),
		Shedded:   e.shed.quantiles(),
		Goodput:   window.perSecond(e.good),
	}
}
