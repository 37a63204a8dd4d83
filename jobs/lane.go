package jobs

import (
	"sync"
	"time"
)

// lane is the workers of a queue in this process. River's fetches and jobs that are born
// running share them, so that at most size jobs run. No job is born running while older
// jobs are known to wait in the queue. A waiting job is overtaken only by jobs inserted
// before the next fetch, which its own notification causes.
type lane struct {
	size int
	wake func() // lets River fetch at once

	mu      sync.Mutex
	open    bool          // jobs may be born running: from Start to Stop
	born    int           // jobs that were born running and still run, or are being inserted
	fetched int           // jobs that River runs here, or is fetching
	drained chan struct{} // closed once the lane is closed and born is 0

	clear  bool      // the latest fetch left nothing, and since then every insert has found a worker
	asOf   time.Time // when that fetch began
	hungry bool      // the latest fetch left jobs for want of a worker that a job born running holds
}

// freshFor is how long a fetch says something of the queue. River fetches at least
// once in a poll interval, unless the queue is paused or the database doesn't
// answer: then jobs take the way over the queue.
const freshFor = 5 * fetchPollInterval

func newLane(size int, wake func()) *lane {
	return &lane{size: size, wake: wake, drained: make(chan struct{})}
}

// reserve takes workers for the first of n jobs that are about to be inserted, and
// returns how many may be born running. inserted must follow.
func (l *lane) reserve(n int, now time.Time) (reserved int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open || !l.clear || now.Sub(l.asOf) > freshFor {
		return 0
	}
	reserved = max(0, min(n, l.size-l.born-l.fetched))
	l.born += reserved
	l.clear = reserved == n
	return reserved
}

// inserted ends reserve: of the jobs with reserved workers, running are committed and run
// now.
func (l *lane) inserted(reserved, running int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.born -= reserved - running
	l.freed()
}

// ended gives back the worker of a job that was born running.
func (l *lane) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.born--
	l.freed()
}

// fetchedEnded gives back the worker of a job that River ran.
func (l *lane) fetchedEnded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetched--
	l.freed()
}

// freed wakes River where it waits for a worker, and Stop where the last job has ended.
func (l *lane) freed() {
	if l.hungry {
		l.hungry = false
		l.wake()
	}
	if !l.open && l.born == 0 {
		select {
		case <-l.drained:
		default:
			close(l.drained)
		}
	}
}

// fetch lets River fetch: at most limit jobs, as many as it has workers for by its
// own count, and fewer where jobs that were born running hold them. It takes River's
// count of running jobs for its own.
//
// While no job is known to wait, each of its statements takes half of the free workers, and leaves
// the others to jobs that are born running meanwhile. Taking all, every tenth of a second, would
// send one or two jobs in a hundred over the queue. While a statement fills the workers that it
// took, another follows. An error after the first is left to the next fetch.
func (l *lane) fetch(limit int, lock func(room int) (got int, err error)) error {
	began := time.Now()
	for left := limit; ; {
		room := l.beginStatement(left)
		got, err := 0, error(nil)
		if room > 0 {
			got, err = lock(room)
		}
		if again := l.endStatement(left, room, got, err, began); again {
			left -= got
			continue
		}
		if left < limit {
			return nil
		}
		return err
	}
}

// beginStatement takes the workers that a statement may fill, of those that River has left.
func (l *lane) beginStatement(left int) (room int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room = max(0, left-l.born)
	if l.clear && room > 1 {
		room /= 2
	}
	l.fetched = l.size - left + room
	return room
}

// endStatement gives back the workers that a statement didn't fill, and tells whether
// another statement is to follow. The last one tells whether jobs wait.
func (l *lane) endStatement(left, room, got int, err error, began time.Time) (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetched -= room - got
	full := err == nil && got == room
	if full && left-got > l.born {
		return true
	}
	l.hungry = full && got < left
	l.clear, l.asOf = err == nil && !full, began
	return false
}

// start lets jobs be born running.
func (l *lane) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
}

// stop lets no more jobs be born running, and returns a channel that is closed when
// the last of them has ended.
func (l *lane) stop() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = false
	l.freed()
	return l.drained
}
