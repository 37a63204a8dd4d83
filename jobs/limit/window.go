package limit

import "time"

// Window is a rate limit that clients share: at most so many uses within any period. Each use
// holds a slot for the period, so that clients share as in Slots: a single client gets four
// fifths of the rate, and the next client finds room.
type Window struct {
	slots  Slots
	period time.Duration
	held   []held // uses within the period, oldest first
}

type held struct {
	client string
	until  time.Time
}

// NewWindow allows as many uses within a period as there are slots.
func NewWindow(slots Slots, period time.Duration) Window { return Window{slots: slots, period: period} }

// Room tells whether a client has room for n uses now.
func (w *Window) Room(client string, now time.Time, n int) bool {
	w.release(now)
	return w.slots.Room(client, n)
}

// Take counts one use of a client now, if the client has room.
func (w *Window) Take(client string, now time.Time) bool {
	w.release(now)
	if !w.slots.Take(client, 1) {
		return false
	}
	w.held = append(w.held, held{client, now.Add(w.period)})
	return true
}

func (w *Window) release(now time.Time) {
	over := 0
	for over < len(w.held) && !w.held[over].until.After(now) {
		w.slots.Release(w.held[over].client, 1)
		over++
	}
	w.held = w.held[over:]
}

// Used is how many uses there were within the period.
func (w *Window) Used(now time.Time) int {
	w.release(now)
	return len(w.held)
}

// FreeAt is when the next slot is free.
func (w *Window) FreeAt(now time.Time) time.Time {
	if w.release(now); w.slots.Free() > 0 || len(w.held) == 0 {
		return now
	}
	return w.held[0].until
}

// Interval is the time between two uses of a client that is alone.
func (w *Window) Interval() time.Duration { return w.period / time.Duration(w.slots.Share()) }
