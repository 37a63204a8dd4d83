package main

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ringback/db/dbtest"
)

// A process that is out of open files can't call, which is no receiver's doing.
func TestShortageOfFilesIsNotCharged(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := dbtest.Pool(t, database)
	p := startProcess(t, database, nil)
	met, other := newReceiver(t, nil), newReceiver(t, nil)
	p.waitFor(t, p.accept(t, `{"text":"x"}`, met.URL), "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	until(t, func() bool { return strings.Contains(p.readMetrics(t), "ringback_jobs_running 0") }, func() string { return "the jobs to end" })

	var before unix.Rlimit
	if err := unix.Prlimit(p.process.Pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	// Accepted before, since no connection is taken during the shortage.
	later := `{"input":{"text":"x"},"delay":3600,"callback_url":"` + other.URL + `"}`
	id, old := p.served(t, "/async", later, http.StatusAccepted).ID, p.served(t, "/async", later, http.StatusAccepted).ID
	// Below the number of open files, so that it opens no more.
	if err := unix.Prlimit(p.process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "UPDATE river_job SET scheduled_at = now() WHERE scheduled_at > now()"); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		return strings.Contains(p.log.String(), "msg=callback_postponed") && strings.Contains(p.log.String(), "too many open files")
	}, func() string { return "the callback to be postponed" })
	until(t, func() (isDead bool) {
		if _, err := pool.Exec(t.Context(), "UPDATE requests SET finished_at = now() - interval '49 hours' WHERE id = $1 AND callback_state = 'pending'", old); err != nil {
			t.Fatal(err)
		}
		if err := pool.QueryRow(t.Context(), "SELECT callback_state = 'dead' FROM requests WHERE id = $1", old).Scan(&isDead); err != nil {
			t.Fatal(err)
		}
		return isDead
	}, func() string { return "a callback that is too old to end" })
	if err := unix.Prlimit(p.process.Pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	got := p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if len(got.Attempts) != 1 || got.Attempts[0].HTTPStatus != http.StatusNoContent {
		t.Errorf("got attempts %+v, want the one that was made", got.Attempts)
	}
	metrics := p.readMetrics(t)
	if !strings.Contains(metrics, "\nringback_callback_origins_closed 0\n") {
		t.Error("a receiver is closed")
	}
	if strings.Contains(metrics, `ringback_faults_total{step="callback"} 0`) {
		t.Error("the shortage is not counted")
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(p.process.Pid)); err != nil {
		t.Errorf("the process ended: %v", err)
	}
}
