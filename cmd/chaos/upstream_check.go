package main

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"ringback/work"
)

const (
	// runSlack is how long an attempt may be on its way to the upstream.
	runSlack = 2 * time.Second
	// deathSlack is how long after its jobs were given back a process may die.
	deathSlack = 20 * time.Second
)

// checkOffered: the outcome of a hostile request is an outcome that the upstream gave.
func (j *judge) checkOffered(c *call, s *story) {
	offered := slices.ContainsFunc(s.runs, func(r *workRun) bool { return slices.Contains(r.Offers, s.outcome()) })
	notDone := s.ErrorCode == work.CodeNotDone || s.ErrorCode == work.CodeDeadline
	failed, _ := s.workJob().ends()
	gaveUp := s.Mode == "sync" && notDone || len(failed) > upstreamRetries
	j.check(offered || gaveUp, "outcomes are what the upstream said", s.id, "it is %s with %s", s.Status, s.outcome())
	j.check(len(c.Result) == 0 || compact(c.Result) == compact(s.Result), "outcomes are what the upstream said", s.id,
		"answered was %.80s, stored is %.80s", c.Result, s.Result)
}

// checkUpstream compares the upstream's attempts at a request, and its reports, with the
// stored request and its job.
func (j *judge) checkUpstream(s *story) {
	known := s.knownAt()
	for _, r := range s.runs {
		j.check(r.Signed, "calls of the upstream are signed", s.id, "attempt %d is not", r.Attempt)
		// A process that was paused doesn't know the outcome.
		late := !known.IsZero() && r.At.After(known.Add(runSlack)) && !j.stalled(known, r.At)
		j.check(!late, "nothing runs after its outcome", s.id, "attempt %d came %s after the outcome was told", r.Attempt, r.At.Sub(known))
	}
	if len(s.runs) > 0 && s.stored && s.meddled.times == 0 { // a sync request is lost with its process
		j.checkAttempts(s)
	}
	for _, f := range s.finishes {
		j.checkFinish(f, s)
	}
}

// knownAt is when the outcome was first told, to a receiver, the upstream or the caller; zero
// for never.
func (s *story) knownAt() (known time.Time) {
	tell := func(at time.Time) {
		if known.IsZero() || at.Before(known) {
			known = at
		}
	}
	for _, came := range s.callbacks {
		tell(came.At)
	}
	for _, f := range s.finishes {
		if f.Status == http.StatusNoContent {
			tell(f.Answered)
		}
	}
	if s.call != nil && slices.Contains(s.call.Stopped, "work") {
		tell(s.call.StoppedAt)
	}
	return known
}

// stalled tells whether a process or the database stood still between two times.
func (l *ledger) stalled(from, to time.Time) bool {
	return slices.ContainsFunc(l.windows, func(w window) bool { return kindOf(w.kind).stalls && w.meets(from, to) })
}

// checkAttempts: the runs of a request are the attempts of its job.
func (j *judge) checkAttempts(s *story) {
	const invariant = "runs are the attempts of the trace"
	traced, first, last := s.workJob(), s.runs[0], s.runs[len(s.runs)-1]
	if traced.ID == 0 {
		j.check(s.Mode == "sync" && len(s.runs) == 1, invariant, s.id, "%d runs, and no job", len(s.runs))
		return
	}
	failed, cutOff := traced.ends()
	// A process may have made an attempt without recording it.
	until := last.At.Add(deathSlack)
	disturbed := j.stalled(first.At, until) || j.died(first.At, until)
	most := traced.Attempt
	if s.Status == "cancelled" { // perhaps just as its job was postponed, which takes the charge back
		most++
	}
	for number := range cutOff { // the stop of a process takes the charge back, and the attempt may not be made again
		most = max(most, number)
	}
	charged, free := map[int]int{}, 0
	for _, r := range s.runs {
		if r.Manner == throttles {
			free++
			continue
		}
		charged[r.Attempt]++
		j.check(r.Attempt >= 1 && r.Attempt <= most, invariant, s.id, "attempt %d came, of %d", r.Attempt, traced.Attempt)
	}
	if last.Manner == throttles && s.Status != "succeeded" { // the next attempt would have come too late, so the job wasn't postponed
		free--
	}
	j.check(free <= traced.Snoozes || disturbed, invariant, s.id, "%d attempts were charged nothing, the trace has %d", free, traced.Snoozes)
	// A process may die, or lose the database, after an attempt was charged and before it is
	// made: also the first attempt.
	sent := first.At
	if s.call != nil {
		sent = s.call.SentAt
	}
	lost := j.stalled(sent, until) || j.died(sent, until)
	ended := s.Status == "succeeded" || s.Status == "failed"
	for number := 1; number <= traced.Attempt; number++ {
		j.check(charged[number] <= 1+cutOff[number] || disturbed, invariant, s.id, "attempt %d came %d times", number, charged[number])
		came := charged[number] > 0 || isUnanswered(failed[number])
		j.check(came || !ended || lost, invariant, s.id, "attempt %d of the trace (%s) did not come", number, failed[number])
	}
}

// isUnanswered tells whether an attempt may have failed before it came to the upstream.
func isUnanswered(failed string) bool {
	return strings.HasSuffix(failed, "upstream_unreachable") || strings.HasSuffix(failed, work.CodeDeadline)
}

// checkFinish: an accepted report is the outcome, and is about the latest attempt.
func (j *judge) checkFinish(f *finish, s *story) {
	answered := f.Status == http.StatusNoContent || f.Status == http.StatusGone
	j.check(answered || f.Status == 0 || f.Status >= 500, "reports are taken or refused", s.id, "one was answered with %d", f.Status)
	if f.Status != http.StatusNoContent {
		return
	}
	j.check(s.outcome() == f.Offer, "a report that is taken is the outcome", s.id, "%s was taken, stored is %s", f.Offer, s.outcome())
	later := slices.ContainsFunc(s.runs, func(r *workRun) bool { return r.Turn > f.Turn && r.At.Before(f.Sent) })
	j.check(!later || s.meddled.times > 0, "what was given up stays so", s.id, "a report on turn %d was taken, after a later one had come", f.Turn)
}
