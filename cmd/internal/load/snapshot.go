package load

import (
	"context"
	"time"
)

// Snapshot is the state of a run at a moment.
type Snapshot struct {
	Elapsed           time.Duration // since the start of sending
	Remaining         time.Duration // of sending; 0 once sending has ended
	Offered, Achieved float64       // requests a second, since the last snapshot
	InFlight          int           // sent and not answered
	Waiting           int           // due, without a free connection
	OK, Shed, Failed  int           // so far, both endpoints; Failed are all other answers, and none
	Acked, Delivered  int           // so far
	Oldest            time.Duration // since the oldest outstanding request was due; 0 without one

	handedOver, sent int // so far, for the next snapshot's rates
}

// Snapshot looks at a run that has started. The rates are those since the last snapshot.
func (r *Run) Snapshot(ctx context.Context, last Snapshot) Snapshot {
	now := Snapshot{
		Elapsed:    r.ledger.now(),
		Waiting:    len(r.engine.due),
		handedOver: int(r.engine.handedOver.Load()),
	}
	if ctx.Err() == nil {
		now.Remaining = max(0, r.config.Duration()-now.Elapsed)
	}
	sync, async, delivered, oldest := r.ledger.progress(now.handedOver)
	now.OK, now.Shed = sync[ok]+async[ok], sync[shed]+async[shed]
	for _, bad := range []outcome{rejected, failed, ambiguous} {
		now.Failed += sync[bad] + async[bad]
	}
	now.Acked, now.Oldest = async[ok], oldest
	now.Delivered = min(delivered, now.Acked) // a callback may come before its acknowledgement
	now.sent = max(0, now.handedOver-now.Waiting-sync[unsent]-async[unsent])
	now.InFlight = max(0, now.sent-now.OK-now.Shed-now.Failed)
	seconds := (now.Elapsed - last.Elapsed).Seconds()
	now.Offered = float64(now.handedOver-last.handedOver) / seconds
	now.Achieved = float64(now.sent-last.sent) / seconds
	return now
}
