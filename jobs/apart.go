package jobs

import (
	"context"
	"math"
	"time"

	"ringback/jobs/limit"
)

// apart bounds the statements of one request that run in a transaction of their own, since they
// fit in no batch. They take connections that the batches of all clients need. Few run at a time,
// and a client leaves half of these to others, however many of its requests come to such a
// statement at one moment.
type apart struct {
	gate *limit.Gate
	met  func(error) // takes how each went; nil for none
}

const (
	// apartReason names the gate. Nobody is refused for it: a worker waits until its job ends.
	apartReason limit.Reason = "apart"
	// recordsAtOnce leaves most connections of a small pool to others, while a table is locked.
	recordsAtOnce = 3
)

func newApart(atOnce int, shared bool, met func(error)) apart {
	return apart{limit.NewGate(limit.NewHalves(atOnce, shared), limit.OldestFirst, apartReason, apartReason), met}
}

// stepsAtOnce is how many of a pool's connections may hold single statements.
func stepsAtOnce(connections int32) int { return max(1, int(connections)/2) }

// do runs the statements for a client, once they have their turn. It fails with the error of ctx
// where that ends before.
func (a apart) do(ctx context.Context, client string, statements func(ctx context.Context) error) error {
	if !a.gate.Enter(ctx, client, func(limit.Queue) time.Duration { return math.MaxInt64 }).OK() {
		return ctx.Err()
	}
	defer a.gate.Leave(client)
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err := statements(ctx)
	if a.met != nil {
		a.met(err)
	}
	return err
}
