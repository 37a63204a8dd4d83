package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Inserted are the numbers that a request got when it was inserted.
type Inserted struct {
	WorkJobID int64
	Sequence  int64 // Request.Sequence
}

// Finished is the callback job that a request got with its outcome.
type Finished struct {
	CallbackJobID int64 // 0 where there is no callback
	Running       bool  // the job was born running
}

// InsertRequests writes new rows: accepted requests, each with its work job, and sync
// requests that have already ended. It returns the numbers of the accepted requests, by
// id. The work jobs of the first work.Running requests are born running, so they must be
// due now. Requests with an ordering key take their places in the order of requests. It
// is one transaction of its own unless q is one.
func InsertRequests(ctx context.Context, q Querier, work Jobs, requests []Request) (map[uuid.UUID]Inserted, error) {
	places := placesOf(requests, Request.Place)
	// Nothing below sorts or joins the rows of unnest, so that sequences rise in the order
	// of requests.
	sql := `
		WITH made AS MATERIALIZED (
			SELECT *,
			       nextval('requests_seq_seq') AS seq,
			       CASE status WHEN 'accepted' THEN nextval('river_job_id_seq') END AS job_id
			FROM unnest(` + insertArrays + `) WITH ORDINALITY AS made (` + insertNames + `, position)
		), ` + insertJobs("made", "coalesce(run_at, now())", "true") + insertPlaces("made", places) + `, inserted AS (
			INSERT INTO requests (seq, work_job_id, ` + insertNames + `)
			OVERRIDING SYSTEM VALUE
			SELECT seq, job_id, ` + insertNames + `
			FROM made
			RETURNING 1
		)
		SELECT id, job_id, CASE WHEN ordering_key IS NOT NULL THEN seq ELSE 0 END
		FROM made
		WHERE job_id IS NOT NULL
		  AND (SELECT count(*) >= 0 FROM notified)
		  AND ` + wroteAll("inserted", "made")
	all := make(map[uuid.UUID]Inserted, len(requests))
	insert := statement{sql, append(work.args(), insertFields.args(requests)...), func(rows pgx.Rows) error {
		var id uuid.UUID
		var one Inserted
		_, err := pgx.ForEachRow(rows, []any{&id, &one.WorkJobID, &one.Sequence}, func() error {
			all[id] = one
			return nil
		})
		return err
	}}
	if err := runTogether(ctx, q, append(lockKeys(acceptLocks, places), insert)...); err != nil {
		return nil, fmt.Errorf("inserting requests: %w", err)
	}
	return all, nil
}

// FinishRequests writes the outcomes of the requests that are still accepted: Status,
// Result or Error, StartedAt and FinishedAt. Each gets a callback job where it has a
// callback, which is pending from then on; the jobs are returned by request. The work jobs
// of all requests are completed.
//
// The callback jobs of the first callback.Running requests are born running. A job that
// isn't the first of its ordering key is held back until LeaveOrder or SettleCallbacks
// releases it. No request may be in the set twice. It is one transaction of its own unless
// q is one.
func FinishRequests(ctx context.Context, q Querier, callback Jobs, requests []Request) (map[uuid.UUID]Finished, error) {
	places := placesOf(requests, Request.Place)
	// Sorted, so that two batches that share requests lock them in the same order, as far as
	// the plan keeps it. In a deadlock all the same, a batch fails with 40P01 and is tried
	// again.
	//
	// The jobs are looked up by IN, which hashes them. A join would compare each with each,
	// since the planner expects few rows of a statement that inserts.
	sql := `
		WITH outcome AS MATERIALIZED (
			SELECT *, nextval('river_job_id_seq') AS job_id
			FROM unnest(
				$6::uuid[], $7::text[], $8::json[], $9::json[], $10::timestamptz[], $11::timestamptz[]
			) WITH ORDINALITY AS outcome (id, status, result, error, started_at, finished_at, position)
			ORDER BY id
		), finished AS (
			UPDATE requests
			SET status = outcome.status,
			    result = outcome.result,
			    error = outcome.error,
			    callback_state = CASE WHEN callback_url IS NOT NULL THEN 'pending' END,
			    callback_job_id = CASE WHEN callback_url IS NOT NULL THEN outcome.job_id END,
			    started_at = outcome.started_at,
			    finished_at = outcome.finished_at
			FROM outcome
			WHERE requests.id = outcome.id
			  AND requests.status = 'accepted'
			RETURNING requests.id, requests.callback_job_id AS job_id, client, ordering_key, seq, position
		), ` + completeJobs("$12", "$13", "running", "scheduled", "available") + `, ` + insertJobs("finished", "now()", isFirst("finished", places)) + `
		SELECT id,
		       CASE WHEN job_id IN (SELECT id FROM jobs) THEN job_id ELSE 0 END,
		       coalesce(job_id IN (SELECT id FROM jobs WHERE state = 'running'), false)
		FROM finished
		WHERE (SELECT count(*) >= 0 FROM notified)
		  AND ` + changedAll("finished", "outcome", "$6", "$12")
	all := make(map[uuid.UUID]Finished, len(requests))
	finish := statement{sql, append(callback.args(),
		column(requests, func(r Request) pgtype.UUID { return uuidOf(r.ID) }),
		column(requests, func(r Request) string { return string(r.Status) }),
		column(requests, func(r Request) []byte { return r.Result }),
		column(requests, func(r Request) []byte { return r.Error }),
		column(requests, func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.StartedAt) }),
		column(requests, func(r Request) time.Time { return r.FinishedAt }),
		column(requests, func(r Request) int64 { return r.WorkJobID }),
		asleep(requests),
	), func(rows pgx.Rows) error {
		var id uuid.UUID
		var one Finished
		_, err := pgx.ForEachRow(rows, []any{&id, &one.CallbackJobID, &one.Running}, func() error {
			all[id] = one
			return nil
		})
		return err
	}}
	if err := runTogether(ctx, q, append(lockKeys(callbackLocks, places), finish)...); err != nil {
		return nil, fmt.Errorf("finishing requests: %w", err)
	}
	return all, nil
}

// asleep are the work jobs of requests whose work went on elsewhere.
func asleep(requests []Request) []int64 {
	jobs := []int64{}
	for _, r := range requests {
		if r.Elsewhere {
			jobs = append(jobs, r.WorkJobID)
		}
	}
	return jobs
}

// Cancellation asks to stop the steps that a request is still owed.
type Cancellation struct {
	RequestID uuid.UUID
	Client    string
	At        time.Time
	Error     jsontext.Value // of a request whose work had not ended
}

// Stopped tells which step a cancellation has stopped: none where JobID is 0.
type Stopped struct {
	Work     bool
	Callback bool
	JobID    int64     // of the job that would have taken it
	RunAt    time.Time // when the work was due, zero for at once
}

// CancelRequest ends the work of a request that is still accepted, and its callback where
// that has not ended. A request that has ended stays as it is. The caller cancels the job,
// in the same transaction.
func CancelRequest(ctx context.Context, q Querier, c Cancellation) (Stopped, error) {
	// IS TRUE as in GetRequest.
	const sql = `
		UPDATE requests
		SET status = CASE status WHEN 'accepted' THEN 'cancelled' ELSE status END,
		    error = CASE status WHEN 'accepted' THEN $3 ELSE error END,
		    finished_at = coalesce(finished_at, $4),
		    callback_state = CASE WHEN callback_url IS NOT NULL THEN 'cancelled' END,
		    settled_at = CASE WHEN callback_url IS NOT NULL THEN $4 END
		WHERE id = $1
		  AND (client = $2) IS TRUE
		  AND (status = 'accepted' OR callback_state = 'pending')
		RETURNING callback_job_id IS NULL, callback_url IS NOT NULL, coalesce(callback_job_id, work_job_id), run_at`
	var stopped Stopped
	err := q.QueryRow(ctx, sql, c.RequestID, c.Client, []byte(c.Error), c.At).
		Scan(&stopped.Work, &stopped.Callback, &stopped.JobID, (*zeronull.Timestamptz)(&stopped.RunAt))
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Stopped{}, fmt.Errorf("cancelling request: %w", err)
	}
	return stopped, nil
}

// Redelivery asks to deliver a callback again that has ended.
type Redelivery struct {
	RequestID uuid.UUID
	Client    string
	From      CallbackState // the state that the callback must be in: CallbackDead, CallbackDelivered, or "" for either
	At        time.Time     // when the first attempt is due
}

// RedeliverCallbacks makes dead and delivered callbacks pending again, each with a new
// job that replaces the last, and returns the ids of the new jobs by request. Other
// callbacks stay as they are. No request may be in the set twice. It is one statement,
// and so a transaction of its own unless q is one.
func RedeliverCallbacks(ctx context.Context, q Querier, callback Jobs, redeliveries []Redelivery) (map[uuid.UUID]int64, error) {
	// Sorted as in FinishRequests.
	sql := `
		WITH due AS MATERIALIZED (
			SELECT due.*, nextval('river_job_id_seq') AS job_id, before.callback_job_id AS earlier_job_id
			FROM unnest($6::uuid[], $7::text[], $8::text[], $9::timestamptz[]) WITH ORDINALITY AS due (id, client, state, at, position)
			CROSS JOIN LATERAL (
				SELECT callback_job_id
				FROM requests
				WHERE requests.id = due.id
				LIMIT 1
			) AS before
			ORDER BY due.id
		), redelivered AS (
			UPDATE requests
			SET callback_state = 'pending',
			    callback_job_id = due.job_id,
			    settled_at = NULL,
			    redelivered_at = due.at
			FROM due
			WHERE requests.id = due.id
			  AND requests.client = due.client
			  AND requests.callback_state IN ('dead', 'delivered')
			  AND (due.state IS NULL OR requests.callback_state = due.state)
			RETURNING requests.id, requests.client, requests.callback_job_id AS job_id, due.earlier_job_id, due.at, position
		), replaced AS (
			-- No row would lead to the earlier job any more to remove it. Where it runs for
			-- the last time, River takes its absence for completed.
			DELETE FROM river_job
			WHERE id = ANY (ARRAY(SELECT earlier_job_id FROM redelivered))
		), forgotten AS (
			DELETE FROM dead_letters
			USING redelivered
			WHERE dead_letters.client = redelivered.client
			  AND dead_letters.request_id = redelivered.id
		), ` + insertJobs("redelivered", "at", "true") + `
		SELECT id, job_id
		FROM redelivered
		WHERE (SELECT count(*) >= 0 FROM notified)`
	rows, err := q.Query(ctx, sql, append(callback.args(),
		column(redeliveries, func(r Redelivery) pgtype.UUID { return uuidOf(r.RequestID) }),
		column(redeliveries, func(r Redelivery) string { return r.Client }),
		column(redeliveries, func(r Redelivery) zeronull.Text { return zeronull.Text(r.From) }),
		column(redeliveries, func(r Redelivery) time.Time { return r.At }))...)
	if err != nil {
		return nil, fmt.Errorf("redelivering callbacks: %w", err)
	}
	ids := make(map[uuid.UUID]int64, len(redeliveries))
	var request uuid.UUID
	var job int64
	if _, err := pgx.ForEachRow(rows, []any{&request, &job}, func() error { ids[request] = job; return nil }); err != nil {
		return nil, fmt.Errorf("redelivering callbacks: %w", err)
	}
	return ids, nil
}
