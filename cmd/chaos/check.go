package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringback/cmd/internal/sample"
)

// violation is an invariant that a run broke.
type violation struct {
	Invariant string `json:"invariant"`
	Count     int    `json:"count"`
	Example   string `json:"example"`
	ID        string `json:"id"` // the example's request, if any
}

// judge compares the promises with the history.
type judge struct {
	*history
	rows      map[string]row
	byText    map[string][]row
	jobs      map[int64]job
	callbacks map[string][]callback // by request, as they came
	attempts  map[string][]attempt
	broken    map[string]*violation
}

// check returns every invariant that the history breaks, each with an example.
func check(h *history) []violation {
	j := newJudge(h)
	for _, c := range h.Calls {
		j.checkCall(c)
	}
	for _, r := range h.Rows {
		j.checkRow(r)
	}
	for _, found := range h.Jobs {
		j.checkJob(found)
	}
	for _, came := range h.Callbacks {
		j.checkCallback(came)
	}
	j.checkOrder()
	j.checkRepeats()
	j.checkRedelivered()
	j.checkResumed()
	j.checkUpstream()
	j.checkUpgrade()
	j.checkCounts()
	var violations []violation
	for _, v := range j.broken {
		violations = append(violations, *v)
	}
	slices.SortFunc(violations, func(a, b violation) int { return cmp.Compare(a.Invariant, b.Invariant) })
	return violations
}

func newJudge(h *history) *judge {
	j := &judge{
		history: h, rows: map[string]row{}, byText: map[string][]row{}, jobs: map[int64]job{},
		callbacks: map[string][]callback{}, attempts: map[string][]attempt{}, broken: map[string]*violation{},
	}
	for _, r := range h.Rows {
		j.rows[r.ID] = r
		j.byText[r.Text] = append(j.byText[r.Text], r)
	}
	for _, found := range h.Jobs {
		j.jobs[found.ID] = found
	}
	slices.SortStableFunc(h.Callbacks, func(a, b callback) int { return a.At.Compare(b.At) })
	for _, came := range h.Callbacks {
		j.callbacks[came.ID] = append(j.callbacks[came.ID], came)
	}
	for _, a := range h.Attempts {
		j.attempts[a.RequestID] = append(j.attempts[a.RequestID], a)
	}
	return j
}

// hold notes a violation unless the invariant holds.
func (j *judge) hold(holds bool, invariant, id, format string, args ...any) {
	if holds {
		return
	}
	if found, known := j.broken[invariant]; known {
		found.Count++
		return
	}
	j.broken[invariant] = &violation{invariant, 1, fmt.Sprintf(format, args...), id}
}

// checkCall compares the answer to a caller with the stored request.
func (j *judge) checkCall(c *call) {
	ids := slices.Compact(slices.Sorted(slices.Values(c.IDs)))
	if c.IdempotencyKey != "" || c.Sent == 1 {
		j.hold(len(ids) <= 1, "one request for a key", strings.Join(ids, " "), "call %q was answered with %d ids", c.Text, len(ids))
		made := slices.DeleteFunc(slices.Clone(j.byText[c.Text]), row.freesKey)
		j.hold(len(made) <= 1, "no request twice", "", "call %q, sent %d times, made %d requests", c.Text, c.Sent, len(made))
	}
	for _, id := range ids {
		stored, known := j.rows[id]
		j.hold(known, "nothing acknowledged is lost", id, "%q was acknowledged with %d and is not stored", c.Text, c.Status)
		if !known {
			continue
		}
		j.hold(stored.Text == c.Text, "an id names its request", id, "%q was asked, %q is stored", c.Text, stored.Text)
		j.checkPromise(c, stored)
	}
}

// checkPromise looks at a request that was acknowledged.
func (j *judge) checkPromise(c *call, stored row) {
	id := stored.ID
	if c.Manners != nil && (stored.Status == "succeeded" || stored.Status == "failed") {
		j.checkOffered(c, stored)
	} else {
		j.checkOutcome(c, stored)
	}
	if c.Sync {
		return
	}
	j.hold(!slices.Contains(c.Stopped, "work") || stored.Status == "cancelled",
		"what was cancelled stays so", id, "its work was stopped, and it is %s", stored.Status)
	cancelled := j.meddled(id).At
	j.hold(cancelled.IsZero() || stored.Status == "cancelled" || stored.StartedAt.Before(cancelled.Add(clockError)),
		"what was cancelled stays so", id, "its job was cancelled at %s, its work began at %s", cancelled, stored.StartedAt)
	j.checkDelivery(c, stored)
}

func (j *judge) checkOutcome(c *call, stored row) {
	id := stored.ID
	switch stored.Status {
	case "succeeded":
		want, err := sample.Result(context.Background(), c.Input)
		j.hold(err == nil && same(want, stored.Result), "results equal the work's", id, "stored is %.80s, want %.80s", stored.Result, want)
		j.hold(!c.Sync || same(want, c.Result), "results equal the work's", id, "answered was %.80s, want %.80s", c.Result, want)
	case "expired":
		j.hold(c.ExpiresIn > 0, "only what may expire does", id, "it expired")
		early := time.Duration(c.ExpiresIn)*time.Second - stored.FinishedAt.Sub(stored.AcceptedAt)
		// Where its next attempt would come too late, a request ends when an attempt fails.
		gaveUp := len(j.Traces[stored.WorkJobID].Failed) > 0
		j.hold(early <= clockError || gaveUp, "only what may expire does", id, "it expired %s too early", early)
		j.hold(stored.StartedAt.IsZero(), "what expired was not begun", id, "its work began at %s", stored.StartedAt)
	case "cancelled":
		j.hold(len(c.Stopped) > 0 || j.meddled(id).Cancelled, "only what was cancelled is", id, "nobody asked for it")
	default:
		j.hold(false, "every request has an outcome", id, "it is %s (%s)", stored.Status, stored.ErrorCode)
	}
}

// clockError is the service's largest error in reading the database's clock.
const clockError = time.Second

// meddled returns the meddling with a request's jobs.
func (j *judge) meddled(id string) meddling {
	if m := j.Meddled[id]; m != nil {
		return *m
	}
	return meddling{}
}

// checkDelivery compares the callback's state with the receiver's callbacks.
func (j *judge) checkDelivery(c *call, stored row) {
	id, came := stored.ID, j.callbacks[stored.ID]
	switch stored.CallbackState {
	case "delivered":
		j.hold(slices.ContainsFunc(came, callback.taken), "every outcome is called back", id, "it is delivered, and no receiver took it")
		j.hold(c.Receiver != gone, "a receiver that is gone gets nothing", id, "it is delivered to %s", c.Receiver)
	case "dead":
		j.hold(c.Receiver == gone, "only what nobody takes is dead", id, "its receiver is %s", c.Receiver)
		j.hold(j.Dead[id], "dead letters are listed", id, "it is dead and not listed")
	case "cancelled":
		j.hold(len(c.Stopped) > 0 || stored.Status == "cancelled" && j.meddled(id).Cancelled, "only what was cancelled is", id, "nobody asked for it")
		j.hold(stored.Status != "cancelled" || len(came) == 0, "what was cancelled is not called back", id, "%d callbacks came", len(came))
	}
}

// checkRow checks every stored request, storm's included.
func (j *judge) checkRow(r row) {
	j.hold(r.Status != "accepted", "every request has an outcome", r.ID, "it is accepted, job %d %s", r.WorkJobID, j.jobs[r.WorkJobID].State)
	accepted := r.AcceptedAt
	if j.Ahead != 0 || j.Skewed { // each process reads the database's clock for itself
		accepted = accepted.Add(-clockError)
	}
	j.hold(!r.StartedAt.Before(accepted) || r.StartedAt.IsZero(), "the trace is complete", r.ID, "it was begun before it was accepted")
	j.hold(!r.FinishedAt.Before(r.StartedAt), "the trace is complete", r.ID, "it ended before it was begun")
	if late := r.FinishedAt.Add(-j.Ahead).Sub(j.Quiet); r.Work != upstreamWork && r.AcceptedAt.Add(-j.Ahead).Before(j.Quiet) { // the upstream's job is hastened
		j.hold(late <= resumeLimit, "all goes on by itself", r.ID, "its work ended %s after the last fault", late)
	}
	if r.Mode == "sync" {
		return
	}
	left := j.meddled(r.ID).Times > 0 // by a meddler who may have deleted the ended job
	j.hold(left || j.jobs[r.WorkJobID].RequestID == r.ID, "every request has its jobs", r.ID, "its work job %d is missing", r.WorkJobID)
	if r.Status == "accepted" || r.Status == "cancelled" {
		return
	}
	// Settling gave each callback all the time that it takes; storm itself reports its
	// missing callbacks.
	j.hold(r.CallbackState != "pending" || !strings.HasPrefix(r.Text, j.Mine), "every outcome is called back", r.ID,
		"its callback is pending, job %d %s", r.CallbackJobID, j.jobs[r.CallbackJobID].State)
	j.hold(left || j.jobs[r.CallbackJobID].RequestID == r.ID, "every request has its jobs", r.ID, "its callback job %d is missing", r.CallbackJobID)
	logged := j.attempts[r.ID]
	for i, a := range logged {
		j.hold(a.Number == i+1, "the trace is complete", r.ID, "attempt %d is number %d", i+1, a.Number)
	}
	delivered := slices.ContainsFunc(logged, func(a attempt) bool { return a.Outcome == "delivered" })
	j.hold(r.CallbackState != "delivered" || delivered, "the trace is complete", r.ID, "it is delivered without such an attempt in the log")
	j.hold(r.CallbackState != "dead" || len(logged) > 0, "the trace is complete", r.ID, "it is dead without an attempt in the log")
}

// checkJob finds jobs that nobody waits for.
func (j *judge) checkJob(found job) {
	r, known := j.rows[found.RequestID]
	j.hold(known, "no job is an orphan", found.RequestID, "%s job %d has no request", found.Kind, found.ID)
	j.hold(found.State != "discarded" || j.meddled(found.RequestID).Times > 0, "no job is discarded", found.RequestID, "%s job %d is", found.Kind, found.ID)
	if !known || !found.live() {
		return
	}
	waited := found.ID == r.WorkJobID && r.Status == "accepted" || found.ID == r.CallbackJobID && r.CallbackState == "pending"
	j.hold(waited, "no job is an orphan", r.ID, "%s job %d is %s, and its request is %s with callback %s",
		found.Kind, found.ID, found.State, r.Status, r.CallbackState)
}

// checkCallback looks at each callback that came.
func (j *judge) checkCallback(came callback) {
	j.hold(came.Signed, "callbacks are signed", came.ID, "receiver %s got one that is not", came.Receiver)
	r, known := j.rows[came.ID]
	j.hold(known, "callbacks are of requests", came.ID, "receiver %s got one of no request", came.Receiver)
	if !known || !came.Signed {
		return
	}
	j.hold(came.Data.ID == came.ID, "callbacks say what is stored", came.ID, "its id in the body is %s", came.Data.ID)
	j.hold(strings.HasSuffix(r.CallbackURL, "/"+string(came.Receiver)), "callbacks go where they should", came.ID, "%s got it", came.Receiver)
	j.hold(came.Data.Status == r.Status && came.Type == "request."+r.Status, "every request has one outcome", came.ID,
		"a callback said %s (%s), stored is %s", came.Data.Status, came.Type, r.Status)
	j.hold(same(came.Data.Result, r.Result), "callbacks say what is stored", came.ID, "it said %.80s, stored is %.80s", came.Data.Result, r.Result)
}

// checkOrder: a request that was acknowledged before the next request of its key was sent
// is stored before it, and its callback was taken before the next callback was tried.
func (j *judge) checkOrder() {
	last := map[string]*call{}
	for _, c := range j.Calls {
		if c.OrderingKey == "" || !c.acknowledged() {
			continue
		}
		if before := last[c.OrderingKey]; before != nil && before.AnsweredAt.Before(c.SentAt) {
			j.checkPair(before, c)
		}
		last[c.OrderingKey] = c
	}
}

func (j *judge) checkPair(a, b *call) {
	first, second := j.rows[a.IDs[0]], j.rows[b.IDs[0]]
	j.hold(first.Seq < second.Seq, "acceptance order is kept", second.ID, "%d was acknowledged before %d was sent", first.Seq, second.Seq)
	tried := j.callbacks[second.ID]
	if first.CallbackState != "delivered" || len(tried) == 0 {
		return
	}
	taken := slices.IndexFunc(j.callbacks[first.ID], callback.taken)
	if taken < 0 {
		return // said elsewhere
	}
	at := j.callbacks[first.ID][taken].Answered
	j.hold(!tried[0].At.Before(at), "order is held per key", second.ID, "it came at %s, and %s, before it, was taken at %s",
		tried[0].At.Format("15:04:05.000"), first.ID, at.Format("15:04:05.000"))
}

// checkRepeats: a taken callback comes to its receiver once more at most, for each
// delivery, unless a process died in between or its job was taken away.
func (j *judge) checkRepeats() {
	allowed := map[string]int{}
	for _, c := range j.Calls {
		for _, id := range c.IDs {
			allowed[id] = 2
			if c.Redelivered {
				allowed[id] = 4
			}
		}
	}
	for id, came := range j.callbacks {
		taken := slices.DeleteFunc(slices.Clone(came), func(c callback) bool { return !c.taken() })
		most := allowed[id] + j.meddled(id).Times
		if allowed[id] == 0 || len(taken) <= most {
			continue
		}
		first, last := taken[0].At, taken[len(taken)-1].At
		died := slices.ContainsFunc(j.Deaths, func(at time.Time) bool { return at.After(first) && at.Before(last) })
		j.hold(died, "what was delivered comes twice at most", id, "it was taken %d times, %s apart", len(taken), last.Sub(first))
	}
}

// checkResumed: everything goes on when the last fault is over.
func (j *judge) checkResumed() {
	for _, r := range j.Resumed {
		j.hold(r.Took <= resumeLimit, "all goes on by itself", "", "%s took %s after the last fault", r.What, r.Took)
	}
}

// checkRedelivered: a dead letter was tried once, and once more for each redelivery,
// unless it was cancelled then.
func (j *judge) checkRedelivered() {
	tries, least := 0, j.Redelivered
	for _, a := range j.Attempts {
		if a.Outcome == "gone" {
			tries++
		}
	}
	for _, r := range j.Rows {
		if r.CallbackState == "dead" {
			least++
		}
	}
	for _, c := range j.Calls {
		if c.CancelAfter > 0 {
			least--
		}
	}
	j.hold(tries >= least, "what is redelivered is tried again", "", "%d attempts found a receiver gone, want at least %d", tries, least)
}

// checkCounts compares storm, the API and SQL.
func (j *judge) checkCounts() {
	stored := map[string]int{}
	ofStorm := 0
	for _, r := range j.Rows {
		stored[r.Mode]++
		if r.Mode == "async" && !strings.HasPrefix(r.Text, j.Mine) {
			ofStorm++
		}
	}
	for mode, count := range stored {
		j.hold(j.Listed[mode] == count, "counts agree", "", "the API lists %d %s requests, %d are stored", j.Listed[mode], mode, count)
	}
	j.hold(ofStorm >= j.Storm.Acked && ofStorm <= j.Storm.Acked+j.Storm.Ambiguous, "counts agree", "",
		"storm had %d acknowledged and %d without an answer, and %d are stored", j.Storm.Acked, j.Storm.Ambiguous, ofStorm)
}

// same tells whether two JSON texts differ in white space only.
func same(a, b []byte) bool {
	var x, y bytes.Buffer
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
