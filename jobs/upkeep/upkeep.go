// Package upkeep is what goes by the clock rather than by a request: that this process
// lives and which others died (heartbeat.go, lock.go), what is old (retention.go), and
// what an upgrade has to look up once (search.go).
package upkeep

import "time"

// stepTimeout bounds one transaction, so that a database that hangs can't hold up the
// next one.
const stepTimeout = 10 * time.Second
