package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"
)

// snapshot is how a run stands.
type snapshot struct {
	elapsed, left     time.Duration // left is of sending; 0 once only callbacks are waited for
	interrupted       bool
	offered, achieved float64       // requests a second, since the last snapshot
	inFlight          int           // sent and not answered
	waiting           int           // due, without a free connection
	answered          counts        // so far, both endpoints
	syncP99, asyncP99 float64       // milliseconds so far
	callbackP99       float64       // likewise
	acked, delivered  int           // so far
	oldest            time.Duration // since the longest undelivered request was due; 0 is none

	released, sent int // so far, for the next one's rates
}

// snapshot looks at the run. The rates are those since the last one.
func (s *storm) snapshot(ctx context.Context, last snapshot) snapshot {
	now := snapshot{
		elapsed:     s.ledger.clock.now(),
		interrupted: ctx.Err() != nil,
		released:    int(s.engine.released.Load()),
		waiting:     len(s.engine.due),
	}
	if !now.interrupted {
		now.left = max(0, s.config.duration()-now.elapsed)
	}
	syncCounts, syncP99 := s.ledger.sync.progress()
	asyncCounts, asyncP99 := s.ledger.async.progress()
	now.syncP99, now.asyncP99 = syncP99, asyncP99
	for outcome := range now.answered {
		now.answered[outcome] = syncCounts[outcome] + asyncCounts[outcome]
	}
	now.acked = asyncCounts[ok]
	now.delivered, now.callbackP99, now.oldest = s.ledger.progress()
	now.delivered = min(now.delivered, now.acked) // a callback may come before its acknowledgement
	now.sent = max(0, now.released-now.waiting-now.answered[unsent])
	now.inFlight = max(0, now.sent-now.answered.sum())
	seconds := (now.elapsed - last.elapsed).Seconds()
	now.offered = float64(now.released-last.released) / seconds
	now.achieved = float64(now.sent-last.sent) / seconds
	return now
}

// counts are requests by outcome.
type counts [outcomes]int

// sum is of those that were sent and answered.
func (c counts) sum() int {
	total := 0
	for outcome := ok; outcome < outcomes; outcome++ {
		total += c[outcome]
	}
	return total
}

func (l *lane) progress() (counts counts, p99 float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts, l.latency.millis(99)
}

// progress returns the slots delivered, the 99th percentile of the time to a
// callback in milliseconds, and how long the oldest one has been waited for.
func (l *ledger) progress() (delivered int, p99 float64, oldest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.oldest < len(l.slots) && l.slots[l.oldest].isDone() {
		l.oldest++
	}
	for _, slot := range l.slots[l.oldest:] {
		if slot.outcome == undue && slot.due == 0 {
			break // not sent yet, nor is any behind it
		}
		if !slot.isDone() && slot.outcome == ok {
			oldest = l.clock.now() - slot.due.duration()
			break
		}
	}
	return l.delivered, l.waits.millis(99), oldest
}

// startProgress shows how the run stands until the function it returns is
// called: in place on a terminal, otherwise a line a second.
func (s *storm) startProgress(ctx context.Context, w io.Writer) (stop func()) {
	finished := make(chan struct{})
	var printing sync.WaitGroup
	printing.Go(func() {
		if file, isFile := w.(*os.File); isFile && s.config.movesCursor && fits(file) {
			s.showProgress(ctx, &screen{w: w, fits: func() bool { return fits(file) }}, finished)
			return
		}
		s.printProgress(ctx, w, finished)
	})
	return sync.OnceFunc(func() {
		close(finished)
		printing.Wait()
	})
}

// fits tells whether a file is a terminal that a panel fits on, with a line below it.
func fits(file *os.File) bool {
	if !term.IsTerminal(int(file.Fd())) {
		return false
	}
	width, height, err := term.GetSize(int(file.Fd()))
	return err == nil && width > panelWidth && height > panelHeight
}

const interruptedText = "interrupted: sending stops, answers and callbacks are waited for; again to quit at once"

func (s *storm) printProgress(ctx context.Context, w io.Writer, finished <-chan struct{}) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	interrupted := ctx.Done()
	var last snapshot
	for {
		select {
		case <-finished:
			return
		case <-interrupted:
			interrupted = nil // said once
			fmt.Fprintln(w, interruptedText)
		case <-second.C:
			last = s.snapshot(ctx, last)
			fmt.Fprintln(w, last.line())
		}
	}
}

// line is the snapshot for a log.
func (s snapshot) line() string {
	return fmt.Sprintf("%4.0fs  offered %.0f/s  sent %.0f/s  in flight %d  waiting %d  ok %d  shed %d  failed %d  delivered %d of %d  oldest %s  left %s",
		s.elapsed.Seconds(), s.offered, s.achieved, s.inFlight, s.waiting, s.answered[ok], s.answered[shed],
		s.answered[rejected]+s.answered[failed]+s.answered[ambiguous], s.delivered, s.acked,
		round(s.oldest), round(s.left))
}

// round leaves three digits or so.
func round(duration time.Duration) time.Duration {
	switch {
	case duration < 10*time.Millisecond:
		return duration.Round(time.Millisecond / 10)
	case duration < time.Second:
		return duration.Round(time.Millisecond)
	}
	return duration.Round(time.Second / 10)
}

func (s *storm) showProgress(ctx context.Context, screen *screen, finished <-chan struct{}) {
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	defer screen.clear()
	var last snapshot
	for {
		select {
		case <-finished:
			return
		case <-tick.C:
			if !screen.fits() { // any more
				screen.lines = 0
				s.printProgress(ctx, screen.w, finished)
				return
			}
			last = s.snapshot(ctx, last)
			screen.draw(last.panel(s.config))
		}
	}
}

// screen draws a block of lines over the one before.
type screen struct {
	w     io.Writer
	fits  func() bool
	lines int
}

func (s *screen) draw(block string) {
	s.clear()
	s.lines = strings.Count(block, "\n") + 1
	_, _ = lipgloss.Fprintln(s.w, block) // whatever the terminal can do of the colours
}

// clear leaves the cursor where the block began.
func (s *screen) clear() {
	if s.lines > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\r\x1b[J", s.lines)
	}
	s.lines = 0
}

const (
	panelWidth  = 78 // columns
	panelHeight = 8  // lines
)

// panel is the snapshot for a terminal.
func (s snapshot) panel(config config) string {
	label := lipgloss.NewStyle().Faint(true).Width(12)
	bold := lipgloss.NewStyle().Bold(true)
	row := func(name, format string, values ...any) string {
		return label.Render(name) + fmt.Sprintf(format, values...)
	}
	failures := s.answered[rejected] + s.answered[failed] + s.answered[ambiguous]
	rows := []string{
		bold.Render(fmt.Sprintf("storm on %s", config.target)) + "  " + s.phase(config),
		row("rate", "%7.0f/s offered   %7.0f/s sent", s.offered, s.achieved),
		row("under way", "%7d in flight   %7d waiting for a connection", s.inFlight, s.waiting),
		row("answered", "%7d ok   %s   %s   %s", s.answered[ok],
			alarm(s.answered[shed], "11", "%d shed"), alarm(failures, "9", "%d failed"), alarm(s.answered[unsent], "9", "%d unsent")),
		row("p99 so far", "%7.1f ms sync   %7.1f ms async   %7.1f ms to callback", s.syncP99, s.asyncP99, s.callbackP99),
		row("callbacks", "%7d of %d delivered   oldest undelivered %v", s.delivered, s.acked, round(s.oldest)),
	}
	return lipgloss.NewStyle().
		Border(lipgloss.RoundedBorder()).
		BorderForeground(lipgloss.Color("8")).
		Padding(0, 1).
		Width(panelWidth).
		Render(strings.Join(rows, "\n"))
}

// alarm colours a count that ought to be zero.
func alarm(count int, color, format string) string {
	text := fmt.Sprintf(format, count)
	if count == 0 {
		return text
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(color)).Render(text)
}

// phase tells what is going on, and for how much longer.
func (s snapshot) phase(config config) string {
	switch {
	case s.interrupted:
		return "interrupted, draining: again to quit at once"
	case s.left == 0:
		return "draining"
	default:
		return fmt.Sprintf("%s, %v left", config.profile.name, round(s.left))
	}
}
