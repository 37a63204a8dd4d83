package load

import (
	"maps"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// lane counts the requests of one endpoint, for the progress during a run and the reasons
// of failures. The report's figures come from the ledger.
type lane struct {
	mu      *sync.Mutex
	counts  counts
	reasons map[string]int // of rejected, failed and ambiguous requests
}

func newLane() lane {
	return lane{mu: new(sync.Mutex), reasons: make(map[string]int)}
}

func (l *lane) leaveOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[unsent]++
}

func (l *lane) record(answer answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[answer.outcome]++
	if answer.reason != "" {
		l.reasons[answer.reason]++
	}
}

func (l *lane) failures() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.reasons)
}

// histogram keeps durations with three significant digits, in microseconds.
type histogram struct {
	*hdrhistogram.Histogram
}

func newHistogram() *histogram {
	return &histogram{hdrhistogram.New(1, int64(^micros(0)), 3)}
}

func (h *histogram) record(duration time.Duration) { h.recordMicros(toMicros(duration)) }

func (h *histogram) recordMicros(duration micros) {
	_ = h.RecordValue(int64(duration)) // fails only out of range
}

// millis returns a percentile in milliseconds, 0 when nothing is recorded.
func (h *histogram) millis(percentile float64) float64 {
	return float64(h.ValueAtPercentile(percentile)) / 1000
}
