package load

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is the result of a run. Its JSON is a contract: fields are added, never renamed, and
// never given another meaning. Rates are per second, fields that end in _s are seconds,
// fields that end in _ms milliseconds.
type Report struct {
	Server      string    `json:"server"` // the value of -target
	StartedAt   time.Time `json:"started_at"`
	DurationS   float64   `json:"duration_s"` // of sending
	DrainS      float64   `json:"drain_s"`    // from the end of sending until the last callback, or until -drain was over
	WarmupS     float64   `json:"warmup_s"`   // requests due during the warm-up are in the counts, and in no quantile
	Interrupted bool      `json:"interrupted"`

	Profile     string  `json:"profile"`
	Rate        float64 `json:"rate"`     // the value of -rate: the calm rate
	Arrivals    string  `json:"arrivals"` // constant or poisson
	Mix         string  `json:"mix"`
	Work        string  `json:"work"`
	Receivers   string  `json:"receivers"`
	Connections int     `json:"connections"`
	Seed        uint64  `json:"seed"`

	OfferedRate  float64 `json:"offered_rate"`  // requests due, sync and async
	AchievedRate float64 `json:"achieved_rate"` // requests sent, until the last request was sent
	Goodput      Goodput `json:"goodput"`

	Sync      Endpoint  `json:"sync"`
	Async     Async     `json:"async"`
	Generator Generator `json:"generator"`

	Objectives []Objective `json:"slo,omitempty"`
}

// Goodput is the successful requests while the load lasted.
type Goodput struct {
	Sync  float64 `json:"sync_per_s"`
	Async float64 `json:"async_per_s"`
}

// Endpoint is the requests to an endpoint. All requests that were due are sent + unsent, and
// sent is ok + shed + rejected + failed + ambiguous.
type Endpoint struct {
	Sent      int `json:"sent"`
	OK        int `json:"ok"`        // answered as it should be
	Shed      int `json:"shed"`      // 429 or 503: certainly not taken
	Rejected  int `json:"rejected"`  // any other 4xx
	Failed    int `json:"failed"`    // certainly not done
	Ambiguous int `json:"ambiguous"` // nothing tells whether the server took the request
	Unsent    int `json:"unsent"`    // due, but no connection was free in time

	// Reasons counts rejected, failed and ambiguous requests.
	Reasons map[string]int `json:"reasons,omitempty"`

	Latency Quantiles `json:"latency_ms"` // due to answered, of ok requests
	Service Quantiles `json:"service_ms"` // sent to answered, of ok requests
	Shedded Quantiles `json:"shed_ms"`    // due to answered, of shed requests

	// Goodput is the rate of ok requests (of async requests: delivered requests) while the
	// load lasted, after the warm-up.
	Goodput float64 `json:"goodput_per_s"`
}

// Async is about the async requests and their callbacks. Acked is
// delivered + dead + pending + missing.
type Async struct {
	Endpoint
	Acked          int       `json:"acked"`
	Delivered      int       `json:"delivered"`
	Dead           int       `json:"dead"`     // not called back, as expected: the receiver takes nothing
	Pending        int       `json:"pending"`  // not called back yet, as the server says: the receiver is slow or flaky
	Missing        int       `json:"missing"`  // not called back, without an excuse
	Attempts       int       `json:"attempts"` // POSTs that came for acknowledged requests; if none came at all, the attempts that the server reports
	Duplicates     int       `json:"duplicates"`
	Orphans        int       `json:"orphans"`             // callbacks of no request that the server took from this run
	Mismatched     int       `json:"mismatched"`          // delivered with a wrong id, body or result
	BadSignatures  int       `json:"bad_signatures"`      // called back with a missing or wrong signature
	SignaturesRead bool      `json:"signatures_read"`     // false without a secret: then bad_signatures is 0
	OutOfOrder     int       `json:"out_of_order"`        // called back after a later request of the same ordering key
	WorkFailed     int       `json:"work_failed"`         // called back to say that the work failed
	Unacknowledged int       `json:"unacknowledged"`      // ambiguous requests that were called back
	Verified       int       `json:"verified"`            // results computed again and compared
	Unverified     int       `json:"unverified"`          // results that there was no time to compare
	TimeToCallback Quantiles `json:"time_to_callback_ms"` // due to first delivery, at receivers that are ok or granting

	Kinds           map[string]*Kind `json:"receiver_kinds,omitempty"`
	MissingRequests []Undelivered    `json:"missing_requests,omitempty"` // a thousand at most
	PendingRequests []Undelivered    `json:"pending_requests,omitempty"` // likewise
}

// Kind is the requests with callbacks to receivers of one behaviour.
type Kind struct {
	Acked          int       `json:"acked"`
	Delivered      int       `json:"delivered"`
	Attempts       int       `json:"attempts"`
	TimeToCallback Quantiles `json:"time_to_callback_ms"`
}

// Generator is how well the load itself did.
type Generator struct {
	Late            Quantiles `json:"late_ms"`                         // due to handed to a worker: the generator's own fault
	SendDelay       Quantiles `json:"left_ms"`                         // due to sent: late_ms, and the wait for a free connection
	RateError       float64   `json:"rate_error_percent"`              // achieved against offered
	WorstRateError  float64   `json:"worst_second_rate_error_percent"` // requests handed over in a second, against those due
	CPUMicroseconds float64   `json:"cpu_us_per_request"`              // the receivers' included
	PeakMemory      float64   `json:"peak_memory_mib"`
}

// Quantiles are of durations, in milliseconds; all zero when count is zero.
type Quantiles struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
	Mean  float64 `json:"mean"`

	// recorded has three significant digits, in microseconds; nil where nothing was recorded.
	recorded *hdrhistogram.Histogram
}

func (q *Quantiles) record(duration time.Duration) {
	if q.recorded == nil {
		// A request may wait for a connection, then for its answer, and then for its callback.
		q.recorded = hdrhistogram.New(1, (4 * MaxDuration).Microseconds(), 3)
	}
	_ = q.recorded.RecordValue(duration.Microseconds()) // fails for a longer duration
}

// millis returns a percentile of what is recorded, in milliseconds.
func (q *Quantiles) millis(percentile float64) float64 {
	return float64(q.recorded.ValueAtPercentile(percentile)) / 1000
}

// close computes the quantiles of what was recorded.
func (q *Quantiles) close() {
	if q.recorded == nil {
		return
	}
	q.Count, q.Mean, q.Max = q.recorded.TotalCount(), q.recorded.Mean()/1000, q.millis(100)
	q.P50, q.P90, q.P95, q.P99, q.P999 = q.millis(50), q.millis(90), q.millis(95), q.millis(99), q.millis(99.9)
}

// Objective is whether an objective of -slo was met.
type Objective struct {
	Objective string  `json:"objective"`
	Measured  float64 `json:"measured"` // milliseconds, per cent, or a bare number
	Met       bool    `json:"met"`
	NoSample  bool    `json:"no_sample,omitempty"` // nothing was measured, so the objective isn't met
}

// String is the objective with the measured value.
func (o Objective) String() string {
	if o.NoSample {
		return o.Objective + " (nothing was measured)"
	}
	return fmt.Sprintf("%s (measured %.2f)", o.Objective, o.Measured)
}

// WriteJSON writes a report.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// Numbers are the numbers of a report by the names of their JSON fields, as in
// sync.latency_ms.p99.
func (r *Report) Numbers() map[string]float64 {
	numbers := make(map[string]float64)
	var collect func(name string, value any)
	collect = func(name string, value any) {
		switch value := value.(type) {
		case float64:
			numbers[name] = value
		case map[string]any:
			for field, of := range value {
				collect(strings.TrimPrefix(name+"."+field, "."), of)
			}
		}
	}
	encoded, _ := json.Marshal(r) // of numbers and texts
	var fields map[string]any
	_ = json.Unmarshal(encoded, &fields)
	collect("", fields)
	return numbers
}
