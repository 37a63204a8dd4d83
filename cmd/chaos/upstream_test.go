package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// flawlessUpstream is a history of three more requests: the first was done at the third
// attempt, after an attempt that charged nothing; the second was finished later, at the
// second attempt; the third failed.
func flawlessUpstream(t *testing.T) *history {
	t.Helper()
	h := flawless(t)
	h.Listed["async"], h.Traces = 5, map[int64]workTrace{}
	h.addHostile("u", "succeeded", `{"run":3}`, workTrace{2, 1, map[int]string{1: "not done: upstream_unreachable"}, nil},
		&workRun{Attempt: 1, Turn: 1, Manner: throttles, At: at(101)},
		&workRun{Attempt: 1, Turn: 2, Manner: breaks, At: at(103)},
		&workRun{Attempt: 2, Turn: 3, Manner: does, At: at(104), Offers: []string{`{"run":3}`}})
	h.addHostile("v", "succeeded", `{"run":4}`, workTrace{2, 2, map[int]string{1: "not done: lease_expired"}, nil},
		&workRun{Attempt: 1, Turn: 1, Manner: silent, At: at(101)},
		&workRun{Attempt: 2, Turn: 3, Manner: finishes, At: at(104), Offers: []string{`{"run":4}`}})
	h.Finishes = append(h.Finishes, &finish{Request: "v", Turn: 3, Offer: `{"run":4}`, Sent: at(105), Answered: at(105), Status: http.StatusNoContent})
	h.addHostile("w", "failed", "upstream_failed", workTrace{1, 0, map[int]string{}, nil},
		&workRun{Attempt: 1, Turn: 1, Manner: garbles, At: at(101), Offers: []string{failure("upstream_failed")}})
	return h
}

// addHostile adds a request whose work the upstream did, and that was called back.
func (h *history) addHostile(id, status, outcome string, trace workTrace, runs ...*workRun) {
	work := int64(100 + 2*len(h.Rows))
	h.Calls = append(h.Calls, &call{Text: "chaos " + id, Receiver: good, Manners: []manner{}, Status: 202, IDs: []string{id}, Sent: 1, SentAt: at(100), AnsweredAt: at(100)})
	r := row{
		ID: id, Seq: work, Mode: "async", Status: status, CallbackState: "delivered", CallbackURL: "http://here/ok", Text: "chaos " + id, Work: upstreamWork,
		WorkJobID: work, CallbackJobID: work + 1, AcceptedAt: at(100), StartedAt: at(101), FinishedAt: at(106),
	}
	came := callback{ID: id, Receiver: good, At: at(107), Answered: at(107), Answer: 204, Signed: true}
	came.Type, came.Data.ID, came.Data.Status = "request."+status, id, status
	if r.ErrorCode = outcome; status == "succeeded" {
		r.ErrorCode, r.Result, came.Data.Result = "", json.RawMessage(outcome), []byte(outcome)
	}
	h.Rows, h.Callbacks, h.Traces[work] = append(h.Rows, r), append(h.Callbacks, came), trace
	h.Jobs = append(h.Jobs, job{work, "work", "completed", id}, job{work + 1, "callback", "completed", id})
	h.Attempts = append(h.Attempts, attempt{id, 1, "delivered"})
	for _, of := range runs {
		of.Request, of.Signed = id, true
		h.Runs = append(h.Runs, of)
	}
}

// expire lets a row, the last that was called back, have expired.
func (h *history) expire(row int) {
	h.Rows[row].Status, h.Rows[row].ErrorCode, h.Rows[row].StartedAt, h.Calls[row].ExpiresIn = "expired", "expired", time.Time{}, 1
	came := &h.Callbacks[len(h.Callbacks)-1]
	came.Type, came.Data.Status = "request.expired", "expired"
}

// setTrace changes the trace of a request.
func (h *history) setTrace(id string, change func(*workTrace)) {
	i := slices.IndexFunc(h.Rows, func(r row) bool { return r.ID == id })
	trace := h.Traces[h.Rows[i].WorkJobID]
	change(&trace)
	h.Traces[h.Rows[i].WorkJobID] = trace
}

// Each history is flawless but for one fault, as in TestCheckNames.
func TestCheckNamesWhatAnUpstreamSaw(t *testing.T) {
	t.Parallel()
	const u, v, w = 3, 4, 5 // indices of the rows
	tests := []struct {
		want string
		do   func(h *history)
	}{
		{"every request has an outcome", func(h *history) { h.Rows[u].Status = "accepted" }},
		{"nothing acknowledged is lost", func(h *history) { h.Rows = slices.Delete(h.Rows, u, u+1) }},
		{"outcomes are what the upstream said", func(h *history) { h.Rows[u].Result = []byte(`{"run":9}`) }},
		{"outcomes are what the upstream said", func(h *history) { h.Rows[u].Result = h.Rows[v].Result }},
		{"outcomes are what the upstream said", func(h *history) { h.Rows[w].ErrorCode = "refused" }},
		{"outcomes are what the upstream said", func(h *history) { h.Rows[w].ErrorCode = "not_done" }},
		{"outcomes are what the upstream said", func(h *history) { h.Calls[u].Result = []byte(`{"run":2}`) }},
		{"calls of the upstream are signed", func(h *history) { h.Runs[0].Signed = false }},
		{"nothing runs after its outcome", func(h *history) { h.Runs[2].At = at(110) }},
		{"nothing runs after its outcome", func(h *history) { h.Callbacks[3].At, h.Runs[4].At = at(200), at(108) }},
		{"nothing runs after its outcome", func(h *history) { h.Calls[u].Stopped, h.Calls[u].StoppedAt = []string{"work"}, at(100) }},
		{"nothing runs after its outcome", func(h *history) {
			h.Runs[2].At, h.Pauses = at(120), []window{{at(90), at(100)}, {at(121), at(130)}}
		}},
		{"runs are the attempts of the trace", func(h *history) { h.Runs[2].Attempt = 3 }},
		{"runs are the attempts of the trace", func(h *history) { h.Runs[2].Attempt = 1 }},
		{"runs are the attempts of the trace", func(h *history) { h.setTrace("u", func(w *workTrace) { w.Attempt = 3 }) }},
		{"runs are the attempts of the trace", func(h *history) { h.setTrace("u", func(w *workTrace) { w.Attempt = 1 }) }},
		{"runs are the attempts of the trace", func(h *history) { h.setTrace("u", func(w *workTrace) { w.Snoozes = 0 }) }},
		{"runs are the attempts of the trace", func(h *history) { h.Runs = slices.Delete(h.Runs, 3, 4) }},
		{"runs are the attempts of the trace", func(h *history) { h.Runs = append(h.Runs, h.Runs[5]) }},
		{"runs are the attempts of the trace", func(h *history) { delete(h.Traces, h.Rows[u].WorkJobID) }},
		{"runs are the attempts of the trace", func(h *history) { h.Runs, h.Deaths = append(h.Runs, h.Runs[5]), []time.Time{at(200)} }},
		{"a report that is taken is the outcome", func(h *history) { h.Finishes[0].Offer = `{"run":5}` }},
		{"a report that is taken is the outcome", func(h *history) {
			second := *h.Finishes[0]
			second.Offer = `{"run":5}`
			h.Finishes = append(h.Finishes, &second)
		}},
		{"a report that is taken is the outcome", func(h *history) { h.Finishes[0].Request = "w" }},
		{"what was given up stays so", func(h *history) { h.Finishes[0].Turn = 1 }},
		{"reports are taken or refused", func(h *history) { h.Finishes[0].Status = http.StatusNotFound }},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			h := flawlessUpstream(t)
			test.do(h)
			found := check(h)
			if !slices.ContainsFunc(found, func(v violation) bool { return v.Invariant == test.want }) {
				t.Errorf("found %+v, want %q", found, test.want)
			}
		})
	}
}

func TestCheckAllowsOfAnUpstream(t *testing.T) {
	t.Parallel()
	tests := map[string]func(h *history){
		"nothing but that": func(*history) {},
		"an attempt that met nobody": func(h *history) {
			h.setTrace("u", func(w *workTrace) { w.Attempt, w.Failed[2] = 3, "not done: upstream_unreachable" })
			h.Runs[2].Attempt = 3
		},
		"an attempt that comes again after a process died": func(h *history) {
			again := *h.Runs[5]
			h.Runs, h.Deaths = append(h.Runs, &again), []time.Time{at(103)}
		},
		"an attempt that was begun by a process that was paused": func(h *history) {
			h.Runs[2].At, h.Pauses = at(120), []window{{at(103), at(119)}}
		},
		"attempts of work whose job was made again": func(h *history) {
			h.Meddled = map[string]*meddling{"u": {Times: 1}}
			h.setTrace("u", func(w *workTrace) { w.Attempt = 1 })
		},
		"an attempt that was cancelled when its job was put to sleep": func(h *history) {
			h.Rows[4].Status, h.Rows[4].CallbackState, h.Rows[4].Result = "cancelled", "cancelled", nil
			h.Calls[4].Stopped, h.Calls[4].StoppedAt = []string{"work", "callback"}, at(106)
			h.Callbacks, h.Finishes = slices.Delete(h.Callbacks, 3, 4), nil
			h.setTrace("v", func(w *workTrace) { w.Attempt = 1 })
		},
		"an attempt that a stop broke off, in a request that expired before the next": func(h *history) {
			h.expire(5)
			h.setTrace("w", func(w *workTrace) { w.Attempt, w.CutOff = 0, map[int]int{1: 1} })
		},
		"a throttled attempt that was the last in its request's time": func(h *history) {
			h.Runs[5].Manner = throttles
			h.expire(5)
		},
		"an attempt that was on its way": func(h *history) { h.Runs[2].At = at(108) },
		"a late report": func(h *history) {
			late := *h.Finishes[0]
			late.Turn, late.Offer, late.Status, late.Sent = 1, `{"run":8}`, http.StatusGone, at(120)
			h.Finishes = append(h.Finishes, &late)
		},
		"a report without an answer": func(h *history) {
			h.Finishes = append(h.Finishes, &finish{Request: "v", Turn: 3, Offer: `{"run":8}`, Sent: at(105)})
		},
		"work that failed at every attempt": func(h *history) {
			h.Rows[5].ErrorCode = "upstream_busy"
			h.setTrace("w", func(w *workTrace) {
				for n := range upstreamRetries + 1 {
					w.Failed[n+1] = "not done: upstream_unreachable"
				}
				w.Attempt = upstreamRetries + 1
			})
		},
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := flawlessUpstream(t)
			do(h)
			if found := check(h); len(found) > 0 {
				t.Errorf("found %+v, want nothing", found)
			}
		})
	}
}

func TestHostileLanesFollowFromTheSeedAndHaveEveryManner(t *testing.T) {
	t.Parallel()
	a, b := newUpstreamLane(7, 2), newUpstreamLane(7, 2)
	seen := map[manner]bool{}
	for range 1000 {
		one, two := a.next(7), b.next(7)
		if one.Text != two.Text || !slices.Equal(one.Manners, two.Manners) || one.Manners == nil {
			t.Fatalf("one seed gave %+v and %+v", one, two)
		}
		for _, m := range one.Manners {
			seen[m] = true
		}
	}
	if len(seen) != len(manners()) {
		t.Errorf("got %d manners, want %d", len(seen), len(manners()))
	}
}

// TestManners meets each manner of the upstream with a server.
func TestManners(t *testing.T) {
	t.Parallel()
	tr := startTrial(t)
	refused := map[manner]string{garbles: "upstream_failed", refuses: "refused", fails: "upstream_failed", errs: "no_page"}
	attempts := map[manner]int{breaks: 2, cuts: 2, hangs: 2, isBusy: 2, tooLate: 2, silent: 2} // at least
	ids := map[manner]string{}
	for _, m := range manners() {
		ids[m] = tr.acceptNoted(t, &call{Text: fmt.Sprintf("chaos %s\n", m), Receiver: steady, Manners: []manner{m}})
	}
	for _, m := range manners() {
		want := fmt.Sprintf("status = 'succeeded' AND work_job_attempt >= %d", max(1, attempts[m]))
		if code := refused[m]; code != "" {
			want = "status = 'failed' AND error_code = '" + code + "' AND work_job_attempt = 1"
		}
		await(t, string(m)+" is called back", func() bool { return tr.history.hasCome(ids[m]) })
		if !tr.holds(t, ids[m], want) {
			t.Errorf("%s: want %s", m, want)
		}
	}
	for k, trouble := range map[kind]string{upstreamAway: "upstream_unreachable", upstreamBusy: "", upstreamHang: "deadline_exceeded"} {
		var id string
		fault := func(ctx context.Context, length time.Duration) error { return tr.upstream.suffer(ctx, k, length) }
		during(t, fault, func() {
			await(t, string(k)+" has begun", func() bool { return tr.upstream.suffers(k) })
			id = tr.acceptNoted(t, &call{Text: "chaos " + string(k), Receiver: steady, Manners: []manner{}})
			await(t, "an attempt was not done", func() bool {
				return tr.holds(t, id, fmt.Sprintf("work_job_errors::text LIKE '%%%s%%' OR %t AND work_job_state IN ('available', 'scheduled')", trouble, trouble == ""))
			})
		})
		await(t, "it is called back", func() bool { return tr.history.hasCome(id) })
		if !tr.holds(t, id, "status = 'succeeded'") {
			t.Errorf("%s: want that it succeeds afterwards", k)
		}
	}
	tr.history.following.Wait()
	if err := audit(t.Context(), tr.database, tr.caller, tr.history); err != nil {
		t.Fatal(err)
	}
	if found := check(tr.history); len(found) > 0 {
		t.Errorf("found %+v, want nothing", found)
	}
}

// acceptNoted is accept for a call that is checked.
func (t *trial) acceptNoted(tb testing.TB, c *call) (id string) {
	tb.Helper()
	t.history.addCall(c)
	return t.accept(tb, c)
}
