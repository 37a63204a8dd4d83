package db_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// Somebody writes values by hand that the service never writes. They fail no statement that
// reads other rows, too, and keep nothing waiting forever.

func TestReceiversWrittenByHand(t *testing.T) {
	t.Parallel()
	for _, change := range []string{
		"answered_from = '{nonsense}'",
		"prefixes = '{nonsense,NULL}', granted_until = 'infinity'",
		"rate = 'NaN'",
		"rate = 'Infinity', in_flight = 2147483647",
		"openings = 2147483647",
		"closed_until = 'infinity', expires_at = 'infinity'",
	} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			names := []string{"http://a.example:80", "http://b.example:80"}
			for _, name := range names {
				saveOrigins(t, pool, db.Receiver{Name: name, ExpiresAt: time.Now().Add(time.Hour)})
			}
			exec(t, pool, "UPDATE callback_origins SET "+change+" WHERE origin = 'http://a.example:80'")
			loaded, err := db.LoadReceivers(t.Context(), pool, names)
			if got := loaded[names[0]]; err != nil || len(loaded) != 2 || !(got.Rate <= 1e6) || got.InFlight > 10_000 || len(got.AnsweredFrom)+len(got.Prefixes) > 0 {
				t.Errorf("got %+v, %v, want both, within bounds", loaded, err)
			}
			tripped := loaded[names[0]]
			tripped.Openings++
			saveOrigins(t, pool, tripped)
			if listed, _, err := db.ListReceivers(t.Context(), pool, 0); err != nil || len(listed) != 2 {
				t.Errorf("got %+v, %v, want both listed", listed, err)
			}
		})
	}
}

func TestRulingsWrittenByHand(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	for written, want := range map[string]float64{"NaN": 1e6, "Infinity": 1e6, "1e-300": 0.01, "7": 7} {
		exec(t, pool, "DELETE FROM callback_origins")
		exec(t, pool, `
			INSERT INTO callback_origins (origin, openings, word, word_rate, word_concurrency, word_at, expires_at)
			VALUES ('*://a.example:80', 0, 'allowed', $1::text::float8, 2147483647, 'infinity', 'infinity')`, written)
		rulings, err := db.Rulings(t.Context(), pool)
		if err != nil || len(rulings) != 1 || rulings[0].Rate != want || rulings[0].Concurrency != 10_000 {
			t.Errorf("%s: got %+v, %v, want the rate %v", written, rulings, err, want)
		}
	}
}

func TestClientsWrittenByHand(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	for i, name := range []string{"acme", "bob"} {
		hash := make([]byte, 32)
		hash[0] = byte(i)
		if _, err := db.InsertClient(t.Context(), pool, db.Client{Name: name, KeyHash: hash, Secret: "s"}); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, "UPDATE clients SET callbacks = ARRAY[NULL, 'hooks.example.com'], created_at = 'infinity' WHERE name = 'acme'")
	clients, err := db.ListClients(t.Context(), pool)
	if err != nil || len(clients) != 2 || !slices.Equal(clients[0].Callbacks, []string{"", "hooks.example.com"}) {
		t.Errorf("got %+v, %v, want both, and the hosts of the first", clients, err)
	}
}

// farTimes are times that no clock has written. Postgres can't subtract the first two before
// version 17, and Go holds no difference to any of them.
var farTimes = []string{"infinity", "-infinity", "200000-01-01", "4000-01-01 BC"}

// atFarTimes runs a test for each of them, with a database of its own.
func atFarTimes(t *testing.T, test func(t *testing.T, pool *pgxpool.Pool, at string)) {
	t.Helper()
	for _, at := range farTimes {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			test(t, dbtest.NewPool(t), at)
		})
	}
}

func TestAgesOfTimesWrittenByHand(t *testing.T) {
	t.Parallel()
	atFarTimes(t, func(t *testing.T, pool *pgxpool.Pool, at string) {
		plantRequests(t, pool, 1, "delivered", 2, 1)
		plantRequests(t, pool, 1, "pending", 3, 1)
		beatAt(t, pool, "another", 1)
		exec(t, pool, "INSERT INTO processes (id, beat_at) VALUES ('by hand', $1::text::timestamptz)", at)
		exec(t, pool, "UPDATE requests SET accepted_at = $1::text::timestamptz, finished_at = $1::text::timestamptz, settled_at = CASE WHEN settled_at IS NULL THEN NULL ELSE $1::text::timestamptz END", at)
		exec(t, pool, "UPDATE river_job SET state = 'available', finalized_at = NULL, scheduled_at = $1::text::timestamptz", at)
		sample, err := db.TakeSample(t.Context(), pool, []string{"work"}, "work")
		if err != nil || sample.Jobs["available"] != 4 || sample.Unfinished < 0 || sample.DueCallback < 0 || sample.Ended < 0 {
			t.Errorf("got %+v, %v, want all counted", sample, err)
		}
		processes, err := db.ListProcesses(t.Context(), pool)
		if err != nil || len(processes) != 2 || processes[0].Lost() || !processes[1].Lost() {
			t.Errorf("got %+v, %v, want the second lost", processes, err)
		}
	})
}

// A heartbeat that is ahead would keep the jobs of a dead process forever.
func TestJobsOfAProcessWhoseHeartbeatIsAhead(t *testing.T) {
	t.Parallel()
	atFarTimes(t, func(t *testing.T, pool *pgxpool.Pool, at string) {
		runIn(t, pool, "dead", "work", 60)
		runIn(t, pool, "alive", "work", 60)
		beatAt(t, pool, "alive", 1)
		exec(t, pool, "INSERT INTO processes (id, beat_at) VALUES ('dead', $1::text::timestamptz)", at)
		beat, err := db.Beat(t.Context(), pool, "this one", false)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := db.ReturnJobs(t.Context(), pool, "callback", beat, db.LostAfter); got != 1 || err != nil {
			t.Errorf("got %d jobs, %v, want that of the dead process", got, err)
		}
		if err := db.ForgetProcesses(t.Context(), pool, beat, time.Hour); err != nil {
			t.Fatal(err)
		}
		if left, err := db.ListProcesses(t.Context(), pool); err != nil || len(left) != 2 {
			t.Errorf("got %+v, %v, want the two that live", left, err)
		}
	})
}

func TestLooksWhoseTimeIsFarAhead(t *testing.T) {
	t.Parallel()
	atFarTimes(t, func(t *testing.T, pool *pgxpool.Pool, at string) {
		exec(t, pool, "UPDATE reconciliation SET next_at = $1::text::timestamptz", at)
		for _, removal := range []db.Removal{db.OldRequests, db.OldDeadLetters} {
			exec(t, pool, fmt.Sprintf("UPDATE %s SET next_at = $1::text::timestamptz", removal), at)
		}
		err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if r, locked, err := db.LockReconciliation(t.Context(), tx); err != nil || !locked || r.SetBack != 0 {
				return fmt.Errorf("lost steps: got %+v, %v, %w, want a look, and a clock that nobody set", r, locked, err)
			}
			for _, removal := range []db.Removal{db.OldRequests, db.OldDeadLetters} {
				read, err := db.ReadSweep(t.Context(), tx, removal)
				if err != nil || read.NextAt.After(read.Now) {
					return fmt.Errorf("%s: got %+v, %w, want a batch due", removal, read, err)
				}
				if _, locked, err := db.LockSweep(t.Context(), tx, removal); err != nil || !locked {
					return fmt.Errorf("%s: got %v, %w, want it locked", removal, locked, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestLeasesWrittenByHand(t *testing.T) {
	t.Parallel()
	atFarTimes(t, func(t *testing.T, pool *pgxpool.Pool, at string) {
		request := uuid.New()
		exec(t, pool, `
				INSERT INTO work_leases (request_id, turn, started_at, lease_until, heard_at, progress_number)
				VALUES ($1, 1, now(), $2::text::timestamptz, now() - interval '1 hour', 2147483647)`, request, at)
		lease, found, err := db.FindLease(t.Context(), pool, request)
		if err != nil || !found || lease.Left.Abs() > 24*time.Hour {
			t.Errorf("got %+v, %v, %v, want a day at most", lease, found, err)
		}
		renewal := db.Renewal{RequestID: request, Run: 1, Lease: time.Minute, Progress: []byte(`1`)}
		if renewed, err := db.RenewLeases(t.Context(), pool, []db.Renewal{renewal}, 0); err != nil || len(renewed) != 1 {
			t.Errorf("got %+v, %v, want it renewed", renewed, err)
		}
	})
}

// A number at its end would refuse each further attempt, and hold the worker that has it.
func TestAttemptNumberWrittenByHand(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	plantRequests(t, pool, 1, "pending", 2, 1)
	var request uuid.UUID
	if err := pool.QueryRow(t.Context(), "UPDATE callback_attempts SET attempt = 2147483647 RETURNING request_id").Scan(&request); err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 2; want++ {
		settlement := db.Settlement{Attempt: attemptAt(time.Now()), State: db.CallbackPending}
		settlement.RequestID = request
		if got, err := db.SettleCallbacks(t.Context(), pool, []db.Settlement{settlement}); err != nil || !slices.Equal(got, []int{want}) {
			t.Errorf("got the numbers %v, %v, want %d", got, err, want)
		}
	}
}
