package db

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// unsuccessfulAreKnown tells whether unsuccessful_requests is complete.
func unsuccessfulAreKnown(ctx context.Context, q Querier) (known bool, err error) {
	const sql = `
		SELECT done
		FROM unsuccessful_search
		WHERE is_one_row`
	if err := q.QueryRow(ctx, sql).Scan(&known); err != nil {
		return false, fmt.Errorf("reading whether unsuccessful requests are known: %w", err)
	}
	return known, nil
}

// searchedAtOnce is how many requests a batch of the search looks at: as many as a
// sweep, for its reasons.
const searchedAtOnce = SweepBatch

// SearchUnsuccessful looks at the next searchedAtOnce requests, and notes the
// unsuccessful requests among them that ended before there were triggers. It tells
// whether the batch was the last. While another process is at a batch, searched is false.
func SearchUnsuccessful(ctx context.Context, tx pgx.Tx) (searched, done bool, err error) {
	const lock = `
		SELECT position, done
		FROM unsuccessful_search
		WHERE is_one_row
		FOR UPDATE SKIP LOCKED`
	var position uuid.UUID
	err = tx.QueryRow(ctx, lock).Scan(&position, &done)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, false, nil
	}
	if err == nil && !done {
		done, err = searchBatch(ctx, tx, position)
	}
	if err != nil {
		return false, false, fmt.Errorf("searching for unsuccessful requests: %w", err)
	}
	return true, done, nil
}

// searchBatch goes on after a position, and saves how far it came.
func searchBatch(ctx context.Context, tx pgx.Tx, position uuid.UUID) (done bool, err error) {
	// As in RemoveRequests: the limit is written out, and the ids are an array, for a
	// plan by index. A request that is locked is just being removed; the others are
	// kept from that until they are noted, or a note would stay behind.
	sql := fmt.Sprintf(`
		WITH page AS MATERIALIZED (
			SELECT id
			FROM requests
			WHERE id > $1
			ORDER BY id
			LIMIT %[1]d
		), unsuccessful AS MATERIALIZED (
			SELECT client, status, callback_state, mode, id
			FROM requests
			WHERE id = ANY (ARRAY(SELECT id FROM page))
			  AND (status IN ('failed', 'expired', 'cancelled') OR callback_state = 'cancelled')
			FOR KEY SHARE SKIP LOCKED
		), noted AS (
			INSERT INTO unsuccessful_requests (client, ending, mode, request_id)
			SELECT client, ending, mode, id
			FROM unsuccessful
			CROSS JOIN LATERAL unnest(ARRAY[status, 'callback_' || callback_state]) AS endings (ending)
			WHERE ending IN ('failed', 'expired', 'cancelled', 'callback_cancelled')
			ON CONFLICT DO NOTHING
		)
		UPDATE unsuccessful_search
		SET position = coalesce((SELECT id FROM page ORDER BY id DESC LIMIT 1), position),
		    done = (SELECT count(*) < %[1]d FROM page)
		WHERE is_one_row
		RETURNING done`, searchedAtOnce)
	err = tx.QueryRow(ctx, sql, position).Scan(&done)
	return done, err
}
