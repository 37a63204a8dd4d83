package api

import (
	"context"
	"time"

	"ringback/jobs/limit"
)

// gate lets a bounded number of sync requests work at a time. As many may wait for a moment. The
// newest whose client may have a slot is next. Under a storm, first come, first served would make
// all wait for the whole queue, and serve callers that are about to give up. When too many wait,
// the oldest is refused.
//
// How long one waits at most follows Facebook's controlled delay (B. Maurer,
// "Fail at Scale", ACM Queue 2015): a burst may wait it out, a standing queue is
// cut short, since it means that not all can be served anyway.
type gate struct{ *limit.Gate }

const (
	burstPatience    = 100 * time.Millisecond
	standingPatience = 10 * time.Millisecond // refusals must be quick
	standingAfter    = 100 * time.Millisecond
)

func newGate(count int, shared bool) gate {
	return gate{limit.NewGate(limit.NewSlots(count, shared), limit.NewestFirst, reasonSync, reasonClientSync)}
}

// enter returns a refusal when there is no room; otherwise Leave must follow.
func (g gate) enter(ctx context.Context, client string) error {
	return g.Enter(ctx, client, func(queue limit.Queue) time.Duration {
		if queue.Stands > standingAfter {
			return standingPatience
		}
		return burstPatience
	}).Err()
}
