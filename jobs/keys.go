package jobs

import (
	"context"
	"time"

	"ringback/db"
)

// acceptance is an async request that is to be accepted, and its key, if any.
type acceptance struct {
	request db.Request
	key     db.Key
}

func requestsOf(calls []acceptance) []db.Request {
	requests := make([]db.Request, 0, len(calls))
	var later []db.Request
	for _, call := range calls {
		if isLater(call.request) {
			later = append(later, call.request)
		} else {
			requests = append(requests, call.request)
		}
	}
	return append(requests, later...)
}

func hasKey(call acceptance) bool { return call.key.Key != "" }

// claimKeys claims the idempotency keys of calls. It returns each call's answer, and the
// calls to be accepted.
func claimKeys(ctx context.Context, q db.Querier, calls []acceptance, now time.Time) ([]db.Holder, []acceptance, error) {
	var keys []db.Key
	for _, call := range calls {
		if hasKey(call) {
			keys = append(keys, call.key)
		}
	}
	answers, err := db.ClaimKeys(ctx, q, keys, now)
	if err != nil {
		return nil, nil, err
	}
	holders := make([]db.Holder, len(calls))
	var fresh []acceptance
	for i, call := range calls {
		if hasKey(call) {
			holders[i], answers = answers[0], answers[1:]
		}
		if !holders[i].Held {
			fresh = append(fresh, call)
		}
	}
	return holders, fresh, nil
}

// Claim claims the key of a sync call, or returns the request that holds it.
func (q *Queue) Claim(ctx context.Context, key db.Key) (db.Holder, error) {
	var holders []db.Holder
	err := q.singles.do(ctx, key.Client, func(ctx context.Context) (err error) {
		holders, err = db.ClaimKeys(ctx, q.pool, []db.Key{key}, q.Now())
		return err
	})
	if err != nil {
		return db.Holder{}, err
	}
	return holders[0], nil
}

const (
	keysInterval = time.Minute // between two looks for expired keys
	keysAtOnce   = 1000
)

// dropExpired removes expired keys, and leases of requests that have ended, until ctx ends.
// After a failure the next look removes them.
func (q *Queue) dropExpired(ctx context.Context) {
	tick := time.NewTicker(keysInterval)
	defer tick.Stop()
	for {
		for dropped := keysAtOnce; dropped == keysAtOnce; {
			dropped, _ = db.DropKeys(ctx, q.pool, q.Now(), keysAtOnce)
		}
		for dropped := keysAtOnce; dropped == keysAtOnce; {
			dropped, _ = db.DropLeases(ctx, q.pool, keysAtOnce)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
