package db

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Redelivery is a wish to deliver a callback again that has ended.
type Redelivery struct {
	RequestID uuid.UUID
	Client    string
	From      CallbackState // that the callback must be in: CallbackDead, CallbackDelivered, or "" for either
	At        time.Time     // when the first attempt is due
}

// RedeliverCallbacks makes callbacks pending again that are dead or delivered,
// each with a new job in the place of the one before, and returns the ids of the
// new jobs by request. All others stay as they are. No request may stand in it twice. It is one statement,
// and so one transaction of its own unless q is one.
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
			-- Nobody would find it any more to remove it. Where it runs for the last time,
			-- River takes its absence for done.
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

// DiscardDeadLetters gives up the callbacks of those of a client's requests that are
// dead, and returns how many those are: they are cancelled, and the requests go with
// their age. It is one statement, and so one transaction of its own unless q is one.
func DiscardDeadLetters(ctx context.Context, q Querier, client string, ids []uuid.UUID) (int, error) {
	// Sorted as in FinishRequests. The callback was settled when it died, and its
	// ordering key went on then.
	const sql = `
		WITH dead AS MATERIALIZED (
			SELECT id
			FROM unnest($2::uuid[]) AS dead (id)
			ORDER BY id
		), discarded AS (
			UPDATE requests
			SET callback_state = 'cancelled',
			    settled_at = now()
			FROM dead
			WHERE requests.id = dead.id
			  AND requests.client = $1
			  AND requests.callback_state = 'dead'
			RETURNING requests.id
		), forgotten AS (
			DELETE FROM dead_letters
			WHERE client = $1
			  AND request_id = ANY (ARRAY(SELECT id FROM discarded))
		)
		SELECT count(*)
		FROM discarded`
	var count int
	if err := q.QueryRow(ctx, sql, client, column(ids, uuidOf)).Scan(&count); err != nil {
		return 0, fmt.Errorf("discarding dead letters: %w", err)
	}
	return count, nil
}

// callbackHost is the host of a stored callback URL, which is in canonical form.
const callbackHost = `substring(callback_url FROM '^[a-z]+://([^/?#]+)')`

// firstID is below all UUIDv7 that are made at t or later: they begin with the
// milliseconds since 1970 (RFC 9562, section 5.7).
func firstID(t time.Time) (id uuid.UUID) {
	for i, milliseconds := 5, max(t.UnixMilli(), 0); i >= 0; i, milliseconds = i-1, milliseconds>>8 {
		id[i] = byte(milliseconds)
	}
	return id
}
