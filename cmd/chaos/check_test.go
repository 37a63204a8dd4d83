package main

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// start is when everything in these ledgers begins.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// flawless is a ledger of three requests: two with the same ordering key, and a sync
// request.
func flawless(t *testing.T) *ledger {
	t.Helper()
	l := newLedger(plan{})
	l.listed = map[string]int{"async": 2, "sync": 1}
	for i, id := range []string{"a", "b"} {
		c := newCall("chaos 0 "+id, receivers.OK, 0, 0)
		c.OrderingKey, c.IdempotencyKey = "key", id
		c.SentAt, c.AnsweredAt, c.Status, c.IDs, c.Sent = at(10*i), at(10*i+1), 202, []string{id}, 1
		l.calls = append(l.calls, c)
		r := row{
			Seq: int64(i), Mode: "async", Status: "succeeded", Result: resultOf(t, c),
			AcceptedAt: at(10 * i), StartedAt: at(10*i + 1), FinishedAt: at(10*i + 2),
		}
		l.addCalledBack(id, r)
	}
	c := newCall("chaos 0 c", receivers.OK, 0, 0)
	c.Sync, c.Status, c.IDs, c.Sent = true, 200, []string{"c"}, 1
	c.Result = resultOf(t, c)
	l.calls = append(l.calls, c)
	l.addRow("c", row{Seq: 9, Mode: "sync", Status: "succeeded", Result: c.Result, FinishedAt: at(1)})
	return l
}

func resultOf(t *testing.T, c *call) []byte {
	t.Helper()
	result, err := sample.Result(t.Context(), c.Input)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func (l *ledger) addRow(id string, r row) *story {
	r.ID, r.Text = id, "chaos 0 "+id
	s := l.story(id)
	s.stored, s.row = true, r
	return s
}

// addCalledBack adds a row with its jobs, which was called back a second after its end.
func (l *ledger) addCalledBack(id string, r row) *story {
	r.WorkJobID, r.CallbackJobID = int64(10*len(l.stories)+1), int64(10*len(l.stories)+2)
	r.CallbackState, r.CallbackURL, r.Attempts, r.LastAttempt = "delivered", "http://here/ok", []string{"delivered"}, 1
	s := l.addRow(id, r)
	s.jobs = []job{
		{ID: r.WorkJobID, Kind: "work", State: "completed", RequestID: id},
		{ID: r.CallbackJobID, Kind: "callback", State: "completed", RequestID: id},
	}
	ended := r.FinishedAt.Add(time.Second)
	came := callback{Receiver: receivers.OK, At: ended, Answered: ended, Answer: 204, Signed: true}
	came.Type, came.Data.ID, came.Data.Status, came.Data.Result = "request."+r.Status, id, r.Status, []byte(r.Result)
	s.callbacks = []callback{came}
	return s
}

func (s *story) forget() { s.stored, s.row = false, row{} }

func TestCheckHoldsOfAFlawlessHistory(t *testing.T) {
	t.Parallel()
	if found := check(flawless(t)); len(found) > 0 {
		t.Errorf("found %+v, want nothing", found)
	}
}

// wrong breaks a flawless ledger, often in the story of request a.
type wrong struct {
	want string
	do   func(l *ledger, a *story)
}

// Each ledger is flawless but for one fault, which check has to name. It may name the
// fault's consequences, too.
func TestCheckNames(t *testing.T) {
	t.Parallel()
	testCheckNames(t, flawless, []wrong{
		{"a run shows something", func(l *ledger, _ *story) { l.calls = nil }},
		{"a run shows something", func(l *ledger, _ *story) {
			for _, s := range l.stories {
				s.callbacks = nil
			}
		}},
		{"a run shows something", func(l *ledger, _ *story) { l.plan.Faults = []fault{{Kind: "kill"}} }},
		{"nothing acknowledged is lost", func(_ *ledger, a *story) { a.forget() }},
		{"every request has an outcome", func(_ *ledger, a *story) { a.Status = "accepted" }},
		{"every request has an outcome", func(_ *ledger, a *story) { a.Status = "failed" }},
		{"every request has one outcome", func(_ *ledger, a *story) { a.callbacks[0].Data.Status = "failed" }},
		{"every request has one outcome", func(_ *ledger, a *story) { a.callbacks[0].Type = "request.failed" }},
		{"every outcome is called back", func(_ *ledger, a *story) { a.CallbackState = "pending" }},
		{"every outcome is called back", func(_ *ledger, a *story) { a.callbacks = nil }},
		{"every outcome is called back", func(_ *ledger, a *story) { a.callbacks[0].Answer = 500 }},
		{"results equal the work's", func(_ *ledger, a *story) { a.Result = []byte(`{}`) }},
		{"results equal the work's", func(l *ledger, _ *story) { l.calls[2].Result = []byte(`{}`) }},
		{"callbacks say what is stored", func(_ *ledger, a *story) { a.callbacks[0].Data.Result = []byte(`{}`) }},
		{"callbacks say what is stored", func(_ *ledger, a *story) { a.callbacks[0].Data.ID = "b" }},
		{"callbacks go where they should", func(_ *ledger, a *story) { a.callbacks[0].Receiver = receivers.Slow }},
		{"callbacks are signed", func(_ *ledger, a *story) { a.callbacks[0].Signed = false }},
		{"callbacks are of requests", func(l *ledger, a *story) { l.story("x").callbacks = a.callbacks }},
		{"only what nobody takes is dead", func(_ *ledger, a *story) { a.CallbackState, a.Dead = "dead", true }},
		{"dead letters are listed", func(l *ledger, a *story) { a.CallbackState, l.calls[0].Receiver = "dead", receivers.Gone }},
		{"a receiver that is gone gets nothing", func(l *ledger, _ *story) { l.calls[0].Receiver = receivers.Gone }},
		{"only what may expire does", func(_ *ledger, a *story) { a.Status = "expired" }},
		{"only what may expire does", func(l *ledger, a *story) {
			a.Status, a.StartedAt, l.calls[0].ExpiresIn = "expired", time.Time{}, 60
		}},
		{"an upgrade fails no call", func(l *ledger, _ *story) { l.plan.From, l.calls[2].IDs, l.calls[2].Status = "earlier", nil, 0 }},
		{"an upgrade fails no call", func(l *ledger, _ *story) {
			l.plan.From, l.calls[2].IDs, l.calls[2].Status, l.calls[2].Problem = "earlier", nil, 503, "/problems/unavailable"
		}},
		{"what expired was not begun", func(l *ledger, a *story) { a.Status, l.calls[0].ExpiresIn = "expired", 1 }},
		{"only what was cancelled is", func(_ *ledger, a *story) { a.Status, a.CallbackState = "cancelled", "cancelled" }},
		{"what was cancelled stays so", func(l *ledger, _ *story) { l.calls[0].Stopped = []string{"work"} }},
		{"what was cancelled is not called back", func(l *ledger, a *story) {
			l.calls[0].Stopped = []string{"work", "callback"}
			a.Status, a.CallbackState = "cancelled", "cancelled"
		}},
		{"one request for a key", func(l *ledger, _ *story) { l.calls[0].IDs = []string{"a", "b"} }},
		{"no request twice", func(l *ledger, a *story) { l.story("b").Text = a.Text }},
		{"an id names its request", func(l *ledger, _ *story) { l.calls[0].IDs = []string{"b"} }},
		{"acceptance order is kept", func(_ *ledger, a *story) { a.Seq = 5 }},
		{"order is held per key", func(l *ledger, _ *story) { l.story("b").callbacks[0].At = at(2) }},
		{"order is held per key", func(_ *ledger, a *story) { a.callbacks[0].At, a.callbacks[0].Answered = at(3), at(20) }},
		{"every request has its jobs", func(_ *ledger, a *story) { a.jobs = a.jobs[1:] }},
		{"every request has its jobs", func(l *ledger, a *story) {
			a.jobs, l.story("b").jobs = a.jobs[:1], append(l.story("b").jobs, a.jobs[1])
		}},
		{"no job is an orphan", func(_ *ledger, a *story) { a.jobs[0].State = "running" }},
		{"no job is an orphan", func(_ *ledger, a *story) { a.jobs[1].State = "retryable" }},
		{"no job is an orphan", func(l *ledger, a *story) { l.story("x").jobs = a.jobs }},
		{"no job is discarded", func(_ *ledger, a *story) { a.jobs[0].State = "discarded" }},
		{"the trace is complete", func(_ *ledger, a *story) { a.Attempts, a.LastAttempt = nil, 0 }},
		{"the trace is complete", func(_ *ledger, a *story) { a.LastAttempt = 2 }},
		{"the trace is complete", func(_ *ledger, a *story) { a.FinishedAt = at(-1) }},
		{"only what was cancelled is", func(_ *ledger, a *story) {
			a.Status, a.CallbackState, a.callbacks = "cancelled", "cancelled", nil
			a.meddled = meddling{times: 1}
		}},
		{"what was cancelled stays so", func(_ *ledger, a *story) { a.meddled = meddling{1, true, at(-1)} }},
		{"what was cancelled is not called back", func(_ *ledger, a *story) {
			a.Status, a.CallbackState = "cancelled", "cancelled"
			a.meddled = meddling{1, true, at(-1)}
		}},
		{"no job is discarded", func(l *ledger, a *story) { a.jobs[0].State, l.story("b").meddled.times = "discarded", 1 }},
		{"what was delivered comes twice at most", func(_ *ledger, a *story) { a.comeAgain(2) }},
		{"what was delivered comes twice at most", func(l *ledger, a *story) {
			a.comeAgain(2)
			l.deaths = []time.Time{at(2), at(6)}
		}},
		{"what was delivered comes twice at most", func(l *ledger, a *story) {
			a.comeAgain(4)
			l.calls[0].Redelivered = true
		}},
		{"what was delivered comes twice at most", func(_ *ledger, a *story) {
			a.comeAgain(3)
			a.meddled.times = 1
		}},
		{"all goes on by itself", func(l *ledger, _ *story) { l.resumed["server-0"] = resumeLimit + 1 }},
		{"all goes on by itself", func(l *ledger, _ *story) { l.quiet, l.story("b").FinishedAt = at(20), at(51) }},
		{"all goes on by itself", func(l *ledger, _ *story) {
			l.setAhead(time.Hour)
			l.quiet, l.story("b").FinishedAt = at(20), at(3600+51)
		}},
		{"what is redelivered is tried again", func(l *ledger, _ *story) { l.redelivered = 1 }},
		{"counts agree", func(l *ledger, _ *story) { l.listed["async"]-- }},
		{"counts agree", func(l *ledger, _ *story) { l.storm.Acked = 1 }},
		{"storm finds nothing broken", func(l *ledger, _ *story) { l.stormBroke = errors.New("a callback is missing") }},
	})
}

func testCheckNames(t *testing.T, flawless func(*testing.T) *ledger, tests []wrong) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			l := flawless(t)
			test.do(l, l.story("a"))
			found := check(l)
			if !slices.ContainsFunc(found, func(v violation) bool { return v.Invariant == test.want }) {
				t.Errorf("found %+v, want %q", found, test.want)
			}
		})
	}
}

func testCheckAllows(t *testing.T, flawless func(*testing.T) *ledger, tests map[string]func(l *ledger, a *story)) {
	t.Helper()
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := flawless(t)
			do(l, l.story("a"))
			if found := check(l); len(found) > 0 {
				t.Errorf("found %+v, want nothing", found)
			}
		})
	}
}

// comeAgain lets the callback come again, a second later each time.
func (s *story) comeAgain(times int) {
	for i := range times {
		again := s.callbacks[0]
		again.At = again.At.Add(time.Duration(i+1) * time.Second)
		s.callbacks = append(s.callbacks, again)
	}
}

// setAhead lets the database's clock be ahead of all others.
func (l *ledger) setAhead(ahead time.Duration) {
	l.plan.Ahead = ahead
	for _, s := range l.stories {
		s.AcceptedAt, s.StartedAt, s.FinishedAt = s.AcceptedAt.Add(ahead), s.StartedAt.Add(ahead), s.FinishedAt.Add(ahead)
	}
}

func TestCheckAllows(t *testing.T) {
	t.Parallel()
	testCheckAllows(t, flawless, map[string]func(l *ledger, a *story){
		"a callback that comes twice": func(_ *ledger, a *story) { a.comeAgain(1) },
		"a callback that comes again after a process died": func(l *ledger, a *story) {
			a.comeAgain(2)
			l.deaths = []time.Time{at(4)}
		},
		"a callback that comes again when it is redelivered": func(l *ledger, a *story) {
			a.comeAgain(3)
			l.calls[0].Redelivered = true
		},
		"a callback whose job was taken away each time": func(_ *ledger, a *story) {
			a.comeAgain(3)
			a.meddled.times = 2
		},
		"a work job that was cancelled by hand": func(_ *ledger, a *story) {
			a.Status, a.CallbackState, a.Result = "cancelled", "cancelled", nil
			a.callbacks, a.Attempts, a.LastAttempt, a.jobs[0].State = nil, nil, 0, "cancelled"
			a.meddled = meddling{1, true, at(-1)}
		},
		"a work job that was cancelled when its work was under way": func(_ *ledger, a *story) { a.meddled = meddling{1, true, at(1)} },
		"a job that was deleted by hand when its step had ended":    func(_ *ledger, a *story) { a.jobs, a.meddled.times = a.jobs[1:], 1 },
		"work that ends soon after the last fault, by a clock that is ahead": func(l *ledger, _ *story) {
			l.setAhead(time.Hour)
			l.quiet = at(3)
		},
		"an attempt that failed first": func(_ *ledger, a *story) {
			failed := a.callbacks[0]
			failed.Answer = 500
			a.callbacks = append([]callback{failed}, a.callbacks...)
		},
		"an upgrade that refuses what it has no room for": func(l *ledger, _ *story) {
			l.plan.From, l.calls[2].IDs, l.calls[2].Status, l.calls[2].Problem = "earlier", nil, 503, busy
		},
		"a call without an answer that was taken": func(l *ledger, _ *story) { l.calls[2].IDs, l.calls[2].Status = nil, 0 },
		"a sync call that is made again after its caller gave up": func(l *ledger, _ *story) {
			l.addRow("d", row{Seq: 8, Mode: "sync", Status: "cancelled", ErrorCode: "abandoned", FinishedAt: at(1)}).Text = l.calls[2].Text
			l.calls[2].Sent, l.calls[2].IdempotencyKey, l.listed["sync"] = 2, "c", 2
		},
		"order of calls that met": func(l *ledger, _ *story) { l.calls[0].AnsweredAt, l.story("b").callbacks[0].At = at(30), at(2) },
		"a callback of storm's that storm isn't told of": func(l *ledger, _ *story) {
			s := l.addCalledBack("s", row{Mode: "async", Status: "succeeded"})
			s.Text, s.CallbackState, s.callbacks, s.jobs[1].State = "storm", "pending", nil, "retryable"
			l.storm.Ambiguous, l.listed["async"] = 1, 3
		},
		"a dead letter of a receiver that is gone": func(l *ledger, a *story) {
			l.calls[0].Receiver, a.CallbackState, a.Dead, a.Attempts[0] = receivers.Gone, "dead", true, "gone"
		},
	})
}

// flawlessUpstream is a ledger of three more requests: the first was done at the third
// attempt, after an attempt that charged nothing; the second was finished later, at the
// second attempt; the third failed.
func flawlessUpstream(t *testing.T) *ledger {
	t.Helper()
	l := flawless(t)
	l.listed["async"] = 5
	u := l.addHostile("u", row{Status: "succeeded", Result: []byte(`{"run":3}`)},
		&workRun{Attempt: 1, Turn: 1, Manner: throttles, At: at(101)},
		&workRun{Attempt: 1, Turn: 2, Manner: "breaks", At: at(103)},
		&workRun{Attempt: 2, Turn: 3, Manner: does, At: at(104), Offers: []string{`{"run":3}`}})
	u.jobs[0].Attempt, u.jobs[0].Snoozes, u.jobs[0].Errors = 2, 1, []jobError{{1, "not done: upstream_unreachable"}}
	v := l.addHostile("v", row{Status: "succeeded", Result: []byte(`{"run":4}`)},
		&workRun{Attempt: 1, Turn: 1, Manner: "silent", At: at(101)},
		&workRun{Attempt: 2, Turn: 3, Manner: "finishes", At: at(104), Offers: []string{`{"run":4}`}})
	v.jobs[0].Attempt, v.jobs[0].Snoozes, v.jobs[0].Errors = 2, 2, []jobError{{1, "not done: lease_expired"}}
	v.finishes = []*finish{{Turn: 3, Offer: `{"run":4}`, Sent: at(105), Answered: at(105), Status: http.StatusNoContent}}
	w := l.addHostile("w", row{Status: "failed", ErrorCode: "upstream_failed"},
		&workRun{Attempt: 1, Turn: 1, Manner: "garbles", At: at(101), Offers: []string{failure("upstream_failed")}})
	w.jobs[0].Attempt = 1
	return l
}

// addHostile adds a request whose work the upstream did, and that was called back.
func (l *ledger) addHostile(id string, r row, runs ...*workRun) *story {
	c := newHostileCall("chaos 0 "+id, receivers.OK)
	c.Status, c.IDs, c.Sent, c.SentAt, c.AnsweredAt = 202, []string{id}, 1, at(100), at(100)
	l.calls = append(l.calls, c)
	r.Mode, r.Work, r.Seq, r.AcceptedAt, r.StartedAt, r.FinishedAt = "async", upstreamWork, int64(100+len(l.calls)), at(100), at(101), at(106)
	s := l.addCalledBack(id, r)
	s.call, s.runs = c, runs
	for _, of := range runs {
		of.Signed = true
	}
	return s
}

// expire lets a request that was called back have expired.
func (s *story) expire() {
	s.Status, s.ErrorCode, s.StartedAt, s.call.ExpiresIn = "expired", "expired", time.Time{}, 1
	s.callbacks[0].Type, s.callbacks[0].Data.Status = "request.expired", "expired"
}

// Each ledger is flawless but for one fault, as in TestCheckNames.
func TestCheckNamesWhatAnUpstreamSaw(t *testing.T) {
	t.Parallel()
	of := func(id string, do func(*story)) func(*ledger, *story) {
		return func(l *ledger, _ *story) { do(l.story(id)) }
	}
	testCheckNames(t, flawlessUpstream, []wrong{
		{"every request has an outcome", of("u", func(u *story) { u.Status = "accepted" })},
		{"nothing acknowledged is lost", of("u", (*story).forget)},
		{"outcomes are what the upstream said", of("u", func(u *story) { u.Result = []byte(`{"run":9}`) })},
		{"outcomes are what the upstream said", func(l *ledger, _ *story) { l.story("u").Result = l.story("v").Result }},
		{"outcomes are what the upstream said", of("w", func(w *story) { w.ErrorCode = "refused" })},
		{"outcomes are what the upstream said", of("w", func(w *story) { w.ErrorCode = "not_done" })},
		{"outcomes are what the upstream said", of("u", func(u *story) { u.call.Result = []byte(`{"run":2}`) })},
		{"calls of the upstream are signed", of("u", func(u *story) { u.runs[0].Signed = false })},
		{"nothing runs after its outcome", of("u", func(u *story) { u.runs[2].At = at(110) })},
		{"nothing runs after its outcome", of("v", func(v *story) { v.callbacks[0].At, v.runs[1].At = at(200), at(108) })},
		{"nothing runs after its outcome", of("u", func(u *story) { u.call.Stopped, u.call.StoppedAt = []string{"work"}, at(100) })},
		{"nothing runs after its outcome", func(l *ledger, _ *story) {
			l.story("u").runs[2].At = at(120)
			l.windows = []window{{"pause", at(90), at(100)}, {"table-locked", at(121), at(130)}, {"log-blocked", at(90), at(130)}}
		}},
		{"runs are the attempts of the trace", of("u", func(u *story) { u.runs[2].Attempt = 3 })},
		{"runs are the attempts of the trace", of("u", func(u *story) { u.runs[2].Attempt = 1 })},
		{"runs are the attempts of the trace", of("u", func(u *story) { u.jobs[0].Attempt = 3 })},
		{"runs are the attempts of the trace", of("u", func(u *story) { u.jobs[0].Attempt = 1 })},
		{"runs are the attempts of the trace", of("u", func(u *story) { u.jobs[0].Snoozes = 0 })},
		{"runs are the attempts of the trace", of("v", func(v *story) { v.runs = v.runs[1:] })},
		{"runs are the attempts of the trace", of("w", func(w *story) { w.runs = append(w.runs, w.runs[0]) })},
		{"runs are the attempts of the trace", of("u", func(u *story) { u.jobs = u.jobs[1:] })},
		{"runs are the attempts of the trace", func(l *ledger, _ *story) {
			l.story("w").runs, l.deaths = append(l.story("w").runs, l.story("w").runs[0]), []time.Time{at(200)}
		}},
		{"a report that is taken is the outcome", of("v", func(v *story) { v.finishes[0].Offer = `{"run":5}` })},
		{"a report that is taken is the outcome", of("v", func(v *story) {
			second := *v.finishes[0]
			second.Offer = `{"run":5}`
			v.finishes = append(v.finishes, &second)
		})},
		{"a report that is taken is the outcome", func(l *ledger, _ *story) { l.story("w").finishes = l.story("v").finishes }},
		{"a report that is taken is the outcome", func(l *ledger, _ *story) { l.story("x").finishes = l.story("v").finishes }},
		{"what was given up stays so", of("v", func(v *story) { v.finishes[0].Turn = 1 })},
		{"reports are taken or refused", of("v", func(v *story) { v.finishes[0].Status = http.StatusNotFound })},
	})
}

func TestCheckAllowsOfAnUpstream(t *testing.T) {
	t.Parallel()
	of := func(id string, do func(*story)) func(*ledger, *story) {
		return func(l *ledger, _ *story) { do(l.story(id)) }
	}
	testCheckAllows(t, flawlessUpstream, map[string]func(*ledger, *story){
		"nothing but that": func(*ledger, *story) {},
		"an attempt that met nobody": of("u", func(u *story) {
			u.jobs[0].Attempt, u.jobs[0].Errors = 3, append(u.jobs[0].Errors, jobError{2, "not done: upstream_unreachable"})
			u.runs[2].Attempt = 3
		}),
		"an attempt that comes again after a process died": func(l *ledger, _ *story) {
			again := *l.story("w").runs[0]
			l.story("w").runs, l.deaths = append(l.story("w").runs, &again), []time.Time{at(103)}
		},
		"an attempt that a process took with it before the first came": func(l *ledger, _ *story) {
			w := l.story("w")
			w.runs[0].At, w.runs[0].Attempt, w.jobs[0].Attempt, l.deaths = at(102), 2, 2, []time.Time{at(101)}
		},
		"an attempt that was begun by a process that was paused": func(l *ledger, _ *story) {
			l.story("u").runs[2].At, l.windows = at(120), []window{{"pause", at(103), at(119)}}
		},
		"attempts of work whose job was made again": of("u", func(u *story) { u.meddled.times, u.jobs[0].Attempt = 1, 1 }),
		"an attempt that was cancelled when its job was put to sleep": of("v", func(v *story) {
			v.Status, v.CallbackState, v.Result = "cancelled", "cancelled", nil
			v.call.Stopped, v.call.StoppedAt = []string{"work", "callback"}, at(106)
			v.callbacks, v.finishes, v.jobs[0].Attempt = nil, nil, 1
		}),
		"an attempt while the upstream was away, in a request that expires before the next": of("w", func(w *story) {
			w.expire()
			w.call.ExpiresIn, w.runs = 60, nil
			w.jobs[0].Attempt, w.jobs[0].Errors = 2, []jobError{{1, "not done: upstream_unreachable"}}
		}),
		"an attempt that a stop broke off, in a request that expired before the next": of("w", func(w *story) {
			w.expire()
			w.jobs[0].Attempt, w.jobs[0].Errors = 0, []jobError{{1, "not charged: cut_off"}}
		}),
		"a throttled attempt that was the last in its request's time": of("w", func(w *story) {
			w.expire()
			w.call.ExpiresIn = 60
			w.runs[0].Manner = throttles
		}),
		"an attempt that was on its way": of("u", func(u *story) { u.runs[2].At = at(108) }),
		"a late report": of("v", func(v *story) {
			late := *v.finishes[0]
			late.Turn, late.Offer, late.Status, late.Sent = 1, `{"run":8}`, http.StatusGone, at(120)
			v.finishes = append(v.finishes, &late)
		}),
		"a report without an answer": of("v", func(v *story) {
			v.finishes = append(v.finishes, &finish{Turn: 3, Offer: `{"run":8}`, Sent: at(105)})
		}),
		"work that failed at every attempt": of("w", func(w *story) {
			w.ErrorCode, w.jobs[0].Attempt = "upstream_busy", upstreamRetries+1
			for n := range upstreamRetries + 1 {
				w.jobs[0].Errors = append(w.jobs[0].Errors, jobError{n + 1, "not done: upstream_unreachable"})
			}
		}),
	})
}
