package load

import (
	"context"
	"time"
)

// Snapshot is how a run stands.
type Snapshot struct {
	Elapsed, Left            time.Duration // Left is of sending; 0 once only callbacks are waited for
	Interrupted              bool
	Offered, Achieved        float64       // requests a second, since the last snapshot
	InFlight                 int           // sent and not answered
	Waiting                  int           // due, without a free connection
	OK, Shed, Failed, Unsent int           // so far, both endpoints
	Acked, Delivered         int           // so far
	Oldest                   time.Duration // since the longest undelivered request was due; 0 is none

	released, sent int // so far, for the next snapshot's rates
}

// Snapshot looks at the run. The rates are those since the last snapshot.
func (r *Run) Snapshot(ctx context.Context, last Snapshot) Snapshot {
	now := Snapshot{
		Elapsed:     r.ledger.clock.now(),
		Interrupted: ctx.Err() != nil,
		Waiting:     len(r.engine.due),
		released:    int(r.engine.released.Load()),
	}
	if !now.Interrupted {
		now.Left = max(0, r.config.Duration()-now.Elapsed)
	}
	syncCounts, asyncCounts := r.ledger.sync.progress(), r.ledger.async.progress()
	var answered counts
	for outcome := range answered {
		answered[outcome] = syncCounts[outcome] + asyncCounts[outcome]
	}
	now.OK, now.Shed, now.Unsent = answered[ok], answered[shed], answered[unsent]
	now.Failed = answered[rejected] + answered[failed] + answered[ambiguous]
	now.Acked = asyncCounts[ok]
	now.Delivered, now.Oldest = r.ledger.progress()
	now.Delivered = min(now.Delivered, now.Acked) // a callback may come before its acknowledgement
	now.sent = max(0, now.released-now.Waiting-now.Unsent)
	now.InFlight = max(0, now.sent-now.OK-now.Shed-now.Failed)
	seconds := (now.Elapsed - last.Elapsed).Seconds()
	now.Offered = float64(now.released-last.released) / seconds
	now.Achieved = float64(now.sent-last.sent) / seconds
	return now
}

// counts are requests by outcome.
type counts [outcomes]int

func (l *lane) progress() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// progress returns the slots delivered, and the age of the oldest outstanding slot.
func (l *ledger) progress() (delivered int, oldest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.oldest < len(l.slots) && l.slots[l.oldest].isDone() {
		l.oldest++
	}
	for _, slot := range l.slots[l.oldest:] {
		if slot.outcome == undue && slot.due == 0 {
			break // not sent yet, nor is any behind it
		}
		if !slot.isDone() && slot.outcome == ok {
			oldest = l.clock.now() - slot.due.duration()
			break
		}
	}
	return l.delivered, oldest
}
