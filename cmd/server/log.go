package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// logBytes is how much of the log may wait for its reader: some seconds of it at
	// the highest rates. More is dropped.
	logBytes = 4 << 20
	// logFlushTimeout is how long the end of the process waits for the reader.
	logFlushTimeout = time.Second
)

var newline = []byte("\n")

// logBuffer is the log's writer. It never waits: lines that its reader is too slow for
// are dropped and counted, as are lines that can't be written.
type logBuffer struct {
	out io.Writer

	mu      sync.Mutex
	waiting []byte // whole lines
	dropped int
	more    chan struct{} // holds a value while there is something to write
	idle    chan struct{} // closed while nothing waits or is being written
}

// newLogBuffer writes to out until the process ends.
func newLogBuffer(out io.Writer) *logBuffer {
	idle := make(chan struct{})
	close(idle)
	b := &logBuffer{out: out, more: make(chan struct{}, 1), idle: idle}
	go b.run()
	return b
}

// Write takes a line. It returns no error, since nobody would read it.
func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting)+len(line) > logBytes {
		b.dropped++
		return len(line), nil
	}
	select {
	case <-b.idle:
		b.idle = make(chan struct{})
	default:
	}
	b.waiting = append(b.waiting, line...)
	select {
	case b.more <- struct{}{}:
	default:
	}
	return len(line), nil
}

func (b *logBuffer) run() {
	var writing []byte
	torn := false // the last write ended within a line, as on a disk that is full
	for range b.more {
		b.mu.Lock()
		writing, b.waiting = b.waiting, writing[:0]
		b.mu.Unlock()
		if len(writing) == 0 {
			continue // the time before took them, too
		}
		if torn { // else the next line would be unreadable, too
			_, err := b.out.Write(newline)
			torn = err != nil
		}
		written := 0
		if !torn {
			written, _ = b.out.Write(writing)
			torn = written > 0 && writing[written-1] != newline[0]
		}
		b.mu.Lock()
		b.dropped += bytes.Count(writing[written:], newline)
		if len(b.waiting) == 0 {
			close(b.idle)
		}
		b.mu.Unlock()
	}
}

// flush waits until all is written, for a moment at most.
func (b *logBuffer) flush() {
	b.mu.Lock()
	idle := b.idle
	b.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(logFlushTimeout):
	}
}

// lost is how many lines were dropped.
func (b *logBuffer) lost() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.dropped)
}

// fullness is the part of the buffer that waiting lines use.
func (b *logBuffer) fullness() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(len(b.waiting)) / logBytes
}

func (b *logBuffer) watch(registerer prometheus.Registerer) {
	promauto.With(registerer).NewCounterFunc(prometheus.CounterOpts{
		Name: "ringback_log_lines_dropped_total", Help: "Lines of the log that nobody took in time.",
	}, b.lost)
	promauto.With(registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ringback_log_buffer_ratio", Help: "How full the buffer of the log is, from 0 to 1: lines that wait for the log's reader. Lines that don't fit are dropped.",
	}, b.fullness)
}

func newLogger(config Config, out io.Writer) *slog.Logger {
	settings := &slog.HandlerOptions{Level: config.LogLevel}
	if config.dev && !config.json {
		return slog.New(slog.NewTextHandler(out, settings))
	}
	return slog.New(slog.NewJSONHandler(out, settings))
}

// repeatInterval is the shortest time between two lines with the same message that seldom
// lets pass.
const repeatInterval = 10 * time.Second

// seldom lets each message pass once in a while. River repeats a fault as often as it
// tries, many times a second, and what postpones a job may postpone thousands.
type seldom struct {
	slog.Handler
	told *toldMessages
}

type toldMessages struct {
	mu sync.Mutex
	at map[string]told
}

type told struct {
	at      time.Time
	skipped int
}

func newSeldom(next slog.Handler) slog.Handler {
	return seldom{next, &toldMessages{at: map[string]told{}}}
}

func (h seldom) Handle(ctx context.Context, line slog.Record) error {
	skipped, tell := h.told.take(line.Message, line.Time)
	if !tell {
		return nil
	}
	if skipped > 0 {
		line.AddAttrs(slog.Int("repeated", skipped))
	}
	return h.Handler.Handle(ctx, line)
}

func (h seldom) WithAttrs(attrs []slog.Attr) slog.Handler {
	return seldom{h.Handler.WithAttrs(attrs), h.told}
}

func (h seldom) WithGroup(name string) slog.Handler {
	return seldom{h.Handler.WithGroup(name), h.told}
}

// take tells whether a message is due, and how often it was skipped before. Messages
// are constants, so there are few.
func (m *toldMessages) take(message string, now time.Time) (skipped int, tell bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, known := m.at[message]
	if known && now.Sub(last.at) < repeatInterval {
		last.skipped++
		m.at[message] = last
		return 0, false
	}
	m.at[message] = told{at: now}
	return last.skipped, true
}
