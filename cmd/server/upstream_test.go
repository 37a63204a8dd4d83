package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ringback/db/dbtest"
	"ringback/jobs/webhook"
	"ringback/work/fingerprint"
)

// service is an HTTP service that does work, and may be away.
type service struct {
	*httptest.Server
	mu       sync.Mutex
	away     bool
	attempts map[string]int // that came, by key
	done     map[string]int
	failed   chan struct{} // holds something once an async attempt came while it was away
}

func newWorkService(t *testing.T) *service {
	t.Helper()
	s := &service{attempts: map[string]int{}, done: map[string]int{}, failed: make(chan struct{}, 1)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		s.mu.Lock()
		defer s.mu.Unlock()
		s.attempts[key]++
		if s.away {
			if r.Header.Get("Ringback-Mode") == "async" {
				select {
				case s.failed <- struct{}{}:
				default:
				}
			}
			panic(http.ErrAbortHandler) // breaks the connection
		}
		s.done[key]++
		fmt.Fprintf(w, `{"attempt": %q}`, r.Header.Get("Ringback-Attempt"))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *service) counts(key string) (attempts, done int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempts[key], s.done[key]
}

func TestWorkOfAnUpstreamOutlastsIt(t *testing.T) {
	t.Parallel()
	upstream := newWorkService(t)
	p := startHere(t, dbtest.New(t), map[string]string{"WORK_URL": upstream.URL + "/do", "WORK_SECRET": webhook.NewSecret()}, fingerprint.Do)
	r := newReceiver(t, nil)
	p.served(t, "/sync", `{"input":[1]}`, http.StatusOK)
	p.served(t, "/sync/fingerprint", `{"input":{"text":"x"}}`, http.StatusOK)
	upstream.setAway(true)
	var ids []string
	for range 20 {
		ids = append(ids, p.accept(t, `{"any":"input"}`, r.URL))
	}
	<-upstream.failed
	if status, _, err := p.post("/sync", `{"input":[1]}`); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("sync meanwhile: got %d, %v, want 503", status, err)
	}
	upstream.setAway(false)
	for range ids {
		r.next(t)
	}
	all := 0
	for _, id := range ids {
		got := p.waitFor(t, id, "success", func(r request) bool { return r.Status == "succeeded" })
		attempts, done := upstream.counts(id)
		failed := 0
		for _, event := range got.Timeline {
			if event.Event == fmt.Sprintf("work_attempt_%d_upstream_unreachable", failed+1) {
				failed++
			}
		}
		all += failed
		if done != 1 || attempts != failed+1 {
			t.Errorf("%s: done %d times in %d attempts, of which the timeline tells %d, want it done once and all told", id, done, attempts, failed)
		}
	}
	if all == 0 {
		t.Error("no request had an attempt that failed")
	}
}

func TestUpstreamThatIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	upstream := newWorkService(t)
	url := upstream.URL
	upstream.Close()
	p := startHere(t, dbtest.New(t), map[string]string{"WORK_URL": url}, fingerprint.Do)
	if status, _, err := p.post("/sync", `{"input":[1]}`); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("sync: got %d, %v, want 503", status, err)
	}
	p.accept(t, `{}`, newReceiver(t, nil).URL)
}

// TestWorkThatGoesOnOutlastsEveryProcess kills the process that began it.
func TestWorkThatGoesOnOutlastsEveryProcess(t *testing.T) {
	t.Parallel()
	finish := make(chan string, 10)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		finish <- r.Header.Get("Ringback-Finish")
	}))
	t.Cleanup(upstream.Close)
	database := dbtest.New(t)
	settings := map[string]string{"WORK_URL": upstream.URL, "WORK_SECRET": webhook.NewSecret()}
	first := startProcess(t, database, settings)
	r := newReceiver(t, nil)
	id := first.accept(t, `{"any":"input"}`, r.URL)
	address := <-finish
	path, here := strings.CutPrefix(address, first.url)
	if !here {
		t.Errorf("got %q, want it below %s", address, first.url)
	}
	pool := dbtest.Pool(t, database)
	until(t, func() (asleep bool) {
		const sql = "SELECT work_job_state = 'scheduled' FROM request_trace WHERE request_id = $1"
		if err := pool.QueryRow(t.Context(), sql, id).Scan(&asleep); err != nil {
			t.Fatal(err)
		}
		return asleep
	}, func() string { return "the job to sleep" })
	_ = first.process.Kill()
	<-first.ended
	second := startProcess(t, database, settings)
	until(t, func() bool { // a busy machine answers 503 meanwhile
		return second.report(t, path, `{"progress":{"percent":10,"of":"<b>"}}`) == http.StatusNoContent
	}, func() string { return "progress to be taken" })
	if _, page, _ := second.call(t, "GET", "/requests/"+id, nil, nil); !strings.Contains(page, "Goes on elsewhere") || !strings.Contains(page, "&#34;percent&#34;: 10") || strings.Contains(page, "<b>") {
		t.Errorf("got %s, want the progress as text", page)
	}
	if _, page, _ := second.call(t, "GET", "/requests", nil, nil); !strings.Contains(page, "runs elsewhere since ") {
		t.Errorf("got %s, want it to run", page)
	}
	if list := second.ask(t, "requests", "list"); !strings.Contains(list, "WORK") || !strings.Contains(list, " upstream  accepted (running) ") {
		t.Errorf("got %s, want it to run", list)
	}
	if shown := second.ask(t, "requests", "show", id); !strings.Contains(shown, "accepted (running)") || !strings.Contains(shown, "work goes on elsewhere") {
		t.Errorf("got %s, want it to run", shown)
	}
	if _, told, _ := second.call(t, "GET", "/requests/"+id+"/json", nil, nil); !strings.Contains(told, `"percent": 10`) || !strings.Contains(told, `"lost_at"`) {
		t.Errorf("got %s, want the progress", told)
	}
	if status := second.report(t, path, `{"result":[7]}`); status != http.StatusNoContent {
		t.Errorf("the result: got %d, want 204", status)
	}
	if _, page, _ := second.call(t, "GET", "/requests/"+id, nil, nil); strings.Contains(page, "Goes on elsewhere") {
		t.Errorf("got %s, want that nothing goes on", page)
	}
	if got := r.next(t); got.body.Type != "request.succeeded" || string(got.body.Data.Result) != "[7]" {
		t.Errorf("got %+v, want the result called back", got.body)
	}
	if status := second.report(t, path, `{"result":[8]}`); status != http.StatusGone {
		t.Errorf("again: got %d, want 410", status)
	}
	if len(finish) != 0 {
		t.Error("it was begun again")
	}
}

// report posts to the URL of an attempt, and returns the status.
func (p *program) report(t *testing.T, path, body string) int {
	t.Helper()
	response, err := http.Post(p.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func TestServicesThatCanNotTellWhoCallsAreToldAtStart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "works.json")
	works := `{"near": {"url": "http://127.0.0.1:9/"}, "signed": {"url": "http://192.0.2.1/", "secret": "` + webhook.NewSecret() + `"}, "far": {"url": "http://192.0.2.1/"}}`
	if err := os.WriteFile(file, []byte(works), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		settings map[string]string
		told     string
	}{
		{map[string]string{"WORKS": file}, "works=[far]"},
		{map[string]string{"WORKS": file, "WORK_URL": "http://192.0.2.1/"}, `works="[upstream far]"`},
		{map[string]string{"WORKS": file, "WORK_SECRET": webhook.NewSecret(), "WORK_URL": "http://192.0.2.1/"}, ""},
	} {
		log := startHere(t, dbtest.New(t), test.settings, fingerprint.Do).log.String()
		if warned := strings.Contains(log, "msg=calls_of_services_are_not_signed "+test.told); warned != (test.told != "") || strings.Contains(log, "192.0.2.1") {
			t.Errorf("%v: got %s, want %q", test.settings, log, test.told)
		}
	}
}
