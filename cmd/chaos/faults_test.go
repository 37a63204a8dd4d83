package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db/dbtest"
)

// startCluster starts a database of the test's own, with room for its standby.
func startCluster(t *testing.T) *database {
	t.Helper()
	script, err := filepath.Abs("../../scripts/postgres.sh")
	if err != nil {
		t.Fatal(err)
	}
	port := freePorts(t)
	d := newDatabase(script, fmt.Sprint(".postgres-test-", port), port)
	t.Cleanup(func() {
		for _, c := range d.clusters {
			if err := d.run(context.Background(), c, "clean"); err != nil {
				t.Error(err)
			}
		}
	})
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// freePorts returns a free port, whose standby's port is free as well. Both are below the
// ports that the kernel gives to connections.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(11_000)
		if isFree(port) && isFree(port+standbyPorts) {
			return port
		}
	}
	t.Fatal("found no free ports")
	return 0
}

func isFree(port int) bool {
	listener, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return false
	}
	listener.Close()
	return true
}

// during runs a fault until do has returned.
func during(t *testing.T, fault func(ctx context.Context, length time.Duration) error, do func()) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- fault(ctx, time.Hour) }()
	defer func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	do()
}

// await returns when it is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	for !so() {
		if wait(t.Context(), 10*time.Millisecond); t.Context().Err() != nil {
			t.Fatalf("waiting until %s: %v", what, t.Context().Err())
		}
	}
}

func (d *database) execute(ctx context.Context, sql string) error {
	return d.connect(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// isState tells whether Postgres answered with that SQLSTATE.
func isState(err error, state string) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == state
}

func TestFaultsOfTheDatabase(t *testing.T) {
	t.Parallel()
	d := startCluster(t)
	if err := d.execute(t.Context(), "CREATE TABLE requests (text text)"); err != nil {
		t.Fatal(err)
	}
	const write = "INSERT INTO requests SELECT repeat('x', 1000) FROM generate_series(1, 1000)"
	writes := func(t *testing.T) {
		t.Helper()
		if err := d.execute(t.Context(), write); err != nil {
			t.Errorf("after the fault: %v", err)
		}
	}

	t.Run("ALockedTableIsReadAndNotWritten", func(t *testing.T) {
		lock := func(ctx context.Context, length time.Duration) error { return d.lockTable(ctx, "requests", length) }
		during(t, lock, func() {
			await(t, "the table is locked", func() bool {
				return isState(d.execute(t.Context(), "SET lock_timeout = '10ms'; "+write), "55P03")
			})
			if err := d.execute(t.Context(), "SET lock_timeout = '10ms'; SELECT count(*) FROM requests"); err != nil {
				t.Errorf("reading: %v", err)
			}
		})
		writes(t)
	})

	t.Run("AFullDiskTakesNothing", func(t *testing.T) {
		if err := d.run(t.Context(), d.primary(), "free"); err != nil {
			if err := d.fillDisk(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "no file system of its own") {
				t.Errorf("got %v, want what can't be had here", err)
			}
			return
		}
		during(t, d.fillDisk, func() {
			await(t, "the disk is full", func() bool { return isState(d.execute(t.Context(), write), "53100") })
		})
		writes(t)
	})

	t.Run("AFailoverLosesNothingAndLeavesTheOldPrimaryReadOnly", func(t *testing.T) {
		for range 2 { // there and back
			testFailover(t, d, write)
			writes(t)
		}
	})

	t.Run("TheClockDiffers", func(t *testing.T) {
		for _, ahead := range []time.Duration{72 * time.Hour, -10 * time.Minute, 0} {
			err := d.setClock(t.Context(), ahead)
			if errors.Is(err, errNoFaketime) && ahead != 0 {
				continue // as it says
			}
			var now time.Time
			err = errors.Join(err, d.connect(t.Context(), func(conn *pgx.Conn) error {
				return conn.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&now)
			}))
			if got := time.Until(now); err != nil || (got-ahead).Abs() > dbtest.Patience {
				t.Errorf("the clock is %s ahead, %v, want %s", got, err, ahead)
			}
		}
		writes(t)
	})
}

func testFailover(t *testing.T, d *database, write string) {
	t.Helper()
	var rows int
	count := func(conn *pgx.Conn) error {
		return conn.QueryRow(t.Context(), "SELECT count(*) FROM requests").Scan(&rows)
	}
	if err := d.connect(t.Context(), count); err != nil {
		t.Fatal(err)
	}
	before, old := rows, d.primary()
	kept, err := pgx.Connect(t.Context(), d.urlOf(old))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close(context.Background())
	failOver := func(ctx context.Context, length time.Duration) error {
		_, err := d.failOver(ctx, length)
		return err
	}
	during(t, failOver, func() {
		await(t, "another is the primary", func() bool { return d.primary() != old })
		if _, err := kept.Exec(t.Context(), write); !isState(err, "25006") {
			t.Errorf("writing to the old primary: %v, want that it is read-only", err)
		}
		through, err := pgx.Connect(t.Context(), d.everywhere()+"&target_session_attrs=read-write")
		if err != nil {
			t.Fatal(err)
		}
		defer through.Close(context.Background())
		if err := count(through); err != nil || rows != before {
			t.Errorf("got %d rows, %v, want %d", rows, err, before)
		}
		if _, err := through.Exec(t.Context(), write); err != nil {
			t.Errorf("writing: %v", err)
		}
	})
	if !isFree(old.port) {
		t.Error("the old primary is still there")
	}
}

// startTrial starts a server, and receivers, on a database of the test's own.
func startTrial(t *testing.T) *trial {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ringback")
	build := exec.Command("go", "build", "-tags", "nomsgpack", "-trimpath", "-o", binary, "../server")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as scripts/chaos.sh does, which has built it before
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v\n%s", err, out)
	}
	tr := &trial{
		options:  options{server: binary, logs: t.TempDir(), patience: dbtest.Patience},
		plan:     plan{Roles: []string{"all"}},
		database: startCluster(t),
		history:  &history{Mine: "chaos ", Meddled: map[string]*meddling{}},
		say:      t.Logf,
	}
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(func() {
		if process := tr.servers.process(0); process != nil {
			process.Signal(syscall.SIGKILL)
		}
		if err := tr.stop(end); err != nil {
			t.Error(err)
		}
	})
	if err := tr.start(ctx); err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestFaultsOfAServer(t *testing.T) {
	t.Parallel()
	tr := startTrial(t)
	for _, way := range ways {
		t.Run("ACallbackIsStillOwed, "+way.name, func(t *testing.T) { testCallbackTaken(t, tr, way) })
		if way.ends {
			t.Run("ARequestEnds, "+way.name, func(t *testing.T) { testWorkTaken(t, tr, way) })
		}
	}
	t.Run("ALogIsNotReadAndTheServiceGoesOn", func(t *testing.T) { testLog(t, tr) })
	t.Run("AServerThatGoesOnIsMeasured", func(t *testing.T) {
		tr.resume(t.Context())
		if r := tr.history.Resumed; len(r) != 1 || r[0].Took <= 0 {
			t.Errorf("got %+v, want the one server", r)
		}
	})
}

func testCallbackTaken(t *testing.T, tr *trial, w way) {
	t.Helper()
	text := "chaos callback " + w.name
	var id string
	during(t, tr.refuse, func() {
		await(t, "the receivers refuse", func() bool { return tr.crowd.troubled.Load() > 0 })
		id = tr.accept(t, newCall(text, good, 0, 0))
		await(t, "a callback job waits", func() bool { return tr.holds(t, id, "callback_job_state = 'retryable'") })
		tr.take(t, text, w)
	})
	await(t, "it is delivered", func() bool { return tr.history.hasCome(id) })
	if m := tr.history.Meddled[id]; m == nil || m.Times < 1 || m.Cancelled {
		t.Errorf("got %+v noted, want that a job was taken away and no work cancelled", m)
	}
}

func testWorkTaken(t *testing.T, tr *trial, w way) {
	t.Helper()
	text := "chaos work " + w.name
	id := tr.accept(t, newCall(text, good, 0, 30*time.Second))
	tr.take(t, text, w)
	await(t, "it is cancelled", func() bool { return tr.holds(t, id, "status = 'cancelled' AND callback_state = 'cancelled'") })
	if m := tr.history.Meddled[id]; m == nil || !m.Cancelled {
		t.Errorf("got %+v noted, want work that was cancelled", m)
	}
}

func testLog(t *testing.T, tr *trial) {
	t.Helper()
	log := filepath.Join(tr.options.logs, "server-0.log")
	logged := func() []byte {
		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	var id string
	during(t, tr.servers.logs[0].stop, func() {
		await(t, "nobody reads", tr.servers.logs[0].stopped.Load)
		before := len(logged())
		for i := range 40 { // several pages of log
			id = tr.accept(t, newCall(fmt.Sprint("chaos log ", i), steady, 0, 0))
		}
		await(t, "the last is delivered", func() bool { return tr.history.hasCome(id) })
		if after := len(logged()); after != before {
			t.Errorf("%d bytes of the log were read", after-before)
		}
	})
	await(t, "the log is read again", func() bool { return strings.Contains(string(logged()), id) })
}

// take takes away the job of the request with that text.
func (t *trial) take(tb testing.TB, text string, w way) {
	tb.Helper()
	await(tb, "a job is "+w.name, func() bool {
		done, err := t.injector.take(tb.Context(), text, w)
		if err != nil {
			tb.Fatal(err)
		}
		return done
	})
}

func (t *trial) refuse(ctx context.Context, length time.Duration) error {
	t.crowd.suffer(ctx, refuse, length)
	return nil
}

func (t *trial) accept(tb testing.TB, c *call) (id string) {
	tb.Helper()
	t.caller.make(c, 0)
	if c.Status != http.StatusAccepted {
		tb.Fatalf("%q: got status %d, want it accepted", c.Text, c.Status)
	}
	return c.IDs[0]
}

// holds tells whether the trace of a request does.
func (t *trial) holds(tb testing.TB, id, condition string) (so bool) {
	tb.Helper()
	err := t.database.connect(tb.Context(), func(conn *pgx.Conn) error {
		sql := "SELECT EXISTS (SELECT FROM request_trace WHERE request_id::text = $1 AND " + condition + ")"
		return conn.QueryRow(tb.Context(), sql, id).Scan(&so)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return so
}
