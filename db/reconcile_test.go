package db_test

import (
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestLostSteps(t *testing.T) {
	t.Parallel()

	t.Run("AreNotedWhateverEndsTheJob", func(t *testing.T) {
		t.Parallel()
		for name, test := range map[string]struct {
			sql   string
			noted bool
		}{
			"Cancelled":        {"UPDATE river_job SET state = 'cancelled', finalized_at = now()", true},
			"Discarded":        {"UPDATE river_job SET state = 'discarded', finalized_at = now()", true},
			"Deleted":          {"DELETE FROM river_job", true},
			"Completed":        {"UPDATE river_job SET state = 'completed', finalized_at = now()", true},
			"CompletedAsItRan": {"UPDATE river_job SET state = 'running'; UPDATE river_job SET state = 'completed', finalized_at = now()", false},
			"Truncated":        {"TRUNCATE river_job", true},
			"PutIntoTheFuture": {"UPDATE river_job SET state = 'scheduled', scheduled_at = now() + interval '1 hour'", false},
			// As an operator with another search_path does it.
			"DeletedFromAnotherSchema": {"SET LOCAL search_path = pg_catalog; DELETE FROM public.river_job", true},
			"OfNoRequest":              {"UPDATE river_job SET args = '{}'; DELETE FROM river_job", false},
			"OfWhatIsNoRequest":        {`UPDATE river_job SET args = '{"request_id": "x"}'; DELETE FROM river_job`, false},
			"RemovedOnceItHasEnded":    {"UPDATE river_job SET state = 'running'; UPDATE river_job SET state = 'completed', finalized_at = now(); DELETE FROM river_job", false},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pool := dbtest.NewPool(t)
				request := inserted(t, pool, asyncRequest())
				if _, err := pool.Exec(t.Context(), test.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatal(err)
				}
				got, err := db.LostSteps(t.Context(), pool, 10)
				if want := []uuid.UUID{request.ID}; err != nil || test.noted != slices.Equal(got, want) {
					t.Errorf("got %v noted, %v, want it: %v", got, err, test.noted)
				}
			})
		}
	})

	// The look can't see yet that the job is gone, and must come again.
	t.Run("StayNotedWhileTheirLossIsNotCommitted", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		request := inserted(t, pool, asyncRequest())
		noteAgain := func(q db.Querier) error {
			_, err := q.Exec(t.Context(), "INSERT INTO lost_steps (request_id) VALUES ($1) ON CONFLICT DO NOTHING", request.ID)
			return err
		}
		mend := func() (mended db.Mended) {
			check(t, db.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
				ids, err := db.LostSteps(t.Context(), tx, 10)
				if err == nil {
					mended, err = db.Mend(t.Context(), tx, workJobs, callbackJobs, ids, jsontext.Value(`{}`))
				}
				return err
			}))
			return mended
		}
		check(t, noteAgain(pool)) // for an earlier reason
		removing, err := pool.Begin(t.Context())
		check(t, err)
		if _, err := removing.Exec(t.Context(), "DELETE FROM river_job"); err != nil {
			t.Fatal(err)
		}
		if got := mend(); got.Any() {
			t.Errorf("before the commit: got %+v, want nothing done", got)
		}
		check(t, removing.Commit(t.Context()))
		if got := mend(); got.Work != 1 {
			t.Errorf("after the commit: got %+v, want the work job made again", got)
		}
		if got := mend(); got.Any() {
			t.Errorf("again: got %+v, want nothing left to do", got)
		}
	})

	t.Run("AreFoundPageByPage", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		var requests []db.Request
		for range db.ReconciledAtOnce + 500 {
			requests = append(requests, asyncRequest())
		}
		check(t, acceptAll(t.Context(), pool, requests))
		slices.SortFunc(requests, func(a, b db.Request) int { return slices.Compare(a.ID[:], b.ID[:]) })
		for _, i := range []int{0, db.ReconciledAtOnce - 1, db.ReconciledAtOnce, db.ReconciledAtOnce + 499} {
			if _, err := pool.Exec(t.Context(), "DELETE FROM river_job WHERE args ->> 'request_id' = $1", requests[i].ID.String()); err != nil {
				t.Fatal(err)
			}
		}
		var found []uuid.UUID
		var after uuid.UUID
		for _, wantNext := range []uuid.UUID{requests[db.ReconciledAtOnce-1].ID, uuid.Nil} {
			lost, next, err := db.FindLostSteps(t.Context(), pool, workJobs, callbackJobs, after)
			if err != nil || next != wantNext {
				t.Fatalf("got next %s, %v, want %s", next, err, wantNext)
			}
			found, after = append(found, lost...), next
		}
		if want := []uuid.UUID{requests[0].ID, requests[db.ReconciledAtOnce-1].ID, requests[db.ReconciledAtOnce].ID, requests[db.ReconciledAtOnce+499].ID}; !slices.Equal(found, want) {
			t.Errorf("got %v, want %v", found, want)
		}
	})
}
