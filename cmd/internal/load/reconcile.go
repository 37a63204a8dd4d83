package load

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// verifyLimit bounds how long results are computed or asked for again after a run. Work
// that is expensive for the server is so here too.
const verifyLimit = 10 * time.Second

// reconciliation is the fates of the async requests.
type reconciliation struct {
	Async
	missingIDs  []uuid.UUID
	pendingIDs  []uuid.UUID
	uncalledIDs []uuid.UUID // of dead requests for which no attempt was made
}

// reconcile holds callbacks against requests. Nobody writes to the ledger any
// more.
func (l *ledger) reconcile() *reconciliation {
	r := &reconciliation{Async: Async{Orphans: l.orphans}}
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
			r.Unacknowledged++
		}
	default:
		r.Orphans += int(slot.attempts)
		return
	}
	if slot.hasResult() {
		r.Unverified++
	}
	r.Duplicates += max(0, int(slot.taken)-1)
	count := func(counter *int, flags flag8) {
		if slot.taken > 0 && slot.flags&flags != 0 {
			*counter++
		}
	}
	count(&r.WorkFailed, workFailed)
	count(&r.Mismatched, otherID|badBody|wrongResult)
	count(&r.BadSignatures, badSignature)
	count(&r.OutOfOrder, wrongOrder)
}

func (r *reconciliation) addAcknowledged(slot *slot) {
	switch {
	case slot.taken > 0:
		r.Delivered++
	case !slot.kind.Delivers():
		r.Dead++
		if slot.attempts == 0 {
			r.uncalledIDs = append(r.uncalledIDs, slot.id)
		}
	case slot.kind.MayBePending():
		r.Pending++
		r.pendingIDs = append(r.pendingIDs, slot.id)
	default:
		r.Missing++
		r.missingIDs = append(r.missingIDs, slot.id)
	}
}

// hasResult tells whether a result came that can be held against the work's.
func (s *slot) hasResult() bool {
	return s.taken > 0 && s.flags&(badBody|workFailed) == 0
}

// verify compares delivered results with the work's, marks the slots with another result,
// and returns how many slots it checked before the limit. It runs after the load, so as
// not to disturb the figures.
func (r *Run) verify(ctx context.Context) int {
	must := r.expected()
	if must == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, verifyLimit)
	defer cancel()
	var workers sync.WaitGroup
	var next, verified atomic.Int64
	for range runtime.NumCPU() {
		workers.Go(func() {
			for {
				number := int(next.Add(1) - 1)
				if number >= len(r.ledger.entries) || ctx.Err() != nil {
					return
				}
				if slot := r.ledger.answered(number); slot != nil && verifyOne(ctx, slot, number, must) {
					verified.Add(1)
				}
			}
		})
	}
	workers.Wait()
	return int(verified.Load())
}

// answered returns the slot of a request whose result came, nil where none did.
func (l *ledger) answered(number int) *slot {
	if !l.mix.isAsync(number) || l.entries[number].outcome != ok && l.entries[number].outcome != ambiguous {
		return nil
	}
	if slot := &l.slots[l.mix.asyncs(number)]; slot.hasResult() {
		return slot
	}
	return nil
}

// expectation is the hash of the work's result for a request.
type expectation func(ctx context.Context, number int) (result uint64, err error)

// verifyOne returns whether there was time to compare.
func verifyOne(ctx context.Context, slot *slot, number int, must expectation) bool {
	result, err := must(ctx, number)
	if err == nil && result != slot.result {
		slot.flags |= wrongResult
	}
	return err == nil
}

// expected is nil where the work's result isn't known.
func (r *Run) expected() expectation {
	switch {
	case r.config.Result != nil:
		return func(ctx context.Context, number int) (uint64, error) {
			result, err := r.config.Result(ctx, r.author.appendInput(nil, number))
			return r.crowd.digest(result), err
		}
	case r.deterministic:
		return func(_ context.Context, number int) (uint64, error) {
			caller := r.callers.Get().(*caller)
			defer r.callers.Put(caller)
			result, err := caller.askSync(number)
			return r.crowd.digest(result), err
		}
	}
	return nil
}
