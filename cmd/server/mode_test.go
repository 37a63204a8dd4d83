package main

import (
	"io"
	"strings"
	"testing"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// A process in local mode would take the jobs of clients whose callbacks it can't sign.
func TestLocalModeIsOfAllProcessesOrNone(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	guarded := map[string]string{"PLAIN_SECRETS": "true"}
	start := func(args []string, settings map[string]string) error {
		return run(t.Context(), args, environment(database, settings), io.Discard, io.Discard, works)
	}
	wantRefused := func(err error, mode string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "is "+mode+", and this process") || !strings.Contains(err.Error(), "DATABASE_URL") {
			t.Errorf("got %v, want it refused beside a process that is %s", err, mode)
		}
	}
	local := startHere(t, database, nil, fingerprint.Do)
	wantRefused(start(nil, guarded), "in local mode (--dev)")
	wantRefused(start([]string{"--role=api"}, guarded), "in local mode (--dev)")
	startProcess(t, database, nil).stop() // another in the same mode
	local.stop()
	if err := local.waitStopped(t); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return holds(t, database, "SELECT NOT EXISTS (SELECT FROM processes)") }, func() string { return "both to have ended" })
	startStrict(t, environment(database, guarded))
	wantRefused(start([]string{"--dev"}, nil), "not in local mode")
}

func holds(t *testing.T, database, sql string) (holds bool) {
	t.Helper()
	if err := dbtest.Pool(t, database).QueryRow(t.Context(), sql).Scan(&holds); err != nil {
		t.Fatal(err)
	}
	return holds
}
