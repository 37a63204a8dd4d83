package db_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"ringback/db"
	"ringback/db/dbtest"
)

// ordered are accepted requests of a key, as one batch.
func ordered(t *testing.T, pool *pgxpool.Pool, client, key string, count int) []db.Request {
	t.Helper()
	requests := make([]db.Request, count)
	for i := range requests {
		requests[i] = asyncRequest()
		requests[i].Client, requests[i].OrderingKey = client, key
	}
	if err := acceptAll(t.Context(), pool, requests); err != nil {
		t.Fatal(err)
	}
	return requests
}

func acceptAll(ctx context.Context, q db.Querier, requests []db.Request) error {
	got, err := db.InsertRequests(ctx, q, workJobs, requests)
	for i := range requests {
		requests[i].Sequence = got[requests[i].ID].Sequence
	}
	return err
}

func finishAll(ctx context.Context, q db.Querier, requests ...db.Request) error {
	outcomes := slices.Clone(requests)
	for i := range outcomes {
		outcomes[i].Status, outcomes[i].Result = db.Succeeded, jsontext.Value(`1`)
		outcomes[i].StartedAt, outcomes[i].FinishedAt = morning, morning
	}
	_, err := db.FinishRequests(ctx, q, callbackJobs, outcomes)
	return err
}

func settleAll(ctx context.Context, q db.Querier, state db.CallbackState, requests ...db.Request) error {
	settlements := make([]db.Settlement, len(requests))
	for i, request := range requests {
		job, err := callbackJob(ctx, q, request.ID)
		if err != nil {
			return err
		}
		settlements[i] = db.Settlement{Attempt: attemptAt(morning), JobID: job, State: state, Place: request.Place()}
		settlements[i].RequestID = request.ID
	}
	_, err := db.SettleCallbacks(ctx, q, settlements)
	return err
}

// leave does what cancelling does.
func leave(ctx context.Context, pool *pgxpool.Pool, request db.Request) error {
	return db.InTx(ctx, pool, func(tx pgx.Tx) error {
		if err := db.LockOrder(ctx, tx, request.Place()); err != nil {
			return err
		}
		return db.LeaveOrder(ctx, tx, request.Place())
	})
}

// wantJobs checks the states of the callback jobs; an empty state means no job.
func wantJobs(t *testing.T, q db.Querier, requests []db.Request, want ...string) {
	t.Helper()
	got := make([]string, len(requests))
	for i, request := range requests {
		got[i] = valueOf[string](t, q, fmt.Sprintf(
			"SELECT coalesce(max(callback_job_state::text), '') FROM request_trace WHERE request_id = '%s'", request.ID))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("callback jobs (-want +got):\n%s", diff)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)

	t.Run("LetsTheFirstOfEachKeyLeave", func(t *testing.T) {
		t.Parallel()
		requests := slices.Concat(ordered(t, pool, "alice", "one", 3), ordered(t, pool, "alice", "other", 2), ordered(t, pool, "bob", "one", 2))
		free := inserted(t, pool, asyncRequest())
		check(t, finishAll(t.Context(), pool, append(requests, free)...))
		wantJobs(t, pool, append(requests, free),
			"available", "pending", "pending", "available", "pending", "available", "pending", "available")
	})

	t.Run("LetsTheNextLeaveWhenOneHasEnded", func(t *testing.T) {
		t.Parallel()
		r := ordered(t, pool, "alice", "chain", 5)
		check(t, finishAll(t.Context(), pool, r...))
		check(t, settleAll(t.Context(), pool, db.CallbackPending, r[0])) // to be tried again
		wantJobs(t, pool, r, "available", "pending", "pending", "pending", "pending")
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r[0]))
		wantJobs(t, pool, r, "available", "available", "pending", "pending", "pending")
		check(t, settleAll(t.Context(), pool, db.CallbackDead, r[1]))
		wantJobs(t, pool, r, "available", "available", "available", "pending", "pending")
		check(t, leave(t.Context(), pool, r[2]))
		wantJobs(t, pool, r, "available", "available", "available", "available", "pending")
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r[1], r[0])) // once more: nothing is left of them
		wantJobs(t, pool, r, "available", "available", "available", "available", "pending")
	})

	t.Run("WaitsForWorkThatTakesLonger", func(t *testing.T) {
		t.Parallel()
		r := ordered(t, pool, "alice", "slow first", 3)
		check(t, finishAll(t.Context(), pool, r[1]))
		wantJobs(t, pool, r, "", "pending", "")
		check(t, finishAll(t.Context(), pool, r[0]))
		wantJobs(t, pool, r, "available", "pending", "")
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r[0], r[1]))
		check(t, finishAll(t.Context(), pool, r[2])) // nobody is left to release it
		wantJobs(t, pool, r, "available", "pending", "available")
	})

	t.Run("ClosesTheGapOfOneThatLeavesFromTheMiddle", func(t *testing.T) {
		t.Parallel()
		r := ordered(t, pool, "alice", "gap", 3)
		check(t, finishAll(t.Context(), pool, r...))
		check(t, leave(t.Context(), pool, r[1]))
		wantJobs(t, pool, r, "available", "pending", "pending")
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r[0]))
		wantJobs(t, pool, r, "available", "pending", "available")
	})

	t.Run("ReleasesNoJobThatSomebodyTouched", func(t *testing.T) {
		t.Parallel()
		r := ordered(t, pool, "alice", "touched", 2)
		check(t, finishAll(t.Context(), pool, r...))
		_, err := pool.Exec(t.Context(), `
			UPDATE river_job SET state = 'cancelled', finalized_at = now()
			WHERE id = (SELECT callback_job_id FROM requests WHERE id = $1)`, r[1].ID)
		check(t, err)
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r[0]))
		wantJobs(t, pool, r, "available", "cancelled")
	})

	t.Run("FollowsTheOrderWithinABatch", func(t *testing.T) {
		t.Parallel()
		requests := ordered(t, pool, "alice", "batch", 256)
		sequences := make([]int64, len(requests))
		for i, request := range requests {
			sequences[i] = request.Sequence
		}
		if !slices.IsSorted(sequences) || sequences[0] == 0 {
			t.Errorf("got %v, want the order of the batch", sequences)
		}
		stored, err := db.GetRequest(t.Context(), pool, "alice", requests[7].ID)
		if err != nil || stored.Sequence != sequences[7] || stored.OrderingKey != "batch" {
			t.Errorf("got %+v, %v, want the key and sequence %d", stored, err, sequences[7])
		}
	})

	t.Run("HoldsNoRowsOfWhatHasEnded", func(t *testing.T) {
		t.Parallel()
		r := ordered(t, pool, "alice", "ended", 2)
		check(t, finishAll(t.Context(), pool, r...))
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r...))
		if left := valueOf[int](t, pool, "SELECT count(*) FROM ordered_requests WHERE ordering_key = 'ended'"); left != 0 {
			t.Errorf("got %d rows, want none", left)
		}
	})

	t.Run("TellsTheWorkersWhatItReleases", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		r := ordered(t, pool, "alice", "told", 2)
		check(t, finishAll(t.Context(), pool, r...))
		listener := connect(t, pool.Config().ConnString())
		_, err := listener.Exec(t.Context(), `LISTEN "public.river_insert"`)
		check(t, err)
		check(t, settleAll(t.Context(), pool, db.CallbackDelivered, r[0]))
		got, err := listener.WaitForNotification(t.Context())
		if err != nil || got.Payload != `{"queue" : "callback"}` {
			t.Errorf("got %+v, %v, want the queue of callbacks", got, err)
		}
	})

	t.Run("CostsNothingWithoutAKey", func(t *testing.T) {
		t.Parallel()
		request, q := asyncRequest(), single{pool}
		check(t, acceptAll(t.Context(), q, []db.Request{request}))
		check(t, finishAll(t.Context(), q, request))
		check(t, settleAll(t.Context(), q, db.CallbackDelivered, request))
	})

	t.Run("NeverReadsTheWholeTable", testOrderPlans)
}

// TestOrderWaitsForWhoIsUnderWay starts a second step of a key before the first commits:
// it has to wait, and then sees the first step's changes.
func TestOrderWaitsForWhoIsUnderWay(t *testing.T) {
	t.Parallel()
	type step func(q db.Querier, r []db.Request) error
	finishNext := func(q db.Querier, r []db.Request) error { return finishAll(t.Context(), q, r[1]) }
	deliverFirst := func(q db.Querier, r []db.Request) error {
		return settleAll(t.Context(), q, db.CallbackDelivered, r[0])
	}
	acceptAnother := func(q db.Querier, r []db.Request) error {
		another := asyncRequest()
		another.OrderingKey = r[0].OrderingKey
		return acceptAll(t.Context(), q, []db.Request{another})
	}
	for name, steps := range map[string][2]step{
		"SettleMeetsTheNextThatFinishes":       {finishNext, deliverFirst},
		"FinishMeetsTheOneBeforeThatIsSettled": {deliverFirst, finishNext},
		"AcceptMeetsAnAccept":                  {acceptAnother, acceptAnother},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t) // of its own, since its locks are looked at
			r := ordered(t, pool, "alice", name, 2)
			check(t, finishAll(t.Context(), pool, r[0]))
			tx, err := pool.Begin(t.Context())
			check(t, err)
			check(t, steps[0](tx, r))
			second := make(chan error, 1)
			go func() { second <- steps[1](pool, r) }()
			waits := "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
			for len(second) == 0 && !valueOf[bool](t, pool, waits) {
				runtime.Gosched()
			}
			if len(second) > 0 {
				t.Error("the second step didn't wait")
			}
			check(t, tx.Commit(t.Context()))
			check(t, <-second)
			if name != "AcceptMeetsAnAccept" {
				wantJobs(t, pool, r, "available", "available")
			}
		})
	}
}

// single runs at most a statement at a time.
type single struct{ db.Querier }

func (single) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults {
	panic("more than one statement")
}

// statements records the statements sent.
type statements struct {
	db.Querier
	sent []*pgx.QueuedQuery
}

func (s *statements) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	s.sent = append(s.sent, batch.QueuedQueries...)
	return s.Querier.SendBatch(ctx, batch)
}

// testOrderPlans asks for the plans that are kept, when Postgres knows of no rows.
func testOrderPlans(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	seen := &statements{Querier: pool}
	request := asyncRequest()
	request.OrderingKey = "planned"
	requests := []db.Request{request}
	check(t, acceptAll(t.Context(), seen, requests))
	check(t, finishAll(t.Context(), seen, requests...))
	check(t, settleAll(t.Context(), seen, db.CallbackDelivered, requests...))
	held, err := pool.Acquire(t.Context()) // with the settings of the steps
	check(t, err)
	defer held.Release()
	conn := held.Conn()
	for _, statistics := range []string{"SELECT", "VACUUM ANALYZE ordered_requests"} {
		_, err := conn.Exec(t.Context(), statistics)
		check(t, err)
		for i, s := range seen.sent {
			name := fmt.Sprintf("ordered_%d", i)
			_, err := conn.Exec(t.Context(), "PREPARE "+name+" AS "+s.SQL)
			check(t, err)
			nulls := strings.Repeat(", NULL", len(s.Arguments))[2:]
			plan := explain(t, conn, "EXECUTE "+name+" ("+nulls+")")
			// A join filter compares each row of a batch with each other.
			if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "river_job_prioritized") || strings.Contains(plan, "Join Filter") {
				t.Errorf("after %s: %s:\n%s", statistics, s.SQL, plan)
			}
			_, err = conn.Exec(t.Context(), "DEALLOCATE "+name)
			check(t, err)
		}
	}
}

// TestOrderHoldsInRaces lets several processes accept, finish and call back the requests
// of a few keys, in batches and in any order.
func TestOrderHoldsInRaces(t *testing.T) {
	t.Parallel()
	const processes, batches, perBatch = 3, 15, 8
	race := &orderRace{pool: dbtest.NewPool(t), under: map[string]uuid.UUID{}, last: map[string]int64{}, left: processes * batches * perBatch}
	all, ctx := errgroup.WithContext(t.Context())
	for range processes {
		all.Go(func() error { return race.accept(ctx, batches, perBatch) })
		all.Go(func() error { return race.until(ctx, race.finishSome) })
		all.Go(func() error { return race.until(ctx, race.deliverSome) })
	}
	check(t, all.Wait())
	if live := valueOf[int](t, race.pool, "SELECT count(*) FROM ordered_requests"); live != 0 {
		t.Errorf("got %d requests that are live, want none", live)
	}
}

type orderRace struct {
	pool *pgxpool.Pool

	mu       sync.Mutex
	accepted []db.Request         // not finished
	under    map[string]uuid.UUID // the callback of each key that is under way
	last     map[string]int64     // sequence of each key's last callback
	left     int                  // not ended
}

func (r *orderRace) accept(ctx context.Context, batches, perBatch int) error {
	for range batches {
		requests := make([]db.Request, perBatch)
		for i := range requests {
			requests[i] = asyncRequest()
			requests[i].OrderingKey = fmt.Sprint(rand.IntN(5))
		}
		if err := acceptAll(ctx, r.pool, requests); err != nil {
			return err
		}
		r.mu.Lock()
		r.accepted = append(r.accepted, requests...)
		r.mu.Unlock()
	}
	return nil
}

// until does something again and again until all is delivered.
func (r *orderRace) until(ctx context.Context, do func(ctx context.Context) error) error {
	for {
		r.mu.Lock()
		done := r.left == 0
		r.mu.Unlock()
		if done {
			return nil
		}
		if err := do(ctx); err != nil {
			return err
		}
	}
}

func (r *orderRace) finishSome(ctx context.Context) error {
	r.mu.Lock()
	rand.Shuffle(len(r.accepted), func(i, k int) { r.accepted[i], r.accepted[k] = r.accepted[k], r.accepted[i] })
	some := r.accepted[:min(len(r.accepted), 1+rand.IntN(10))]
	r.accepted = r.accepted[len(some):]
	r.mu.Unlock()
	if err := finishAll(ctx, r.pool, some...); err != nil || rand.IntN(10) > 0 {
		return err
	}
	return r.cancelOne(ctx)
}

// deliverSome takes jobs as River does, and settles their callbacks.
func (r *orderRace) deliverSome(ctx context.Context) error {
	const fetch = `
		UPDATE river_job
		SET state = 'completed', finalized_at = now()
		WHERE id IN (
			SELECT id FROM river_job
			WHERE kind = 'callback' AND state = 'available'
			LIMIT 4
			FOR UPDATE SKIP LOCKED
		)
		RETURNING (args ->> 'request_id')::uuid`
	rows, err := r.pool.Query(ctx, fetch)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	found, err := db.LoadCallbacks(ctx, r.pool, ids)
	if err != nil {
		return err
	}
	requests := slices.Collect(maps.Values(found))
	if err := r.callBack(requests); err != nil {
		return err
	}
	return r.settle(ctx, requests)
}

// callBack fails where a callback may not leave yet.
func (r *orderRace) callBack(requests []db.Request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, request := range requests {
		key := request.OrderingKey
		if request.Sequence <= r.last[key] {
			return fmt.Errorf("key %s: sequence %d follows %d", key, request.Sequence, r.last[key])
		}
		if r.under[key] != (uuid.UUID{}) {
			return fmt.Errorf("key %s: two callbacks at a time", key)
		}
		r.last[key], r.under[key] = request.Sequence, request.ID
	}
	return nil
}

// settle ends callbacks. Whether the settlement of each was asked for is noted
// before, since the next of its key may come as soon as it has committed.
func (r *orderRace) settle(ctx context.Context, requests []db.Request) error {
	r.mu.Lock()
	for _, request := range requests {
		delete(r.under, request.OrderingKey)
	}
	r.mu.Unlock()
	if err := settleAll(ctx, r.pool, db.CallbackDelivered, requests...); err != nil {
		return err
	}
	r.ended(len(requests))
	return nil
}

func (r *orderRace) ended(count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left -= count
}

// cancelOne cancels a request that waits for its turn.
func (r *orderRace) cancelOne(ctx context.Context) error {
	const pick = `
		SELECT requests.id, ordering_key, callback_job_id
		FROM requests
		JOIN river_job ON river_job.id = callback_job_id AND river_job.state = 'pending'
		ORDER BY random()
		LIMIT 1`
	const cancel = `
		WITH cancelled AS (
			UPDATE river_job SET state = 'cancelled', finalized_at = now()
			WHERE id = $2 AND state = 'pending'
			RETURNING id
		)
		UPDATE requests SET callback_state = 'cancelled', settled_at = now()
		FROM cancelled
		WHERE requests.id = $1 AND callback_job_id = cancelled.id`
	request, job := db.Request{Client: "alice"}, int64(0)
	err := r.pool.QueryRow(ctx, pick).Scan(&request.ID, &request.OrderingKey, &job)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return db.InTx(ctx, r.pool, func(tx pgx.Tx) error {
		if err := db.LockOrder(ctx, tx, request.Place()); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, cancel, request.ID, job)
		if err != nil || tag.RowsAffected() == 0 { // somebody was faster
			return err
		}
		r.ended(1)
		return db.LeaveOrder(ctx, tx, request.Place())
	})
}
