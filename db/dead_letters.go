package db

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// DiscardDeadLetters cancels the dead callbacks of a client's requests, and returns their
// number. The requests go with their age. It is one statement, and so a transaction of
// its own unless q is one.
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

// DeadLetterGroup counts the dead letters of a client at a host that failed alike.
type DeadLetterGroup struct {
	Client        string
	Host          string // with the URL's port, if any
	Outcome       string // of the latest attempt
	HTTPStatus    int    // of the latest attempt, 0 when there was no answer
	Cause         string
	Count         int64
	Oldest        time.Time // when the oldest of their requests was accepted
	Newest        time.Time
	LatestRequest uuid.UUID
}

// GroupDeadLetters groups the latest dead letters of each client, the largest group first. It
// takes up to each of a client, and up to all in all, as many of each client that has any.
// Where a client has more dead letters, the groups count too few.
func GroupDeadLetters(ctx context.Context, q Querier, clients []string, each, all int) ([]DeadLetterGroup, error) {
	const sql = `
		WITH named AS MATERIALIZED (
			SELECT client
			FROM unnest($1::text[]) AS named (client)
			WHERE EXISTS (SELECT FROM dead_letters WHERE dead_letters.client = named.client)
			LIMIT $3
		)
		SELECT client, callback_host, coalesce(outcome, ''), coalesce(http_status, 0), coalesce(cause, ''),
		       count(*), min(accepted_at), max(accepted_at), (array_agg(request_id ORDER BY request_id DESC))[1]
		FROM named
		CROSS JOIN LATERAL (
			SELECT request_id, callback_host, accepted_at
			FROM dead_letters
			WHERE dead_letters.client = named.client
			ORDER BY request_id DESC
			LIMIT (SELECT least($2, $3 / greatest(1, count(*))) FROM named)
		) AS dead
		LEFT JOIN LATERAL (
			SELECT outcome, http_status, cause
			FROM callback_attempts
			WHERE callback_attempts.request_id = dead.request_id
			ORDER BY attempt DESC
			LIMIT 1
		) AS latest ON true
		GROUP BY 1, 2, 3, 4, 5
		ORDER BY 6 DESC, 1, 2
		LIMIT 500`
	rows, err := q.Query(ctx, sql, clients, each, all)
	if err != nil {
		return nil, fmt.Errorf("grouping dead letters: %w", err)
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeadLetterGroup])
	if err != nil {
		return nil, fmt.Errorf("grouping dead letters: %w", err)
	}
	return groups, nil
}
