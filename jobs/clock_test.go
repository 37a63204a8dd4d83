package jobs

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/internal/bubble"
	"ringback/jobs/upkeep"
)

// newSkewed returns a queue on a database whose clock is ahead by an interval: its own
// now() and clock_timestamp() hide Postgres's own.
func newSkewed(t *testing.T, ahead string) *testQueue {
	t.Helper()
	url := dbtest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	sql := `
		CREATE SCHEMA skewed;
		` + skewedBy(ahead) + `;
		DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET search_path = public, skewed, pg_catalog'; END $$`
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	return newQueueAt(t, url, url, doNothing)
}

func skewedBy(ahead string) string {
	return `
		CREATE OR REPLACE FUNCTION skewed.now() RETURNS timestamptz LANGUAGE sql STABLE
		AS $$ SELECT pg_catalog.now() + interval '` + ahead + `' $$;
		CREATE OR REPLACE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '` + ahead + `' $$`
}

// Steps happen by the database's clock, even where this process's clock differs.
func TestTwoClocks(t *testing.T) {
	t.Parallel()
	for _, ahead := range []string{"10 minutes", "-10 minutes", "3 days", "-3 days"} {
		t.Run("WithTheDatabaseAheadBy "+ahead, func(t *testing.T) {
			t.Parallel()

			t.Run("TellsTheDifference", func(t *testing.T) {
				t.Parallel()
				q := newSkewed(t, ahead)
				q.start(t)
				q.waitForLog(t, "clocks_differ")
				waitUntil(t, func() bool { // it is read again, and a busy machine may have read it slowly
					return q.holds(t, "SELECT abs(extract(epoch FROM interval '"+ahead+"') + $1) < 1", q.clock.Skew().Seconds())
				})
			})

			t.Run("WritesTheDatabasesTimes", func(t *testing.T) {
				t.Parallel()
				q := newSkewed(t, ahead)
				receiver := newReceiver(t, func(w http.ResponseWriter, n int) {
					if n == 0 {
						w.WriteHeader(http.StatusInternalServerError)
					}
				})
				q.start(t)
				request := newRequest(receiver.URL)
				request.ID, request.AcceptedAt, request.ExpiresAt = q.NewID(), q.Now(), q.Now().Add(time.Hour)
				q.accept(t, request)
				receiver.next(t)
				receiver.next(t)
				q.waitFor(t, request.ID, "callback_state = 'delivered' AND callback_job_state = 'completed'")
				const sql = `
					SELECT bool_and(abs(extract(epoch FROM at - now())) < 3600)
					FROM request_trace
					CROSS JOIN LATERAL unnest(ARRAY[accepted_at, started_at, finished_at, settled_at, attempt_started_at,
						coalesce(next_attempt_at, now()), callback_job_scheduled_at]) AS times (at)`
				if !q.holds(t, sql) {
					t.Error("a time is not the database's")
				}
				if at := db.AcceptedAt(request.ID).Sub(request.AcceptedAt).Abs(); at > time.Hour {
					t.Errorf("the id is %v away", at)
				}
			})

			for name, test := range map[string]struct {
				status    int
				low, high string
			}{
				"RetriesAfterItsDelay":     {http.StatusInternalServerError, "20 seconds", "10 minutes"},
				"ComesBackWhenItIsAskedTo": {http.StatusTooManyRequests, "1 hour", "80 minutes"},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					q := newSkewed(t, ahead)
					receiver := newReceiver(t, func(w http.ResponseWriter, _ int) {
						w.Header().Set("Retry-After", "3600")
						w.WriteHeader(test.status)
					})
					request := newRequest(receiver.URL)
					request.AcceptedAt = q.Now()
					q.accept(t, request)
					q.clock.read(t.Context())
					outcome := succeeded
					outcome.StartedAt, outcome.FinishedAt = time.Now(), time.Now()
					if err := q.finish(t.Context(), request, outcome); err != nil {
						t.Fatal(err)
					}
					q.exec(t, "UPDATE river_job SET attempt = 2")
					q.start(t)
					q.waitFor(t, request.ID, "callback_job_state IN ('retryable', 'scheduled')")
					if !q.holds(t, "SELECT callback_job_scheduled_at - attempt_started_at BETWEEN $1::text::interval AND $2::text::interval FROM request_trace", test.low, test.high) {
						t.Errorf("want it to come back between %s and %s later", test.low, test.high)
					}
				})
			}

			t.Run("SendsWhatIsDue", func(t *testing.T) {
				t.Parallel()
				q, receiver := newSkewed(t, ahead), newReceiver(t, always(http.StatusOK))
				request := newRequest(receiver.URL)
				q.accept(t, request)
				if err := q.finish(t.Context(), request, succeeded); err != nil {
					t.Fatal(err)
				}
				q.exec(t, "UPDATE requests SET finished_at = now()")
				q.exec(t, "UPDATE river_job SET state = 'retryable', scheduled_at = now() WHERE kind = 'callback'")
				q.start(t)
				receiver.next(t)
			})

			t.Run("ExpiresByTheDatabase", func(t *testing.T) {
				t.Parallel()
				q := newSkewed(t, ahead)
				for until, want := range map[string]string{"1 hour": "succeeded", "-1 second": "expired"} {
					request := newRequest("http://127.0.0.1:9/")
					request.ExpiresAt = time.Now()
					q.accept(t, request)
					q.exec(t, "UPDATE requests SET expires_at = now() + $1::text::interval WHERE id = $2", until, request.ID)
					defer q.waitFor(t, request.ID, "status = '"+want+"'")
				}
				q.start(t)
			})

			t.Run("RedeliversWhenItIsWanted", func(t *testing.T) {
				t.Parallel()
				q, receiver := newSkewed(t, ahead), newReceiver(t, always(http.StatusOK))
				request := newRequest(receiver.URL)
				q.accept(t, request)
				q.end(t, request, db.CallbackDead)
				q.start(t)
				if got := q.redeliver(t, db.Redelivery{RequestID: request.ID, Client: "alice", At: time.Now()}); got != 1 {
					t.Fatalf("got %d redelivered, want 1", got)
				}
				receiver.next(t)
			})

			t.Run("RemovesWhatIsOldByTheDatabase", func(t *testing.T) {
				t.Parallel()
				q := newSkewed(t, ahead)
				q.clock.read(t.Context())
				old, young := newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/")
				old.ID, young.ID = madeAt(old.ID, q.Now().Add(-25*time.Hour)), q.NewID()
				for _, request := range []db.Request{old, young} {
					q.accept(t, request)
					q.end(t, request, db.CallbackDelivered)
				}
				q.exec(t, "UPDATE requests SET settled_at = now() - CASE WHEN id = $1 THEN interval '25 hours' ELSE interval '0' END", old.ID)
				q.exec(t, "UPDATE retention SET next_at = now()") // which was written by the other clock
				sweeper, _ := upkeep.NewSweepers(q.direct, q.health, slog.New(slog.DiscardHandler), upkeep.Retention{Requests: 24 * time.Hour})
				if _, err := sweeper.RemoveBatch(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !q.holds(t, "SELECT array_agg(id) = ARRAY[$1::uuid] FROM requests", young.ID) {
					t.Error("want the request that has just ended left, and not the request that ended a day ago")
				}
			})

			t.Run("KeepsAKeyThatAnotherProcessTook", func(t *testing.T) {
				t.Parallel()
				q := newSkewed(t, ahead)
				q.clock.read(t.Context())
				taken := db.Key{Client: "alice", Key: "k", RequestID: uuid.Must(uuid.NewV7())}
				q.exec(t, `
					INSERT INTO idempotency_keys (client, key, fingerprint, request_id, held_until, expires_at)
					VALUES ('alice', 'k', $1, $2, now() + interval '1 hour', now() + interval '1 day')`, taken.Fingerprint[:], taken.RequestID)
				again := taken
				again.RequestID, again.HeldUntil, again.ExpiresAt = q.NewID(), q.Now().Add(time.Minute), q.Now().Add(time.Hour)
				holder, err := q.Claim(t.Context(), again)
				if err != nil || holder.RequestID != taken.RequestID {
					t.Errorf("got %+v, %v, want it held by %s", holder, err, taken.RequestID)
				}
			})
		})
	}
}

// Somebody set the database's clock back by an hour, while things waited.
func TestNothingWaitsLongerForAClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
	queued, retried, later := newRequest(receiver.URL), newRequest(receiver.URL), newRequest(receiver.URL)
	later.RunAt = q.Now().Add(2 * time.Hour)
	first, heldBack := newRequest(receiver.URL), newRequest(receiver.URL)
	first.OrderingKey, heldBack.OrderingKey = "key", "key"
	for _, request := range []db.Request{queued, retried, later, first, heldBack} {
		q.accept(t, request)
	}
	for _, request := range []db.Request{retried, first, heldBack} {
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
	}
	for _, request := range []db.Request{first, heldBack} {
		q.exec(t, "UPDATE river_job SET scheduled_at = now() + interval '1 hour' WHERE id = $1", q.get(t, request.ID).CallbackJobID)
	}
	q.exec(t, "UPDATE river_job SET scheduled_at = now() + interval '1 hour' WHERE id = $1", q.get(t, queued.ID).WorkJobID)
	q.exec(t, `
		UPDATE river_job
		SET state = 'retryable', attempt = 1, attempted_at = now() + interval '59 minutes', scheduled_at = now() + interval '1 hour'
		WHERE id = $1`, q.get(t, retried.ID).CallbackJobID)
	q.exec(t, "INSERT INTO processes (id, beat_at) VALUES ('dead', now() + interval '1 hour')")
	q.exec(t, `
		INSERT INTO river_job (args, kind, queue, max_attempts, state, attempt, attempted_at, attempted_by)
		VALUES (jsonb_build_object('request_id', gen_random_uuid()), 'work', 'work', 1000, 'running', 1, now() + interval '1 hour', ARRAY['dead'])`)
	q.exec(t, "INSERT INTO river_leader (elected_at, expires_at, leader_id) VALUES (now(), now() + interval '1 hour', 'dead')")
	q.exec(t, "UPDATE reconciliation SET next_at = now() + interval '1 hour'")
	q.start(t)
	q.waitForLog(t, "database_clock_set_back")
	for range 4 {
		receiver.next(t)
	}
	for _, request := range []db.Request{queued, retried, first, heldBack} {
		q.waitFor(t, request.ID, "callback_state = 'delivered'")
	}
	waitUntil(t, func() bool {
		return q.holds(t, "SELECT state = 'completed' AND attempt = 2 FROM river_job WHERE 'dead' = ANY (attempted_by)")
	})
	if !q.holds(t, "SELECT scheduled_at = run_at FROM requests JOIN river_job ON river_job.id = work_job_id WHERE requests.id = $1", later.ID) {
		t.Error("a request doesn't wait for the time that its caller gave")
	}
}

// farDatabase tells its time, which is ahead of this process's, over a slow way.
type farDatabase struct {
	db.Querier
	ahead       time.Duration
	there, back time.Duration
}

func (f farDatabase) QueryRow(context.Context, string, ...any) pgx.Row { return f }

func (f farDatabase) Scan(targets ...any) error {
	time.Sleep(f.there)
	*targets[0].(*time.Time) = time.Now().Add(f.ahead)
	time.Sleep(f.back)
	return nil
}

// A reading of the database's clock is wrong by half the time that it took.
func TestNoRequestExpiresEarly(t *testing.T) {
	t.Parallel()
	const days = 3 * 24 * time.Hour
	for name, database := range map[string]farDatabase{
		"WhereTheWayIsShort":         {ahead: days},
		"WhereTheWayThereIsSlow":     {ahead: days, there: 2 * time.Second},
		"WhereTheWayBackIsSlow":      {ahead: days, back: 2 * time.Second},
		"WhereADatabaseBehindIsSlow": {ahead: -days, there: 2 * time.Second},
		"WhereAWayBackFromItIsSlow":  {ahead: -days, back: 2 * time.Second},
		"WhereTheClocksAreClose":     {ahead: -900 * time.Millisecond, back: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				q := &Queue{}
				if err := q.clock.Read(t.Context(), database); err != nil {
					t.Fatal(err)
				}
				w := &runWorker{queue: q}
				end := time.Now().Add(time.Minute)
				request := w.here(db.Request{ExpiresAt: end.Add(database.ahead)})
				if _, over := expire(request, end.Add(-time.Microsecond)); over {
					t.Errorf("it expires %v too early", end.Sub(request.ExpiresAt))
				}
				latest := end.Add(database.there + database.back + 20*time.Millisecond)
				if _, over := expire(request, latest); !over {
					t.Errorf("it expires %v late, want as late as the reading is wrong", request.ExpiresAt.Sub(end))
				}
			})
		})
	}
}

// Faults that last are told again, at a bounded pace, and their end once.
func TestClocksThatDifferAreToldAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := &clockWatch{logger: slog.New(slog.NewTextHandler(&log, nil)), querier: farDatabase{ahead: time.Hour}}
		for range 61 { // two minutes
			w.read(t.Context())
			time.Sleep(clockInterval)
		}
		w.querier = farDatabase{}
		w.read(t.Context())
		w.read(t.Context())
		if differ, agree := strings.Count(log.String(), "clocks_differ"), strings.Count(log.String(), "clocks_agree"); differ != 3 || agree != 1 {
			t.Errorf("got %d lines that they differ and %d that they agree, want 3 and 1:\n%s", differ, agree, log.String())
		}
	})
}

func TestAnswersInHandAreToldAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRecord(slog.New(slog.NewTextHandler(&log, nil)), func(err error, remedy string) []any { return []any{"error", err, "remedy", remedy} })
		start := time.Now()
		err := r.insist(func(context.Context, bool) error {
			if time.Since(start) < 10*time.Minute {
				return context.DeadlineExceeded
			}
			return nil
		})
		if told := strings.Count(log.String(), "answers_not_recorded"); err != nil || told < 3 || told > 11 || strings.Count(log.String(), "answers_recorded") != 1 {
			t.Errorf("got %v and %d lines in ten minutes, want 3 to 11, and one of the end:\n%s", err, told, log.String())
		}
	})
}
