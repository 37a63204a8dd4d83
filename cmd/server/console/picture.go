package console

import (
	"fmt"
	"time"

	"ringback/db"
)

// picture is the life of a request on a time axis.
type picture struct {
	Rows   []row
	Ticks  []tick
	Height int
	Until  time.Time // where the axis ends
	Open   bool      // the request has not ended: the axis ends now
}

// row is one line of the picture. Positions are in thousandths of the axis.
type row struct {
	Name string
	Y    int
	Bars []bar
	Says string // beside the bars
}

type bar struct {
	X, Width int    // from the left end of the axis
	Kind     string // a class of the style sheet
	Says     string
}

type tick struct {
	X    int
	Says string
}

const (
	rowHeight = 26
	axis      = 1000
	axisBegin = 110 // right of the names
)

// ViewHeight and the methods below place the parts of the drawing.
func (p picture) ViewHeight() int { return p.Height + 24 }
func (p picture) TickY() int      { return p.Height + 16 }
func (r row) TextY() int          { return r.Y + 17 }
func (r row) BarY() int           { return r.Y + 6 }
func (b bar) At() int             { return axisBegin + b.X }
func (t tick) At() int            { return axisBegin + t.X }

// draw draws the life of a request, until now if it hasn't ended.
func draw(i inspected, now time.Time) picture {
	p := picture{Until: i.end(now), Open: i.CanCancel()}
	span := max(p.Until.Sub(i.AcceptedAt), time.Millisecond)
	at := func(t time.Time) int {
		return min(axis, max(0, int(float64(axis)*float64(t.Sub(i.AcceptedAt))/float64(span))))
	}
	between := func(from, to time.Time, kind, says string) bar {
		x := at(from)
		return bar{X: min(x, axis-2), Width: max(2, at(to)-x), Kind: kind, Says: fmt.Sprintf("%s, %s", says, took(max(0, to.Sub(from))))}
	}
	p.Rows = append(p.Rows, i.workRow(between, p.Until))
	since := i.FinishedAt
	for _, a := range i.Attempts {
		r := row{Name: fmt.Sprintf("attempt %d", a.Attempt), Says: ended(a)}
		if !since.IsZero() && a.StartedAt.After(since) {
			r.Bars = append(r.Bars, between(since, a.StartedAt, "wait", "waited"))
		}
		r.Bars = append(r.Bars, between(a.StartedAt, a.EndedAt, kindOf(a), said(a)))
		r.Bars = append(r.Bars, phaseBars(a, r.Bars[len(r.Bars)-1])...)
		since = a.EndedAt
		p.Rows = append(p.Rows, r)
	}
	if i.CallbackState == db.CallbackPending && !since.IsZero() {
		p.Rows = append(p.Rows, row{Name: "next", Says: waitsFor(i), Bars: []bar{between(since, p.Until, "wait", "waits")}})
	}
	for n := range p.Rows {
		p.Rows[n].Y = n * rowHeight
	}
	for n := range 5 {
		p.Ticks = append(p.Ticks, tick{n * axis / 4, "+" + took(span*time.Duration(n)/4)})
	}
	p.Height = len(p.Rows) * rowHeight
	return p
}

// end is when the request ended, or now.
func (i inspected) end(now time.Time) time.Time {
	switch {
	case i.CanCancel():
		return now
	case i.SettledAt.After(i.FinishedAt):
		return i.SettledAt
	case !i.last().EndedAt.IsZero() && i.last().EndedAt.After(i.FinishedAt):
		return i.last().EndedAt
	}
	return i.FinishedAt
}

// workRow is the wait for the work and the work.
func (i inspected) workRow(between func(from, to time.Time, kind, says string) bar, until time.Time) row {
	r := row{Name: "work", Says: string(i.Status)}
	started, finished := i.StartedAt, i.FinishedAt
	if i.GoesOn() {
		started, r.Says = i.Lease.StartedAt, "goes on elsewhere"
	}
	if finished.IsZero() {
		finished = until
	}
	if started.IsZero() {
		r.Bars = append(r.Bars, between(i.AcceptedAt, finished, "wait", "waited"))
		return r
	}
	r.Bars = append(r.Bars, between(i.AcceptedAt, started, "wait", "waited"), between(started, finished, "work "+string(i.Status), "worked"))
	return r
}

func waitsFor(i inspected) string {
	switch {
	case i.Wait.Reason == "":
		return "on its way"
	case i.Wait.Until.IsZero():
		return "waits for " + string(i.Wait.Reason)
	}
	return "waits for " + string(i.Wait.Reason) + " until " + when(i.Wait.Until)
}

// ended is how an attempt ended.
func ended(a db.Attempt) string {
	if a.HTTPStatus == 0 {
		return a.Outcome
	}
	return fmt.Sprintf("%s (%d)", a.Outcome, a.HTTPStatus)
}

// said is how an attempt ended, and why.
func said(a db.Attempt) string {
	text := ended(a)
	if a.Cause != "" {
		text += ": " + a.Cause
	}
	return text
}

func kindOf(a db.Attempt) string {
	if a.Outcome == "delivered" {
		return "good"
	}
	return "bad"
}

// phase is a part of an attempt.
type phase struct {
	name, kind string
	took       time.Duration
}

func phasesOf(a db.Attempt) []phase {
	return []phase{{"DNS", "dns", a.DNS}, {"connect", "connect", a.Connect}, {"TLS", "tls", a.TLS}, {"first byte", "first-byte", a.FirstByte}}
}

// phaseBars divides the bar of an attempt into its phases, in order. A phase that is too
// narrow to show is left out.
func phaseBars(a db.Attempt, whole bar) (bars []bar) {
	all := a.EndedAt.Sub(a.StartedAt)
	x := float64(whole.X)
	for _, p := range phasesOf(a) {
		width := float64(whole.Width) * float64(p.took) / float64(max(1, all))
		if width >= 1 {
			bars = append(bars, bar{X: int(x), Width: int(width), Kind: "phase " + p.kind, Says: p.name + ", " + took(p.took)})
		}
		x += width
	}
	return bars
}

// phases tells how an attempt's time was spent.
func phases(a db.Attempt) (text string) {
	for _, phase := range phasesOf(a) {
		if phase.took > 0 {
			text += phase.name + " " + took(phase.took) + " · "
		}
	}
	return text + "in all " + took(a.EndedAt.Sub(a.StartedAt))
}
