package db_test

import (
	"slices"
	"testing"

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
			"Completed":        {"UPDATE river_job SET state = 'completed', finalized_at = now()", false},
			"PutIntoTheFuture": {"UPDATE river_job SET state = 'scheduled', scheduled_at = now() + interval '1 hour'", false},
			// As an operator with another search_path does it.
			"DeletedFromAnotherSchema": {"SET LOCAL search_path = pg_catalog; DELETE FROM public.river_job", true},
			"OfNoRequest":              {"UPDATE river_job SET args = '{}'; DELETE FROM river_job", false},
			"RemovedOnceItHasEnded":    {"UPDATE river_job SET state = 'completed', finalized_at = now(); DELETE FROM river_job", false},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pool := dbtest.NewPool(t)
				request := inserted(t, pool, asyncRequest())
				if _, err := pool.Exec(t.Context(), test.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatal(err)
				}
				check(t, db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
					got, err := db.TakeLostSteps(t.Context(), tx, 10)
					if want := []uuid.UUID{request.ID}; test.noted != slices.Equal(got, want) {
						t.Errorf("got %v noted, want it: %v", got, test.noted)
					}
					return err
				}))
			})
		}
	})

	t.Run("AreFoundPageByPage", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		var requests []db.Request
		for range 1500 {
			requests = append(requests, asyncRequest())
		}
		check(t, acceptAll(t.Context(), pool, requests))
		slices.SortFunc(requests, func(a, b db.Request) int { return slices.Compare(a.ID[:], b.ID[:]) })
		for _, i := range []int{0, 999, 1000, 1499} {
			if _, err := pool.Exec(t.Context(), "DELETE FROM river_job WHERE args ->> 'request_id' = $1", requests[i].ID.String()); err != nil {
				t.Fatal(err)
			}
		}
		var found []uuid.UUID
		var after uuid.UUID
		for _, wantNext := range []uuid.UUID{requests[999].ID, uuid.Nil} {
			lost, next, err := db.FindLostSteps(t.Context(), pool, after)
			if err != nil || next != wantNext {
				t.Fatalf("got next %s, %v, want %s", next, err, wantNext)
			}
			found, after = append(found, lost...), next
		}
		if want := []uuid.UUID{requests[0].ID, requests[999].ID, requests[1000].ID, requests[1499].ID}; !slices.Equal(found, want) {
			t.Errorf("got %v, want %v", found, want)
		}
	})
}
