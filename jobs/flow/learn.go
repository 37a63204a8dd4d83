package flow

import (
	"cmp"
	"errors"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/work"
)

// leave ends a run with its outcome, or with the zero Outcome where the run says nothing of the
// work. It gives the slot to the next run only after it has learned from the outcome.
func (f *Flow) leave(p pass, outcome work.Outcome, now time.Time) {
	if f == nil {
		return
	}
	defer f.giveBack(p.client)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastProgress = now
	var mistake *work.SettingError
	if errors.As(outcome.Cause, &mistake) && now.Sub(f.warned) >= db.ToldAgainAfter {
		f.warn(mistake)
		f.warned = now
	}
	c := f.party(p.client)
	reach, own := f.reach.leave(p.reach), c.breaker.leave(p.own)
	if !reach || !own {
		return
	}
	if outcome.FinishedAt.IsZero() || outcome.Error != nil && outcome.Error.Code == work.CodeAbandoned {
		return
	}
	_, unreached := errors.AsType[*work.UnreachedError](outcome.Cause)
	if !unreached {
		took := outcome.FinishedAt.Sub(outcome.StartedAt)
		f.took, c.took = average(f.took, took), average(c.took, took)
	}
	switch {
	case !f.paced:
	case unreached:
		f.fail(&f.reach, outcome.Cause, now)
	default:
		f.learn(c, outcome, now)
	}
}

// learn takes in the outcome of a run that had a connection.
func (f *Flow) learn(c *party, outcome work.Outcome, now time.Time) {
	if f.reach.close() {
		f.reached(now)
	}
	switch {
	case outcome.Again == nil:
		if c.breaker.close() {
			f.rise(now)
			c.back = now
			c.took = outcome.FinishedAt.Sub(outcome.StartedAt) // alone: the failures may have taken the whole timeout
			f.took = c.took
		}
		if f.row >= failuresToTrip {
			f.tell(false, nil)
		}
		f.row = 0
	case outcome.Again.After > 0:
		c.pause = limit.Latest(c.pause, now.Add(min(outcome.Again.After, longestPause)))
	default:
		f.fail(&c.breaker, outcome.Cause, now)
	}
}

// fail counts a failure, for a breaker and in the row of all clients. A client whose run fails
// while the row is long is held up at once.
func (f *Flow) fail(b *breaker, cause error, now time.Time) {
	f.row++
	isDown := f.row >= failuresToTrip
	b.fail(isDown, now)
	if isDown && (f.row == failuresToTrip || now.Sub(f.told) >= db.ToldAgainAfter) {
		f.tell(true, cause)
		f.told = now
	}
}

// reached ends the time in which no connection was possible, for all clients.
func (f *Flow) reached(now time.Time) {
	f.reach.close()
	f.rise(now)
	f.back = now
}

// rise begins slow start, unless one lasts: clients that come back together share its rate.
func (f *Flow) rise(now time.Time) {
	if risen(f.rising, now) >= lastRate {
		f.rising, f.tat = now, now
	}
}

// States of a service that takes no runs of a client.
const (
	stateDown   = "down"
	statePaused = "paused"
)

// State tells whether this process begins runs of a kind of work for a client.
type State struct {
	State string    // up, down or paused
	Since time.Time // when the work went down; zero where it isn't down
	Until time.Time // the next probe, or the end of the pause; zero for up, and while a probe is under way
}

// State is the state of the work for a client, up for a nil flow.
func (f *Flow) State(client string, now time.Time) State {
	if f == nil {
		return State{State: "up"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, state := f.party(client), State{State: "up"}
	switch {
	case f.reach.trips > 0 || c.breaker.trips > 0:
		state = State{State: stateDown, Since: cmp.Or(c.breaker.since, f.reach.since)}
		if until := limit.Latest(f.reach.until, c.breaker.until); until.After(now) {
			state.Until = until
		}
	case c.pause.After(now):
		state = State{State: statePaused, Until: c.pause}
	}
	return state
}

// closedAs is stateDown while the latest runs of any clients failed, statePaused while at least one
// client is paused, and "" otherwise.
func (f *Flow) closedAs(now time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.row >= failuresToTrip {
		return stateDown
	}
	for _, c := range f.parties {
		if c.pause.After(now) {
			return statePaused
		}
	}
	return ""
}
