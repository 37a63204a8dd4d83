package load

import (
	"context"
	"sync"
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

// engine sends the requests of a run. A dispatcher hands each request over to a worker when the
// request is due, and the worker has it until its answer. There are at most as many workers
// as connections.
type engine struct {
	config Config
	ledger *ledger
	due    chan arrival // arrivals that wait while all workers are busy

	mu      sync.Mutex
	busy    int // workers
	workers sync.WaitGroup

	// lateness is how late the dispatcher handed each request over: the
	// generator's own fault, unlike the wait for a free worker.
	lateness   Quantiles
	seconds    []second
	handedOver atomic.Int64  // requests, the unsent included
	ended      time.Duration // when sending ended, since its start
}

// second is how many requests were due in a second, and how many were handed
// over in it.
type second struct{ due, handedOver int }

func newEngine(config Config, ledger *ledger) *engine {
	// An arrival at the end of a longer queue would wait beyond the timeout.
	capacity := int(config.curve().peak()*config.Timeout.Seconds()) + config.Connections
	return &engine{
		config: config,
		ledger: ledger,
		due:    make(chan arrival, min(capacity, len(ledger.requests))),
	}
}

// run sends until the schedule ends or ctx is done, and returns when all sent requests are
// answered. Each worker calls send. An error means that the kernel refused a timer.
func (e *engine) run(ctx context.Context, send sender) error {
	if e.config.Requests > 0 {
		e.loop(ctx, send)
		e.ended = e.ledger.now()
		return nil
	}
	err := e.dispatch(ctx, send)
	e.ended = e.ledger.now()
	if ctx.Err() == nil {
		// The last request takes up its interval: of ten requests at 10/s, the last is sent
		// after 0.9 s, and that is 10/s all the same.
		e.ended = e.config.Duration()
	}
	e.workers.Wait()
	return err
}

// loop is the closed loop: each worker makes the next request when its last is answered.
func (e *engine) loop(ctx context.Context, send sender) {
	var next atomic.Int64
	for range e.config.Connections {
		e.workers.Go(func() {
			for {
				number := int(next.Add(1)) - 1
				if number >= len(e.ledger.requests) || !e.ledger.takeToken(ctx) {
					return
				}
				e.handedOver.Add(1)
				if e.work(ctx, arrival{number, e.ledger.now()}, send) == shed {
					Pause(ctx, 5*time.Millisecond) // or refusals would take the CPU that serving needs
				}
			}
		})
	}
	e.workers.Wait()
}

// dispatch hands every request over when it is due, regardless of earlier requests.
func (e *engine) dispatch(ctx context.Context, send sender) error {
	pacer, err := newPacer(ctx)
	if err != nil {
		return err
	}
	defer pacer.close()
	now := e.ledger.now()
	for number, at := range e.config.arrivals() {
		for now < at {
			if !pacer.sleep(at - now) {
				return nil
			}
			now = e.ledger.now()
		}
		e.note(now, at)
		e.handOver(ctx, arrival{number, at}, send)
		if number%64 == 0 && ctx.Err() != nil { // a dispatcher behind schedule never sleeps
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
	e.seconds[now/time.Second].handedOver++
}

// worstRateError is the largest difference between the requests that were handed over and
// those due in a second, in per cent. The last second counts only if it is whole.
func (e *engine) worstRateError() float64 {
	worst := 0.0
	for _, second := range e.seconds[:min(len(e.seconds), int(e.ended/time.Second))] {
		if second.due > 0 {
			worst = max(worst, percentOff(float64(second.handedOver), float64(second.due)))
		}
	}
	return worst
}

// handOver gives an arrival to a worker, or queues it while all workers are busy. An arrival
// that finds the queue full is unsent.
func (e *engine) handOver(ctx context.Context, arrival arrival, send sender) {
	e.handedOver.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy < e.config.Connections {
		e.busy++
		e.workers.Go(func() {
			for next, more := arrival, true; more; next, more = e.next() {
				e.work(ctx, next, send)
			}
		})
		return
	}
	select {
	case e.due <- arrival:
	default:
		e.ledger.record(arrival, e.ledger.now(), answer{outcome: unsent})
	}
}

// next returns a worker's next arrival, false where none waits: then the worker ends.
func (e *engine) next() (next arrival, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case next = <-e.due:
		return next, true
	default:
		e.busy--
		return arrival{}, false
	}
}

// work sends a request, unless it has waited for a worker for too long. Once ctx is done,
// waiting requests are dropped.
func (e *engine) work(ctx context.Context, arrival arrival, send sender) outcome {
	if ctx.Err() != nil {
		return undue
	}
	sentAt := e.ledger.now()
	if sentAt-arrival.at > e.config.Timeout {
		e.ledger.record(arrival, sentAt, answer{outcome: unsent})
		return unsent
	}
	e.ledger.expect(arrival)
	answer := send(arrival)
	e.ledger.record(arrival, sentAt, answer)
	return answer.outcome
}

// Pause waits for d. It returns false when ctx ends first.
func Pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
