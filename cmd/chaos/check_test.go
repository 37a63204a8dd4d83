package main

import (
	"slices"
	"testing"
	"time"

	"ringback/cmd/internal/sample"
)

// start is when everything in these histories begins.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// flawless is a history of three requests: two with the same ordering key, and a sync
// request.
func flawless(t *testing.T) *history {
	t.Helper()
	h := &history{Mine: "chaos ", Dead: map[string]bool{}, Listed: map[string]int{"async": 2, "sync": 1}}
	for i, id := range []string{"a", "b"} {
		c := newCall("chaos "+id, good, 0, 0)
		c.OrderingKey, c.IdempotencyKey = "key", id
		c.SentAt, c.AnsweredAt, c.Status, c.IDs, c.Sent = at(10*i), at(10*i+1), 202, []string{id}, 1
		result := resultOf(t, c)
		work, call := int64(2*i+1), int64(2*i+2)
		h.Calls = append(h.Calls, c)
		h.Rows = append(h.Rows, row{
			ID: id, Seq: int64(i), Mode: "async", Status: "succeeded", CallbackState: "delivered", CallbackURL: "http://here/ok",
			Text: c.Text, Result: result, WorkJobID: work, CallbackJobID: call,
			AcceptedAt: at(10 * i), StartedAt: at(10*i + 1), FinishedAt: at(10*i + 2),
		})
		h.Jobs = append(h.Jobs, job{work, "process", "completed", id}, job{call, "callback", "completed", id})
		h.Attempts = append(h.Attempts, attempt{id, 1, "delivered"})
		came := callback{ID: id, Receiver: good, At: at(10*i + 3), Answered: at(10*i + 3), Answer: 204, Signed: true}
		came.Type = "request.succeeded"
		came.Data.ID, came.Data.Status, came.Data.Result = id, "succeeded", result
		h.Callbacks = append(h.Callbacks, came)
	}
	c := newCall("chaos c", "", 0, 0)
	c.Sync, c.Status, c.IDs, c.Sent = true, 200, []string{"c"}, 1
	c.Result = resultOf(t, c)
	h.Calls = append(h.Calls, c)
	h.Rows = append(h.Rows, row{ID: "c", Seq: 9, Mode: "sync", Status: "succeeded", Text: c.Text, Result: c.Result, FinishedAt: at(1)})
	return h
}

func resultOf(t *testing.T, c *call) []byte {
	t.Helper()
	result, err := sample.Result(t.Context(), c.Input)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestCheckHoldsOfAFlawlessHistory(t *testing.T) {
	t.Parallel()
	if found := check(flawless(t)); len(found) > 0 {
		t.Errorf("found %+v, want nothing", found)
	}
}

// Each history is flawless but for one fault, which check has to name. It may name the
// fault's consequences, too.
func TestCheckNames(t *testing.T) {
	t.Parallel()
	tests := []struct {
		want string
		do   func(h *history)
	}{
		{"nothing acknowledged is lost", func(h *history) { h.Rows = h.Rows[1:] }},
		{"every request has an outcome", func(h *history) { h.Rows[0].Status = "accepted" }},
		{"every request has an outcome", func(h *history) { h.Rows[0].Status = "failed" }},
		{"every request has one outcome", func(h *history) { h.Callbacks[0].Data.Status = "failed" }},
		{"every request has one outcome", func(h *history) { h.Callbacks[0].Type = "request.failed" }},
		{"every outcome is called back", func(h *history) { h.Rows[0].CallbackState = "pending" }},
		{"every outcome is called back", func(h *history) { h.Callbacks = h.Callbacks[1:] }},
		{"every outcome is called back", func(h *history) { h.Callbacks[0].Answer = 500 }},
		{"results equal the work's", func(h *history) { h.Rows[0].Result = []byte(`{}`) }},
		{"results equal the work's", func(h *history) { h.Calls[2].Result = []byte(`{}`) }},
		{"callbacks say what is stored", func(h *history) { h.Callbacks[0].Data.Result = []byte(`{}`) }},
		{"callbacks say what is stored", func(h *history) { h.Callbacks[0].Data.ID = "b" }},
		{"callbacks go where they should", func(h *history) { h.Callbacks[0].Receiver = slow }},
		{"callbacks are signed", func(h *history) { h.Callbacks[0].Signed = false }},
		{"callbacks are of requests", func(h *history) { h.Callbacks[0].ID = "x" }},
		{"only what nobody takes is dead", func(h *history) { h.Rows[0].CallbackState, h.Dead["a"] = "dead", true }},
		{"dead letters are listed", func(h *history) { h.Rows[0].CallbackState, h.Calls[0].Receiver = "dead", gone }},
		{"a receiver that is gone gets nothing", func(h *history) { h.Calls[0].Receiver = gone }},
		{"only what may expire does", func(h *history) { h.Rows[0].Status = "expired" }},
		{"only what may expire does", func(h *history) {
			h.Rows[0].Status, h.Rows[0].StartedAt, h.Calls[0].ExpiresIn = "expired", time.Time{}, 60
		}},
		{"an upgrade fails no call", func(h *history) { h.Upgraded, h.Calls[2].IDs, h.Calls[2].Status = true, nil, 0 }},
		{"an upgrade fails no call", func(h *history) {
			h.Upgraded, h.Calls[2].IDs, h.Calls[2].Status, h.Calls[2].Problem = true, nil, 503, "/problems/unavailable"
		}},
		{"what expired was not begun", func(h *history) { h.Rows[0].Status, h.Calls[0].ExpiresIn = "expired", 1 }},
		{"only what was cancelled is", func(h *history) { h.Rows[0].Status, h.Rows[0].CallbackState = "cancelled", "cancelled" }},
		{"what was cancelled stays so", func(h *history) { h.Calls[0].Stopped = []string{"work"} }},
		{"what was cancelled is not called back", func(h *history) {
			h.Calls[0].Stopped = []string{"work", "callback"}
			h.Rows[0].Status, h.Rows[0].CallbackState = "cancelled", "cancelled"
		}},
		{"one request for a key", func(h *history) { h.Calls[0].IDs = []string{"a", "b"} }},
		{"no request twice", func(h *history) { h.Rows[1].Text = h.Rows[0].Text }},
		{"an id names its request", func(h *history) { h.Calls[0].IDs = []string{"b"} }},
		{"acceptance order is kept", func(h *history) { h.Rows[0].Seq = 5 }},
		{"order is held per key", func(h *history) { h.Callbacks[1].At = at(2) }},
		{"order is held per key", func(h *history) { h.Callbacks[0].At, h.Callbacks[0].Answered = at(3), at(20) }},
		{"every request has its jobs", func(h *history) { h.Jobs = h.Jobs[1:] }},
		{"every request has its jobs", func(h *history) { h.Jobs[1].RequestID = "b" }},
		{"no job is an orphan", func(h *history) { h.Jobs[0].State = "running" }},
		{"no job is an orphan", func(h *history) { h.Jobs[1].State = "retryable" }},
		{"no job is an orphan", func(h *history) { h.Jobs = append(h.Jobs, job{9, "process", "completed", "x"}) }},
		{"no job is discarded", func(h *history) { h.Jobs[0].State = "discarded" }},
		{"the trace is complete", func(h *history) { h.Attempts = h.Attempts[1:] }},
		{"the trace is complete", func(h *history) { h.Attempts[0].Number = 2 }},
		{"the trace is complete", func(h *history) { h.Rows[0].FinishedAt = at(-1) }},
		{"only what was cancelled is", func(h *history) {
			h.Rows[0].Status, h.Rows[0].CallbackState, h.Callbacks = "cancelled", "cancelled", h.Callbacks[1:]
			h.Meddled = map[string]*meddling{"a": {Times: 1}}
		}},
		{"what was cancelled stays so", func(h *history) {
			h.Meddled = map[string]*meddling{"a": {Times: 1, Cancelled: true, At: at(-1)}}
		}},
		{"what was cancelled is not called back", func(h *history) {
			h.Rows[0].Status, h.Rows[0].CallbackState = "cancelled", "cancelled"
			h.Meddled = map[string]*meddling{"a": {Times: 1, Cancelled: true, At: at(-1)}}
		}},
		{"no job is discarded", func(h *history) {
			h.Jobs[0].State, h.Meddled = "discarded", map[string]*meddling{"b": {Times: 1}}
		}},
		{"what was delivered comes twice at most", func(h *history) { comeAgain(h, 2) }},
		{"what was delivered comes twice at most", func(h *history) {
			comeAgain(h, 2)
			h.Deaths = []time.Time{at(2), at(6)}
		}},
		{"what was delivered comes twice at most", func(h *history) {
			comeAgain(h, 4)
			h.Calls[0].Redelivered = true
		}},
		{"what was delivered comes twice at most", func(h *history) {
			comeAgain(h, 3)
			h.Meddled = map[string]*meddling{"a": {Times: 1}}
		}},
		{"all goes on by itself", func(h *history) { h.Resumed = []resumption{{"server 0", resumeLimit + 1}} }},
		{"all goes on by itself", func(h *history) { h.Quiet, h.Rows[1].FinishedAt = at(20), at(51) }},
		{"all goes on by itself", func(h *history) {
			setAhead(h, time.Hour)
			h.Quiet, h.Rows[1].FinishedAt = at(20), at(3600+51)
		}},
		{"what is redelivered is tried again", func(h *history) { h.Redelivered = 1 }},
		{"counts agree", func(h *history) { h.Listed["async"]-- }},
		{"counts agree", func(h *history) { h.Storm.Acked = 1 }},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			h := flawless(t)
			test.do(h)
			found := check(h)
			if !slices.ContainsFunc(found, func(v violation) bool { return v.Invariant == test.want }) {
				t.Errorf("found %+v, want %q", found, test.want)
			}
		})
	}
}

// comeAgain lets the first callback come again, a second later each time.
func comeAgain(h *history, times int) {
	for i := range times {
		again := h.Callbacks[0]
		again.At = again.At.Add(time.Duration(i+1) * time.Second)
		h.Callbacks = append(h.Callbacks, again)
	}
}

// setAhead lets the database's clock be ahead of all others.
func setAhead(h *history, ahead time.Duration) {
	h.Ahead = ahead
	for i := range h.Rows {
		r := &h.Rows[i]
		r.AcceptedAt, r.StartedAt, r.FinishedAt = r.AcceptedAt.Add(ahead), r.StartedAt.Add(ahead), r.FinishedAt.Add(ahead)
	}
}

func TestCheckAllows(t *testing.T) {
	t.Parallel()
	tests := map[string]func(h *history){
		"a callback that comes twice": func(h *history) { comeAgain(h, 1) },
		"one that comes again after a process died": func(h *history) {
			comeAgain(h, 2)
			h.Deaths = []time.Time{at(4)}
		},
		"one that comes again when it is redelivered": func(h *history) {
			comeAgain(h, 3)
			h.Calls[0].Redelivered = true
		},
		"one whose job was taken away each time": func(h *history) {
			comeAgain(h, 3)
			h.Meddled = map[string]*meddling{"a": {Times: 2}}
		},
		"a work job that was cancelled by hand": func(h *history) {
			h.Rows[0].Status, h.Rows[0].CallbackState, h.Rows[0].Result = "cancelled", "cancelled", nil
			h.Callbacks, h.Attempts, h.Jobs[0].State = h.Callbacks[1:], h.Attempts[1:], "cancelled"
			h.Meddled = map[string]*meddling{"a": {Times: 1, Cancelled: true, At: at(-1)}}
		},
		"a work job that was cancelled when its work was under way": func(h *history) {
			h.Meddled = map[string]*meddling{"a": {Times: 1, Cancelled: true, At: at(1)}}
		},
		"a job that was deleted by hand when its step had ended": func(h *history) {
			h.Jobs, h.Meddled = h.Jobs[1:], map[string]*meddling{"a": {Times: 1}}
		},
		"work that ends soon after the last fault, by a clock that is ahead": func(h *history) {
			setAhead(h, time.Hour)
			h.Quiet = at(3)
		},
		"an attempt that failed first": func(h *history) {
			failed := h.Callbacks[0]
			failed.Answer = 500
			h.Callbacks = append([]callback{failed}, h.Callbacks...)
		},
		"an upgrade that refuses what it has no room for": func(h *history) {
			h.Upgraded, h.Calls[2].IDs, h.Calls[2].Status, h.Calls[2].Problem = true, nil, 503, busy
		},
		"a call without an answer that was taken": func(h *history) { h.Calls[2].IDs, h.Calls[2].Status = nil, 0 },
		"a sync call that is made again after its caller gave up": func(h *history) {
			h.Rows = append(h.Rows, row{ID: "d", Seq: 8, Mode: "sync", Status: "cancelled", ErrorCode: "abandoned", Text: h.Calls[2].Text, FinishedAt: at(1)})
			h.Calls[2].Sent, h.Calls[2].IdempotencyKey, h.Listed["sync"] = 2, "c", 2
		},
		"order of calls that met": func(h *history) {
			h.Calls[0].AnsweredAt, h.Callbacks[1].At = at(30), at(2)
		},
		"a callback of storm's that storm isn't told of": func(h *history) {
			h.Rows = append(h.Rows, row{ID: "s", Mode: "async", Status: "succeeded", CallbackState: "pending", Text: "storm", WorkJobID: 8, CallbackJobID: 9})
			h.Jobs = append(h.Jobs, job{8, "process", "completed", "s"}, job{9, "callback", "retryable", "s"})
			h.Storm.Ambiguous, h.Listed["async"] = 1, 3
		},
		"a dead letter of a receiver that is gone": func(h *history) {
			h.Calls[0].Receiver, h.Rows[0].CallbackState, h.Dead["a"], h.Attempts[0].Outcome = gone, "dead", true, "gone"
		},
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := flawless(t)
			do(h)
			if found := check(h); len(found) > 0 {
				t.Errorf("found %+v, want nothing", found)
			}
		})
	}
}
