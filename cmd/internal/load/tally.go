package load

// window is the time that rates and Quantiles are about.
type window struct {
	warmup micros // requests due before it are in the counts, and in no quantile
	end    micros // of sending
}

// holds tells whether a time is within the window. Goodput counts the time of completion,
// not the due time: a request in a backlog was due before.
func (w window) holds(done micros) bool { return done >= w.warmup && done <= w.end }

// perSecond is a rate within the window.
func (w window) perSecond(count float64) float64 {
	if w.end <= w.warmup {
		return 0
	}
	return count / (w.end - w.warmup).duration().Seconds()
}

// tally goes through a ledger that nobody writes to any more, and holds callbacks against
// requests.
func (l *ledger) tally(window window) *Findings {
	f := &Findings{ledger: l, window: window}
	f.Async.Orphans, f.Async.Kinds = l.orphans, map[string]*Kind{}
	for number := range l.requests {
		f.add(&l.requests[number])
	}
	f.Sync.close(l.sync, window)
	f.Async.Endpoint.close(l.async, window)
	f.Async.TimeToCallback.close()
	f.Generator.Left.close()
	for _, kind := range f.Async.Kinds {
		kind.TimeToCallback.close()
	}
	if len(f.Async.Kinds) == 1 { // which is all of them
		f.Async.Kinds = nil
	}
	return f
}

func (f *Findings) add(r *request) {
	endpoint := &f.Sync
	if r.isAsync {
		endpoint = &f.Async.Endpoint
		f.addCallbacks(r)
	} else if r.outcome == ok && f.holds(r.at+r.took) {
		endpoint.Goodput++
	}
	if r.outcome <= unsent {
		return
	}
	f.lastLeft = max(f.lastLeft, r.at+r.left)
	if r.at < f.warmup {
		return
	}
	f.Generator.Left.record(r.left)
	switch r.outcome {
	case ok:
		endpoint.Latency.record(r.took)
		endpoint.Service.record(r.took - min(r.left, r.took))
	case shed:
		endpoint.Shedded.record(r.took)
	}
}

func (f *Findings) addCallbacks(r *request) {
	switch {
	case r.outcome == ok:
		f.addAcknowledged(r)
	case r.outcome != ambiguous:
		f.Async.Orphans += int(r.attempts)
		return
	case r.taken > 0:
		f.Async.Unacknowledged++
	}
	if r.taken == 0 {
		return
	}
	if r.hasResult() {
		f.Async.Unverified++
	}
	f.Async.Duplicates += int(r.taken) - 1
	count := func(counter *int, flags flag8) {
		if r.flags&flags != 0 {
			*counter++
		}
	}
	count(&f.Async.WorkFailed, workFailed)
	count(&f.Async.Mismatched, otherID|badBody|wrongResult)
	count(&f.Async.BadSignatures, badSignature)
	count(&f.Async.OutOfOrder, wrongOrder)
}

func (f *Findings) addAcknowledged(r *request) {
	kind := f.Async.Kinds[r.kind.String()]
	if kind == nil {
		kind = new(Kind)
		f.Async.Kinds[r.kind.String()] = kind
	}
	f.Async.Acked++
	kind.Acked++
	kind.Attempts += int(r.attempts)
	f.Async.Attempts += int(r.attempts)
	switch {
	case r.taken > 0:
		f.Async.Delivered++
		kind.Delivered++
		f.addDelivery(r, kind)
	case !r.kind.Delivers():
		f.Async.Dead++
		if r.attempts == 0 {
			f.uncalled = append(f.uncalled, r.id)
		}
	case r.kind.MayBePending():
		f.Async.Pending++
		f.pending = append(f.pending, r.id)
	default:
		f.Async.Missing++
		f.missing = append(f.missing, r.id)
	}
}

func (f *Findings) addDelivery(r *request, kind *Kind) {
	if f.holds(r.at + r.called) {
		f.Async.Goodput++
	}
	if r.at < f.warmup {
		return
	}
	kind.TimeToCallback.record(r.called)
	if r.kind.IsPrompt() { // other kinds are slow by themselves
		f.Async.TimeToCallback.record(r.called)
	}
}

// close completes an endpoint, whose goodput is a count so far.
func (e *Endpoint) close(at endpointCounts, window window) {
	e.OK, e.Shed, e.Rejected = at.counts[ok], at.counts[shed], at.counts[rejected]
	e.Failed, e.Ambiguous, e.Unsent = at.counts[failed], at.counts[ambiguous], at.counts[unsent]
	e.Sent = e.OK + e.Shed + e.Rejected + e.Failed + e.Ambiguous
	e.Reasons = at.reasons
	e.Goodput = window.perSecond(e.Goodput)
	e.Latency.close()
	e.Service.close()
	e.Shedded.close()
}
