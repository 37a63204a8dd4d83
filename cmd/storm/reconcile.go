package main

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"ringback/work/fingerprint"
)

// verifyLimit bounds how long results are computed again after a run. Work
// that is expensive for the server is so here too.
const verifyLimit = 10 * time.Second

// reconciliation is what became of the async requests.
type reconciliation struct {
	delivered, dead, pending, missing      int // of the acknowledged ones
	duplicates, orphans, mismatched        int
	workFailed, unacknowledged, verifiable int
	badSignatures, outOfOrder              int
	missingIDs                             []uuid.UUID
	pendingIDs                             []uuid.UUID
	uncalledIDs                            []uuid.UUID // of dead ones that were not even attempted
}

// reconcile holds callbacks against requests. Nobody writes to the ledger any
// more.
func (l *ledger) reconcile() *reconciliation {
	r := &reconciliation{orphans: l.orphans}
	for i := range l.slots {
		r.add(&l.slots[i])
	}
	return r
}

func (r *reconciliation) add(slot *slot) {
	switch slot.outcome {
	case ok:
		r.addAcknowledged(slot)
	case ambiguous:
		if slot.taken > 0 {
			r.unacknowledged++
		}
	default:
		r.orphans += int(slot.attempts)
		return
	}
	if slot.hasResult() {
		r.verifiable++
	}
	r.duplicates += max(0, int(slot.taken)-1)
	count := func(counter *int, flags flag8) {
		if slot.taken > 0 && slot.flags&flags != 0 {
			*counter++
		}
	}
	count(&r.workFailed, workFailed)
	count(&r.mismatched, otherID|badBody|wrongResult)
	count(&r.badSignatures, badSignature)
	count(&r.outOfOrder, wrongOrder)
}

func (r *reconciliation) addAcknowledged(slot *slot) {
	switch {
	case slot.taken > 0:
		r.delivered++
	case !slot.kind.delivers():
		r.dead++
		if slot.attempts == 0 {
			r.uncalledIDs = append(r.uncalledIDs, slot.id)
		}
	case slot.kind.mayBePending():
		r.pending++
		r.pendingIDs = append(r.pendingIDs, slot.id)
	default:
		r.missing++
		r.missingIDs = append(r.missingIDs, slot.id)
	}
}

// verify computes the results that were delivered once more, marks the slots
// where another one came, and returns how many it got through before the
// limit. That is done after the run, where it costs the server nothing.
func (l *ledger) verify(ctx context.Context, author *author, hash maphash.Seed) int {
	ctx, cancel := context.WithTimeout(ctx, verifyLimit)
	defer cancel()
	var workers sync.WaitGroup
	var next, verified atomic.Int64
	for range runtime.NumCPU() {
		workers.Go(func() {
			for {
				number := int(next.Add(1) - 1)
				if number >= len(l.entries) || ctx.Err() != nil {
					return
				}
				if l.verifyOne(ctx, number, author, hash) {
					verified.Add(1)
				}
			}
		})
	}
	workers.Wait()
	return int(verified.Load())
}

// hasResult tells whether a result came that can be held against the work's.
func (s *slot) hasResult() bool {
	return s.taken > 0 && s.flags&(badBody|workFailed) == 0
}

// verifyOne returns whether there was a result to compare, and time to do so.
func (l *ledger) verifyOne(ctx context.Context, number int, author *author, hash maphash.Seed) bool {
	if !l.mix.isAsync(number) || l.entries[number].outcome != ok && l.entries[number].outcome != ambiguous {
		return false
	}
	slot := &l.slots[l.mix.asyncs(number)]
	if !slot.hasResult() {
		return false
	}
	if author.load.input != nil {
		return false // nobody here knows its result
	}
	order := author.order(number)
	order.delay = 0 // changes no result
	result, err := fingerprint.Do(ctx, author.appendInput(nil, order))
	if err != nil {
		return false
	}
	if maphash.Bytes(hash, result) != slot.result {
		slot.flags |= wrongResult
	}
	return true
}
