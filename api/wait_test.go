package api_test

import (
	"context"
	"net/http"
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/api"
	"ringback/db/dbtest"
	"ringback/jobs"
	"ringback/jobs/clients"
)

func TestWait(t *testing.T) {
	t.Parallel()

	t.Run("EndsWhenTheWorkEndsInAnotherProcess", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		created := s.call(t, "POST", "/async", asyncBody)
		answers := make(chan answer)
		for range 2 {
			go func() {
				got := s.call(t, "GET", created.header.Get("Location"), "", "Prefer", "respond-async, wait=10")
				for got.status == http.StatusServiceUnavailable { // on a busy machine
					got = s.call(t, "GET", created.header.Get("Location"), "", "Prefer", "respond-async, wait=10")
				}
				answers <- got
			}()
		}
		go func() { answers <- s.call(t, "POST", "/async", asyncBody, "Prefer", "Wait=99;x=1, wait=1") }()
		s.waitFor(t, "SELECT count(*) = 2 FROM requests")
		// The query for all callers that wait.
		s.waitFor(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%status <> ''accepted''' AND pid <> pg_backend_pid())")
		if _, err := s.pool.Exec(t.Context(), `
			UPDATE requests
			SET status = 'succeeded', result = '1', started_at = now(), finished_at = now(), callback_state = 'pending', callback_job_id = 1`); err != nil {
			t.Fatal(err)
		}
		applied := ""
		for range 3 {
			got := <-answers
			if got.status != http.StatusOK || !strings.Contains(string(got.body), `"status":"succeeded"`) {
				t.Errorf("got %d %s, want the request when it has ended", got.status, got.body)
			}
			applied += got.header.Get("Preference-Applied") // not of callers that came when it had ended
		}
		if !strings.Contains(applied, "wait=10") && !strings.Contains(applied, "wait=60") {
			t.Errorf("Preference-Applied: got %q, want that somebody waited", applied)
		}
	})

	t.Run("EndsInTimeWhereTheWorkDoesNot", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		got := s.call(t, "POST", "/async", asyncBody, "Prefer", "wait=1")
		decode[asyncAnswer](t, got, http.StatusAccepted)
		if got := s.call(t, "GET", got.header.Get("Location"), "", "Prefer", "wait=1"); got.status != http.StatusOK || !strings.Contains(string(got.body), `"status":"accepted"`) {
			t.Errorf("got %d %s, want it as it is", got.status, got.body)
		}
	})

	t.Run("EndsWhenTheRequestIsCancelledOrTheProcessStops", func(t *testing.T) {
		t.Parallel()
		var config *api.Config
		s := newService(t, func(c *api.Config) { config = c })
		queue := config.Queue
		for _, end := range []func(location string){
			func(location string) { s.call(t, "POST", location+"/cancel", "") },
			func(string) { queue.EndWaits() },
		} {
			location := s.call(t, "POST", "/async", asyncBody).header.Get("Location")
			got := make(chan answer)
			go func() { got <- s.call(t, "GET", location, "", "Prefer", "wait=60") }()
			end(location)
			select {
			case <-got:
			case <-time.After(dbtest.Patience):
				t.Fatal("it still waits")
			}
		}
		if got := s.call(t, "POST", "/async", asyncBody, "Prefer", "wait=60"); got.header.Get("Preference-Applied") != "" || got.status != http.StatusAccepted {
			t.Errorf("afterwards: got %d, applied %q, want it not to wait", got.status, got.header.Get("Preference-Applied"))
		}
	})

	for _, prefer := range []string{"wait", "wait=", "wait=x", "wait=0", "wait=-1", "wait=+5", "wait=\"5", "waiting=5", "x=\"y, wait=5\"", "respond-async"} {
		t.Run("IsNotDoneFor/"+prefer, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			if got := s.call(t, "POST", "/async", asyncBody, "Prefer", prefer); got.status != http.StatusAccepted || got.header.Get("Preference-Applied") != "" {
				t.Errorf("got %d, applied %q, want 202 at once", got.status, got.header.Get("Preference-Applied"))
			}
		})
	}
}

// No test runs beside it, since it measures the memory of the process.
func TestCallsThatWaitHoldNoRequest(t *testing.T) {
	const calls, each = 200, 250_000
	var queue *jobs.Queue
	s := newService(t, func(c *api.Config) { queue = c.Queue })
	location := s.call(t, "POST", "/async", asyncBody).header.Get("Location")
	if _, err := s.pool.Exec(t.Context(), "UPDATE requests SET input = to_json(repeat('x', $1))", each); err != nil {
		t.Fatal(err)
	}
	waiting := func() int { // places that nobody can take
		free := 0
		for {
			_, stop, ok := queue.Watch("", uuid.New())
			if !ok {
				return 1000 - free
			}
			defer stop()
			free++
		}
	}
	before := heap()
	ctx, hangUp := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	defer ended.Wait()
	defer hangUp()
	for n := range calls {
		ended.Go(func() {
			for ctx.Err() == nil { // again on a busy machine, which refuses the first read
				request, _ := http.NewRequestWithContext(ctx, "GET", s.url+location, nil)
				request.Header.Set("Prefer", "wait=60")
				if response, err := http.DefaultClient.Do(request); err == nil {
					response.Body.Close()
				}
			}
		})
		for waiting() <= n {
			runtime.Gosched()
		}
	}
	if grown := heap() - before; grown > calls*each/2 {
		t.Errorf("%d calls that wait for a request of %d bytes take %d bytes, want that they don't hold it", calls, each, grown)
	}
}

// heap is the memory in use.
func heap() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

func TestWaitsOfAClientLeavePlacesToOthers(t *testing.T) {
	t.Parallel()
	var queue *jobs.Queue
	s := newService(t, func(c *api.Config) {
		keyed(map[string]string{"m-key": "mallory", "a-key": "alice"})(c)
		queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 100, Limits: func(string) clients.Limits { return clients.Limits{Unfinished: 10} }})
		c.Queue = queue
	})
	hers := s.call(t, "POST", "/async", asyncBody, "Authorization", "Bearer m-key").header.Get("Location")
	taken := 0
	for {
		_, stop, ok := queue.Watch("mallory", uuid.MustParse(path.Base(hers)))
		if !ok {
			break
		}
		defer stop()
		taken++
	}
	if taken < 500 {
		t.Errorf("one client alone: got %d slots, want most of a thousand", taken)
	}
	if got := s.call(t, "GET", hers, "", "Authorization", "Bearer m-key", "Prefer", "wait=60"); got.status != http.StatusOK || got.header.Get("Preference-Applied") != "" {
		t.Errorf("one more: got %d, applied %q, want it not to wait", got.status, got.header.Get("Preference-Applied"))
	}
	if got := s.call(t, "POST", "/async", asyncBody, "Authorization", "Bearer a-key", "Prefer", "wait=1"); got.status != http.StatusAccepted || got.header.Get("Preference-Applied") != "wait=1" {
		t.Errorf("another client: got %d, applied %q, want that it may wait", got.status, got.header.Get("Preference-Applied"))
	}
}
