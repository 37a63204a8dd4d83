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

	"ringback/cmd/internal/load"
)

// progress shows how a run stands.
type progress struct {
	run    *load.Run
	config config
	w      io.Writer
}

// start shows the progress until the returned function is called: in place on a terminal,
// otherwise a line a second.
func (p *progress) start(ctx context.Context) (stop func()) {
	finished := make(chan struct{})
	var printing sync.WaitGroup
	printing.Go(func() {
		if file, isFile := p.w.(*os.File); isFile && p.config.movesCursor && fits(file) {
			p.show(ctx, &screen{w: p.w, fits: func() bool { return fits(file) }}, finished)
			return
		}
		p.print(ctx, finished)
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

func (p *progress) print(ctx context.Context, finished <-chan struct{}) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	interrupted := ctx.Done()
	var last load.Snapshot
	for {
		select {
		case <-finished:
			return
		case <-interrupted:
			interrupted = nil // said once
			fmt.Fprintln(p.w, interruptedText)
		case <-second.C:
			last = p.run.Snapshot(ctx, last)
			fmt.Fprintln(p.w, line(last))
		}
	}
}

// line is the snapshot for a log.
func line(s load.Snapshot) string {
	return fmt.Sprintf("%4.0fs  offered %.0f/s  sent %.0f/s  in flight %d  waiting %d  ok %d  shed %d  failed %d  delivered %d of %d  oldest %s  left %s",
		s.Elapsed.Seconds(), s.Offered, s.Achieved, s.InFlight, s.Waiting, s.OK, s.Shed, s.Failed,
		s.Delivered, s.Acked, round(s.Oldest), round(s.Left))
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

func (p *progress) show(ctx context.Context, screen *screen, finished <-chan struct{}) {
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	defer screen.clear()
	var last load.Snapshot
	for {
		select {
		case <-finished:
			return
		case <-tick.C:
			if !screen.fits() { // any more
				screen.lines = 0
				p.print(ctx, finished)
				return
			}
			last = p.run.Snapshot(ctx, last)
			screen.draw(panel(last, p.config.Config))
		}
	}
}

// screen draws a block of lines over the last block.
type screen struct {
	w     io.Writer
	fits  func() bool
	lines int
}

func (s *screen) draw(block string) {
	s.clear()
	s.lines = strings.Count(block, "\n") + 1
	_, _ = lipgloss.Fprintln(s.w, block) // as many colours as the terminal has
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
func panel(s load.Snapshot, config load.Config) string {
	label := lipgloss.NewStyle().Faint(true).Width(12)
	bold := lipgloss.NewStyle().Bold(true)
	row := func(name, format string, values ...any) string {
		return label.Render(name) + fmt.Sprintf(format, values...)
	}
	rows := []string{
		bold.Render(fmt.Sprintf("storm on %s", config.Target)) + "  " + phase(s, config),
		row("rate", "%7.0f/s offered   %7.0f/s sent", s.Offered, s.Achieved),
		row("under way", "%7d in flight   %7d waiting for a connection", s.InFlight, s.Waiting),
		row("answered", "%7d ok   %s   %s   %s", s.OK,
			alarm(s.Shed, "11", "%d shed"), alarm(s.Failed, "9", "%d failed"), alarm(s.Unsent, "9", "%d unsent")),
		row("p99 so far", "%7.1f ms sync   %7.1f ms async   %7.1f ms to callback", s.SyncP99, s.AsyncP99, s.CallbackP99),
		row("callbacks", "%7d of %d delivered   oldest undelivered %v", s.Delivered, s.Acked, round(s.Oldest)),
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

// phase names the present phase, and its remaining time.
func phase(s load.Snapshot, config load.Config) string {
	switch {
	case s.Interrupted:
		return "interrupted, draining: again to quit at once"
	case s.Left == 0:
		return "draining"
	default:
		return fmt.Sprintf("%s, %v left", config.Profile, round(s.Left))
	}
}
