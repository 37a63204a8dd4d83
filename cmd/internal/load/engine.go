package load

import (
	"context"
	"sync/atomic"
	"time"
)

// arrival is a request that is due.
type arrival struct {
	number int
	at     time.Duration // since the start of sending
}

// sender makes a request and waits for its answer. Many run at a time.
type sender func(arrival) answer

// engine sends the requests of a schedule: a dispatcher keeps to it, and a crew of
// workers have a connection each.
type engine struct {
	schedule schedule
	ledger   *ledger
	workers  int
	patience time.Duration // a request that waited for a worker for longer is left out
	due      chan arrival  // arrivals that wait for a worker
	crew     *crew

	// lateness is how late the dispatcher handed each request over: the
	// generator's own fault, unlike the wait for a free worker.
	lateness *histogram
	seconds  []second
	released atomic.Int64  // requests handed over or left out
	ended    time.Duration // when sending ended, since its start
}

// second is how many requests were due in a second, and how many were handed
// over in it.
type second struct{ due, released int }

func newEngine(config Config, schedule schedule, ledger *ledger) *engine {
	// An arrival at the end of a longer queue would wait beyond patience.
	capacity := int(schedule.curve.peak()*config.Timeout.Seconds()) + config.Connections
	return &engine{
		schedule: schedule,
		ledger:   ledger,
		workers:  config.Connections,
		patience: config.Timeout,
		due:      make(chan arrival, min(capacity, len(ledger.entries))),
		lateness: newHistogram(),
	}
}

// run sends until the schedule ends or ctx is done, and returns when all that
// was sent is answered. Each worker calls send. The error means that no clock
// is to be had here.
func (e *engine) run(ctx context.Context, send sender) error {
	e.crew = newCrew(e.workers, e.due, func(arrival arrival) { e.work(ctx, arrival, send) })
	err := e.dispatch(ctx)
	e.ended = e.ledger.clock.now()
	if ctx.Err() == nil {
		// The last request takes up its interval: the last of ten at 10/s
		// leaves after 0.9 s, and that is 10/s all the same.
		e.ended = e.schedule.curve.duration()
	}
	e.crew.finish()
	return err
}

// dispatch hands every request over when it is due, regardless of earlier requests.
func (e *engine) dispatch(ctx context.Context) error {
	pacer, err := newPacer(ctx)
	if err != nil {
		return err
	}
	defer pacer.close()
	now := e.ledger.clock.now()
	for number, at := range e.schedule.arrivals() {
		for now < at {
			if !pacer.sleep(at - now) {
				return nil
			}
			now = e.ledger.clock.now()
		}
		e.note(now, at)
		e.release(arrival{number, at})
		if number%64 == 0 && ctx.Err() != nil { // behind schedule, it never sleeps
			return nil
		}
	}
	return nil
}

// note records how the dispatcher kept to the schedule.
func (e *engine) note(now, at time.Duration) {
	e.lateness.record(now - at)
	for int(now/time.Second) >= len(e.seconds) {
		e.seconds = append(e.seconds, second{})
	}
	e.seconds[at/time.Second].due++
	e.seconds[now/time.Second].released++
}

// worstRateError is the largest difference between the sent and the due requests of a
// second, in per cent. The last second counts only if it is whole.
func (e *engine) worstRateError() float64 {
	worst := 0.0
	for _, second := range e.seconds[:min(len(e.seconds), int(e.ended/time.Second))] {
		if second.due > 0 {
			worst = max(worst, percentOff(float64(second.released), float64(second.due)))
		}
	}
	return worst
}

func (e *engine) release(arrival arrival) {
	e.released.Add(1)
	if !e.crew.take(arrival) {
		e.ledger.leaveOut(arrival.number, arrival.at)
	}
}

// work sends a request, unless it has waited for a worker for too long. Once ctx is done,
// waiting requests are dropped.
func (e *engine) work(ctx context.Context, arrival arrival, send sender) {
	if ctx.Err() != nil {
		return
	}
	left := e.ledger.clock.now()
	if left-arrival.at > e.patience {
		e.ledger.leaveOut(arrival.number, arrival.at)
		return
	}
	e.ledger.record(arrival.number, arrival.at, left, send(arrival))
}
