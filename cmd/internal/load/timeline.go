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

// leastBin is the unit of a bin's length. Most runs have some 120 bins.
const leastBin = 50 * time.Millisecond

// The columns of a timeline, beside at.
var (
	rates     = []string{"due", "sent", "sync_ok", "acked", "delivered", "sync_shed", "async_shed", "failed"}
	levels    = []string{"in_flight", "backlog"}
	latencies = []string{"sync", "async", "callback"}
)

// timeline is a timeline that is being filled.
type timeline struct {
	bin       time.Duration
	columns   map[string]Column
	latencies map[string][][]time.Duration // by bin
}

// Timeline is the run over time, in columns of equal length:
//   - at: seconds since the start of sending, at the start of each bin.
//   - Rates are per second, by when something happened: due, sent, sync_ok, acked, delivered,
//     sync_shed, async_shed, and failed (rejected, failed, ambiguous or unsent).
//   - Levels are at the end of each bin: in_flight (sent and not answered), and backlog
//     (acknowledged and not called back).
//   - Latencies are in milliseconds, by when the request was due: sync, async and callback,
//     each with _p50, _p99 and _max.
func (f *Findings) Timeline() map[string]Column {
	last := time.Duration(1) // when the last thing happened
	for _, request := range f.ledger.requests {
		last = max(last, request.at+max(request.took, request.called))
	}
	bin := max(leastBin, (last / 120).Round(leastBin))
	bins := int(last/bin) + 1
	t := &timeline{bin, map[string]Column{}, map[string][][]time.Duration{}}
	for _, name := range slices.Concat(rates, levels) {
		t.columns[name] = make(Column, bins)
	}
	for _, name := range latencies {
		t.latencies[name] = make([][]time.Duration, bins)
	}
	for _, request := range f.ledger.requests {
		t.add(request)
	}
	t.finish(bins)
	return t.columns
}

// count adds to a rate, or changes a level.
func (t *timeline) count(name string, at time.Duration, by float64) { t.columns[name][at/t.bin] += by }

// span raises a level for a time.
func (t *timeline) span(level string, from, to time.Duration) {
	t.count(level, from, 1)
	t.count(level, to, -1)
}

func (t *timeline) latency(name string, due, took time.Duration) {
	t.latencies[name][due/t.bin] = append(t.latencies[name][due/t.bin], took)
}

func (t *timeline) add(r request) {
	if r.outcome == undue {
		return
	}
	t.count("due", r.at, 1)
	if r.outcome == unsent {
		t.count("failed", r.at, 1)
		return
	}
	answered := r.at + r.took
	t.count("sent", r.at+r.sendDelay, 1)
	t.span("in_flight", r.at+r.sendDelay, answered)
	name, good := "sync", "sync_ok"
	if r.isAsync {
		name, good = "async", "acked"
	}
	switch r.outcome {
	case shed:
		t.count(name+"_shed", answered, 1)
	case ok:
		t.count(good, answered, 1)
		t.latency(name, r.at, r.took)
		t.addCallback(r, answered)
	default:
		t.count("failed", answered, 1)
	}
}

// addCallback counts in the backlog only callbacks that a receiver will take.
func (t *timeline) addCallback(r request, acked time.Duration) {
	if !r.isAsync || !r.kind.Delivers() {
		return
	}
	if r.taken == 0 {
		t.count("backlog", acked, 1)
		return
	}
	called := r.at + r.called
	t.count("delivered", called, 1)
	t.span("backlog", min(acked, called), called)
	if r.kind.IsPrompt() {
		t.latency("callback", r.at, r.called)
	}
}

// finish turns counts into rates, changes into levels, and latencies into their quantiles.
func (t *timeline) finish(bins int) {
	for bin := range bins {
		t.columns["at"] = append(t.columns["at"], float64(bin)*t.bin.Seconds())
		for _, name := range rates {
			t.columns[name][bin] /= t.bin.Seconds()
		}
		for _, name := range levels {
			if bin > 0 {
				t.columns[name][bin] += t.columns[name][bin-1]
			}
		}
		for _, name := range latencies {
			sorted := slices.Sorted(slices.Values(t.latencies[name][bin]))
			for quantile, share := range map[string]float64{"_p50": 0.5, "_p99": 0.99, "_max": 1} {
				t.columns[name+quantile] = append(t.columns[name+quantile], quantileOf(sorted, share))
			}
		}
	}
}

// quantileOf is a quantile of sorted values, in milliseconds; NaN without values.
func quantileOf(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	index := int(math.Ceil(share*float64(len(sorted)))) - 1
	return float64(sorted[max(0, index)].Microseconds()) / 1000
}

// Distribution is how long requests took, by percentile, in columns of equal length: nines (1
// is 90 %, 2 is 99 %, 3 is 99.9 %), and sync, async and callback in milliseconds. The
// percentiles get closer to each other towards the slowest request.
func (f *Findings) Distribution() map[string]Column {
	const step, most = 0.05, 5
	columns := map[string]Column{}
	for i := range int(most/step) + 1 {
		nines := float64(i) * step
		columns["nines"] = append(columns["nines"], nines)
		for name, of := range map[string]Quantiles{"sync": f.Sync.Latency, "async": f.Async.Latency, "callback": f.Async.TimeToCallback} {
			columns[name] = append(columns[name], of.atNines(nines))
		}
	}
	return columns
}

func (q *Quantiles) atNines(nines float64) float64 {
	slower := math.Pow(10, -nines)
	if float64(q.Count)*slower < 1 {
		return math.NaN()
	}
	return q.millis(100 * (1 - slower))
}
