package jobs

import (
	"context"
	"slices"
	"time"

	"ringback/db"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

// outside lets the pacing use the database and the sender.
func (q *Queue) outside(sender *webhook.Sender) pacing.Outside {
	return pacing.Outside{
		Load: func(ctx context.Context, name string) (db.Receiver, error) { return q.meetings.Do(ctx, name) },
		Save: func(ctx context.Context, receivers []db.Receiver) error {
			return db.SaveReceivers(ctx, q.pool, timed(receivers, q.clock.At))
		},
		Words: func(ctx context.Context) ([]db.ReceiverWord, error) { return db.ReceiverWords(ctx, q.pool) },
		Ask:   sender.Ask,
	}
}

func (q *Queue) loadReceivers(ctx context.Context, names []string) ([]db.Receiver, error) {
	receivers, err := db.LoadReceivers(ctx, q.pool, names)
	return timed(inOrder(names, receivers), q.clock.Here), err
}

// timed returns receivers with their times as another clock shows them.
func timed(receivers []db.Receiver, clock func(time.Time) time.Time) []db.Receiver {
	receivers = slices.Clone(receivers)
	for i := range receivers {
		receivers[i] = pacing.ByClock(receivers[i], clock)
	}
	return receivers
}

// IsDenied tells whether the operator denied the receiver of a callback.
func (q *Queue) IsDenied(callbackURL string) bool { return q.pacing.IsDenied(callbackURL) }
