package load

import "sync"

// crew is the workers: at most as many as there are connections. The worker that was busy
// last is next. In turn, each of a thousand workers would grow its own stack and lose it
// from the processor's cache, even where few are needed.
type crew struct {
	most int
	due  chan arrival // arrivals that wait while all workers are busy
	work func(arrival)

	mu       sync.Mutex
	hired    int
	idle     []chan arrival // a turn for each worker, the last busy worker's at the end
	finished bool
	workers  sync.WaitGroup
}

func newCrew(most int, due chan arrival, work func(arrival)) *crew {
	return &crew{most: most, due: due, work: work}
}

// take hands an arrival to a worker, or queues it while all are busy. It
// returns false when the queue is full.
func (c *crew) take(arrival arrival) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := len(c.idle) - 1; last >= 0 {
		c.idle[last] <- arrival
		c.idle = c.idle[:last]
		return true
	}
	if c.hired < c.most {
		c.hired++
		c.workers.Go(func() { c.serve(arrival) })
		return true
	}
	select {
	case c.due <- arrival:
		return true
	default:
		return false
	}
}

// serve is a worker, from its first arrival on.
func (c *crew) serve(first arrival) {
	turn := make(chan arrival, 1) // so that a hand-over waits for nobody
	for next, more := first, true; more; next, more = c.next(turn) {
		c.work(next)
	}
}

// next returns a worker's next arrival, false when no more come.
func (c *crew) next(turn chan arrival) (next arrival, more bool) {
	c.mu.Lock()
	select {
	case next = <-c.due:
		c.mu.Unlock()
		return next, true
	default:
	}
	if c.finished {
		c.mu.Unlock()
		return arrival{}, false
	}
	c.idle = append(c.idle, turn)
	c.mu.Unlock()
	next, more = <-turn
	return next, more
}

// finish returns when all that was taken is done. Nothing may be handed over
// any more.
func (c *crew) finish() {
	c.mu.Lock()
	c.finished = true
	for _, turn := range c.idle {
		close(turn)
	}
	c.idle = nil
	c.mu.Unlock()
	c.workers.Wait()
}
