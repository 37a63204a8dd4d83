package jobs

import (
	"context"
	"slices"
	"time"

	"ringback/db"
)

// redeliveriesAtOnce is how many callbacks one statement lets off again.
const redeliveriesAtOnce = 256

// Redeliver makes callbacks pending again that have ended, and returns how many
// it were. Each starts its schedule anew, and keeps its webhook-id and its log.
func (q *Queue) Redeliver(ctx context.Context, redeliveries []db.Redelivery) (count int, err error) {
	for chunk := range slices.Chunk(redeliveries, redeliveriesAtOnce) {
		ids, err := db.RedeliverCallbacks(ctx, q.pool, callbackJobs, chunk)
		if err != nil {
			return count, err
		}
		count += len(ids)
	}
	return count, nil
}

// Spaced is when the given number of redeliveries are due, from start on at the
// given rate per second.
func Spaced(start time.Time, count, rate int) []time.Time {
	due := make([]time.Time, count)
	for i := range due {
		due[i] = start.Add(time.Duration(i) * time.Second / time.Duration(rate))
	}
	return due
}
