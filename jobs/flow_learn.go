package jobs

import (
	"errors"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/work"
)

// witness is the client that alone saw something; all is set where another saw it, too, or
// where it concerns all.
type witness struct {
	client string
	all    bool
}

// saw is the witness after a client saw the same, or the only witness where it is the first
// to see it.
func (w witness) saw(client string, first bool) witness {
	if first {
		return witness{client: client}
	}
	return witness{client: w.client, all: w.all || client != w.client}
}

func (w witness) binds(client string) bool { return w.all || w.client == client }

// leave ends a run with its outcome, the zero Outcome where the run says nothing
// of the work. The next run knows what the outcome shows.
func (f *flow) leave(p pass, outcome work.Outcome, now time.Time) {
	if f == nil {
		return
	}
	defer f.giveBack(p.client)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = now
	var mistake *work.SettingError
	if errors.As(outcome.Cause, &mistake) && now.Sub(f.warned) >= db.ToldAgainAfter {
		f.warn(mistake)
		f.warned = now
	}
	if p.epoch != f.epoch {
		return
	}
	f.inFlight--
	if outcome.FinishedAt.IsZero() || outcome.Error != nil && outcome.Error.Code == work.CodeAbandoned {
		return
	}
	took := outcome.FinishedAt.Sub(outcome.StartedAt)
	f.took = average(f.took, took)
	runs := f.clients.of(p.client)
	runs.took = average(runs.took, took)
	if f.paced {
		f.learn(p.client, outcome, now)
	}
}

func (f *flow) learn(client string, outcome work.Outcome, now time.Time) {
	switch {
	case outcome.Again == nil:
		if f.openings > 0 {
			if f.failing.binds(client) {
				f.rising, f.slow, f.tat = now, f.failing, now
			}
			f.took = outcome.FinishedAt.Sub(outcome.StartedAt) // the failures took as long as its timeout
			for _, c := range f.clients {
				c.took = 0
			}
			f.clients.of(client).took = f.took
			f.begin()
			f.tell(false, nil)
		}
		f.failures, f.openings, f.until = 0, 0, time.Time{}
	case outcome.Again.After > 0:
		f.paused = f.paused.saw(client, !f.pause.After(now))
		f.pause = limit.Latest(f.pause, now.Add(min(outcome.Again.After, flowPause)))
	default:
		f.fail(client, outcome.Cause, now)
	}
}

func (f *flow) fail(client string, cause error, now time.Time) {
	f.failing = f.failing.saw(client, f.failures == 0)
	if f.failures++; f.openings == 0 && f.failures < flowFailures {
		return
	}
	if f.openings == 0 || now.Sub(f.told) >= db.ToldAgainAfter {
		f.tell(true, cause)
		f.told = now
	}
	if f.openings == 0 {
		f.down = now
	}
	f.until = now.Add(min(flowFirstOpening<<min(f.openings, 10), flowLongest))
	f.openings++
	f.begin()
}

// begin starts an epoch: runs under way no longer count.
func (f *flow) begin() {
	f.epoch++
	f.inFlight = 0
}

// States of a service that isn't up.
const (
	stateDown   = "down"
	statePaused = "paused"
)

// WorkState tells whether a kind of work is done, as a client's requests to this process meet
// it.
type WorkState struct {
	State string    // up, down or paused
	Since time.Time // it is down; zero otherwise
	Until time.Time // the next probe, or the end of the pause; zero for up, and while the probe is out
}

// WorkState is the state of a work of the catalog for a client.
func (q *Queue) WorkState(name, client string) WorkState {
	state := q.flows[name].state(client, time.Now())
	state.Since, state.Until = q.clock.At(state.Since), q.clock.At(state.Until)
	return state
}

func (f *flow) state(client string, now time.Time) WorkState {
	if f == nil {
		return WorkState{State: "up"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	state := WorkState{State: "up"}
	switch {
	case f.openings > 0 && f.failing.binds(client):
		state = WorkState{State: stateDown, Since: f.down}
		if f.until.After(now) {
			state.Until = f.until
		}
	case f.pause.After(now) && f.paused.binds(client):
		state = WorkState{State: statePaused, Until: f.pause}
	}
	return state
}

// closedAs is stateDown or statePaused while nothing but a probe may go, for some client at
// least; "" otherwise.
func (f *flow) closedAs(now time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.openings > 0:
		return stateDown
	case f.pause.After(now):
		return statePaused
	}
	return ""
}
