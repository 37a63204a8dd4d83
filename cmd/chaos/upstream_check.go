package main

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"ringback/work"
)

const (
	// runSlack is how long an attempt may be on its way.
	runSlack = 2 * time.Second
	// deathSlack is how long after its jobs were given back a process may end.
	deathSlack = 20 * time.Second
)

// checkOffered compares the outcome of the upstream's work with the upstream's answers.
func (j *judge) checkOffered(c *call, stored row) {
	offer := compacted(stored.Result)
	if stored.Status == "failed" {
		offer = failure(stored.ErrorCode)
	}
	offered := slices.ContainsFunc(j.Runs, func(r *workRun) bool { return r.Request == stored.ID && slices.Contains(r.Offers, offer) })
	notDone := stored.ErrorCode == work.CodeNotDone || stored.ErrorCode == work.CodeDeadline
	gaveUp := stored.Mode == "sync" && notDone || len(j.Traces[stored.WorkJobID].Failed) > upstreamRetries
	j.hold(offered || gaveUp, "outcomes are what the upstream said", stored.ID, "it is %s with %s", stored.Status, offer)
	j.hold(len(c.Result) == 0 || same(c.Result, stored.Result), "outcomes are what the upstream said", stored.ID,
		"answered was %.80s, stored is %.80s", c.Result, stored.Result)
}

// checkUpstream compares the calls to the upstream, and its reports, with the stored
// requests and their traces.
func (j *judge) checkUpstream() {
	runs := map[string][]*workRun{}
	for _, r := range j.Runs {
		j.hold(r.Signed, "calls of the upstream are signed", r.Request, "attempt %d is not", r.Attempt)
		runs[r.Request] = append(runs[r.Request], r)
	}
	for id, of := range runs {
		slices.SortStableFunc(of, func(a, b *workRun) int { return a.At.Compare(b.At) })
		if stored, known := j.rows[id]; known { // a sync request may be gone with its process
			j.checkLate(stored, of)
			j.checkAttempts(stored, of)
		}
	}
	for _, f := range j.Finishes {
		j.checkFinish(f, runs[f.Request])
	}
}

// checkLate: no run starts once the outcome is known to be written, except in a process
// that was paused.
func (j *judge) checkLate(stored row, runs []*workRun) {
	known := j.knownAt(stored.ID)
	for _, r := range runs {
		late := !known.IsZero() && r.At.After(known.Add(runSlack)) && !j.paused(known, r.At)
		j.hold(!late, "nothing runs after its outcome", stored.ID, "attempt %d came %s after the outcome was told", r.Attempt, r.At.Sub(known))
	}
}

// knownAt is when somebody was first told the outcome of a request, zero for never.
func (j *judge) knownAt(id string) (known time.Time) {
	tell := func(at time.Time) {
		if known.IsZero() || at.Before(known) {
			known = at
		}
	}
	for _, came := range j.callbacks[id] {
		tell(came.At)
	}
	for _, f := range j.Finishes {
		if f.Request == id && f.Status == http.StatusNoContent {
			tell(f.Answered)
		}
	}
	for _, c := range j.Calls {
		if slices.Contains(c.IDs, id) && slices.Contains(c.Stopped, "work") {
			tell(c.StoppedAt)
		}
	}
	return known
}

func (j *judge) paused(from, to time.Time) bool {
	return slices.ContainsFunc(j.Pauses, func(w window) bool { return w.meets(from, to) })
}

// disturbed tells whether a process may have lost its knowledge of an attempt.
func (j *judge) disturbed(from, to time.Time) bool {
	to = to.Add(deathSlack)
	return j.paused(from, to) || slices.ContainsFunc(j.Deaths, func(at time.Time) bool { return at.After(from) && at.Before(to) })
}

// checkAttempts: the runs of a request are the attempts in its trace.
func (j *judge) checkAttempts(stored row, runs []*workRun) {
	const invariant = "runs are the attempts of the trace"
	trace, traced := j.Traces[stored.WorkJobID]
	if !traced || j.meddled(stored.ID).Times > 0 {
		j.hold(traced || stored.Mode == "sync" && len(runs) == 1 || j.meddled(stored.ID).Times > 0, invariant, stored.ID,
			"%d runs, and no job", len(runs))
		return
	}
	disturbed := j.disturbed(runs[0].At, runs[len(runs)-1].At)
	most := trace.Attempt
	if stored.Status == "cancelled" { // perhaps just as its job was put to sleep, which takes the charge back
		most++
	}
	for number := range trace.CutOff { // a stop takes the charge back, and the attempt may not be made again
		most = max(most, number)
	}
	charged, free := map[int]int{}, 0
	for _, r := range runs {
		if r.Manner == throttles {
			free++
			continue
		}
		charged[r.Attempt]++
		j.hold(r.Attempt >= 1 && r.Attempt <= most, invariant, stored.ID, "attempt %d came, of %d", r.Attempt, trace.Attempt)
	}
	if runs[len(runs)-1].Manner == throttles && stored.Status != "succeeded" { // it would have come too late again, and was the last
		free--
	}
	j.hold(free <= trace.Snoozes || disturbed, invariant, stored.ID, "%d attempts were charged nothing, the trace has %d", free, trace.Snoozes)
	for number := 1; number <= trace.Attempt; number++ {
		j.hold(charged[number] <= 1+trace.CutOff[number] || disturbed, invariant, stored.ID, "attempt %d came %d times", number, charged[number])
		ended := stored.Status == "succeeded" || stored.Status == "failed"
		came := charged[number] > 0 || isUnanswered(trace.Failed[number])
		j.hold(came || !ended || disturbed, invariant, stored.ID, "attempt %d of the trace (%s) did not come", number, trace.Failed[number])
	}
}

// isUnanswered tells whether an attempt may have failed before it came.
func isUnanswered(failed string) bool {
	return strings.HasSuffix(failed, "upstream_unreachable") || strings.HasSuffix(failed, work.CodeDeadline)
}

// checkFinish: an accepted report is the outcome, and belongs to the latest attempt.
func (j *judge) checkFinish(f *finish, runs []*workRun) {
	answered := f.Status == http.StatusNoContent || f.Status == http.StatusGone
	j.hold(answered || f.Status == 0 || f.Status >= 500, "reports are taken or refused", f.Request, "one was answered with %d", f.Status)
	if f.Status != http.StatusNoContent {
		return
	}
	stored := j.rows[f.Request]
	offer := compacted(stored.Result)
	if stored.Status == "failed" {
		offer = failure(stored.ErrorCode)
	}
	j.hold(offer == f.Offer, "a report that is taken is the outcome", f.Request, "%s was taken, stored is %s", f.Offer, offer)
	later := slices.IndexFunc(runs, func(r *workRun) bool { return r.Turn > f.Turn && r.At.Before(f.Sent) })
	j.hold(later < 0 || j.meddled(f.Request).Times > 0, "what was given up stays so", f.Request,
		"a report on turn %d was taken, after a later one had come", f.Turn)
}

// upstreamCounts are the upstream's own counts.
type upstreamCounts struct {
	Runs     int            `json:"runs"`
	Manners  map[manner]int `json:"manners"`
	Finishes map[int]int    `json:"finishes"` // by the status of the answer
}

func countUpstream(h *history) upstreamCounts {
	c := upstreamCounts{Runs: len(h.Runs), Manners: map[manner]int{}, Finishes: map[int]int{}}
	for _, r := range h.Runs {
		c.Manners[r.Manner]++
	}
	for _, f := range h.Finishes {
		c.Finishes[f.Status]++
	}
	return c
}
