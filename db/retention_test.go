package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// plantRequests makes requests that were accepted, and have ended as state says,
// so many hours ago, each with an attempt and two jobs.
func plantRequests(t *testing.T, pool *pgxpool.Pool, count int, state string, hours, endedHours int) {
	t.Helper()
	const sql = `
		WITH ids AS (
			SELECT (lpad(to_hex((extract(epoch FROM now() - $3 * interval '1 hour') * 1000)::bigint + n), 12, '0')
			       || '7000a' || lpad(to_hex(n), 15, '0'))::uuid AS id,
			       n, now() - $3 * interval '1 hour' AS accepted, now() - $4 * interval '1 hour' AS ended,
			       nextval('river_job_id_seq') AS work, nextval('river_job_id_seq') AS callback
			FROM generate_series(1, $1::int) AS n
		), jobs AS (
			INSERT INTO river_job (id, args, kind, queue, max_attempts, state, finalized_at)
			SELECT unnest(ARRAY[work, callback]), '{}', 'work', 'work', 1000, 'completed', now()
			FROM ids
		), attempts AS (
			INSERT INTO callback_attempts (request_id, attempt, started_at, ended_at, outcome)
			SELECT id, 1, ended, ended, 'delivered'
			FROM ids
		)
		INSERT INTO requests (id, mode, client, status, input, result, callback_url, callback_state, work_job_id, callback_job_id, accepted_at, finished_at, settled_at)
		SELECT id, 'async', 'alice',
		       CASE $2 WHEN 'waiting' THEN 'accepted' ELSE 'succeeded' END, '{}',
		       CASE $2 WHEN 'waiting' THEN NULL ELSE '{}'::json END,
		       'https://example.com/', $2, work, callback, accepted,
		       CASE $2 WHEN 'waiting' THEN NULL ELSE ended END,
		       CASE WHEN $2 IN ('waiting', 'pending') THEN NULL ELSE ended END
		FROM ids`
	if _, err := pool.Exec(t.Context(), sql, count, state, hours, endedHours); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, pool *pgxpool.Pool, position uuid.UUID, before time.Time) (swept db.Swept) {
	t.Helper()
	err := db.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
		swept, err = db.RemoveRequests(t.Context(), tx, position, before)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return swept
}

// counts are the rows of requests, attempts and jobs.
func counts(t *testing.T, pool *pgxpool.Pool) (all string) {
	t.Helper()
	const sql = `SELECT concat_ws(' ', (SELECT count(*) FROM requests), (SELECT count(*) FROM callback_attempts), (SELECT count(*) FROM river_job))`
	if err := pool.QueryRow(t.Context(), sql).Scan(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRemoveRequests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		state        string
		hours, ended int // ago
		removed      int
	}{
		{"DeliveredLongAgoGoes", "delivered", 30, 30, 3},
		{"CancelledLongAgoGoes", "cancelled", 30, 30, 3},
		{"DeliveredLatelyStays", "delivered", 30, 1, 0},
		{"AcceptedLatelyStays", "delivered", 1, 1, 0},
		{"DeadLetterStays", "dead", 30, 30, 0},
		{"PendingCallbackStays", "pending", 30, 30, 0},
		{"UnfinishedStays", "waiting", 30, 30, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			plantRequests(t, pool, 3, test.state, test.hours, test.ended)
			swept := remove(t, pool, uuid.Nil, time.Now().Add(-24*time.Hour))
			left := 3 - test.removed
			want := fmt.Sprintf("%d %d %d", left, left, 2*left)
			if got := counts(t, pool); swept.Removed != test.removed || got != want {
				t.Errorf("got %+v and %s rows left, want %d removed and %s left", swept, got, test.removed, want)
			}
		})
	}

	t.Run("WaitsForWhatEndedAfterItsAcceptance", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		now := time.Now()
		for i, test := range []struct{ accepted, took time.Duration }{ // in the order of acceptance
			{-2 * time.Minute, 10 * time.Minute}, // left for the next pass: it may take days
			{-50 * time.Second, 0},
			{-40 * time.Second, time.Minute},
			{-30 * time.Second, 0},
		} {
			at := now.Add(test.accepted)
			plantRequests(t, pool, 1, "delivered", 0, 0)
			const move = `
				UPDATE requests
				SET id = (lpad(to_hex($1::bigint), 12, '0') || '7000a' || lpad('0', 15, '0'))::uuid, accepted_at = $2, settled_at = $3
				WHERE seq = $4`
			if _, err := pool.Exec(t.Context(), move, at.UnixMilli(), at, at.Add(test.took), i+1); err != nil {
				t.Fatal(err)
			}
			// The next attempt, made in the same millisecond, has this attempt's former id.
			if _, err := pool.Exec(t.Context(), "DELETE FROM callback_attempts"); err != nil {
				t.Fatal(err)
			}
		}
		first := remove(t, pool, uuid.Nil, now)
		if first.Seen != 2 || first.Removed != 1 {
			t.Errorf("first: got %+v, want the second request removed, and the third not passed over", first)
		}
		second := remove(t, pool, first.Last, now.Add(25*time.Second)) // as if that time had passed
		if second.Seen != 2 || second.Removed != 2 {
			t.Errorf("later: got %+v, want the last two removed", second)
		}
	})

	t.Run("GoesOnAfterTheLastBatch", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantRequests(t, pool, 10, "dead", 40, 40)
		plantRequests(t, pool, db.SweepBatch, "delivered", 30, 30)
		before := time.Now().Add(-24 * time.Hour)
		first := remove(t, pool, uuid.Nil, before)
		second := remove(t, pool, first.Last, before)
		if first.Seen != db.SweepBatch || first.Removed != db.SweepBatch-10 || second.Seen != 10 || second.Removed != 10 {
			t.Errorf("got %+v, then %+v, want the ten dead letters seen once, and all others removed", first, second)
		}
		if third := remove(t, pool, second.Last, before); third != (db.Swept{}) {
			t.Errorf("then: got %+v, want nothing more", third)
		}
	})

	t.Run("ReadsNoTableFromItsStart", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantRequests(t, pool, 5000, "delivered", 30, 30)
		if _, err := pool.Exec(t.Context(), "ANALYZE"); err != nil {
			t.Fatal(err)
		}
		err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := db.RemoveRequests(t.Context(), tx, uuid.Nil, time.Now().Add(-24*time.Hour))
			if err != nil {
				return err
			}
			return wantNoSequentialScan(t.Context(), t, tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func removeLetters(t *testing.T, pool *pgxpool.Pool, from db.Sweep, before time.Time) (swept db.Swept) {
	t.Helper()
	err := db.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
		swept, err = db.RemoveDeadLetters(t.Context(), tx, from, before)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return swept
}

// plantDead makes dead letters that died so many hours ago.
func plantDead(t *testing.T, pool *pgxpool.Pool, count, hours int) {
	t.Helper()
	plantRequests(t, pool, count, "dead", hours+48, hours)
	const sql = `
		INSERT INTO dead_letters (client, request_id, callback_host, accepted_at, died_at)
		SELECT client, id, 'example.com', accepted_at, settled_at FROM requests WHERE callback_state = 'dead'
		ON CONFLICT DO NOTHING`
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveDeadLetters(t *testing.T) {
	t.Parallel()
	dayAgo := time.Now().Add(-24 * time.Hour)
	letters := func(t *testing.T, pool *pgxpool.Pool) (count int) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM dead_letters").Scan(&count); err != nil {
			t.Fatal(err)
		}
		return count
	}

	t.Run("RemovesTheOldWithAllThatIsTheirs", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantDead(t, pool, 3, 30)
		plantDead(t, pool, 2, 1)
		plantRequests(t, pool, 1, "delivered", 90, 90)
		got := removeLetters(t, pool, db.Sweep{}, dayAgo)
		if got.Seen != 5 || got.Removed != 3 || got.Client != "alice" {
			t.Errorf("got %+v, want three of five removed", got)
		}
		if rows := counts(t, pool); rows != "3 3 6" || letters(t, pool) != 2 {
			t.Errorf("got %s rows and %d letters left, want 3 3 6 and 2", rows, letters(t, pool))
		}
	})

	t.Run("LeavesWhatWasRedeliveredOrDiedAgain", func(t *testing.T) {
		t.Parallel()
		for _, since := range []string{"callback_state = 'pending', settled_at = NULL", "settled_at = now()"} {
			pool := dbtest.NewPool(t)
			plantDead(t, pool, 1, 30)
			if _, err := pool.Exec(t.Context(), "UPDATE requests SET "+since); err != nil {
				t.Fatal(err)
			}
			if got := removeLetters(t, pool, db.Sweep{}, dayAgo); got.Removed != 0 || letters(t, pool) != 1 {
				t.Errorf("with %s: got %+v, want it left", since, got)
			}
		}
	})

	t.Run("GoesOnAfterTheLastBatchInTheOrderOfClients", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantDead(t, pool, db.SweepBatch+10, 1)
		const sql = "INSERT INTO dead_letters (client, request_id, callback_host, accepted_at) SELECT 'aaron', gen_random_uuid(), 'h', now() FROM generate_series(1, 5)"
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		first := removeLetters(t, pool, db.Sweep{}, dayAgo)
		second := removeLetters(t, pool, db.Sweep{Client: first.Client, Position: first.Last}, dayAgo)
		if first.Seen != db.SweepBatch || first.Client != "alice" || second.Seen != 15 {
			t.Errorf("got %+v, then %+v, want a whole batch and the other 15", first, second)
		}
		if third := removeLetters(t, pool, db.Sweep{Client: second.Client, Position: second.Last}, dayAgo); third != (db.Swept{}) {
			t.Errorf("then: got %+v, want nothing more", third)
		}
	})

	t.Run("ReadsNoTableFromItsStart", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantDead(t, pool, 3000, 30)
		plantRequests(t, pool, 3000, "delivered", 90, 90)
		if _, err := pool.Exec(t.Context(), "ANALYZE"); err != nil {
			t.Fatal(err)
		}
		// By another connection: planting has read whole tables.
		err := db.InTx(t.Context(), dbtest.Pool(t, pool.Config().ConnString()), func(tx pgx.Tx) error {
			swept, err := db.RemoveDeadLetters(t.Context(), tx, db.Sweep{}, dayAgo)
			if err != nil || swept.Removed != db.SweepBatch {
				return errors.Join(err, fmt.Errorf("got %+v, want a whole batch removed", swept))
			}
			return wantNoSequentialScan(t.Context(), t, tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func wantNoSequentialScan(ctx context.Context, t *testing.T, tx pgx.Tx) error {
	const sql = `
		SELECT coalesce(string_agg(relname, ', '), '')
		FROM pg_stat_xact_user_tables
		WHERE seq_scan > 0
		  AND relname IN ('requests', 'callback_attempts', 'river_job', 'dead_letters')`
	var scanned string
	if err := tx.QueryRow(ctx, sql).Scan(&scanned); err != nil {
		return err
	}
	if scanned != "" {
		t.Errorf("read from the start: %s", scanned)
	}
	return nil
}

func TestSweepIsHeldByOne(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	lock := func(tx pgx.Tx) (db.Sweep, bool) {
		sweep, locked, err := db.LockSweep(t.Context(), tx, db.OldRequests)
		if err != nil {
			t.Fatal(err)
		}
		return sweep, locked
	}
	inTx := func(do func(tx pgx.Tx)) {
		if err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error { do(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	position := uuid.Must(uuid.NewV7())
	inTx(func(first pgx.Tx) {
		sweep, locked := lock(first)
		if !locked || sweep.Position != uuid.Nil {
			t.Errorf("first: got %+v, %v, want the start of the table, locked", sweep, locked)
		}
		inTx(func(second pgx.Tx) {
			if _, locked := lock(second); locked {
				t.Error("second: it was locked, want it held by the first")
			}
		})
		sweep.Position = position
		if err := db.SaveSweep(t.Context(), first, db.OldRequests, sweep, time.Hour); err != nil {
			t.Fatal(err)
		}
	})
	inTx(func(later pgx.Tx) {
		if _, locked := lock(later); locked {
			t.Error("later: it was locked, want it not due for an hour")
		}
	})
	sweep, err := db.ReadSweep(t.Context(), pool, db.OldRequests)
	if err != nil || sweep.Position != position || sweep.NextAt.Sub(sweep.Now) < 50*time.Minute {
		t.Errorf("got %+v, %v, want what was saved", sweep, err)
	}
}

func TestAcceptedAt(t *testing.T) {
	t.Parallel()
	const id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f" // RFC 9562, appendix A.6
	want := time.Date(2022, 2, 22, 19, 22, 22, 0, time.UTC)
	if got := db.AcceptedAt(uuid.MustParse(id)); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := db.FirstID(want).String(); !strings.HasPrefix(id, got[:13]) || got >= id {
		t.Errorf("first id: got %s, want it just below %s", got, id)
	}
}
