package load

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

func TestLatencyCountsFromTheIntendedSendTime(t *testing.T) {
	t.Parallel()
	url := startService(t, 0)
	config := Defaults()
	config.Input = aText(t)
	config.Target, config.Rate, config.Length, config.Connections = url, 10, time.Second, 1
	config.Timeout = time.Hour
	storm, err := newRun(config, newClient(config))
	if err != nil {
		t.Fatal(err)
	}
	storm.ledger.start = time.Now().Add(-5 * time.Minute)
	if err := storm.engine.run(t.Context(), storm.send); err != nil {
		t.Fatal(err)
	}
	storm.drain()
	storm.ledger.close()
	report := storm.summarize(0)
	for name, got := range map[string]float64{
		"sync answer":     report.Sync.Latency.Max,
		"acknowledgement": report.Async.Latency.Max,
		"callback":        report.Async.TimeToCallback.Max,
		"departure":       report.Generator.SendDelay.Max,
		"handing over":    report.Generator.Late.Max,
	} {
		if got < 290_000 {
			t.Errorf("%s: got %v ms after the request was due, want five minutes", name, got)
		}
	}
	if report.Sync.Service.Max > 200_000 {
		t.Errorf("service time: got %v ms, want it to count from the departure", report.Sync.Service.Max)
	}
	if !report.IsLate() {
		t.Error("a generator that is five minutes behind doesn't say so")
	}
}

func TestResultsThatThereWasNoTimeToCompareAreCounted(t *testing.T) {
	t.Parallel()
	config := Defaults()
	config.Input, config.Target, config.Length = aText(t), startService(t, 0), 100*time.Millisecond
	config.Result = func(context.Context, []byte) (jsontext.Value, error) { return jsontext.Value("{}"), nil }
	storm, err := newRun(config, newClient(config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(storm.Close)
	found, err := storm.Do(t.Context())
	if err != nil || found.Async.Verified != 10 || found.Async.Unverified != 0 {
		t.Errorf("got %+v, %v, want 10 verified", found.Async, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range storm.ledger.requests {
		storm.ledger.requests[i].flags = 0
	}
	storm.verify(over)
	if got := storm.ledger.tally(measured{}).Async; got.Verified != 0 || got.Unverified != 10 {
		t.Errorf("without time: got %d verified and %d unverified, want 10 unverified", got.Verified, got.Unverified)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	url := startService(t, 2)
	config := Defaults()
	config.Input = aText(t)
	config.Target, config.Length, config.Drain = url, 200*time.Millisecond, 0
	storm, err := newRun(config, newClient(config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(storm.Close)
	if _, err := storm.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := storm.Snapshot(t.Context(), Snapshot{})
	if got.OK != 40 || got.Acked != 20 || got.Delivered != 19 || got.InFlight != 0 || got.Waiting != 0 || got.Remaining > 5*time.Millisecond { // the last request was due 5 ms before the end
		t.Errorf("got %+v, want 40 answered, 20 acknowledged and 19 delivered", got)
	}
	if most := storm.ledger.now(); got.Oldest <= 0 || got.Oldest > most {
		t.Errorf("oldest: got %v, want how long the second request has waited, up to %v", got.Oldest, most)
	}
}

func TestVerdictsFollowFromTheCounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		report Report
		want   string
		broken bool
	}{
		{"AllAnswered", Report{Sync: Endpoint{Sent: 9, OK: 9}}, "All 9 requests were answered as they should be.", false},
		{
			"SomeLost",
			Report{Sync: Endpoint{Sent: 9, OK: 5, Shed: 1, Failed: 2, Ambiguous: 1}},
			"Of 9 requests, 5 were answered as they should be, 1 were shed, 3 were rejected, failed or got no answer.", false,
		},
		{
			"MostLost",
			Report{Sync: Endpoint{Sent: 250, OK: 37, Ambiguous: 213}},
			"Broken: 213 of 250 requests were rejected, failed or got no answer.", true,
		},
		{
			"MostShed",
			Report{Sync: Endpoint{Sent: 250, OK: 37, Shed: 213}},
			"Of 250 requests, 37 were answered as they should be, 213 were shed.", false,
		},
		{"SomeLostBesidesCallbacks", Report{Sync: Endpoint{Sent: 9, OK: 8, Failed: 1}, Async: Async{
			Endpoint: Endpoint{Sent: 3, OK: 3}, Acked: 3, Delivered: 3,
		}}, "Kept its word: all 3 acknowledged requests were called back; 1 of 12 requests were rejected, failed or got no answer.", false},
	} {
		if got := test.report.Verdict(); got != test.want || len(test.report.Breaches()) > 0 != test.broken {
			t.Errorf("%s: got %q and %q, want %q, and broken: %v", test.name, got, test.report.Breaches(), test.want, test.broken)
		}
	}
}

// startService acts as Ringback, except that it never calls back the request forgotten.
func startService(t *testing.T, forgotten int64) (url string) {
	t.Helper()
	var count atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /sync", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"id":%q,"status":"succeeded","result":{}}`, uuid.New())
	})
	mux.HandleFunc("POST /async", func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			CallbackURL string `json:"callback_url"`
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		id := uuid.New()
		if count.Add(1) != forgotten {
			body := fmt.Sprintf(`{"type":"request.succeeded","data":{"id":%q,"status":"succeeded","result":{}}}`, id)
			response, err := http.Post(asked.CallbackURL, "application/json", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"id":%q,"status":"accepted"}`, id)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}
