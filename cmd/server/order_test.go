package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"

	"ringback/api/contract"
	"ringback/db/dbtest"
)

// TestOrderAcrossProcesses has two real processes call back flaky receivers, and compares
// the order of callbacks with the order of acknowledgements.
func TestOrderAcrossProcesses(t *testing.T) {
	t.Parallel()
	const keys, perKey = 6, 5
	database := dbtest.New(t)
	processes := []*program{startProcess(t, database, nil), startProcess(t, database, nil)}
	r := newOrderedReceiver(t)
	var callers sync.WaitGroup
	for key := range keys {
		callers.Go(func() {
			for n := range perKey { // each call goes to another process than its predecessor
				r.accept(t, processes[(key+n)%2], fmt.Sprint("key ", key), n)
			}
		})
	}
	callers.Wait()
	pool := dbtest.Pool(t, database)
	until(t, func() bool {
		var held, left int
		// A first callback that is held back would be so for good.
		const sql = `
			SELECT count(*) FILTER (WHERE callback_job_state = 'pending'), count(*)
			FROM (SELECT DISTINCT ON (client, ordering_key) * FROM ordered_requests ORDER BY client, ordering_key, seq) AS first
			JOIN request_trace USING (request_id)`
		if err := pool.QueryRow(t.Context(), sql).Scan(&held, &left); err != nil || held > 0 {
			t.Fatalf("got %d keys whose first callback is held back, %v, want none", held, err)
		}
		return left == 0
	}, r.String)
	r.check(t, keys, perKey)
}

// orderedReceiver fails every fifth callback once.
type orderedReceiver struct {
	url string

	mu       sync.Mutex
	accepted map[string][]string // ids by ordering key, as they were acknowledged
	taken    map[string][]string // ids by ordering key, as they were delivered
	sequence map[string]int64    // the last of each key
	under    map[string]string   // the id of each key whose callback is under way
	failed   map[string]bool     // by id
	wrong    []string
}

// orderedCallback is the part of a callback that the receiver reads.
type orderedCallback struct {
	Data struct {
		ID          string `json:"id"`
		OrderingKey string `json:"ordering_key"`
		Sequence    int64  `json:"sequence"`
	} `json:"data"`
}

func newOrderedReceiver(t *testing.T) *orderedReceiver {
	t.Helper()
	r := &orderedReceiver{
		accepted: map[string][]string{}, taken: map[string][]string{}, sequence: map[string]int64{},
		under: map[string]string{}, failed: map[string]bool{},
	}
	server := httptest.NewServer(contract.Receiver(t, r.ServeHTTP))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// accept has the nth request of a key accepted. A busy machine may refuse it; the
// idempotency key makes the calls one request.
func (r *orderedReceiver) accept(t *testing.T, p *program, key string, n int) {
	// The earlier requests work longer, so that later requests wait for them.
	body := fmt.Sprintf(`{"input":{"text":"x","delay_ms":%d},"callback_url":%q,"ordering_key":%q}`, 50-10*n%50, r.url, key)
	status, answer, err := http.StatusServiceUnavailable, request{}, error(nil)
	for status == http.StatusServiceUnavailable && err == nil && t.Context().Err() == nil {
		status, answer, err = p.postOnce("/async", body, fmt.Sprint(key, n))
	}
	if err != nil || status != http.StatusAccepted {
		t.Errorf("POST /async: got %d, %v, want 202", status, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted[key] = append(r.accepted[key], answer.ID)
}

func (r *orderedReceiver) ServeHTTP(w http.ResponseWriter, call *http.Request) {
	var callback orderedCallback
	body, err := io.ReadAll(call.Body)
	if err == nil {
		err = json.Unmarshal(body, &callback)
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	data := callback.Data
	if !r.enter(data.ID, data.OrderingKey, data.Sequence) {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// enter tells whether a callback is taken, and notes it where it may not have
// come yet.
func (r *orderedReceiver) enter(id, key string, sequence int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if open := r.under[key]; open != "" && open != id {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: %s came while %s was still to be delivered", key, id, open))
	}
	if sequence%5 == 0 && !r.failed[id] {
		r.failed[id], r.under[key] = true, id
		return false
	}
	delete(r.under, key)
	if sequence <= r.sequence[key] {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: sequence %d came after %d", key, sequence, r.sequence[key]))
	}
	r.sequence[key] = sequence
	r.taken[key] = append(r.taken[key], id)
	return true
}

func (r *orderedReceiver) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("all of %v; taken are %v", r.accepted, r.taken)
}

func (r *orderedReceiver) check(t *testing.T, keys, perKey int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, wrong := range r.wrong {
		t.Error(wrong)
	}
	if len(r.taken) != keys || len(r.failed) == 0 {
		t.Errorf("got callbacks of %d keys, %d of them failed once, want %d keys, and some failed", len(r.taken), len(r.failed), keys)
	}
	for key, want := range r.accepted {
		if got := r.taken[key]; len(want) != perKey || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v, as they were accepted", key, got, want)
		}
	}
}
