package load

import "time"

// measured is the time that rates and Quantiles are about.
type measured struct {
	warmup time.Duration // requests due before it are in the counts, and in no quantile
	end    time.Duration // of sending
}

// holds tells whether a request was done within the measured time. Goodput counts when a
// request is done, not when it was due: requests of a backlog were due before.
func (m measured) holds(done time.Duration) bool { return done >= m.warmup && done <= m.end }

// tally goes through a closed ledger, and compares callbacks with requests.
func (l *ledger) tally(measured measured) *Findings {
	f := &Findings{ledger: l, measured: measured}
	f.Async.Orphans, f.Async.Kinds = l.orphans, map[string]*Kind{}
	for number := range l.requests {
		f.add(&l.requests[number])
	}
	f.Sync.close(l.sync, measured)
	f.Async.Endpoint.close(l.async, measured)
	f.Async.TimeToCallback.close()
	f.Generator.SendDelay.close()
	for _, kind := range f.Async.Kinds {
		kind.TimeToCallback.close()
	}
	if len(f.Async.Kinds) == 1 { // the kind would repeat the totals
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
	f.lastSent = max(f.lastSent, r.at+r.sendDelay)
	if r.at < f.warmup {
		return
	}
	f.Generator.SendDelay.record(r.sendDelay)
	switch r.outcome {
	case ok:
		endpoint.Latency.record(r.took)
		endpoint.Service.record(r.took - min(r.sendDelay, r.took))
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
	f.Async.Duplicates += int(r.taken) - 1
	count := func(counter *int, flags flag8) {
		if r.flags&flags != 0 {
			*counter++
		}
	}
	count(&f.Async.Verified, verified)
	count(&f.Async.Unverified, unverified)
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
	case !r.kind.Delivers() && r.attempts > 0:
		f.Async.Dead++
	default:
		f.undelivered = append(f.undelivered, r)
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

// close completes an endpoint, and turns its goodput from a count into a rate.
func (e *Endpoint) close(at endpointCounts, measured measured) {
	e.OK, e.Shed, e.Rejected = at.counts[ok], at.counts[shed], at.counts[rejected]
	e.Failed, e.Ambiguous, e.Unsent = at.counts[failed], at.counts[ambiguous], at.counts[unsent]
	e.Sent = e.OK + e.Shed + e.Rejected + e.Failed + e.Ambiguous
	e.Reasons = at.reasons
	e.Goodput = perSecond(e.Goodput, measured.end-measured.warmup)
	e.Latency.close()
	e.Service.close()
	e.Shedded.close()
}
