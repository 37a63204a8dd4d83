package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// Each of these boots the real program and holds it to a sentence of README.

func TestSyncAnswersInline(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	answer := p.served(t, "/sync", `{"input":{"text":"hello"}}`, http.StatusOK)
	if answer.Status != "succeeded" {
		t.Fatalf("got %+v, want success", answer)
	}
	if stored := p.get(t, answer.ID); string(stored.Result) != string(answer.Result) || stored.Status != "succeeded" {
		t.Errorf("stored: got %+v, want what was answered, %+v", stored, answer)
	}
}

func TestAsyncIsCalledBackOnceWithTheSyncResult(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	r := newReceiver(t, nil)
	const input = `{"text":"hello <world> & é","rounds":3}`
	synchronous := p.served(t, "/sync", `{"input":`+input+`}`, http.StatusOK)
	id := p.accept(t, input, r.URL+"/hook?a=b")
	got := r.next(t)
	if got.path != "/hook?a=b" || got.header.Get("Webhook-Id") != "req_"+id || got.header.Get("Webhook-Timestamp") == "" {
		t.Errorf("callback: got %q, %v, want the given path and the request's id", got.path, got.header)
	}
	if got.body.Type != "request.succeeded" || got.body.Data.ID != id || string(got.body.Data.Result) != string(synchronous.Result) {
		t.Errorf("callback: got %+v, want the result %s", got.body, synchronous.Result)
	}
	last := p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if len(last.Attempts) != 1 || last.Attempts[0].Outcome != "delivered" || len(r.deliveries) != 0 {
		t.Errorf("got %+v and %d more callbacks, want one attempt", last, len(r.deliveries))
	}
}

func TestReceiverThatIsDownGetsItsCallbackWhenItIsUp(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	r := newReceiver(t, nil)
	addr := r.Listener.Addr().String()
	r.Close()
	id := p.accept(t, `{"text":"x"}`, "http://"+addr+"/")
	p.waitFor(t, id, "a failed attempt", func(r request) bool {
		return len(r.Attempts) > 0 && r.Attempts[0].Outcome == "connection_failed" && r.CallbackState == "pending"
	})
	again := &receiver{deliveries: make(chan delivery, 10), came: map[string]int{}}
	again.Server = httptest.NewUnstartedServer(again.handler(t, nil))
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	again.Listener.Close()
	again.Listener = listener
	again.Start()
	t.Cleanup(again.Close)
	if got := again.next(t); got.header.Get("Webhook-Id") != "req_"+id {
		t.Errorf("got %v, want the callback of %s", got.header, id)
	}
	p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
}

func TestReceiverThatIsGoneIsADeadLetterAtOnce(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	id := p.accept(t, `{"text":"x"}`, r.URL)
	last := p.waitFor(t, id, "dead", func(r request) bool { return r.CallbackState == "dead" })
	if len(last.Attempts) != 1 || last.Attempts[0].Outcome != "gone" || last.Status != "succeeded" {
		t.Errorf("got %+v, want one attempt that found it gone", last)
	}
}

func TestRetryAfterIsObeyedAndChargesNoAttempt(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	times := make(chan time.Time, 10)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		times <- time.Now()
		if len(times) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	id := p.accept(t, `{"text":"x"}`, r.URL)
	last := p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if len(last.Attempts) != 2 || last.Attempts[0].Outcome != "throttled" || last.Attempts[0].HTTPStatus != 429 {
		t.Errorf("got %+v, want a throttled attempt and a delivered one", last)
	}
	if gap := -(<-times).Sub(<-times); gap < time.Second {
		t.Errorf("came back after %v, want no earlier than the second it was told", gap)
	}
	var charged int
	const sql = `SELECT callback_job_attempt FROM request_trace WHERE request_id = $1 LIMIT 1`
	if err := dbtest.Pool(t, database).QueryRow(t.Context(), sql, id).Scan(&charged); err != nil || charged != 1 {
		t.Errorf("attempts charged: got %d, %v, want 1", charged, err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	target := newReceiver(t, nil)
	r := newReceiver(t, func(w http.ResponseWriter, call *http.Request) {
		http.Redirect(w, call, target.URL, http.StatusTemporaryRedirect)
	})
	id := p.accept(t, `{"text":"x"}`, r.URL)
	last := p.waitFor(t, id, "an attempt", func(r request) bool { return len(r.Attempts) > 0 })
	if last.Attempts[0].Outcome != "http_status" || last.Attempts[0].HTTPStatus != 307 || last.CallbackState != "pending" {
		t.Errorf("got %+v, want a failed attempt with status 307", last)
	}
	if len(target.deliveries) != 0 {
		t.Error("the redirect was followed")
	}
}

func TestBrokenReceiversDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	hang := make(chan struct{})
	broken := map[string]http.HandlerFunc{
		"never answers": func(w http.ResponseWriter, _ *http.Request) { <-hang },
		"resets": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		},
		"answers garbage": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			fmt.Fprint(conn, "I am not HTTP\r\n\r\n")
			conn.Close()
		},
		"fails": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	}
	ids := map[string]string{}
	for what, answer := range broken {
		ids[what] = p.accept(t, `{"text":"x"}`, newReceiver(t, answer).URL)
	}
	t.Cleanup(func() { close(hang) }) // before the receivers wait for their calls
	good := newReceiver(t, nil)
	id := p.accept(t, `{"text":"x"}`, good.URL)
	if got := good.next(t); got.header.Get("Webhook-Id") != "req_"+id {
		t.Errorf("got %v, want the callback of %s", got.header, id)
	}
	for _, what := range []string{"resets", "answers garbage", "fails"} {
		last := p.waitFor(t, ids[what], "an attempt", func(r request) bool { return len(r.Attempts) > 0 })
		if last.CallbackState != "pending" {
			t.Errorf("receiver that %s: got %+v, want it retried", what, last)
		}
	}
}

func TestReceiverThatHangsLeavesWorkersForOthers(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), map[string]string{"WORKERS": "8"}, fingerprint.Do)
	release := make(chan struct{})
	hanging := newReceiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	var last string
	for range 40 { // five times the workers
		last = p.accept(t, `{"text":"x"}`, hanging.URL)
	}
	p.waitFor(t, last, "the work", func(r request) bool { return r.Status == "succeeded" })
	good := newReceiver(t, nil)
	p.accept(t, `{"text":"x"}`, good.URL)
	good.next(t)
	if got := p.get(t, last); len(got.Attempts) != 0 {
		t.Errorf("got %+v: the good receiver had to wait for the hanging one", got)
	}
}

func TestPanicInTheWorkIsAFailedRequest(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, func(context.Context, jsontext.Value) (jsontext.Value, error) { panic("boom") })
	r := newReceiver(t, nil)
	id := p.accept(t, `{"text":"x"}`, r.URL)
	got := r.next(t)
	if got.body.Type != "request.failed" || got.body.Data.Error.Code != "panic" || got.body.Data.ID != id {
		t.Errorf("callback: got %+v, want request.failed with code panic", got.body)
	}
	if last := p.get(t, id); last.Status != "failed" || last.Error.Code != "panic" {
		t.Errorf("got %+v, want it failed", last)
	}
}

func TestWorkInterruptedByARestartIsDoneByTheNextProcess(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	first := startProcess(t, database, map[string]string{"STOP_TIMEOUT": "10ms"})
	r := newReceiver(t, nil)
	id := first.accept(t, `{"text":"x","delay_ms":2000}`, r.URL)
	pool := dbtest.Pool(t, database)
	var state string
	var attempt int
	job := func() {
		const sql = `SELECT work_job_state::text, work_job_attempt FROM request_trace WHERE request_id = $1 LIMIT 1`
		if err := pool.QueryRow(t.Context(), sql, id).Scan(&state, &attempt); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { job(); return state == "running" }, func() string { return "a running job, it is " + state })
	if err := first.waitStopped(t); err != nil {
		t.Errorf("the first process ended with %v, want status 0", err)
	}
	if job(); state != "available" || attempt != 0 {
		t.Errorf("job after the stop: got %s with %d attempts charged, want available with none", state, attempt)
	}
	startProcess(t, database, nil)
	if got := r.next(t); got.body.Data.ID != id {
		t.Errorf("got %+v, want the callback of %s", got.body, id)
	}
}

func TestKillLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	// It only accepts, so that all work is still to be done when it dies.
	first := startProcess(t, database, nil, "--role=api")
	r := newReceiver(t, nil)
	acked := storm(t, first, r.URL, func(acked int) {
		if acked == 100 {
			_ = first.process.Kill()
		}
	})
	startProcess(t, database, nil, "--role=worker")
	expectAll(t, r, acked)
}

func TestStopInAStormLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	first := startProcess(t, database, nil)
	r := newReceiver(t, nil)
	acked := storm(t, first, r.URL, func(acked int) {
		if acked == 100 {
			_ = first.process.Signal(os.Interrupt)
		}
	})
	<-first.ended
	if first.err != nil {
		t.Errorf("the process ended with %v, want status 0", first.err)
	}
	startProcess(t, database, nil)
	expectAll(t, r, acked)
}

// Beyond its capacity the service refuses each call with a reason and a time to come back,
// and does all that it acknowledged.
func TestStormBeyondTheCapacityLosesNothing(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	open := sync.OnceFunc(func() { close(release) })
	t.Cleanup(open)
	p := startHere(t, dbtest.New(t), map[string]string{"UNFINISHED_LIMIT": "20", "WORK_LIMIT": "2"}, func(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
		<-release
		return fingerprint.Do(ctx, input)
	})
	r := newReceiver(t, nil)
	var mu sync.Mutex
	acked, refused := map[string]bool{}, map[string]int{} // the latter by path
	post := func(path, body string) {
		answer, err := http.Post(p.url+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		var told struct{ ID, Type, Detail string }
		if err := json.NewDecoder(answer.Body).Decode(&told); err != nil {
			t.Errorf("POST %s: %v", path, err)
		}
		after, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		reason := map[string]string{"/sync": "Too many sync requests are under way.", "/async": "Too many requests are unfinished."}[path]
		mu.Lock()
		defer mu.Unlock()
		switch {
		case answer.StatusCode == http.StatusAccepted:
			acked[told.ID] = true
		case answer.StatusCode == http.StatusOK:
		case answer.StatusCode == http.StatusServiceUnavailable && err == nil && after > 0 && strings.HasPrefix(told.Detail, reason):
			refused[path]++
		default:
			t.Errorf("POST %s: got %s with Retry-After %q and %+v, want it done, or 503 with a time and %q", path, answer.Status, answer.Header.Get("Retry-After"), told, reason)
		}
	}
	var async, sync sync.WaitGroup
	for range 8 {
		sync.Go(func() { post("/sync", `{"input":{"text":"x"}}`) })
		async.Go(func() {
			for range 10 {
				post("/async", asyncBody(`{"text":"x"}`, r.URL))
			}
		})
	}
	async.Wait()
	until(t, func() bool { mu.Lock(); defer mu.Unlock(); return refused["/sync"] == 6 }, func() string { return "six of eight sync calls to be refused" })
	// Requests that are written while the unfinished ones are counted may count twice, until
	// the next count.
	calls := 80
	until(t, func() bool {
		if len(acked) >= 20 {
			return true
		}
		post("/async", asyncBody(`{"text":"x"}`, r.URL))
		calls++
		return false
	}, func() string {
		return fmt.Sprintf("as many requests to be acknowledged as may be unfinished, %d are", len(acked))
	})
	if len(acked) != 20 || len(acked)+refused["/async"] != calls {
		t.Errorf("got %d acknowledged and %d refused, want 20 of %d acknowledged, and the others refused", len(acked), refused["/async"], calls)
	}
	p.awaitMetric(t, `ringback_http_refusals_total{reason="sync"} 6`)
	p.awaitMetric(t, fmt.Sprintf(`ringback_http_refusals_total{reason="unfinished"} %d`, refused["/async"]))
	open()
	sync.Wait()
	expectAll(t, r, acked)
}

// storm posts async requests from eight callers until the program is gone,
// and returns the ids that were acknowledged. It tells after each how many
// there are.
func storm(t *testing.T, p *program, callbackURL string, told func(acked int)) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	acked := map[string]bool{}
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for n := 0; n < 10_000; n++ {
				status, answer, err := p.post("/async", asyncBody(`{"text":"x"}`, callbackURL))
				if err != nil {
					return // it is gone
				}
				mu.Lock()
				if status == http.StatusAccepted {
					acked[answer.ID] = true
					told(len(acked))
				}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	if len(acked) < 100 {
		t.Fatalf("got %d requests acknowledged, want at least 100", len(acked))
	}
	return acked
}

// expectAll waits until every acknowledged request was called back.
func expectAll(t *testing.T, r *receiver, acked map[string]bool) {
	t.Helper()
	missing := len(acked)
	for missing > 0 {
		id := strings.TrimPrefix(r.next(t).header.Get("Webhook-Id"), "req_")
		if acked[id] {
			acked[id] = false
			missing--
		}
	}
}

// expectPosts wants the attempt log to hold each POST that the receiver got, and no callback to
// have come more often than most, once all are settled.
func expectPosts(t *testing.T, r *receiver, database string, most int) {
	t.Helper()
	pool := dbtest.Pool(t, database)
	until(t, func() (isSettled bool) {
		const sql = "SELECT NOT EXISTS (SELECT FROM requests WHERE callback_state IN ('waiting', 'pending'))"
		if err := pool.QueryRow(t.Context(), sql).Scan(&isSettled); err != nil {
			t.Fatal(err)
		}
		return isSettled
	}, func() string { return "all to be settled" })
	rows, err := pool.Query(t.Context(), "SELECT request_id::text, count(*) FROM callback_attempts GROUP BY request_id")
	if err != nil {
		t.Fatal(err)
	}
	logged := map[string]int{}
	var id string
	var count int
	if _, err := pgx.ForEachRow(rows, []any{&id, &count}, func() error { logged[id] = count; return nil }); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(r.came, logged); diff != "" {
		t.Errorf("POSTs by request, and those in the attempt log, differ:\n%s", diff)
	}
	for id, count := range r.came {
		if count > most {
			t.Errorf("the callback of %s came %d times, want %d at most", id, count, most)
		}
	}
}

func TestDatabaseOutageIsAnsweredWith503AndEndsByItself(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	proxy, through := dbtest.NewProxy(t, database)
	started, called, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	start, call := sync.OnceFunc(func() { close(started) }), sync.OnceFunc(func() { close(called) })
	p := startHere(t, through, nil, func(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
		if strings.Contains(string(input), "slow") {
			start()
			<-release
		}
		return fingerprint.Do(ctx, input)
	})
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		call()
		<-release
		w.WriteHeader(http.StatusNoContent)
	})
	atTheReceiver := p.accept(t, `{"text":"x"}`, r.URL)
	<-called
	inTheWork := p.accept(t, `{"text":"slow"}`, r.URL)
	<-started
	proxy.Refuse()
	for path, body := range map[string]string{
		"/sync":  `{"input":{"text":"x"}}`,
		"/async": asyncBody(`{"text":"x"}`, r.URL),
	} {
		if status, _, err := p.post(path, body); err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("POST %s during the outage: got %d, %v, want 503", path, status, err)
		}
	}
	close(release)
	p.awaitMetric(t, `ringback_answers_in_hand 2`) // the outcome and the receiver's answer meet no database
	proxy.Pass()
	p.awaitStatus(t, "/healthz", http.StatusOK)
	until(t, func() bool {
		status, _, err := p.post("/sync", `{"input":{"text":"x"}}`)
		return err == nil && status == http.StatusOK
	}, func() string { return "a sync answer after the outage" })
	after := p.accept(t, `{"text":"x"}`, r.URL)
	expectAll(t, r, map[string]bool{atTheReceiver: true, inTheWork: true, after: true})
	expectPosts(t, r, database, 1)
}

func TestAdminPages(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	call := func(method, path string, change func(*http.Request)) *http.Response {
		t.Helper()
		request, err := http.NewRequest(method, p.adminURL+path, strings.NewReader(`{"ids":["1"]}`))
		if err != nil {
			t.Fatal(err)
		}
		change(request)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response
	}
	tests := []struct {
		name, method, path string
		change             func(*http.Request)
		want               int
	}{
		{"RiverUI", "GET", "/riverui/", func(*http.Request) {}, 200},
		{"RiverUIsQueues", "GET", "/riverui/api/queues?limit=10", func(*http.Request) {}, 200},
		{"Metrics", "GET", "/metrics", func(*http.Request) {}, 200},
		{"Pprof", "GET", "/debug/pprof/", func(*http.Request) {}, 200},
		{
			"PageOfAnotherOriginMayNotCancel", "POST", "/riverui/api/jobs/cancel",
			func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403,
		},
		{"AnotherNameIsRefused", "GET", "/riverui/", func(r *http.Request) { r.Host = "rebound.example" }, 403},
		{
			"PageOfAnotherOriginMayNotProfile", "GET", "/debug/pprof/heap?gc=1",
			func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403,
		},
		{
			"PageOfAnotherPortMayNotProfile", "GET", "/debug/pprof/heap?gc=1",
			func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403,
		},
		{"AnotherNameReadsNoMetrics", "GET", "/metrics", func(r *http.Request) { r.Host = "rebound.example" }, 403},
		{
			"AnotherNameIsRefusedByTheLocalAPI", "GET", "/requests",
			func(r *http.Request) { r.URL.Host, r.Host = strings.TrimPrefix(p.url, "http://"), "rebound.example" }, 403,
		},
		{
			"PageOfAnotherOriginMayNotCancelInLocalMode", "POST", "/requests/01a20bd7-2978-722f-bf9b-7fdc9ae0399b/cancel",
			func(r *http.Request) {
				r.URL.Host = strings.TrimPrefix(p.url, "http://")
				r.Host = r.URL.Host
				r.Header.Set("Sec-Fetch-Site", "cross-site")
			}, 403,
		},
		{"PublicListenerHasNoMetrics", "GET", "/metrics", func(r *http.Request) { r.URL.Host = strings.TrimPrefix(p.url, "http://") }, 404},
		{"PublicListenerHasNone", "GET", "/riverui/", func(r *http.Request) { r.URL.Host = strings.TrimPrefix(p.url, "http://") }, 404},
	}
	for _, test := range tests {
		if got := call(test.method, test.path, test.change).StatusCode; got != test.want {
			t.Errorf("%s: %s %s: got %d, want %d", test.name, test.method, test.path, got, test.want)
		}
	}
}

func TestAdminPagesAreNotFramed(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	response, err := http.Get(p.adminURL + "/riverui/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if policy := response.Header.Get("Content-Security-Policy"); policy != "frame-ancestors 'none'" || response.Header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("got %v, want headers that forbid frames", response.Header)
	}
}

func TestMetricsHaveAnAddressOfTheirOwn(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), map[string]string{"METRICS_ADDR": "127.0.0.1:0"}, fingerprint.Do)
	match := regexp.MustCompile(`msg=metrics addr=(\S+)`).FindStringSubmatch(p.log.String())
	if match == nil {
		t.Fatalf("the log tells no address of metrics:\n%s", &p.log)
	}
	for path, want := range map[string]int{"/metrics": 200, "/riverui/": 404, "/debug/pprof/": 404, "/healthz": 404, "/": 404} {
		request, err := http.NewRequest(http.MethodGet, "http://"+match[1]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = "ringback.example" // as a scraper elsewhere calls it
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, response.StatusCode, want)
		}
	}
}
