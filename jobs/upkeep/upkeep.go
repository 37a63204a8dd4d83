// Package upkeep does the steps that are due by the clock, not by a request. It shows that this
// process lives, and finds dead processes (heartbeat.go, lock.go). It makes lost jobs again
// (reconcile.go), removes old requests (retention.go), and completes an upgrade's tables
// (search.go).
package upkeep

import (
	"context"
	"time"
)

// stepTimeout bounds one transaction, so that a hanging database can't hold up the next
// transaction.
const stepTimeout = 10 * time.Second

// sleep returns after d, or as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
