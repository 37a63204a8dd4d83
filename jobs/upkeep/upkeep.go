// Package upkeep does the steps that are due by the clock, not by a request: it shows
// that this process lives and finds dead processes (heartbeat.go, lock.go), removes old
// requests (retention.go), and completes an upgrade's tables (search.go).
package upkeep

import "time"

// stepTimeout bounds one transaction, so that a hanging database can't hold up the next
// transaction.
const stepTimeout = 10 * time.Second
