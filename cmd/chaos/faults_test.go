package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/stage"
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
func (t *trial) during(tb testing.TB, f fault, do func()) {
	tb.Helper()
	ctx, over := context.WithCancel(tb.Context())
	f.Length = time.Hour
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := t.inject(ctx, f); err != nil {
			tb.Errorf("%s: %v", f.Kind, err)
		}
	}()
	defer func() {
		over()
		<-ended
	}()
	do()
}

// await returns when it is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	for !so() {
		if !load.Pause(t.Context(), 10*time.Millisecond) || t.Failed() {
			t.Fatalf("waiting until %s: %v", what, t.Context().Err())
		}
	}
}

// isState tells whether Postgres answered with that SQLSTATE.
func isState(err error, state string) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == state
}

// onTrial has a database of the test's own.
func onTrial(t *testing.T, do func(*trial)) {
	t.Helper()
	p := plan{Roles: []string{"all"}}
	tr := &trial{plan: p, logs: t.TempDir(), database: startCluster(t), ledger: newLedger(p), say: t.Logf}
	err := stage.On(t.Context(), func(s *stage.Stage) {
		tr.Stage = s
		do(tr)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFaultsOfTheDatabase(t *testing.T) {
	t.Parallel()
	onTrial(t, func(tr *trial) { testFaultsOfTheDatabase(t, tr) })
}

func testFaultsOfTheDatabase(t *testing.T, tr *trial) {
	d := tr.database
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
		tr.during(t, fault{Kind: "table-locked", Of: "requests"}, func() {
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
			if err := tr.inject(t.Context(), fault{Kind: "disk-full"}); err == nil || !strings.Contains(err.Error(), "no file system of its own") {
				t.Errorf("got %v, want what can't be had here", err)
			}
			return
		}
		tr.during(t, fault{Kind: "disk-full"}, func() {
			await(t, "the disk is full", func() bool { return isState(d.execute(t.Context(), write), "53100") })
		})
		writes(t)
	})

	t.Run("AFailoverLosesNothingAndLeavesTheOldPrimaryReadOnly", func(t *testing.T) {
		for range 2 { // there and back
			tr.testFailover(t, write)
			writes(t)
		}
	})

	for _, kind := range []string{"database-fast", "database-crash"} {
		t.Run(kind+" EndsAllConnectionsAndIsBack", func(t *testing.T) {
			tr.during(t, fault{Kind: kind}, func() {
				await(t, "nobody is there", func() bool { return d.execute(t.Context(), "SELECT 1") != nil })
				if err := tr.inject(t.Context(), fault{Kind: "failover"}); !errors.Is(err, errGoing) {
					t.Errorf("another fault of the database meanwhile: got %v, want %v", err, errGoing)
				}
			})
			writes(t)
		})
	}

	t.Run("TheClockDiffers", func(t *testing.T) {
		for _, ahead := range []time.Duration{72 * time.Hour, -10 * time.Minute, 0} {
			tr.plan.Ahead = ahead
			var now []time.Time
			err := stage.On(t.Context(), func(s *stage.Stage) {
				tr.Stage = s
				tr.setClock()
				var err error
				now, err = query(t.Context(), d, pgx.RowTo[time.Time], "SELECT clock_timestamp()")
				s.Must(err)
			})
			if err != nil {
				t.Fatal(err)
			}
			// Where it can't differ, the plan says so now.
			if got := time.Until(now[0]); (got - tr.plan.Ahead).Abs() > dbtest.Patience {
				t.Errorf("the clock is %s ahead, want %s", got, tr.plan.Ahead)
			}
			tr.testFailover(t, write)
		}
		writes(t)
	})
}

func (t *trial) testFailover(tb testing.TB, write string) {
	tb.Helper()
	const rows = "SELECT count(*) FROM requests"
	d := t.database
	before, err := d.count(tb.Context(), rows)
	if err != nil {
		tb.Fatal(err)
	}
	old := d.primary()
	kept, err := pgx.Connect(tb.Context(), d.urlOf(old))
	if err != nil {
		tb.Fatal(err)
	}
	defer kept.Close(context.Background())
	t.during(tb, fault{Kind: "failover"}, func() {
		await(tb, "another is the primary", func() bool { return d.primary() != old })
		if _, err := kept.Exec(tb.Context(), write); !isState(err, "25006") {
			tb.Errorf("writing to the old primary: %v, want that it is read-only", err)
		}
		through, err := pgx.Connect(tb.Context(), d.everywhere()+"&target_session_attrs=read-write")
		if err != nil {
			tb.Fatal(err)
		}
		defer through.Close(context.Background())
		var after int
		if err := through.QueryRow(tb.Context(), rows).Scan(&after); err != nil || after != before {
			tb.Errorf("got %d rows, %v, want %d", after, err, before)
		}
		if _, err := through.Exec(tb.Context(), write); err != nil {
			tb.Errorf("writing: %v", err)
		}
	})
	if !isFree(old.port) {
		tb.Error("the old primary is still there")
	}
}

// onServer starts a server, and receivers, on a database of the test's own.
func onServer(t *testing.T, do func(*trial)) {
	t.Helper()
	onTrial(t, func(tr *trial) {
		tr.program = filepath.Join(t.TempDir(), "ringback")
		tr.Must(program.Build(t.Context(), "../..", tr.program))
		tr.start()
		tr.AtEnd(func() error {
			if process, err := tr.servers[0].current(); err == nil {
				process.Signal(syscall.SIGKILL)
			}
			return nil
		})
		do(tr)
	})
}

func TestFaultsOfAServer(t *testing.T) {
	t.Parallel()
	onServer(t, func(tr *trial) {
		for _, way := range ways {
			t.Run("ACallbackIsStillOwed, "+way.name, func(t *testing.T) { tr.testCallbackTaken(t, way) })
			if way.ends {
				t.Run("ARequestEnds, "+way.name, func(t *testing.T) { tr.testWorkTaken(t, way) })
			}
		}
		t.Run("ALogIsNotReadAndTheServiceGoesOn", func(t *testing.T) { tr.testLog(t) })
		t.Run("AServerThatGoesOnIsMeasured", func(t *testing.T) {
			tr.resume(t.Context())
			if took := tr.ledger.resumed; len(took) != 1 || took["server-0"] <= 0 {
				t.Errorf("got %v, want the one server", took)
			}
		})
		t.Run("TheLeaderIsPausedAndGoesOn", func(t *testing.T) { tr.testLeader(t) })
		t.Run("JobsOfAKilledProcessAreGivenBack", func(t *testing.T) { tr.testKill(t) })
	})
}

// isHealthy asks a server's process once.
func (s *server) isHealthy() bool {
	client := http.Client{Timeout: 100 * time.Millisecond}
	response, err := client.Get(s.url("/healthz"))
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func (t *trial) testLeader(tb testing.TB) {
	tb.Helper()
	await(tb, "River has elected a leader", func() bool {
		name, err := t.database.leader(tb.Context())
		return err == nil && name == t.servers[0].name
	})
	t.during(tb, fault{Kind: "pause-leader"}, func() {
		await(tb, "it doesn't answer", func() bool { return !t.servers[0].isHealthy() })
	})
	await(tb, "it answers", t.servers[0].isHealthy)
}

func (t *trial) testKill(tb testing.TB) {
	tb.Helper()
	id := t.accept(tb, newCall("chaos killed", steady, 0, 3*time.Second))
	await(tb, "its job runs", func() bool { return t.holds(tb, id, "work_job_state = 'running'") })
	if err := t.inject(tb.Context(), fault{Kind: "kill", Of: "server-0"}); err != nil {
		tb.Fatal(err)
	}
	t.watching.Wait()
	if len(t.ledger.returned) != 1 || len(t.ledger.deaths) != 1 {
		tb.Errorf("%d measured and %d deaths noted, want one of each", len(t.ledger.returned), len(t.ledger.deaths))
	}
	await(tb, "it is delivered", func() bool { return t.ledger.hasCome(id) })
}

func (t *trial) testCallbackTaken(tb testing.TB, w way) {
	tb.Helper()
	text := "chaos callback " + w.name
	var id string
	t.during(tb, fault{Kind: "receivers-500"}, func() {
		await(tb, "the receivers refuse", func() bool {
			status, _ := exchange(tb.Context(), t.caller.client, http.MethodPost, t.crowd.url(receivers.OK), "", nil)
			return status == http.StatusInternalServerError
		})
		id = t.accept(tb, newCall(text, receivers.OK, 0, 0))
		await(tb, "a callback job waits", func() bool { return t.holds(tb, id, "callback_job_state = 'retryable'") })
		t.takeOne(tb, text, w)
	})
	await(tb, "it is delivered", func() bool { return t.ledger.hasCome(id) })
	t.ledger.tell(id, func(s *story) {
		if s.meddled.times < 1 || s.meddled.cancelled {
			tb.Errorf("got %+v noted, want that a job was taken away and no work cancelled", s.meddled)
		}
	})
}

func (t *trial) testWorkTaken(tb testing.TB, w way) {
	tb.Helper()
	text := "chaos work " + w.name
	id := t.accept(tb, newCall(text, receivers.OK, 0, 30*time.Second))
	t.takeOne(tb, text, w)
	await(tb, "it is cancelled", func() bool { return t.holds(tb, id, "status = 'cancelled' AND callback_state = 'cancelled'") })
	t.ledger.tell(id, func(s *story) {
		if !s.meddled.cancelled {
			tb.Errorf("got %+v noted, want work that was cancelled", s.meddled)
		}
	})
}

func (t *trial) testLog(tb testing.TB) {
	tb.Helper()
	logged := func() []byte {
		content, err := os.ReadFile(filepath.Join(t.logs, "server-0.log"))
		if err != nil {
			tb.Fatal(err)
		}
		return content
	}
	var id string
	t.during(tb, fault{Kind: "log-blocked"}, func() {
		await(tb, "nobody reads", func() bool {
			read := t.servers[0].gate.TryLock()
			if read {
				t.servers[0].gate.Unlock()
			}
			return !read
		})
		before := len(logged())
		for i := range 40 { // several pages of log
			id = t.accept(tb, newCall(fmt.Sprint("chaos log ", i), steady, 0, 0))
		}
		await(tb, "the last is delivered", func() bool { return t.ledger.hasCome(id) })
		if after := len(logged()); after != before {
			tb.Errorf("%d bytes of the log were read", after-before)
		}
	})
	await(tb, "the log is read again", func() bool { return strings.Contains(string(logged()), id) })
}

// takeOne takes away the job of the request with that text.
func (t *trial) takeOne(tb testing.TB, text string, w way) {
	tb.Helper()
	await(tb, "a job is "+w.name, func() bool {
		done, err := t.take(tb.Context(), text, w)
		if err != nil {
			tb.Fatal(err)
		}
		return done
	})
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
func (t *trial) holds(tb testing.TB, id, condition string) bool {
	tb.Helper()
	sql := "SELECT count(*) FROM request_trace WHERE request_id::text = $1 AND " + condition
	found, err := t.database.count(tb.Context(), sql, id)
	if err != nil {
		tb.Fatal(err)
	}
	return found > 0
}

// traceOf shows a request's row of request_trace.
func (t *trial) traceOf(tb testing.TB, id string) (row string) {
	tb.Helper()
	err := t.database.on(t.database.primary()).Connect(tb.Context(), func(conn *pgx.Conn) error {
		return conn.QueryRow(tb.Context(), "SELECT jsonb_strip_nulls(to_jsonb(t)) FROM request_trace AS t WHERE request_id::text = $1 LIMIT 1", id).Scan(&row)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return row
}

// TestManners meets each manner of the upstream with a server.
func TestManners(t *testing.T) {
	t.Parallel()
	onServer(t, func(tr *trial) { testManners(t, tr) })
}

func testManners(t *testing.T, tr *trial) {
	refused := map[manner]string{"garbles": "upstream_failed", "refuses": "refused", "fails": "upstream_failed", "errs": "no_page"}
	attempts := map[manner]int{"breaks": 2, "cuts": 2, hangs: 2, "busy": 2, "too-late": 2, "silent": 2} // at least
	ids := map[manner]string{}
	send := func(m manner) {
		ids[m] = tr.accept(t, newHostileCall(fmt.Sprintf("%s%s\n", tr.plan.mine(), m), steady, m))
	}
	// A second answer may be taken for the answer to the next call on its connection.
	const last = "repeats"
	others := slices.DeleteFunc(mannerNames(), func(m manner) bool { return m == last })
	for _, m := range others {
		send(m)
	}
	for _, m := range append(others, last) {
		if m == last {
			send(m)
		}
		want := fmt.Sprintf("status = 'succeeded' AND work_job_attempt >= %d", max(1, attempts[m]))
		if code := refused[m]; code != "" {
			want = "status = 'failed' AND error_code = '" + code + "' AND work_job_attempt = 1"
		}
		await(t, string(m)+" is called back", func() bool { return tr.ledger.hasCome(ids[m]) })
		if !tr.holds(t, ids[m], want) {
			t.Errorf("%s: got %s, want %s", m, tr.traceOf(t, ids[m]), want)
		}
	}
	for kind, trouble := range map[string]string{"upstream-away": "upstream_unreachable", "upstream-503": "", "upstream-hangs": "deadline_exceeded"} {
		var id string
		tr.during(t, fault{Kind: kind}, func() {
			await(t, kind+" has begun", func() bool { return !tr.upstreamIsFine(t) })
			id = tr.accept(t, newHostileCall(tr.plan.mine()+kind, steady))
			await(t, "an attempt was not done", func() bool {
				return tr.holds(t, id, fmt.Sprintf("work_job_errors::text LIKE '%%%s%%' OR %t AND work_job_state IN ('available', 'scheduled')", trouble, trouble == ""))
			})
		})
		await(t, "it is called back", func() bool { return tr.ledger.hasCome(id) })
		if !tr.holds(t, id, "status = 'succeeded'") {
			t.Errorf("%s: want that it succeeds afterwards", kind)
		}
	}
	tr.ledger.following.Wait()
	tr.audit()
	if found := check(tr.ledger); len(found) > 0 {
		t.Errorf("found %v, want nothing", found)
	}
}

// upstreamIsFine tells whether the upstream listens and lets attempts have their own
// manners.
func (t *trial) upstreamIsFine(tb testing.TB) bool {
	tb.Helper()
	conn, err := net.Dial("tcp", t.upstream.address)
	if err != nil {
		return false
	}
	conn.Close()
	return t.upstream.trouble.Load() == manner("")
}
