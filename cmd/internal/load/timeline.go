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

	// A second, by when it happened.
	Due       Column `json:"due"`
	Sent      Column `json:"sent"`
	SyncOK    Column `json:"sync_ok"`
	Acked     Column `json:"acked"`
	Delivered Column `json:"delivered"`
	SyncShed  Column `json:"sync_shed"`
	AsyncShed Column `json:"async_shed"`
	Failed    Column `json:"failed"` // rejected, failed, ambiguous or unsent

	// At the end of each bin.
	InFlight Column `json:"in_flight"` // sent and not answered
	Backlog  Column `json:"backlog"`   // acknowledged and not called back

	// Milliseconds, by when the request was due.
	Sync     Bands `json:"sync"`
	Async    Bands `json:"async"`
	Callback Bands `json:"callback"`
}

// Bands are Quantiles over time.
type Bands struct {
	P50 Column `json:"p50"`
	P99 Column `json:"p99"`
	Max Column `json:"max"`
}

// binOf returns how long a bin is, so that there are 60 to 160 of most runs.
func binOf(length time.Duration) time.Duration {
	for _, bin := range []time.Duration{
		50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
	} {
		if length/bin <= 160 {
			return bin
		}
	}
	return 30 * time.Second
}

// charting fills a timeline.
type charting struct {
	*Timeline
	bin                   micros
	sync, async, callback [][]micros // latencies by bin
}

// Timeline draws the run.
func (f *Findings) Timeline() *Timeline { return f.ledger.timeline() }

// timeline goes through a ledger that nobody writes to any more.
func (l *ledger) timeline() *Timeline {
	last := micros(1) // when the last thing happened
	for number := range l.requests {
		request := &l.requests[number]
		last = max(last, request.at+max(request.took, request.called))
	}
	bin := toMicros(binOf(last.duration()))
	c := newCharting(bin, int(last/bin)+1)
	for number := range l.requests {
		c.add(&l.requests[number])
	}
	c.finish()
	return c.Timeline
}

func newCharting(bin micros, bins int) *charting {
	t := new(Timeline)
	for _, column := range []*Column{
		&t.At, &t.Due, &t.Sent, &t.SyncOK, &t.Acked, &t.Delivered, &t.SyncShed, &t.AsyncShed, &t.Failed, &t.InFlight, &t.Backlog,
	} {
		*column = make([]float64, bins)
	}
	for i := range t.At {
		t.At[i] = float64(i) * bin.duration().Seconds()
	}
	return &charting{t, bin, make([][]micros, bins), make([][]micros, bins), make([][]micros, bins)}
}

func (c *charting) add(r *request) {
	due, answered := r.at/c.bin, (r.at+r.took)/c.bin
	switch r.outcome {
	case undue:
		return
	case unsent:
		c.Due[due]++
		c.Failed[due]++
		return
	}
	left := (r.at + r.left) / c.bin
	c.Due[due]++
	c.Sent[left]++
	c.InFlight[left]++
	c.InFlight[answered]--
	good, refused, latencies := c.SyncOK, c.SyncShed, c.sync
	if r.isAsync {
		good, refused, latencies = c.Acked, c.AsyncShed, c.async
		c.addCallback(r, answered)
	}
	switch r.outcome {
	case shed:
		refused[answered]++
	case ok:
		good[answered]++
		latencies[due] = append(latencies[due], r.took)
	default:
		c.Failed[answered]++
	}
}

// addCallback counts in the backlog only callbacks that a receiver will take.
func (c *charting) addCallback(r *request, acked micros) {
	if r.outcome != ok || !r.kind.Delivers() {
		return
	}
	if r.taken == 0 {
		c.Backlog[acked]++
		return
	}
	due, called := r.at/c.bin, (r.at+r.called)/c.bin
	c.Delivered[called]++
	if called > acked {
		c.Backlog[acked]++
		c.Backlog[called]--
	}
	if r.kind.IsPrompt() {
		c.callback[due] = append(c.callback[due], r.called)
	}
}

// finish turns counts into rates, and changes into levels.
func (c *charting) finish() {
	for _, rate := range []Column{c.Due, c.Sent, c.SyncOK, c.Acked, c.Delivered, c.SyncShed, c.AsyncShed, c.Failed} {
		for i := range rate {
			rate[i] /= c.bin.duration().Seconds()
		}
	}
	for _, level := range []Column{c.InFlight, c.Backlog} {
		for i := 1; i < len(level); i++ {
			level[i] += level[i-1]
		}
	}
	c.Sync, c.Async, c.Callback = newBands(c.sync), newBands(c.async), newBands(c.callback)
}

func newBands(bins [][]micros) Bands {
	var b Bands
	for _, values := range bins {
		slices.Sort(values)
		b.P50 = append(b.P50, quantile(values, 0.5))
		b.P99 = append(b.P99, quantile(values, 0.99))
		b.Max = append(b.Max, quantile(values, 1))
	}
	return b
}

// quantile of sorted values, in milliseconds; not a number when there is none.
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

// Distribution has steps that get finer towards the slowest requests, down to a single
// request.
func (f *Findings) Distribution() Distribution {
	const step, most = 0.05, 5
	var d Distribution
	for i := range int(most/step) + 1 {
		nines := float64(i) * step
		d.Nines = append(d.Nines, nines)
		d.Sync = append(d.Sync, f.tally.sync.latency.atNines(nines))
		d.Async = append(d.Async, f.tally.async.latency.atNines(nines))
		d.Callback = append(d.Callback, f.tally.callback.atNines(nines))
	}
	return d
}

func (h *histogram) atNines(nines float64) float64 {
	slower := math.Pow(10, -nines)
	if float64(h.TotalCount())*slower < 1 {
		return math.NaN()
	}
	return h.millis(100 * (1 - slower))
}
