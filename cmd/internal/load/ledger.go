package load

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"ringback/cmd/internal/receivers"
)

// outcome is the outcome of a request.
type outcome uint8

const (
	undue     outcome = iota // not due yet, or under way
	unsent                   // due, but no connection was free in time
	ok                       // answered as it should be
	shed                     // the server said that it takes nothing now
	rejected                 // the server called the request wrong
	failed                   // certainly not done
	ambiguous                // nothing tells whether the server took the request
	outcomes                 // how many outcomes there are
)

// request is a request, and its callbacks if it is async. The first callback may come
// before the acknowledgement.
type request struct {
	id        uuid.UUID     // from the acknowledgement or a callback, whichever came first
	result    uint64        // hash of the first delivery's result
	sequence  int64         // of the first delivery, within its ordering key; 0 where none is told
	at        time.Duration // when the request was due, since the start of sending
	sendDelay time.Duration // from at until the request was sent
	took      time.Duration // from at until its answer
	called    time.Duration // from at until the first delivery
	attempts  uint16        // callbacks that came, with any answer
	taken     uint16        // callbacks answered with 2xx: deliveries
	outcome   outcome
	isAsync   bool
	kind      receivers.Behaviour
	flags     flag8
}

// flag8 is the findings about a request's callbacks.
type flag8 uint8

const (
	otherID      flag8 = 1 << iota // another id than the acknowledgement's
	badBody                        // no JSON, or no id in it
	workFailed                     // says that the work failed
	verified                       // the result was compared with the work's for the input
	unverified                     // the result was to be compared, and could not be
	wrongResult                    // another result than the work's for the input
	badSignature                   // no signature, or not by the secret
	wrongOrder                     // after a later callback of the same ordering key
)

// isOutstanding tells whether a request is acknowledged, and its callback still to come.
func (r *request) isOutstanding() bool {
	return r.isAsync && r.outcome == ok && r.taken == 0 && r.kind.Delivers()
}

// hasResult tells whether a result came that can be compared with the work's.
func (r *request) hasResult() bool { return r.taken > 0 && r.flags&(badBody|workFailed) == 0 }

// see notes an id, and whether it differs from the id seen before.
func (r *request) see(id uuid.UUID) {
	switch r.id {
	case uuid.Nil:
		r.id = id
	case id:
	default:
		r.flags |= otherID
	}
}

// ledger holds every request of a run.
type ledger struct {
	start time.Time // of sending

	mu          sync.Mutex
	requests    []request
	sync, async endpointCounts
	delivered   int // requests
	outstanding int // requests
	orphans     int // callbacks to paths that no request named
	oldest      int // no earlier request is outstanding, or under way
	calledBack  chan struct{}
	tokens      chan struct{} // of the window: one for each request that is under way or outstanding; nil for no bound
	closed      bool          // nothing is noted any more
}

// endpointCounts counts the requests of one endpoint.
type endpointCounts struct {
	counts  counts
	reasons map[string]int // of rejected, failed and ambiguous requests
}

// counts are requests by outcome.
type counts [outcomes]int

func newLedger(config Config, total int) *ledger {
	l := &ledger{
		requests: make([]request, total),
		sync:     endpointCounts{reasons: make(map[string]int)},
		async:    endpointCounts{reasons: make(map[string]int)},
	}
	if config.Window > 0 {
		l.tokens = make(chan struct{}, config.Window)
	}
	random := rand.New(rand.NewPCG(config.Seed, 2))
	for i := range l.requests {
		if config.Mix.isAsync(i) {
			l.requests[i].isAsync, l.requests[i].kind = true, receivers.Behaviour(Pick(random, config.Receivers[:]...))
		}
	}
	return l
}

// now is the time since the start of sending.
func (l *ledger) now() time.Duration { return time.Since(l.start) }

// expect notes that a request is about to be sent, before its callback can come.
func (l *ledger) expect(arrival arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[arrival.number].at = arrival.at
}

// record notes the answer to a request that was sent at sentAt and is answered now, or that it
// is unsent.
func (l *ledger) record(arrival arrival, sentAt time.Duration, answer answer) {
	took := l.now() - arrival.at
	l.mu.Lock()
	defer l.mu.Unlock()
	request := &l.requests[arrival.number]
	request.at, request.outcome, request.sendDelay, request.took = arrival.at, answer.outcome, sentAt-arrival.at, took
	at := l.endpoint(request)
	at.counts[answer.outcome]++
	if answer.reason != "" {
		at.reasons[answer.reason]++
	}
	if answer.outcome == ok && request.isAsync {
		request.see(answer.id)
	}
	switch {
	case request.isOutstanding():
		l.outstanding++
	case request.taken == 0: // a delivery has returned the token
		l.returnToken()
	}
}

// takeToken waits for room in the window. It returns false when ctx ends first.
func (l *ledger) takeToken(ctx context.Context) bool {
	if l.tokens == nil {
		return ctx.Err() == nil
	}
	select {
	case l.tokens <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// returnToken makes room in the window, if there is one. Each request that was sent returns
// its token once: when it is delivered, or when no callback is to come.
func (l *ledger) returnToken() {
	if l.tokens != nil {
		<-l.tokens
	}
}

func (l *ledger) endpoint(request *request) *endpointCounts {
	if request.isAsync {
		return &l.async
	}
	return &l.sync
}

// attempt notes that a callback came, and returns how many came before.
func (l *ledger) attempt(number int) (earlier int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	request := &l.requests[number]
	earlier = int(request.attempts)
	if !l.closed {
		request.attempts++
	}
	return earlier
}

// deliver notes a callback that came at cameAt. It returns false when the ledger is closed:
// then the callback must not be answered with 2xx.
func (l *ledger) deliver(number int, cameAt time.Duration, delivery delivery) (noted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	request := &l.requests[number]
	wasOutstanding := request.isOutstanding()
	request.taken++
	request.see(delivery.id)
	request.flags |= delivery.flags
	if request.taken > 1 {
		return true
	}
	request.called = cameAt - request.at
	request.result, request.sequence = delivery.result, delivery.sequence
	l.delivered++
	if wasOutstanding || request.outcome == undue {
		l.returnToken()
	}
	if wasOutstanding {
		l.outstanding--
		if l.outstanding == 0 && l.calledBack != nil {
			close(l.calledBack)
		}
	}
	return true
}

// stray counts a callback of no request of this run.
func (l *ledger) stray() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.orphans++
	}
}

// close ends all notes, so that the ledger may be read without a lock.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// allCalledBack returns a channel that is closed when no request is outstanding. It is called
// once, when all requests are answered.
func (l *ledger) allCalledBack() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calledBack = make(chan struct{})
	if l.outstanding == 0 {
		close(l.calledBack)
	}
	return l.calledBack
}

// progress returns the requests by outcome, the delivered requests, and how long the
// oldest outstanding request has waited.
func (l *ledger) progress(sent int) (sync, async counts, delivered int, oldest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.oldest < sent && l.requests[l.oldest].outcome != undue && !l.requests[l.oldest].isOutstanding() {
		l.oldest++
	}
	for i := range l.requests[l.oldest:sent] {
		if request := &l.requests[l.oldest+i]; request.isOutstanding() {
			oldest = l.now() - request.at
			break
		}
	}
	return l.sync.counts, l.async.counts, l.delivered, oldest
}
