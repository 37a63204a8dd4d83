package jobs

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/upkeep"
)

// silence makes all processes look as if they had been silent for longer than a dead
// process, and their jobs as if they had run for as long.
func (q *testQueue) silence(t *testing.T) {
	t.Helper()
	q.exec(t, "UPDATE processes SET beat_at = beat_at - interval '1 minute'")
	q.exec(t, "UPDATE river_job SET attempted_at = attempted_at - interval '1 minute' WHERE state = 'running'")
}

// pause stops the heartbeat of a process. It keeps its lock.
func (q *testQueue) pause() { _ = q.heart.End(context.Background(), true) }

// outlast keeps processes that don't beat any more from being taken for dead.
func (q *testQueue) outlast(t *testing.T) {
	t.Helper()
	q.exec(t, "UPDATE processes SET beat_at = now() + interval '1 day'")
}

// killed makes a job that runs in a process that was killed just now. Only its lock
// can tell.
func (q *testQueue) killed(t *testing.T) (job int64) {
	t.Helper()
	q.exec(t, "INSERT INTO processes (id, beat_at) VALUES ('killed', now())")
	conn, err := q.direct.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session := conn.Hijack()
	if held, err := db.HoldLock(t.Context(), session, "killed", session.PgConn().PID()); !held || err != nil {
		t.Fatalf("got %v, %v, want it to hold its lock", held, err)
	}
	q.outlast(t)
	const sql = `
		INSERT INTO river_job (args, kind, queue, max_attempts, state, attempt, attempted_at, attempted_by)
		VALUES (jsonb_build_object('request_id', gen_random_uuid()), 'work', 'work', 1000, 'running', 1, now(), ARRAY['killed'])
		RETURNING id`
	if err := q.direct.QueryRow(t.Context(), sql).Scan(&job); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return job
}

// waitForSecondRun returns when a job that killed made has been taken up again. It
// finds no request, and ends.
func (q *testQueue) waitForSecondRun(t *testing.T, job int64) {
	t.Helper()
	waitUntil(t, func() bool {
		return q.holds(t, "SELECT state = 'completed' AND attempt = 2 FROM river_job WHERE id = $1", job)
	})
}

// occupy starts queues and has each of their workers run until the test ends.
func occupy(t *testing.T, url string, addresses ...string) (queues []*testQueue) {
	t.Helper()
	started, end := make(chan struct{}, 100), make(chan struct{})
	for _, address := range addresses {
		q := newQueueAt(t, url, address, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-end
			return succeeded.Result, nil
		})
		q.start(t)
		queues = append(queues, q)
	}
	for range 4 * len(queues) {
		queues[0].accept(t, newRequest("http://127.0.0.1:9/"))
	}
	t.Cleanup(func() { close(end) }) // before they stop
	for range 4 * len(queues) {
		<-started
	}
	return queues
}

// wantOccupied checks that all runs go on in the processes that began them.
func (q *testQueue) wantOccupied(t *testing.T, works int) {
	t.Helper()
	var running int
	const sql = "SELECT count(*) FROM request_trace WHERE work_job_state = 'running' AND work_job_attempt = 1"
	if err := q.direct.QueryRow(t.Context(), sql).Scan(&running); err != nil || running != works {
		t.Errorf("jobs of living processes that still run: got %d, %v, want %d", running, err, works)
	}
}

// holdsLock is the backend of the session that holds the lock of the process $1.
const holdsLock = `
	SELECT pid
	FROM pg_locks
	WHERE locktype = 'advisory'
	  AND objsubid = 1
	  AND classid::bigint << 32 | objid::bigint = hashtextextended('ringback process ' || $1, 0)
	  AND granted`

func TestLock(t *testing.T) {
	t.Parallel()

	t.Run("OfAKilledProcessTellsAnother", func(t *testing.T) {
		t.Parallel()
		other := newQueue(t, doNothing)
		other.start(t)
		other.waitForSecondRun(t, other.killed(t))
	})

	t.Run("OfAKilledProcessTellsTheNext", func(t *testing.T) {
		t.Parallel()
		next := newQueue(t, doNothing)
		job := next.killed(t)
		next.start(t)
		next.waitForSecondRun(t, job)
	})

	t.Run("OfAPausedProcessIsKept", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		paused := occupy(t, url, url)[0]
		paused.pause()
		paused.outlast(t)
		other := newQueueAt(t, url, url, doNothing)
		other.start(t)
		other.waitForSecondRun(t, other.killed(t))
		other.wantOccupied(t, 4)
	})

	t.Run("IsHeldAgainAfterItsConnectionWasEnded", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		living := occupy(t, url, url)[0]
		other := newQueueAt(t, url, url, doNothing)
		other.start(t)
		var ended int
		if err := living.direct.QueryRow(t.Context(), holdsLock, living.client.ID()).Scan(&ended); err != nil {
			t.Fatal(err)
		}
		living.exec(t, "SELECT pg_terminate_backend($1)", ended)
		waitUntil(t, func() bool {
			return living.holds(t, "SELECT EXISTS (SELECT FROM ("+holdsLock+") AS lock WHERE pid <> $2)", living.client.ID(), ended)
		})
		other.waitForSecondRun(t, other.killed(t))
		other.wantOccupied(t, 4)
	})

	t.Run("IsGoneWithTheProcess", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !q.holds(t, "SELECT EXISTS (SELECT FROM locked_processes JOIN processes USING (id) WHERE id = $1)", q.client.ID()) {
			t.Error("the process started without its lock")
		}
		q.stop(t)
		waitUntil(t, func() bool { return q.holds(t, "SELECT NOT EXISTS ("+holdsLock+")", q.client.ID()) })
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM locked_processes)") {
			t.Error("the process says that it holds its lock after it stopped")
		}
	})
}

// Processes that come back late have lost their locks, and must not lose their jobs.
func TestLockThatEndedWithTheDatabase(t *testing.T) {
	t.Parallel()
	faults := map[string]func(*dbtest.Cluster, testing.TB){
		"Restart":         func(c *dbtest.Cluster, t testing.TB) { c.Stop(t); c.Start(t) },
		"Crash":           func(c *dbtest.Cluster, t testing.TB) { c.Crash(t); c.Start(t) },
		"CrashOfABackend": (*dbtest.Cluster).CrashBackend,
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := dbtest.NewCluster(t)
			if err := db.Migrate(t.Context(), cluster.URL); err != nil {
				t.Fatal(err)
			}
			proxy, through := dbtest.NewProxy(t, cluster.URL)
			late := occupy(t, cluster.URL, through, through)
			proxy.Refuse()
			late[0].outlast(t)
			fault(cluster, t)
			next := newQueueAt(t, cluster.URL, cluster.URL, doNothing)
			job := next.killed(t)
			next.start(t)
			next.waitForSecondRun(t, job)
			next.wantOccupied(t, 8)
			proxy.Pass()
			for _, q := range late {
				waitUntil(t, func() bool { return q.holds(t, "SELECT EXISTS ("+holdsLock+")", q.client.ID()) })
			}
		})
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()

	t.Run("IsThereBeforeTheFirstJobAndGoneAfterTheLast", func(t *testing.T) {
		t.Parallel()
		known := make(chan bool, 1)
		var q *testQueue
		q = newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			known <- q.holds(t, "SELECT EXISTS (SELECT FROM processes WHERE id = $1)", q.client.ID())
			return succeeded.Result, nil
		})
		q.accept(t, newRequest("http://127.0.0.1:9/"))
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !<-known {
			t.Error("a job ran in a process that nobody knows")
		}
		q.stop(t)
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM processes)") {
			t.Error("the process is still known after it stopped")
		}
	})

	// A paused process goes on with its work while another process does it again.
	t.Run("OfAPausedProcessCostsNoOutcome", func(t *testing.T) {
		t.Parallel()
		started, resume := make(chan struct{}, 10), make(chan struct{})
		resumed := sync.OnceFunc(func() { close(resume) })
		paused := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-resume
			return jsontext.Value(`{"words":2}`), nil
		})
		receiver := newReceiver(t, always(http.StatusOK))
		var requests []db.Request
		for range 4 { // as many as it has workers, so that it takes up no more
			requests = append(requests, newRequest(receiver.URL))
			paused.accept(t, requests[len(requests)-1])
		}
		paused.start(t)
		t.Cleanup(resumed) // before it stops
		for range requests {
			<-started
		}
		paused.pause()
		paused.silence(t)

		other := newQueueAt(t, paused.url, paused.url, doNothing)
		other.start(t)
		for _, request := range requests {
			other.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered' AND work_job_attempt = 2 AND work_job_state = 'completed'")
		}
		resumed()
		for _, request := range requests {
			paused.waitForLog(t, "work_finished")
			if got := string(other.get(t, request.ID).Result); got != string(succeeded.Result) {
				t.Errorf("result: got %s, want the first, %s", got, succeeded.Result)
			}
		}
		if !other.holds(t, "SELECT count(*) = 4 FROM river_job WHERE kind = 'callback'") {
			t.Error("want one callback job for each request")
		}
		other.wantNoOrphans(t)
	})

	// As after a connection that broke between the commit of a fetch and its answer.
	t.Run("GivesBackWhatItDoesNotRun", func(t *testing.T) {
		t.Parallel()
		receiver := newReceiver(t, always(http.StatusOK))
		q := newQueue(t, doNothing)
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.exec(t, "UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 minute', attempted_by = ARRAY[$1]", q.client.ID())
		q.start(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_attempt = 1 AND work_job_state = 'completed'")
	})

	// As at the end of an outage: all were silent, and come back one after another.
	t.Run("ThatWasAwayForAllTakesNothingFromTheLiving", func(t *testing.T) {
		t.Parallel()
		started, resume := make(chan struct{}, 10), make(chan struct{})
		resumed := sync.OnceFunc(func() { close(resume) })
		living := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-resume
			return succeeded.Result, nil
		})
		request := newRequest("http://127.0.0.1:9/")
		living.accept(t, request)
		living.start(t)
		t.Cleanup(resumed)
		<-started
		living.silence(t)
		other := newQueueAt(t, living.url, living.url, doNothing)
		other.start(t)
		var first time.Time // beat of the other
		waitUntil(t, func() bool {
			var last time.Time
			const sql = "SELECT beat_at FROM processes WHERE id = $1"
			if err := other.direct.QueryRow(t.Context(), sql, other.client.ID()).Scan(&last); err != nil {
				t.Fatal(err)
			}
			if first.IsZero() {
				first = last
			}
			return last.Sub(first) > upkeep.TrustAfter+upkeep.BeatInterval // the other process has looked
		})
		other.waitFor(t, request.ID, "status = 'accepted' AND work_job_state = 'running' AND work_job_attempt = 1")
	})
}
