package db_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// A trigger BEFORE UPDATE that returns no row keeps a step from being written, and Postgres
// tells of no error.
func TestSwallowedChanges(t *testing.T) {
	t.Parallel()
	const finished, settled = `SELECT status = 'succeeded' FROM requests`, `SELECT callback_state = 'delivered' FROM requests`
	steps := map[string]struct {
		do   func(tx pgx.Tx, request *db.Request) error
		done string
	}{
		"Finish": {func(tx pgx.Tx, request *db.Request) error {
			return finish(t.Context(), tx, request)
		}, finished},
		"Settle": {func(tx pgx.Tx, request *db.Request) error {
			_, err := settle(t.Context(), tx, request.ID, db.CallbackDelivered, attemptAt(morning))
			return err
		}, settled},
		"Mend": {func(tx pgx.Tx, request *db.Request) error {
			_, err := db.Mend(t.Context(), tx, workJobs, callbackJobs, []uuid.UUID{request.ID}, jsontext.Value(`{}`))
			return err
		}, `SELECT count(*) = 2 FROM river_job JOIN requests ON river_job.id IN (work_job_id, callback_job_id)`},
	}
	for step, test := range steps {
		for _, table := range []string{"requests", "river_job"} {
			if step == "Mend" && table == "river_job" {
				continue // it changes no job
			}
			t.Run(step+"On"+table, func(t *testing.T) {
				t.Parallel()
				pool := dbtest.NewPool(t)
				request := owedThe(t, pool, step)
				change(t, pool, "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
				change(t, pool, "CREATE TRIGGER by_hand BEFORE UPDATE ON "+table+" FOR EACH ROW EXECUTE FUNCTION swallow()")
				do := func() error {
					return db.InTx(t.Context(), pool, func(tx pgx.Tx) error { return test.do(tx, &request) })
				}
				if err := do(); db.FaultOf(err) != db.Broken {
					t.Errorf("with the trigger: got %v, want the schema broken", err)
				}
				change(t, pool, "DROP TRIGGER by_hand ON "+table)
				if err := do(); err != nil || !valueOf[bool](t, pool, test.done) {
					t.Errorf("without the trigger: got %v, want the step done", err)
				}
			})
		}
	}
}

// owedThe is a request whose next step is the given step, by a job that runs.
func owedThe(t *testing.T, pool *pgxpool.Pool, step string) db.Request {
	t.Helper()
	request := inserted(t, pool, asyncRequest())
	request.Status, request.Result, request.StartedAt, request.FinishedAt = db.Succeeded, jsontext.Value(`1`), morning, morning
	if step != "Finish" {
		check(t, finish(t.Context(), pool, &request))
	}
	if step == "Mend" {
		change(t, pool, "DELETE FROM river_job WHERE kind = 'callback'")
	}
	change(t, pool, "UPDATE river_job SET state = 'running', attempted_at = now() WHERE finalized_at IS NULL")
	return request
}

func change(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
