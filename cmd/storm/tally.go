package main

import (
	"maps"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// tally is what happened at one endpoint.
type tally struct {
	sent, ok, shed int
	failed         map[string]int // by reason
	unsent         int            // due while too many were in flight
	latency        *histogram     // intended send time to answer, of the ok ones
	lateness       *histogram     // intended send time to departure: the generator's own fault
}

func (t tally) failures() int {
	total := 0
	for count := range maps.Values(t.failed) {
		total += count
	}
	return total
}

// lane records the requests to one endpoint, from many goroutines. Its tally
// may be read without lock once they have ended.
type lane struct {
	endpoint endpoint

	mu    sync.Mutex
	tally tally
}

func newLane(endpoint endpoint) *lane {
	return &lane{endpoint: endpoint, tally: tally{
		failed:   make(map[string]int),
		latency:  newHistogram(),
		lateness: newHistogram(),
	}}
}

func (l *lane) leaveOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.unsent++
}

func (l *lane) depart(late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.sent++
	l.tally.lateness.record(late)
}

func (l *lane) record(answer answer, latency time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case answer.shed:
		l.tally.shed++
	case answer.failure != "":
		l.tally.failed[answer.failure]++
	default:
		l.tally.ok++
		l.tally.latency.record(latency)
	}
}

func (l *lane) progress() (sent, answered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally.sent, l.tally.ok + l.tally.shed + l.tally.failures()
}

// histogram keeps durations with three significant digits, in microseconds.
type histogram struct {
	*hdrhistogram.Histogram
}

// maxRecorded is longer than any timeout that makes sense; what is longer
// still counts as this much.
const maxRecorded = time.Hour

func newHistogram() *histogram {
	return &histogram{hdrhistogram.New(1, maxRecorded.Microseconds(), 3)}
}

func (h *histogram) record(duration time.Duration) {
	clamped := min(max(duration, 0), maxRecorded)
	_ = h.RecordValue(clamped.Microseconds()) // fails only out of range
}

func (h *histogram) quantile(percent float64) time.Duration {
	return time.Duration(h.ValueAtPercentile(percent)) * time.Microsecond
}
