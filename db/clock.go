package db

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Clock tells the database's time. All times that are written to the database or compared
// with times from there come from it, so that processes whose clocks differ, or jump,
// agree. Between two readings it advances by this process's monotonic clock, which no
// change of the wall clock touches.
//
// Before the first reading, it tells the time of this process.
type Clock struct {
	latest atomic.Pointer[reading]
	ids    sync.Mutex
	lastID int64 // of the latest id, in steps of a 4096th of a millisecond
}

type reading struct {
	at    time.Time     // when it was made, by this process's clock
	ahead time.Duration // how far the database's clock is ahead of this process's
}

// sameClock is the largest difference between two clocks that count as the same. Both are
// often the same machine's, or set by the same source, and a reading is no finer than the
// round trip to the database.
const sameClock = 10 * time.Millisecond

// Read compares the clocks, for the price of a ping. A reading that took longer than the
// difference it shows changes nothing.
func (c *Clock) Read(ctx context.Context, q Querier) error {
	sent := time.Now()
	var database time.Time
	if err := q.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&database); err != nil {
		return fmt.Errorf("reading the database's clock: %w", err)
	}
	c.set(sent, time.Since(sent), database)
	return nil
}

// set takes a reading of the database's clock: when it was asked for, and how long it took.
func (c *Clock) set(sent time.Time, took time.Duration, database time.Time) {
	ahead := database.Sub(sent.Add(took / 2).Round(0)) // the wall clocks
	before := c.latest.Load()
	switch {
	case ahead.Abs() <= sameClock+took/2:
		ahead = 0
	case before != nil && (ahead-before.ahead).Abs() <= sameClock+took/2 && before.ahead != 0:
		ahead = before.ahead
	}
	c.latest.Store(&reading{sent, ahead})
}

// Now is the database's time.
func (c *Clock) Now() time.Time { return c.At(time.Now()) }

// At is the database's time at a time of this process.
func (c *Clock) At(t time.Time) time.Time {
	if r := c.latest.Load(); r != nil && !t.IsZero() {
		// By the difference, since the clock of this process may have been set meanwhile.
		return r.at.Round(0).Add(t.Sub(r.at) + r.ahead)
	}
	return t
}

// Here is the time of this process at a time of the database.
func (c *Clock) Here(t time.Time) time.Time {
	if r := c.latest.Load(); r != nil && !t.IsZero() {
		return t.Add(-r.ahead)
	}
	return t
}

// Skew is how far this process's clock was ahead of the database's at the latest
// reading.
func (c *Clock) Skew() time.Duration {
	if r := c.latest.Load(); r != nil {
		return -r.ahead
	}
	return 0
}
