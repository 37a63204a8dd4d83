package pacing

import (
	"time"

	"ringback/db"
	"ringback/jobs/limit"
)

// Change is a receiver's row as this process knows it now (Row), and as it was when this process
// last read or wrote it (Before). Another process may have stored its own knowledge meanwhile.
type Change struct{ Row, Before db.Receiver }

// Over returns the row to be stored in place of a stored row, the zero row where none is stored.
// What another process learned stays until its time is over, since this process hasn't found out
// otherwise. Of what both know, the later time counts.
func (c Change) Over(stored db.Receiver, now time.Time) db.Receiver {
	row := c.Row
	if opens := stored.ClosedUntil.Add(longestClosing); opens.After(now) && isNews(stored.ClosedUntil, c.Before.ClosedUntil) && stored.ClosedUntil.After(row.ClosedUntil) {
		row.ClosedUntil, row.Openings = stored.ClosedUntil, stored.Openings
	}
	if stored.GrantedUntil.After(now) && isNews(stored.GrantedUntil, c.Before.GrantedUntil) && stored.GrantedUntil.After(row.GrantedUntil) {
		row.GrantedUntil, row.PerMinute, row.Prefixes = stored.GrantedUntil, stored.PerMinute, stored.Prefixes
	}
	if len(row.AnsweredFrom)+len(c.Before.AnsweredFrom) == 0 { // the receiver took no callback of this process
		row.Rate, row.InFlight, row.AnsweredFrom = stored.Rate, stored.InFlight, stored.AnsweredFrom
	}
	row.Closings = c.closingsOver(stored, now)
	row.ExpiresAt = limit.Latest(row.ExpiresAt, stored.ExpiresAt)
	return row
}

// closingsOver are the closings of the row, merged with those of a stored row.
func (c Change) closingsOver(stored db.Receiver, now time.Time) []byte {
	closings, before := closingsOf(c.Row), closingsOf(c.Before)
	if closings == nil {
		closings = map[string]closing{}
	}
	for client, theirs := range closingsOf(stored) {
		merged := closings[client].over(theirs, before[client], now)
		if merged == (closing{}) {
			continue
		}
		closings[client] = merged
	}
	if len(closings) == 0 {
		return nil
	}
	return encodeClosings(closings)
}

// over is a closing with all times of a stored closing that are news and later.
func (c closing) over(stored, before closing, now time.Time) closing {
	later := func(own, theirs, before time.Time) time.Time {
		if theirs.After(now) && isNews(theirs, before) && theirs.After(own) {
			return theirs
		}
		return own
	}
	if down := later(c.Down, stored.Down, before.Down); !down.Equal(c.Down) {
		c.Down, c.Trips = down, stored.Trips
	}
	c.Paused = later(c.Paused, stored.Paused, before.Paused)
	if oneByOne := later(c.OneByOne, stored.OneByOne, before.OneByOne); !oneByOne.Equal(c.OneByOne) {
		c.OneByOne, c.Shook = oneByOne, stored.Shook
	}
	c.Claimed = later(c.Claimed, stored.Claimed, before.Claimed)
	return c
}

// isNews tells whether a stored time is later than the time that this process knew before, by more
// than a second. The clock by which it reads times may have been corrected meanwhile.
func isNews(stored, before time.Time) bool { return stored.After(before.Add(time.Second)) }
