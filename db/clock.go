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
	error time.Duration // the most by which ahead may be wrong
}

// sameClock is the largest difference between two clocks that count as the same. Both are
// often the same machine's, or set by the same source, and a reading is no finer than the
// round trip to the database.
const sameClock = 10 * time.Millisecond

// readings is how many readings are made at most until one is fast.
const readings = 3

// Read compares the clocks, for the price of a ping. A reading that took longer than the
// difference it shows changes nothing. A slow reading may be wrong by half the time that it
// took, so it is repeated, and the fastest counts.
func (c *Clock) Read(ctx context.Context, q Querier) error {
	var sent, database time.Time
	var took time.Duration
	for i := range readings {
		start := time.Now()
		var told time.Time
		err := q.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&told)
		if err != nil && i == 0 {
			return fmt.Errorf("reading the database's clock: %w", err)
		}
		if err != nil {
			break
		}
		if d := time.Since(start); i == 0 || d < took {
			sent, took, database = start, d, told
		}
		if took <= sameClock {
			break
		}
	}
	c.set(sent, took, database)
	return nil
}

// set takes a reading of the database's clock: when it was asked for, and how long it took.
func (c *Clock) set(sent time.Time, took time.Duration, database time.Time) {
	ahead := database.Sub(sent.Add(took / 2).Round(0)) // the wall clocks
	wrong := sameClock + took/2
	before := c.latest.Load()
	if ahead.Abs() <= wrong {
		ahead = 0
	} else if before != nil && (ahead-before.ahead).Abs() <= wrong && before.ahead != 0 {
		ahead = before.ahead
	}
	if before != nil && ahead == before.ahead {
		wrong = min(wrong, before.error)
	}
	c.latest.Store(&reading{sent, ahead, wrong})
}

// Error is the most by which Now may differ from the database's clock, as far as the
// readings show. It is 0 before the first reading.
func (c *Clock) Error() time.Duration {
	if r := c.latest.Load(); r != nil {
		return r.error
	}
	return 0
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
