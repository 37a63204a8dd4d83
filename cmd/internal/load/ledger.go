package load

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"ringback/cmd/internal/receivers"
)

// micros is a duration in microseconds. 32 bits reach for 71 minutes, and half
// the memory of a time.Duration lets a long run keep every request.
type micros uint32

func toMicros(duration time.Duration) micros {
	return micros(min(max(duration.Microseconds(), 0), math.MaxUint32))
}

func (m micros) duration() time.Duration { return time.Duration(m) * time.Microsecond }

// clock is the clock of a run, for sending and for callbacks.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) }

// outcome is the outcome of a request.
type outcome uint8

const (
	undue     outcome = iota // never due: the run was interrupted before
	unsent                   // due, but no connection was free in time
	ok                       // answered as it should be
	shed                     // the server said that it takes nothing now
	rejected                 // the server called the request wrong
	failed                   // not done, and that is certain
	ambiguous                // nothing tells whether the server took it
	outcomes                 // how many there are
)

// entry is a request. Only its worker writes it.
type entry struct {
	at      micros // when it was due, since the start of sending
	left    micros // from then until it left
	took    micros // from when it was due until its answer
	outcome outcome
}

// slot is the other half of an async request: its callbacks. The first callback may come
// before the acknowledgement.
type slot struct {
	id       uuid.UUID // from the acknowledgement or a callback, whichever came first
	result   uint64    // hash of the first delivery's result
	due      micros    // when the request was due, since the start of sending
	called   micros    // when the first delivery came, likewise
	attempts uint16    // callbacks that came, with any answer
	taken    uint16    // callbacks answered with 2xx: deliveries
	outcome  outcome   // of the request, once answered
	kind     receivers.Behaviour
	flags    flag8
}

// flag8 are the findings about a slot's callbacks.
type flag8 uint8

const (
	otherID      flag8 = 1 << iota // not the id of the acknowledgement
	badBody                        // not the JSON that a callback is
	workFailed                     // told that the work failed
	wrongResult                    // not the work's result for the input
	badSignature                   // no signature, or not by the secret
	wrongOrder                     // after a later callback of the same ordering key
)

// isSettled tells whether nothing more is due for an answered request.
func (s *slot) isSettled() bool {
	return s.outcome != ok || s.taken > 0 || !s.kind.Delivers()
}

// isDone tells whether a request has been answered, and nothing more is due.
func (s *slot) isDone() bool { return s.outcome != undue && s.isSettled() }

// ledger holds every request of a run.
type ledger struct {
	clock   clock
	mix     Mix
	entries []entry
	sync    lane
	async   lane

	mu          sync.Mutex
	slots       []slot // by the order among async requests
	delivered   int    // slots
	outstanding int    // slots that are acknowledged and not settled
	orphans     int    // callbacks to paths that this run never gave away
	oldest      int    // no earlier slot is outstanding
	quiet       chan struct{}
	closed      bool    // nothing is noted any more
	sequences   []int64 // of the first deliveries, where there are ordering keys
}

func newLedger(config Config, total int) *ledger {
	l := &ledger{
		mix:     config.Mix,
		entries: make([]entry, total),
		slots:   make([]slot, config.Mix.asyncs(total)),
		sync:    newLane(),
		async:   newLane(),
	}
	random := rand.New(rand.NewPCG(config.Seed, 2))
	for i := range l.slots {
		l.slots[i].kind = config.Receivers.draw(random)
	}
	if config.OrderingKeys > 0 {
		l.sequences = make([]int64, len(l.slots))
	}
	return l
}

// lane returns the counters of a request's endpoint.
func (l *ledger) lane(number int) *lane {
	if l.mix.isAsync(number) {
		return &l.async
	}
	return &l.sync
}

// leaveOut notes that a request could not be sent in time.
func (l *ledger) leaveOut(number int, at time.Duration) {
	l.entries[number] = entry{at: toMicros(at), outcome: unsent}
	l.lane(number).leaveOut()
	if l.mix.isAsync(number) {
		l.settle(l.mix.asyncs(number), answer{outcome: unsent})
	}
}

// record notes the answer to a request that was due at some time, left at
// another and was answered now.
func (l *ledger) record(number int, at, left time.Duration, answer answer) {
	took := l.clock.now() - at
	l.entries[number] = entry{toMicros(at), toMicros(left - at), toMicros(took), answer.outcome}
	l.lane(number).record(answer)
	if l.mix.isAsync(number) {
		l.settle(l.mix.asyncs(number), answer)
	}
}

// expect notes that a request with a callback is about to leave.
func (l *ledger) expect(number int, due time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[number].due = toMicros(due)
}

// settle notes the server's answer to a slot's request.
func (l *ledger) settle(number int, answer answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := &l.slots[number]
	slot.outcome = answer.outcome
	if answer.outcome != ok {
		return
	}
	slot.see(answer.id)
	if !slot.isSettled() {
		l.outstanding++
	}
}

// see notes an id, and returns whether it differs from the id seen before.
func (s *slot) see(id uuid.UUID) {
	switch s.id {
	case uuid.Nil:
		s.id = id
	case id:
	default:
		s.flags |= otherID
	}
}

// attempt notes that a callback came, and returns how many did before.
func (l *ledger) attempt(number int) (earlier int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := &l.slots[number]
	earlier = int(slot.attempts)
	if !l.closed {
		slot.attempts++
	}
	return earlier
}

// deliver notes a callback that came at some time. It returns false when the
// ledger is closed: then nobody may tell the service that it was delivered.
func (l *ledger) deliver(number int, came time.Duration, delivery delivery) (noted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	slot := &l.slots[number]
	slot.taken++
	slot.see(delivery.id)
	slot.flags |= delivery.flags
	if slot.taken > 1 {
		return true
	}
	slot.called, slot.result = toMicros(came), delivery.result
	if l.sequences != nil {
		l.sequences[number] = delivery.sequence
	}
	l.delivered++
	if slot.outcome == ok && slot.kind.Delivers() {
		l.outstanding--
		if l.outstanding == 0 && l.quiet != nil {
			close(l.quiet)
		}
	}
	return true
}

// stray counts a callback that isn't of this run.
func (l *ledger) stray() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.orphans++
	}
}

// close ends the notes: from here on the ledger may be read without a lock.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// allSettled returns a channel that is closed when no acknowledged request
// waits for its callback. It is called once, when all are answered.
func (l *ledger) allSettled() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet = make(chan struct{})
	if l.outstanding == 0 {
		close(l.quiet)
	}
	return l.quiet
}
