package db_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
)

// attemptAt is a last attempt that was answered with 500.
func attemptAt(start time.Time) db.Attempt {
	return db.Attempt{StartedAt: start, EndedAt: start.Add(time.Millisecond), Outcome: "http_status", HTTPStatus: 500}
}

func insertAttempt(ctx context.Context, tx pgx.Tx, request uuid.UUID, attempt db.Attempt) (int, error) {
	return settle(ctx, tx, request, db.CallbackPending, attempt)
}

func settle(ctx context.Context, tx pgx.Tx, request uuid.UUID, state db.CallbackState, attempt db.Attempt) (int, error) {
	attempt.RequestID = request
	job, err := callbackJob(ctx, tx, request)
	if err != nil {
		return 0, err
	}
	numbers, err := db.SettleCallbacks(ctx, tx, []db.Settlement{{Attempt: attempt, JobID: job, State: state}})
	return append(numbers, 0)[0], err
}

// callbackJob is the callback job of a request, 0 while there is none.
func callbackJob(ctx context.Context, q db.Querier, request uuid.UUID) (id int64, err error) {
	err = q.QueryRow(ctx, "SELECT coalesce(callback_job_id, 0) FROM requests WHERE id = $1", request).Scan(&id)
	return id, err
}

func TestAttempts(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)

	t.Run("AreNumberedFromOneWithinTheirRequest", func(t *testing.T) {
		t.Parallel()
		one, other := asyncRequest(), asyncRequest()
		insert(t, pool, one, other)
		inTx(t, pool, func(tx pgx.Tx) error {
			for want := 1; want <= 3; want++ {
				for _, request := range []db.Request{one, other} {
					got, err := insertAttempt(t.Context(), tx, request.ID, attemptAt(morning))
					if err != nil || got != want {
						t.Errorf("attempt: got %d, %v, want %d", got, err, want)
					}
				}
			}
			return nil
		})
	})

	t.Run("AreListedInOrderTheLatestOnly", func(t *testing.T) {
		t.Parallel()
		request := asyncRequest()
		insert(t, pool, request)
		var all []db.Attempt
		inTx(t, pool, func(tx pgx.Tx) error {
			for i := range 5 {
				attempt := attemptAt(morning.Add(time.Duration(i) * time.Minute))
				attempt.NextAttemptAt = attempt.EndedAt.Add(time.Second)
				if i == 4 { // no answer, and no other attempt
					attempt.Outcome, attempt.HTTPStatus, attempt.NextAttemptAt = "timeout", 0, time.Time{}
				}
				number, err := insertAttempt(t.Context(), tx, request.ID, attempt)
				if err != nil {
					return err
				}
				attempt.Attempt = number
				all = append(all, attempt)
			}
			return nil
		})
		for most, want := range map[int][]db.Attempt{5: all, 6: all, 2: all[3:], 1: all[4:]} {
			got, err := db.ListAttempts(t.Context(), pool, request.ID, most)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("the latest %d: got error %v and (-want +got):\n%s", most, err, diff)
			}
		}
	})

	t.Run("KeepForOperatorsWhatCallersDoNotSee", func(t *testing.T) {
		t.Parallel()
		request, attempt := asyncRequest(), attemptAt(morning)
		insert(t, pool, request)
		attempt.Address, attempt.Cause = "192.0.2.1:443", "too slow"
		attempt.DNS, attempt.Connect, attempt.FirstByte = time.Millisecond, 2*time.Second, 1500*time.Nanosecond
		inTx(t, pool, func(tx pgx.Tx) error {
			_, err := insertAttempt(t.Context(), tx, request.ID, attempt)
			return err
		})
		const sql = `
			SELECT concat_ws(' ', address, cause, dns_us, connect_us, coalesce(tls_us::text, 'no tls'), first_byte_us)
			FROM callback_attempts
			WHERE request_id = $1`
		if got, want := valueOf[string](t, pool, sql, request.ID), "192.0.2.1:443 too slow 1000 2000000 no tls 1"; got != want {
			t.Errorf("stored: got %q, want %q", got, want)
		}
		listed, err := db.ListAttempts(t.Context(), pool, request.ID, 10)
		want := attemptAt(morning)
		want.Attempt = 1
		if diff := cmp.Diff([]db.Attempt{want}, listed); err != nil || diff != "" {
			t.Errorf("listed: got error %v and (-want +got):\n%s", err, diff)
		}
	})

	t.Run("AreEmptyWithoutAny", func(t *testing.T) {
		t.Parallel()
		got, err := db.ListAttempts(t.Context(), pool, uuid.New(), 10)
		if err != nil || len(got) != 0 {
			t.Errorf("got %v, %v, want none", got, err)
		}
	})
}

func TestSettleCallbacks(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	pending := func(t *testing.T) db.Request {
		request := asyncRequest()
		insert(t, pool, request)
		request.Status, request.Result = db.Succeeded, jsontext.Value(`1`)
		request.StartedAt, request.FinishedAt = morning, morning
		inTx(t, pool, func(tx pgx.Tx) error { return finish(t.Context(), tx, &request) })
		return request
	}
	at := func(request db.Request, state db.CallbackState, start time.Time) db.Settlement {
		settlement := db.Settlement{Attempt: attemptAt(start), JobID: request.CallbackJobID, State: state}
		settlement.RequestID = request.ID
		return settlement
	}

	t.Run("NumbersAndSettlesEachRequestOfABatch", func(t *testing.T) {
		t.Parallel()
		one, other, third := pending(t), pending(t), pending(t)
		got, err := db.SettleCallbacks(t.Context(), pool, []db.Settlement{
			at(one, db.CallbackPending, morning), at(other, db.CallbackDead, morning),
			at(one, db.CallbackDelivered, morning.Add(time.Hour)), at(third, db.CallbackPending, morning),
			at(one, db.CallbackDead, morning.Add(2*time.Hour)), // twice in a batch: the first that ends it counts
		})
		if diff := cmp.Diff([]int{1, 1, 2, 1, 3}, got); err != nil || diff != "" {
			t.Errorf("numbers: %v, (-want +got):\n%s", err, diff)
		}
		for want, request := range map[db.CallbackState]db.Request{db.CallbackDelivered: one, db.CallbackDead: other, db.CallbackPending: third} {
			if got, err := db.GetRequest(t.Context(), pool, request.Client, request.ID); err != nil || got.CallbackState != want {
				t.Errorf("state: got %s, %v, want %s", got.CallbackState, err, want)
			}
		}
	})

	t.Run("LeavesWhatIsSettled", func(t *testing.T) {
		t.Parallel()
		request := pending(t)
		if got, err := db.SettleCallbacks(t.Context(), pool, []db.Settlement{at(request, db.CallbackDelivered, morning)}); err != nil || got[0] != 1 {
			t.Fatalf("first: got %v, %v, want it logged as 1", got, err)
		}
		if got, err := db.SettleCallbacks(t.Context(), pool, []db.Settlement{at(request, db.CallbackDead, morning.Add(time.Hour))}); err != nil || got[0] != 2 {
			t.Errorf("second: got %v, %v, want it logged as 2", got, err)
		}
		got, err := db.GetRequest(t.Context(), pool, request.Client, request.ID)
		if err != nil || got.CallbackState != db.CallbackDelivered || !got.SettledAt.Equal(morning.Add(time.Millisecond)) {
			t.Errorf("got %+v, %v, want it as the first one left it", got, err)
		}
	})

	t.Run("LeavesWhatWasLetOffAgainToItsOwnJob", func(t *testing.T) {
		t.Parallel()
		request := pending(t)
		late := at(request, db.CallbackDead, morning)
		if _, err := db.SettleCallbacks(t.Context(), pool, []db.Settlement{late}); err != nil {
			t.Fatal(err)
		}
		ids, err := db.RedeliverCallbacks(t.Context(), pool, callbackJobs,
			[]db.Redelivery{{RequestID: request.ID, Client: request.Client, At: morning.Add(time.Hour)}})
		if err != nil {
			t.Fatal(err)
		}
		again := late
		again.JobID, again.State = ids[request.ID], db.CallbackDelivered
		for _, step := range []struct {
			made db.Settlement
			want db.CallbackState
		}{{late, db.CallbackPending}, {again, db.CallbackDelivered}} {
			_, err := db.SettleCallbacks(t.Context(), pool, []db.Settlement{step.made})
			got, getErr := db.GetRequest(t.Context(), pool, request.Client, request.ID)
			if err := errors.Join(err, getErr); err != nil || got.CallbackState != step.want {
				t.Errorf("after job %d: got %s, %v, want %s", step.made.JobID, got.CallbackState, err, step.want)
			}
		}
	})
}
