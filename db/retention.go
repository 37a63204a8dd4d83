package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// SweepBatch is how many requests a sweep looks at: enough to spread the cost of a
// commit, few enough to hold nothing up.
const SweepBatch = 1000

// Sweep is how far the removal of old requests has come.
type Sweep struct {
	Position    uuid.UUID // the last request that was looked at
	PassBeganAt time.Time // when Position was last at the start of the table
	NextAt      time.Time // no batch is due before
	Now         time.Time // by the database's clock
}

// ReadSweep returns how far the removal has come, without locking anything.
func ReadSweep(ctx context.Context, q Querier) (Sweep, error) { return readSweep(ctx, q, "") }

// LockSweep does so for the one that is about to remove a batch. While another
// process holds it, or no batch is due, locked is false.
func LockSweep(ctx context.Context, tx pgx.Tx) (s Sweep, locked bool, err error) {
	s, err = readSweep(ctx, tx, "WHERE next_at <= now() FOR UPDATE SKIP LOCKED")
	if errors.Is(err, pgx.ErrNoRows) {
		return Sweep{}, false, nil
	}
	return s, err == nil, err
}

func readSweep(ctx context.Context, q Querier, which string) (s Sweep, err error) {
	const sql = `
		SELECT position, pass_began_at, next_at, now()
		FROM retention
		`
	err = q.QueryRow(ctx, sql+which).Scan(&s.Position, &s.PassBeganAt, &s.NextAt, &s.Now)
	if err != nil {
		return Sweep{}, fmt.Errorf("reading how far the removal has come: %w", err)
	}
	return s, nil
}

// SaveSweep writes how far the removal has come. The next batch is due after
// pause.
func SaveSweep(ctx context.Context, tx pgx.Tx, s Sweep, pause time.Duration) error {
	const sql = `
		UPDATE retention
		SET position = $1,
		    pass_began_at = $2,
		    next_at = clock_timestamp() + $3::interval`
	if _, err := tx.Exec(ctx, sql, s.Position, s.PassBeganAt, pause); err != nil {
		return fmt.Errorf("writing how far the removal has come: %w", err)
	}
	return nil
}

// Swept is what a batch came to.
type Swept struct {
	Seen    int       // requests looked at: fewer than SweepBatch where there are no more
	Removed int       // of those
	Last    uuid.UUID // zero where none was seen
}

// RemoveRequests removes, of the next SweepBatch requests after position, those
// that have ended before the given time, with their attempts and jobs. Requests
// that are unfinished, whose callback is pending, and dead letters stay.
func RemoveRequests(ctx context.Context, tx pgx.Tx, position uuid.UUID, before time.Time) (s Swept, err error) {
	// Ids begin with the time of acceptance, so the range is a part of the table and
	// ends where requests are too young. The limit is written out, and the ids are
	// arrays, since the plan is made before either is known: it has to be one for few
	// rows, by index.
	sql := fmt.Sprintf(`
		WITH page AS MATERIALIZED (
			SELECT id
			FROM requests
			WHERE id > $1
			  AND id < $2
			ORDER BY id
			LIMIT %d
		), removed AS (
			DELETE FROM requests
			WHERE id = ANY (ARRAY(SELECT id FROM page))
			  AND status <> 'accepted'
			  AND (callback_state IS NULL OR callback_state IN ('delivered', 'cancelled'))
			  AND coalesce(settled_at, finished_at) < $3
			RETURNING id, work_job_id, callback_job_id
		), attempts AS (
			DELETE FROM callback_attempts
			WHERE request_id = ANY (ARRAY(SELECT id FROM removed))
		), jobs AS (
			DELETE FROM river_job
			WHERE id = ANY (ARRAY(SELECT work_job_id FROM removed UNION ALL SELECT callback_job_id FROM removed))
		)
		SELECT (SELECT count(*) FROM page),
		       (SELECT count(*) FROM removed),
		       coalesce((SELECT id FROM page ORDER BY id DESC LIMIT 1), '00000000-0000-0000-0000-000000000000')`, SweepBatch)
	err = tx.QueryRow(ctx, sql, position, firstID(before), before).Scan(&s.Seen, &s.Removed, &s.Last)
	if err != nil {
		return Swept{}, fmt.Errorf("removing old requests: %w", err)
	}
	return s, nil
}

// AcceptedAt is when a UUIDv7 was made, to the millisecond.
func AcceptedAt(id uuid.UUID) time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms)
}
