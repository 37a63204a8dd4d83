package db

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Sequence is a sequence that was behind the numbers of its table.
type Sequence struct {
	Name string
	At   int64 // the number that it has given out by now
}

// CatchUpSequences moves each sequence that is behind the numbers of its table, and
// returns it. Logical replication copies tables without their sequences: then jobs get
// numbers that are taken, and requests come before earlier requests of their ordering key.
func CatchUpSequences(ctx context.Context, q Querier) ([]Sequence, error) {
	// No index has the numbers of requests that have ended, so the latest requests count.
	const sql = `
		WITH job AS MATERIALIZED (
			SELECT last_value, is_called, coalesce((SELECT max(id) FROM river_job), 0) AS taken
			FROM river_job_id_seq
		), request AS MATERIALIZED (
			SELECT last_value, is_called, greatest(
				(SELECT max(seq) FROM ordered_requests),
				(SELECT max(seq) FROM (SELECT seq FROM requests ORDER BY id DESC LIMIT 10000) AS latest),
				0
			) AS taken
			FROM requests_seq_seq
		)
		SELECT 'river_job_id_seq', setval('river_job_id_seq', taken)
		FROM job
		WHERE taken >= last_value + is_called::integer
		UNION ALL
		SELECT 'requests_seq_seq', setval('requests_seq_seq', taken)
		FROM request
		WHERE taken >= last_value + is_called::integer`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("looking at sequences: %w", err)
	}
	moved, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Sequence])
	if err != nil {
		return nil, fmt.Errorf("looking at sequences: %w", err)
	}
	return moved, nil
}
