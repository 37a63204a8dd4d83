package jobs

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

// outside lets the pacing use the database and the sender.
func (q *Queue) outside(sender *webhook.Sender) pacing.Outside {
	return pacing.Outside{
		Load:    func(ctx context.Context, name string) (db.Receiver, error) { return q.receivers.Do(ctx, name) },
		Save:    q.saveReceivers,
		Rulings: func(ctx context.Context) ([]db.Ruling, error) { return db.Rulings(ctx, q.pool) },
		Forget: func(ctx context.Context, target string) error {
			_, hostPort, _ := strings.Cut(target, "://")
			port := strings.LastIndex(hostPort, ":")
			if port < 0 { // somebody wrote the target by hand
				return nil
			}
			_, err := db.RemoveReceivers(ctx, q.pool, hostPort[:port], hostPort[port+1:])
			return err
		},
		Ask: sender.Ask,
	}
}

func (q *Queue) loadReceivers(ctx context.Context, names []string) ([]db.Receiver, error) {
	receivers, err := db.LoadReceivers(ctx, q.pool, names)
	return timed(inOrder(names, receivers), q.clock.Here), err
}

// saveReceivers stores what this process knows of receivers, beside what others have stored.
func (q *Queue) saveReceivers(ctx context.Context, changes []pacing.Change) error {
	return db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		names := make([]string, len(changes))
		for i, change := range changes {
			names[i] = change.Row.Name
		}
		stored, err := db.LockReceivers(ctx, tx, names)
		if err != nil {
			return err
		}
		receivers, now := timed(inOrder(names, stored), q.clock.Here), time.Now()
		for i, change := range changes {
			receivers[i] = change.Over(receivers[i], now)
		}
		return db.SaveReceivers(ctx, tx, timed(receivers, q.clock.At))
	})
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
