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
	id := p.served(t, "/async", `{"input":{"text":"x"},"delay":3600,"callback_url":"`+other.URL+`"}`, http.StatusAccepted).ID
	// Below the number of open files, so that it opens no more.
	if err := unix.Prlimit(p.process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "UPDATE river_job SET scheduled_at = now() WHERE scheduled_at > now()"); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		return strings.Contains(p.log.String(), "msg=callback_postponed request_id="+id) && strings.Contains(p.log.String(), "too many open files")
	}, func() string { return "the callback to be postponed" })
	if err := unix.Prlimit(p.process.Pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	got := p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if len(got.Attempts) != 1 || got.Attempts[0].HTTPStatus != http.StatusNoContent {
		t.Errorf("got attempts %+v, want the one that was made", got.Attempts)
	}
	if metrics := p.readMetrics(t); !strings.Contains(metrics, "\nringback_callback_origins_closed 0\n") {
		t.Error("a receiver is closed")
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(p.process.Pid)); err != nil {
		t.Errorf("the process ended: %v", err)
	}
}
