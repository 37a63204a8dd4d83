package load

import (
	"context"
	"time"
)

// Snapshot is how a run stands.
type Snapshot struct {
	Elapsed, Left     time.Duration // Left is of sending; 0 once only callbacks are waited for
	Offered, Achieved float64       // requests a second, since the last snapshot
	InFlight          int           // sent and not answered
	Waiting           int           // due, without a free connection
	OK, Shed, Failed  int           // so far, both endpoints
	Acked, Delivered  int           // so far
	Oldest            time.Duration // since the longest undelivered request was due; 0 is none

	released, sent int // so far, for the next snapshot's rates
}

// Snapshot looks at a run that has started. The rates are those since the last snapshot.
func (r *Run) Snapshot(ctx context.Context, last Snapshot) Snapshot {
	now := Snapshot{
		Elapsed:  r.ledger.clock.now(),
		Waiting:  len(r.engine.due),
		released: int(r.engine.released.Load()),
	}
	if ctx.Err() == nil {
		now.Left = max(0, r.config.Duration()-now.Elapsed)
	}
	sync, async, delivered, oldest := r.ledger.progress(now.released)
	now.OK, now.Shed = sync[ok]+async[ok], sync[shed]+async[shed]
	for _, bad := range []outcome{rejected, failed, ambiguous} {
		now.Failed += sync[bad] + async[bad]
	}
	now.Acked, now.Oldest = async[ok], oldest
	now.Delivered = min(delivered, now.Acked) // a callback may come before its acknowledgement
	now.sent = max(0, now.released-now.Waiting-sync[unsent]-async[unsent])
	now.InFlight = max(0, now.sent-now.OK-now.Shed-now.Failed)
	seconds := (now.Elapsed - last.Elapsed).Seconds()
	now.Offered = float64(now.released-last.released) / seconds
	now.Achieved = float64(now.sent-last.sent) / seconds
	return now
}
