package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"ringback/db/dbtest"
)

// awaitRunning returns when the work job of a request is running.
func awaitRunning(t *testing.T, database, id string) {
	t.Helper()
	pool := dbtest.Pool(t, database)
	var state string
	until(t, func() bool {
		const sql = `SELECT work_job_state::text FROM request_trace WHERE request_id = $1 LIMIT 1`
		if err := pool.QueryRow(t.Context(), sql, id).Scan(&state); err != nil {
			t.Fatal(err)
		}
		return state == "running"
	}, func() string { return "a running job, it is " + state })
}

// postStored posts a sync request that is to be stored, and returns its id.
func (p *program) postStored(t *testing.T, body string) (id string) {
	t.Helper()
	call, err := http.NewRequest(http.MethodPost, p.url+"/sync", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	call.Header.Set("Content-Type", "application/json")
	call.Header.Set("Prefer", "respond-async")
	response, err := http.DefaultClient.Do(call)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	id, found := strings.CutPrefix(response.Header.Get("Location"), "/requests/")
	if !found || response.StatusCode != http.StatusAccepted {
		t.Fatalf("got %s at %q, want 202 with a Location", response.Status, response.Header.Get("Location"))
	}
	return id
}

// neverSilent makes all processes, dead or alive, look as if they beat: only their locks
// tell them apart.
func neverSilent(t *testing.T, database string) {
	t.Helper()
	if _, err := dbtest.Pool(t, database).Exec(t.Context(), "UPDATE processes SET beat_at = now() + interval '1 day'"); err != nil {
		t.Fatal(err)
	}
}

// River itself would take the jobs up after two minutes, for which no test here
// waits.
func TestKilledProcess(t *testing.T) {
	t.Parallel()

	t.Run("HasItsWorkDoneByTheNextSoon", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		first := startProcess(t, database, nil)
		r := newReceiver(t, nil)
		id := first.accept(t, `{"text":"x","delay_ms":1000}`, r.URL)
		awaitRunning(t, database, id)
		_ = first.process.Kill()
		<-first.ended
		neverSilent(t, database)
		second := startProcess(t, database, nil)
		r.next(t)
		second.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	})

	t.Run("HasItsStoredSyncWorkDoneByTheNext", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		first := startProcess(t, database, nil)
		id := first.postStored(t, `{"input":{"text":"x","delay_ms":1000}}`)
		awaitRunning(t, database, id)
		_ = first.process.Kill()
		<-first.ended
		neverSilent(t, database)
		second := startProcess(t, database, nil)
		got := second.waitFor(t, id, "success", func(r request) bool { return r.Status == "succeeded" })
		if len(got.Result) == 0 || got.CallbackState != "" {
			t.Errorf("got %+v, want the result and no callback", got)
		}
	})

	t.Run("HasItsCallbackSentByAnotherSoonForTheSameAttempt", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		first := startProcess(t, database, nil)
		started, release := make(chan struct{}), make(chan struct{})
		var calls atomic.Int64
		r := newReceiver(t, func(http.ResponseWriter, *http.Request) {
			if calls.Add(1) == 1 {
				close(started)
				<-release
			}
		})
		id := first.accept(t, `{"text":"x"}`, r.URL)
		<-started
		second := startProcess(t, database, nil)
		_ = first.process.Kill()
		<-first.ended
		neverSilent(t, database)
		close(release)
		last := second.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
		var charged int
		const sql = `SELECT callback_job_attempt FROM request_trace WHERE request_id = $1 LIMIT 1`
		err := dbtest.Pool(t, database).QueryRow(t.Context(), sql, id).Scan(&charged)
		if err != nil || charged != 1 || len(last.Attempts) != 1 {
			t.Errorf("got %d attempts charged, %v, and %+v, want one", charged, err, last)
		}
	})
}

// TestPausedProcessKeepsItsJobs until it has been silent for long: it keeps its lock.
func TestPausedProcessKeepsItsJobs(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	paused := startProcess(t, database, nil)
	t.Cleanup(func() { _ = paused.process.Signal(syscall.SIGCONT) })
	r := newReceiver(t, nil)
	kept := paused.accept(t, `{"text":"x","delay_ms":2000}`, r.URL)
	awaitRunning(t, database, kept)
	_ = paused.process.Signal(syscall.SIGSTOP)
	neverSilent(t, database)
	killed := startProcess(t, database, nil)
	id := killed.accept(t, `{"text":"x","delay_ms":1000}`, r.URL)
	awaitRunning(t, database, id)
	_ = killed.process.Kill()
	<-killed.ended
	neverSilent(t, database)
	other := startProcess(t, database, nil)
	other.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	_ = paused.process.Signal(syscall.SIGCONT)
	other.waitFor(t, kept, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	var runs int
	const sql = "SELECT work_job_attempt FROM request_trace WHERE request_id = $1"
	if err := dbtest.Pool(t, database).QueryRow(t.Context(), sql, kept).Scan(&runs); err != nil || runs != 1 {
		t.Errorf("got %d runs of the paused process's job, %v, want one", runs, err)
	}
}

func TestPausedProcessDoesNoHarmWhenItGoesOn(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	first := startProcess(t, database, nil)
	t.Cleanup(func() { _ = first.process.Signal(syscall.SIGCONT) })
	r := newReceiver(t, nil)
	id := first.accept(t, `{"text":"x","delay_ms":2000}`, r.URL)
	awaitRunning(t, database, id)
	_ = first.process.Signal(syscall.SIGSTOP)
	second := startProcess(t, database, nil)
	done := second.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	_ = first.process.Signal(syscall.SIGCONT)
	until(t, func() bool { // on a busy machine the process was paused before it had read its input
		return strings.Contains(first.log.String(), "work_finished") || strings.Contains(first.log.String(), "work_postponed")
	}, func() string { return "the paused process to end its work" })
	if err := first.waitStopped(t); err != nil {
		t.Errorf("the paused process ended with %v, want status 0", err)
	}
	after := second.get(t, id)
	if string(after.Result) != string(done.Result) || after.CallbackState != "delivered" || len(after.Attempts) != 1 {
		t.Errorf("got %+v, want it as before, %+v", after, done)
	}
}

func TestRollingRestartFailsNoCall(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	programs := make([]atomic.Pointer[program], 2)
	for i := range programs {
		programs[i].Store(startProcess(t, database, nil))
	}
	r := newReceiver(t, nil)
	over := make(chan struct{})
	var mu sync.Mutex
	acked := map[string]bool{}
	var callers sync.WaitGroup
	for n := range 8 {
		callers.Go(func() {
			for turn := n; ; turn++ {
				select {
				case <-over:
					return
				default:
				}
				body, key := asyncBody(`{"text":"x","delay_ms":20}`, r.URL), fmt.Sprintf("%d-%d", n, turn)
				status, answer, err := programs[turn%2].Load().postOnce("/async", body, key)
				if errors.Is(err, syscall.ECONNREFUSED) || answer.problem == "/problems/temporary-reduced-capacity" {
					continue // nobody there, or too busy a machine
				}
				if err != nil || status != http.StatusAccepted {
					t.Errorf("POST /async: got %d, %s, %v, want 202", status, answer.problem, err)
					continue
				}
				mu.Lock()
				acked[answer.ID] = true
				mu.Unlock()
			}
		})
	}
	acknowledged := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	for i := range programs {
		enough := acknowledged() + 100
		until(t, func() bool { return acknowledged() >= enough }, func() string { return "a hundred more" })
		old := programs[i].Load()
		if err := old.waitStopped(t); err != nil {
			t.Errorf("a process ended with %v, want status 0", err)
		}
		programs[i].Store(startProcess(t, database, nil))
	}
	close(over)
	callers.Wait()
	expectAll(t, r, acked)
	wantNothingCharged(t, database)
	expectPosts(t, r, database, 1)
}

// wantNothingCharged checks that each job was charged for the run that ended it, and for
// no interrupted run.
func wantNothingCharged(t *testing.T, database string) {
	t.Helper()
	pool := dbtest.Pool(t, database)
	var unsettled, charged int
	until(t, func() bool {
		const sql = `
			SELECT count(*) FILTER (WHERE state <> 'completed'), count(*) FILTER (WHERE attempt <> 1)
			FROM river_job`
		if err := pool.QueryRow(t.Context(), sql).Scan(&unsettled, &charged); err != nil {
			t.Fatal(err)
		}
		return unsettled == 0
	}, func() string { return "all jobs to be completed" })
	if charged != 0 {
		t.Errorf("got %d jobs with more than an attempt charged, want none", charged)
	}
}
