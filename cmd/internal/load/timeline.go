package load

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

// Column is a series of numbers. NaN becomes null in JSON, a gap in a chart.
type Column []float64

func (c Column) MarshalJSON() ([]byte, error) {
	values := make([]*float64, len(c))
	for i := range c {
		if !math.IsNaN(c[i]) {
			values[i] = &c[i]
		}
	}
	return json.Marshal(values)
}

// Timeline is a run over time, in columns of equal length.
type Timeline struct {
	At Column `json:"at"` // seconds since the start of sending, at the start of each bin

	// Rates are per second, by when something happened: due, sent, sync_ok, acked, delivered,
	// sync_shed, async_shed, and failed (rejected, failed, ambiguous or unsent).
	Rates map[string]Column `json:"rates"`
	// Levels are at the end of each bin: in_flight (sent and not answered), and backlog
	// (acknowledged and not called back).
	Levels map[string]Column `json:"levels"`
	// Latencies are in milliseconds, by when the request was due: sync, async, callback.
	Latencies map[string]Bands `json:"latencies"`
}

// Bands are Quantiles over time.
type Bands struct {
	P50 Column `json:"p50"`
	P99 Column `json:"p99"`
	Max Column `json:"max"`
}

// leastBin is the unit of a bin's length. Most runs have some 120 bins.
const leastBin = 50 * time.Millisecond

// charting is a timeline that is being filled.
type charting struct {
	Timeline
	bin       micros
	latencies map[string][][]micros // by bin
}

// Timeline draws the run.
func (f *Findings) Timeline() Timeline {
	last := micros(1) // when the last thing happened
	for _, request := range f.ledger.requests {
		last = max(last, request.at+max(request.took, request.called))
	}
	bin := toMicros(max(leastBin, (last.duration() / 120).Round(leastBin)))
	c := newCharting(bin, int(last/bin)+1)
	for _, request := range f.ledger.requests {
		c.add(request)
	}
	c.finish()
	return c.Timeline
}

func newCharting(bin micros, bins int) *charting {
	c := &charting{
		Timeline:  Timeline{make(Column, bins), map[string]Column{}, map[string]Column{}, map[string]Bands{}},
		bin:       bin,
		latencies: map[string][][]micros{},
	}
	for i := range c.At {
		c.At[i] = float64(i) * bin.duration().Seconds()
	}
	for _, name := range []string{"due", "sent", "sync_ok", "acked", "delivered", "sync_shed", "async_shed", "failed"} {
		c.Rates[name] = make(Column, bins)
	}
	for _, name := range []string{"in_flight", "backlog"} {
		c.Levels[name] = make(Column, bins)
	}
	for _, name := range []string{"sync", "async", "callback"} {
		c.latencies[name] = make([][]micros, bins)
	}
	return c
}

// count adds one to a rate.
func (c *charting) count(rate string, at micros) { c.Rates[rate][at/c.bin]++ }

// span raises a level for a time.
func (c *charting) span(level string, from, to micros) {
	c.Levels[level][from/c.bin]++
	c.Levels[level][to/c.bin]--
}

func (c *charting) latency(name string, due, took micros) {
	c.latencies[name][due/c.bin] = append(c.latencies[name][due/c.bin], took)
}

func (c *charting) add(r request) {
	if r.outcome == undue {
		return
	}
	c.count("due", r.at)
	if r.outcome == unsent {
		c.count("failed", r.at)
		return
	}
	answered := r.at + r.took
	c.count("sent", r.at+r.sendDelay)
	c.span("in_flight", r.at+r.sendDelay, answered)
	name, good := "sync", "sync_ok"
	if r.isAsync {
		name, good = "async", "acked"
	}
	switch r.outcome {
	case shed:
		c.count(name+"_shed", answered)
	case ok:
		c.count(good, answered)
		c.latency(name, r.at, r.took)
		c.addCallback(r, answered)
	default:
		c.count("failed", answered)
	}
}

// addCallback counts in the backlog only callbacks that a receiver will take.
func (c *charting) addCallback(r request, acked micros) {
	if !r.isAsync || !r.kind.Delivers() {
		return
	}
	if r.taken == 0 {
		c.Levels["backlog"][acked/c.bin]++
		return
	}
	called := r.at + r.called
	c.count("delivered", called)
	c.span("backlog", min(acked, called), called)
	if r.kind.IsPrompt() {
		c.latency("callback", r.at, r.called)
	}
}

// finish turns counts into rates, and changes into levels.
func (c *charting) finish() {
	for _, rate := range c.Rates {
		for i := range rate {
			rate[i] /= c.bin.duration().Seconds()
		}
	}
	for _, level := range c.Levels {
		for i := 1; i < len(level); i++ {
			level[i] += level[i-1]
		}
	}
	for name, bins := range c.latencies {
		var bands Bands
		for _, values := range bins {
			slices.Sort(values)
			bands.P50 = append(bands.P50, quantile(values, 0.5))
			bands.P99 = append(bands.P99, quantile(values, 0.99))
			bands.Max = append(bands.Max, quantile(values, 1))
		}
		c.Latencies[name] = bands
	}
}

// quantile is a quantile of sorted values, in milliseconds; NaN without values.
func quantile(sorted []micros, share float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	index := int(math.Ceil(share*float64(len(sorted)))) - 1
	return float64(sorted[max(0, index)]) / 1000
}

// Distribution is how long requests took, by percentile.
type Distribution struct {
	Nines    Column `json:"nines"` // 1 is 90 %, 2 is 99 %, 3 is 99.9 %
	Sync     Column `json:"sync"`  // milliseconds
	Async    Column `json:"async"`
	Callback Column `json:"callback"`
}

// Distribution has percentiles that get closer to each other towards the slowest request.
func (f *Findings) Distribution() Distribution {
	const step, most = 0.05, 5
	var d Distribution
	for i := range int(most/step) + 1 {
		nines := float64(i) * step
		d.Nines = append(d.Nines, nines)
		d.Sync = append(d.Sync, f.Sync.Latency.atNines(nines))
		d.Async = append(d.Async, f.Async.Latency.atNines(nines))
		d.Callback = append(d.Callback, f.Async.TimeToCallback.atNines(nines))
	}
	return d
}

func (q *Quantiles) atNines(nines float64) float64 {
	slower := math.Pow(10, -nines)
	if float64(q.Count)*slower < 1 {
		return math.NaN()
	}
	return q.millis(100 * (1 - slower))
}
