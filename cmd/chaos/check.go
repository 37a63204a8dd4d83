package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// violation is an invariant that a run broke.
type violation struct {
	Invariant string   `json:"invariant"`
	Count     int      `json:"count"`
	Example   string   `json:"example"`
	ID        string   `json:"id"`    // of the example's request, if any
	Trace     []string `json:"trace"` // of that request, from the database
}

// judge compares the promises with a ledger that is complete.
type judge struct {
	*ledger
	texts  map[string]int // how many stored requests keep their idempotency key, by the text of their input
	broken map[string]*violation
}

// check returns the broken invariants, each with an example.
func check(l *ledger) []violation {
	j := &judge{ledger: l, texts: map[string]int{}, broken: map[string]*violation{}}
	j.index()
	for _, c := range l.calls {
		j.checkCall(c)
	}
	for _, s := range l.stories {
		j.checkJobs(s)
		j.checkCallbacks(s)
		j.checkRepeats(s)
		j.checkUpstream(s)
		if s.stored {
			j.checkRow(s)
		}
	}
	j.checkOrder()
	j.checkRedelivered()
	j.checkResumed()
	j.checkCounts()
	j.checkSomething()
	var violations []violation
	for _, v := range j.broken {
		violations = append(violations, *v)
	}
	slices.SortFunc(violations, func(a, b violation) int { return cmp.Compare(a.Invariant, b.Invariant) })
	return violations
}

// index adds calls to the stories, sorts the stories by time, and counts texts.
func (j *judge) index() {
	for _, c := range j.calls {
		for _, id := range c.IDs {
			j.story(id).call = c
		}
	}
	for _, s := range j.stories {
		slices.SortStableFunc(s.callbacks, func(a, b callback) int { return a.At.Compare(b.At) })
		slices.SortStableFunc(s.runs, func(a, b *workRun) int { return a.At.Compare(b.At) })
		if s.stored && !s.freesKey() {
			j.texts[s.Text]++
		}
	}
}

// check notes a violation unless the invariant holds.
func (j *judge) check(holds bool, invariant, id, format string, args ...any) {
	if holds {
		return
	}
	if j.broken[invariant] == nil {
		j.broken[invariant] = &violation{Invariant: invariant, Example: fmt.Sprintf(format, args...), ID: id}
	}
	j.broken[invariant].Count++
}

// busy is the problem type of a refusal by a server without room.
const busy = "/problems/temporary-reduced-capacity"

// checkCall compares the answer to a caller with the stored request.
func (j *judge) checkCall(c *call) {
	served := c.acknowledged() || c.Status == http.StatusServiceUnavailable && c.Problem == busy
	j.check(served || j.plan.From == "", "an upgrade fails no call", "", "call %q to %s got %d %s", c.Text, c.Server, c.Status, c.Problem)
	ids := slices.Compact(slices.Sorted(slices.Values(c.IDs)))
	if c.IdempotencyKey != "" || c.Sent == 1 {
		j.check(len(ids) <= 1, "one request for a key", strings.Join(ids, " "), "call %q was answered with %d ids", c.Text, len(ids))
		j.check(j.texts[c.Text] <= 1, "no request twice", "", "call %q, sent %d times, made %d requests", c.Text, c.Sent, j.texts[c.Text])
	}
	for _, id := range ids {
		s := j.story(id)
		j.check(s.stored, "nothing acknowledged is lost", id, "%q was acknowledged with %d and is not stored", c.Text, c.Status)
		if s.stored {
			j.check(s.Text == c.Text, "an id names its request", id, "%q was asked, %q is stored", c.Text, s.Text)
			j.checkOutcome(c, s)
			j.checkCancel(c, s)
			j.checkDelivery(c, s)
		}
	}
}

// clockError is by how much a process may read the database's clock wrongly.
const clockError = time.Second

func (j *judge) checkOutcome(c *call, s *story) {
	switch {
	case c.Hostile && (s.Status == "succeeded" || s.Status == "failed"):
		j.checkOffered(c, s)
	case s.Status == "succeeded":
		want, err := sample.Result(context.Background(), c.Input)
		j.check(err == nil && compact(want) == compact(s.Result), "results equal the work's", s.id, "stored is %.80s, want %.80s", s.Result, want)
		j.check(!c.Sync || compact(want) == compact(c.Result), "results equal the work's", s.id, "answered was %.80s, want %.80s", c.Result, want)
	case s.Status == "expired":
		j.check(c.ExpiresIn > 0, "only what may expire does", s.id, "it expired")
		early := time.Duration(c.ExpiresIn)*time.Second - s.FinishedAt.Sub(s.AcceptedAt)
		// Where its next attempt would come too late, a request ends when an attempt fails,
		// charged or not.
		j.check(early <= clockError || s.wasTried(), "only what may expire does", s.id, "it expired %s too early", early)
		j.check(s.StartedAt.IsZero(), "what expired was not begun", s.id, "its work began at %s", s.StartedAt)
	case s.Status == "cancelled":
		j.check(len(c.Stopped) > 0 || s.meddled.cancelled, "only what was cancelled is", s.id, "nobody asked for it")
	default:
		j.check(false, "every request has an outcome", s.id, "it is %s (%s)", s.Status, s.ErrorCode)
	}
}

func (j *judge) checkCancel(c *call, s *story) {
	stopped, at := slices.Contains(c.Stopped, "work"), s.meddled.at
	j.check(c.Sync || !stopped || s.Status == "cancelled", "what was cancelled stays so", s.id, "its work was stopped, and it is %s", s.Status)
	j.check(c.Sync || at.IsZero() || s.Status == "cancelled" || s.StartedAt.Before(at.Add(clockError)),
		"what was cancelled stays so", s.id, "its job was cancelled at %s, its work began at %s", at, s.StartedAt)
}

// checkDelivery compares the callback's state with the receiver's callbacks.
func (j *judge) checkDelivery(c *call, s *story) {
	switch s.CallbackState {
	case "delivered":
		j.check(s.hasCome(), "every outcome is called back", s.id, "it is delivered, and no receiver took it")
		j.check(c.Receiver != receivers.Gone, "a receiver that is gone gets nothing", s.id, "it is delivered to %s", c.Receiver)
	case "dead":
		j.check(c.Receiver == receivers.Gone, "only what nobody takes is dead", s.id, "its receiver is %s", c.Receiver)
		j.check(s.Dead, "dead letters are listed", s.id, "it is dead and not listed")
	case "cancelled":
		asked := len(c.Stopped) > 0 || s.Status == "cancelled" && s.meddled.cancelled
		j.check(asked, "only what was cancelled is", s.id, "nobody asked for it")
		j.check(s.Status != "cancelled" || len(s.callbacks) == 0, "what was cancelled is not called back", s.id, "%d callbacks came", len(s.callbacks))
	}
}

// checkRow checks every stored request, storm's included.
func (j *judge) checkRow(s *story) {
	j.check(s.Status != "accepted", "every request has an outcome", s.id, "it is accepted, job %d %s", s.WorkJobID, s.workJob().State)
	accepted := s.AcceptedAt
	if j.plan.Ahead != 0 || j.plan.Skews != nil { // accepted by one process's reading of the clock, begun by another's
		accepted = accepted.Add(-clockError)
	}
	j.check(!s.StartedAt.Before(accepted) || s.StartedAt.IsZero(), "the trace is complete", s.id, "it was begun before it was accepted")
	j.check(!s.FinishedAt.Before(s.StartedAt), "the trace is complete", s.id, "it ended before it was begun")
	late := s.FinishedAt.Add(-j.plan.Ahead).Sub(j.quiet)
	before := s.AcceptedAt.Add(-j.plan.Ahead).Before(j.quiet)
	j.check(late <= resumeLimit || !before || s.Work == upstreamWork, // whose retries settle makes due
		"all goes on by itself", s.id, "its work ended %s after the last fault", late)
	if s.Mode == "sync" {
		return
	}
	deleted := s.meddled.times > 0 // perhaps
	j.check(deleted || s.workJob().ID != 0, "every request has its jobs", s.id, "its work job %d is missing", s.WorkJobID)
	if s.Status == "accepted" || s.Status == "cancelled" {
		return
	}
	called := s.job(s.CallbackJobID)
	j.check(deleted || called.ID != 0, "every request has its jobs", s.id, "its callback job %d is missing", s.CallbackJobID)
	// Settling took until each callback had ended. Storm itself reports its missing callbacks.
	j.check(s.CallbackState != "pending" || !strings.HasPrefix(s.Text, j.plan.mine()), "every outcome is called back", s.id,
		"its callback is pending, job %d %s", s.CallbackJobID, called.State)
	j.check(s.LastAttempt == len(s.Attempts), "the trace is complete", s.id, "its last attempt of %d is number %d", len(s.Attempts), s.LastAttempt)
	j.check(s.CallbackState != "delivered" || slices.Contains(s.Attempts, "delivered"), "the trace is complete", s.id,
		"it is delivered without such an attempt in the log")
	j.check(s.CallbackState != "dead" || len(s.Attempts) > 0, "the trace is complete", s.id, "it is dead without an attempt in the log")
}

// checkJobs finds jobs that no request waits for.
func (j *judge) checkJobs(s *story) {
	for _, found := range s.jobs {
		j.check(s.stored, "no job is an orphan", s.id, "%s job %d has no request", found.Kind, found.ID)
		j.check(found.State != "discarded" || s.meddled.times > 0, "no job is discarded", s.id, "%s job %d is", found.Kind, found.ID)
		waited := found.ID == s.WorkJobID && s.Status == "accepted" || found.ID == s.CallbackJobID && s.CallbackState == "pending"
		j.check(waited || !found.live(), "no job is an orphan", s.id, "%s job %d is %s, and its request is %s with callback %s",
			found.Kind, found.ID, found.State, s.Status, s.CallbackState)
	}
}

// checkCallbacks compares each callback with the stored request.
func (j *judge) checkCallbacks(s *story) {
	for _, came := range s.callbacks {
		j.check(came.Signed, "callbacks are signed", s.id, "receiver %s got one that is not", came.Receiver)
		j.check(s.stored, "callbacks are of requests", s.id, "receiver %s got one of no request", came.Receiver)
		if !s.stored || !came.Signed {
			continue
		}
		j.check(came.Data.ID == s.id, "callbacks say what is stored", s.id, "its id in the body is %s", came.Data.ID)
		j.check(strings.HasSuffix(s.CallbackURL, "/"+came.Receiver.String()), "callbacks go where they should", s.id, "%s got it", came.Receiver)
		j.check(came.Data.Status == s.Status && came.Type == "request."+s.Status, "every request has one outcome", s.id,
			"a callback said %s (%s), stored is %s", came.Data.Status, came.Type, s.Status)
		j.check(compact(came.Data.Result) == compact(s.Result), "callbacks say what is stored", s.id, "it said %.80s, stored is %.80s", came.Data.Result, s.Result)
	}
}

// checkRepeats: a taken callback comes once more at most for each delivery, unless a process
// died in between or the job was taken away.
func (j *judge) checkRepeats(s *story) {
	taken := slices.DeleteFunc(slices.Clone(s.callbacks), func(c callback) bool { return !c.taken() })
	most := 2 + s.meddled.times
	if s.call == nil || len(taken) <= most || s.call.Redelivered && len(taken) <= most+2 {
		return
	}
	first, last := taken[0].At, taken[len(taken)-1].At
	j.check(j.died(first, last), "what was delivered comes twice at most", s.id, "it was taken %d times, %s apart", len(taken), last.Sub(first))
}

// died tells whether a process ended between two times.
func (j *judge) died(from, to time.Time) bool {
	return slices.ContainsFunc(j.deaths, func(at time.Time) bool { return at.After(from) && at.Before(to) })
}

// checkOrder: a request that was acknowledged before the next request of its key was sent
// is stored before it, and its callback was taken before the next callback was tried.
func (j *judge) checkOrder() {
	last := map[string]*call{}
	for _, c := range j.calls {
		if c.OrderingKey == "" || !c.acknowledged() {
			continue
		}
		if before := last[c.OrderingKey]; before != nil && before.AnsweredAt.Before(c.SentAt) {
			j.checkPair(j.story(before.IDs[0]), j.story(c.IDs[0]))
		}
		last[c.OrderingKey] = c
	}
}

func (j *judge) checkPair(first, second *story) {
	j.check(first.Seq < second.Seq, "acceptance order is kept", second.id, "%d was acknowledged before %d was sent", first.Seq, second.Seq)
	taken := slices.IndexFunc(first.callbacks, callback.taken)
	if first.CallbackState != "delivered" || len(second.callbacks) == 0 || taken < 0 {
		return // other checks report a callback that is missing
	}
	tried, at := second.callbacks[0].At, first.callbacks[taken].Answered
	j.check(!tried.Before(at), "order is held per key", second.id, "it came at %s, and %s, before it, was taken at %s",
		tried.Format("15:04:05.000"), first.id, at.Format("15:04:05.000"))
}

// checkResumed: every server goes on soon after the last fault.
func (j *judge) checkResumed() {
	for name, took := range j.resumed {
		j.check(took <= resumeLimit, "all goes on by itself", "", "%s took %s after the last fault", name, took)
	}
}

// checkRedelivered: a dead letter was tried once, and once more for each redelivery. A call
// may cancel such a try.
func (j *judge) checkRedelivered() {
	tries, least := 0, j.redelivered
	for _, s := range j.stories {
		for _, outcome := range s.Attempts {
			if outcome == "gone" {
				tries++
			}
		}
		if s.CallbackState == "dead" {
			least++
		}
	}
	for _, c := range j.calls {
		if c.CancelAfter > 0 {
			least--
		}
	}
	j.check(tries >= least, "what is redelivered is tried again", "", "%d attempts found a receiver gone, want at least %d", tries, least)
}

// checkSomething: a run without calls, callbacks or faults shows nothing.
func (j *judge) checkSomething() {
	const invariant = "a run shows something"
	acknowledged, called := 0, 0
	for _, c := range j.calls {
		if c.acknowledged() {
			acknowledged++
		}
	}
	for _, s := range j.stories {
		called += len(s.callbacks)
	}
	j.check(acknowledged > 0, invariant, "", "not one of %d calls was acknowledged", len(j.calls))
	j.check(called > 0, invariant, "", "not one callback came")
	j.check(len(j.windows) > 0 || len(j.plan.Faults) == 0, invariant, "", "not one of %d faults was injected", len(j.plan.Faults))
}

// checkCounts compares the counts of storm, of the API and of SQL.
func (j *judge) checkCounts() {
	stored := map[string]int{}
	ofStorm := 0
	for _, s := range j.stories {
		if s.stored {
			stored[s.Mode]++
		}
		if s.Mode == "async" && !strings.HasPrefix(s.Text, j.plan.mine()) {
			ofStorm++
		}
	}
	for mode, count := range stored {
		j.check(j.listed[mode] == count, "counts agree", "", "the API lists %d %s requests, %d are stored", j.listed[mode], mode, count)
	}
	j.check(ofStorm >= j.storm.Acked && ofStorm <= j.storm.Acked+j.storm.Ambiguous, "counts agree", "",
		"storm had %d acknowledged and %d without an answer, and %d are stored", j.storm.Acked, j.storm.Ambiguous, ofStorm)
	j.check(j.stormBroke == nil, "storm finds nothing broken", "", "%v", j.stormBroke)
}
