package db_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// now is the database's time.
func now(t *testing.T, pool *pgxpool.Pool) (at time.Time) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

// Each row has a time in the future that a clock wrote which was set back by an hour since,
// or a time of the new clock.
func TestSetTimesBack(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		row, time string // the row, where $1 is the time, and how to read the time
		at, want  string // from now on
	}{
		"Retention":                {"UPDATE retention SET next_at = $1", "SELECT next_at FROM retention", "61 minutes", "1 minute"},
		"DeadLetterRetention":      {"UPDATE dead_letter_retention SET next_at = $1", "SELECT next_at FROM dead_letter_retention", "61 minutes", "1 minute"},
		"RetentionByTheNewClock":   {"UPDATE retention SET next_at = $1", "SELECT next_at FROM retention", "-1 minute", "-1 minute"},
		"Process":                  {"INSERT INTO processes (id, beat_at) VALUES ('p', $1)", "SELECT beat_at FROM processes", "59 minutes", "-1 minute"},
		"ProcessThatBeatsSince":    {"INSERT INTO processes (id, beat_at) VALUES ('p', $1)", "SELECT beat_at FROM processes", "-2 seconds", "-2 seconds"},
		"LockedProcess":            {"WITH p AS (INSERT INTO processes (id, beat_at) VALUES ('p', now())) INSERT INTO locked_processes (id, locked_at, database_started_at) VALUES ('p', $1, now())", "SELECT locked_at FROM locked_processes", "59 minutes", "-1 minute"},
		"RunningJob":               {"INSERT INTO river_job (args, kind, queue, max_attempts, state, attempt, attempted_at) VALUES ('{}', 'work', 'work', 1000, 'running', 1, $1)", "SELECT attempted_at FROM river_job", "59 minutes", "-1 minute"},
		"ScheduledJob":             {"INSERT INTO river_job (args, kind, queue, max_attempts, state, scheduled_at) VALUES ('{}', 'work', 'work', 1000, 'scheduled', $1)", "SELECT scheduled_at FROM river_job", "3 hours", "2 hours"},
		"JobThatIsDue":             {"INSERT INTO river_job (args, kind, queue, max_attempts, state, scheduled_at) VALUES ('{}', 'work', 'work', 1000, 'available', $1)", "SELECT scheduled_at FROM river_job", "-5 seconds", "-5 seconds"},
		"Lease":                    {"INSERT INTO work_leases (request_id, turn, started_at, lease_until, heard_at, progress_number) VALUES (gen_random_uuid(), 1, now(), $1, now(), 0)", "SELECT lease_until FROM work_leases", "65 minutes", "5 minutes"},
		"LeaseThatWasRenewedSince": {"INSERT INTO work_leases (request_id, turn, started_at, lease_until, heard_at, progress_number) VALUES (gen_random_uuid(), 1, now(), $1, now(), 0)", "SELECT lease_until FROM work_leases", "5 minutes", "5 minutes"},
		"LeaseWithASign":           {"INSERT INTO work_leases (request_id, turn, started_at, lease_until, heard_at, progress_number) VALUES (gen_random_uuid(), 1, now(), now(), $1, 0)", "SELECT heard_at FROM work_leases", "59 minutes", "0 minutes"},
		"ClosedReceiver":           {"INSERT INTO callback_origins (origin, openings, closed_until, expires_at) VALUES ('http://a.example:80', 1, $1, now() + interval '1 day')", "SELECT closed_until FROM callback_origins", "61 minutes", "1 minute"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			at := func(interval string) (at time.Time) {
				if err := pool.QueryRow(t.Context(), "SELECT clock_timestamp() + $1::text::interval", interval).Scan(&at); err != nil {
					t.Fatal(err)
				}
				return at
			}
			if _, err := pool.Exec(t.Context(), test.row, at(test.at)); err != nil {
				t.Fatal(err)
			}
			earliest := at(test.want).Add(-time.Minute / 2)
			err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := db.SetTimesBack(t.Context(), tx, time.Hour)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			var got time.Time
			if err := pool.QueryRow(t.Context(), test.time).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got.Before(earliest) || got.After(at(test.want).Add(time.Minute/2)) {
				t.Errorf("got %v, want %s from %v on", got, test.want, at("0"))
			}
		})
	}
}
