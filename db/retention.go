package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// SweepBatch is the number of requests that a batch of a removal reads: enough to spread
// the cost of a commit, few enough to hold nothing up.
const SweepBatch = 1000

// Removal goes through a table, batch by batch, and keeps its position in another.
type Removal string

// The removals. Each has the name of the table whose single row keeps its position.
const (
	OldRequests    Removal = "retention"
	OldDeadLetters Removal = "dead_letter_retention"
)

// Sweep is how far a removal has come.
type Sweep struct {
	Client      string    // of the last dead letter that was looked at, "" with OldRequests
	Position    uuid.UUID // the last request that was looked at
	PassBeganAt time.Time // when Position was last at the start of the table
	NextAt      time.Time // no batch is due before
	Now         time.Time // by the database's clock
}

// sweepIsDue tells whether a batch is due. A time that is a century ahead was written by hand.
const sweepIsDue = "(next_at <= now() OR next_at > " + farAhead + ")"

// ReadSweep returns how far a removal has come, without locking anything.
func ReadSweep(ctx context.Context, q Querier, of Removal) (Sweep, error) {
	return readSweep(ctx, q, of, "")
}

// LockSweep is ReadSweep for a process that is about to remove a batch. While another
// process does so, or no batch is due, locked is false.
func LockSweep(ctx context.Context, tx pgx.Tx, of Removal) (s Sweep, locked bool, err error) {
	s, err = readSweep(ctx, tx, of, "WHERE "+sweepIsDue+" FOR UPDATE SKIP LOCKED")
	if errors.Is(err, pgx.ErrNoRows) {
		return Sweep{}, false, nil
	}
	return s, err == nil, err
}

func readSweep(ctx context.Context, q Querier, of Removal, which string) (s Sweep, err error) {
	sql := `
		SELECT client, position, pass_began_at, CASE WHEN ` + sweepIsDue + ` THEN now() ELSE next_at END, now()
		FROM ` + string(of) + `
		` + which
	err = q.QueryRow(ctx, sql).Scan(&s.Client, &s.Position, &s.PassBeganAt, &s.NextAt, &s.Now)
	if err != nil {
		return Sweep{}, fmt.Errorf("reading how far the removal has come: %w", err)
	}
	return s, nil
}

// SaveSweep writes how far a removal has come. The next batch is due after pause.
func SaveSweep(ctx context.Context, tx pgx.Tx, of Removal, s Sweep, pause time.Duration) error {
	sql := `
		UPDATE ` + string(of) + `
		SET client = $1,
		    position = $2,
		    pass_began_at = $3,
		    next_at = clock_timestamp() + $4::interval`
	if _, err := tx.Exec(ctx, sql, s.Client, s.Position, s.PassBeganAt, pause); err != nil {
		return fmt.Errorf("writing how far the removal has come: %w", err)
	}
	return nil
}

// Swept is the outcome of a batch.
type Swept struct {
	Seen    int       // requests looked at: fewer than SweepBatch where there are no more
	Removed int       // requests removed
	Client  string    // of the last request, where dead letters were seen
	Last    uuid.UUID // the last request, zero where none was seen
}

// frontierWait is for how long a removal waits at the youngest requests that it may see.
const frontierWait = time.Minute

// RemoveRequests looks at the next SweepBatch requests after position, and removes the
// requests that ended before the given time, with their attempts and jobs. Unfinished
// requests, pending callbacks and dead letters stay. Requests end some moments after they
// were accepted. So a request that is old enough since its acceptance, by less than
// frontierWait, but not since its end, is not passed over: Last is the request before it.
func RemoveRequests(ctx context.Context, tx pgx.Tx, position uuid.UUID, before time.Time) (s Swept, err error) {
	// Ids begin with the time of acceptance, so the range is a part of the table and ends
	// where requests are too young. The limit is written out, and the ids are arrays, since
	// the plan is made before either is known, and must be a plan for few rows, by index.
	sql := fmt.Sprintf(`
		WITH page AS MATERIALIZED (
			SELECT id,
			       status <> 'accepted'
			       AND (callback_state IS NULL OR callback_state IN ('delivered', 'cancelled'))
			       AND coalesce(settled_at, finished_at) >= $3
			       AND id >= $4 AS is_due_soon
			FROM requests
			WHERE id > $1
			  AND id < $2
			ORDER BY id
			LIMIT %d
		), seen AS MATERIALIZED (
			SELECT id
			FROM page
			WHERE id < coalesce(
				(SELECT id FROM page WHERE is_due_soon ORDER BY id LIMIT 1),
				'ffffffff-ffff-ffff-ffff-ffffffffffff'
			)
		), removed AS (
			DELETE FROM requests
			WHERE id = ANY (ARRAY(SELECT id FROM seen))
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
		SELECT (SELECT count(*) FROM seen),
		       (SELECT count(*) FROM removed),
		       coalesce((SELECT id FROM seen ORDER BY id DESC LIMIT 1), '00000000-0000-0000-0000-000000000000')`, SweepBatch)
	err = tx.QueryRow(ctx, sql, position, firstID(before), before, firstID(before.Add(-frontierWait))).Scan(&s.Seen, &s.Removed, &s.Last)
	if err != nil {
		return Swept{}, fmt.Errorf("removing old requests: %w", err)
	}
	return s, nil
}

// RemoveDeadLetters looks at the next SweepBatch dead letters after a sweep, in the
// order of clients and ids. It removes the letters that died before the given time,
// with their requests, attempts and jobs.
func RemoveDeadLetters(ctx context.Context, tx pgx.Tx, from Sweep, before time.Time) (s Swept, err error) {
	// Where a redelivery comes first, the request is not dead any more, or not for
	// long. The limit is written out and the ids are arrays as in RemoveRequests.
	sql := fmt.Sprintf(`
		WITH page AS MATERIALIZED (
			SELECT client, request_id, died_at
			FROM dead_letters
			WHERE (client, request_id) > ($1, $2)
			ORDER BY client, request_id
			LIMIT %d
		), removed AS (
			DELETE FROM requests
			WHERE id = ANY (ARRAY(SELECT request_id FROM page WHERE died_at < $3))
			  AND callback_state = 'dead'
			  AND settled_at < $3
			RETURNING id, client, work_job_id, callback_job_id
		), letters AS (
			DELETE FROM dead_letters
			USING removed
			WHERE dead_letters.client = removed.client
			  AND dead_letters.request_id = removed.id
		), attempts AS (
			DELETE FROM callback_attempts
			WHERE request_id = ANY (ARRAY(SELECT id FROM removed))
		), jobs AS (
			DELETE FROM river_job
			WHERE id = ANY (ARRAY(SELECT work_job_id FROM removed UNION ALL SELECT callback_job_id FROM removed))
		), last AS (
			SELECT client, request_id
			FROM page
			ORDER BY client DESC, request_id DESC
			LIMIT 1
		)
		SELECT (SELECT count(*) FROM page),
		       (SELECT count(*) FROM removed),
		       coalesce((SELECT client FROM last), ''),
		       coalesce((SELECT request_id FROM last), '00000000-0000-0000-0000-000000000000')`, SweepBatch)
	err = tx.QueryRow(ctx, sql, from.Client, from.Position, before).Scan(&s.Seen, &s.Removed, &s.Client, &s.Last)
	if err != nil {
		return Swept{}, fmt.Errorf("removing old dead letters: %w", err)
	}
	return s, nil
}
