package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Reconciliation is how far the look for lost steps has come. A step is lost where a
// request is owed a step and no job will take it.
type Reconciliation struct {
	Position      uuid.UUID     // of the requests
	OrderPosition uuid.UUID     // of the requests with ordering keys
	SetBack       time.Duration // by how much the database's clock was set back since the last look; 0 for less than ten seconds
}

// LockReconciliation returns how far the look has come, for a process that goes on with
// it. While another process does so, or no look is due, locked is false. A look that is due
// much later than any pause lasts was meant by a clock that has been set back. Infinity and the
// like were written by hand.
func LockReconciliation(ctx context.Context, tx pgx.Tx) (r Reconciliation, locked bool, err error) {
	sql := `
		SELECT position, order_position, CASE WHEN next_at BETWEEN now() AND ` + farAhead + ` THEN next_at - now() ELSE '0' END
		FROM reconciliation
		WHERE next_at <= now()
		   OR next_at > now() + $1::interval
		FOR UPDATE SKIP LOCKED`
	err = tx.QueryRow(ctx, sql, minSetBack).Scan(&r.Position, &r.OrderPosition, &r.SetBack)
	if errors.Is(err, pgx.ErrNoRows) {
		return Reconciliation{}, false, nil
	}
	if err != nil {
		return Reconciliation{}, false, fmt.Errorf("reading how far the look for lost steps has come: %w", err)
	}
	return r, true, nil
}

// SaveReconciliation writes how far the look at requests has come. The next look is due
// after pause.
func SaveReconciliation(ctx context.Context, tx pgx.Tx, position uuid.UUID, pause time.Duration) error {
	const sql = `
		UPDATE reconciliation
		SET position = $1,
		    next_at = clock_timestamp() + $2::interval`
	if _, err := tx.Exec(ctx, sql, position, pause); err != nil {
		return fmt.Errorf("writing how far the look for lost steps has come: %w", err)
	}
	return nil
}

// LostSteps returns up to most requests that are noted as having lost their job.
func LostSteps(ctx context.Context, q Querier, most int) ([]uuid.UUID, error) {
	const sql = `
		SELECT request_id
		FROM lost_steps
		LIMIT $1`
	return readIDs(ctx, q, "reading lost steps", sql, most)
}

// reconciledAtOnce is how many rows a look reads of each table, in about five milliseconds.
const reconciledAtOnce = 5000

// FindLostSteps looks at the next requests after a position. It returns the requests that
// have no live job for their next step, and the position to go on from: the start of the
// table after its end.
func FindLostSteps(ctx context.Context, q Querier, work, callback Jobs, after uuid.UUID) (lost []uuid.UUID, next uuid.UUID, err error) {
	// The limits are written out for a plan by index, and each job is looked up, never
	// joined.
	sql := fmt.Sprintf(`
		WITH page AS MATERIALIZED (
			SELECT id, run_at, redelivered_at,
			       CASE WHEN status = 'accepted' THEN work_job_id END AS work_job_id,
			       CASE WHEN callback_state = 'pending' THEN callback_job_id END AS callback_job_id
			FROM requests
			WHERE id > $1
			ORDER BY id
			LIMIT %[1]d
		)
		SELECT CASE count(*) WHEN %[1]d THEN (SELECT id FROM page ORDER BY id DESC LIMIT 1) END,
		       ARRAY(
			SELECT id
			FROM page
			WHERE work_job_id IS NOT NULL
			  AND (SELECT %[2]s FROM river_job WHERE river_job.id = work_job_id) IS NOT TRUE
			   OR callback_job_id IS NOT NULL
			  AND (SELECT %[3]s FROM river_job WHERE river_job.id = callback_job_id) IS NOT TRUE
		)
		FROM page`, reconciledAtOnce, isLive("page", "$2", "$3", notHeld), isLive("page", "$4", "$5", heldBack("page")))
	row := q.QueryRow(ctx, sql, after, work.Kind, work.Queue, callback.Kind, callback.Queue)
	if err := row.Scan((*zeronull.UUID)(&next), &lost); err != nil {
		return nil, after, fmt.Errorf("looking for lost steps: %w", err)
	}
	return lost, next, nil
}

// isLive tells whether a row of river_job will take the step of a row of requests by itself, or is
// taking it; null counts as no. A job that somebody changed by hand is not live where no worker
// would take it up, or where it is due later than any step. Nor is a job about another request. A
// running job is live, unless nobody took it up: the heartbeat sees to the rest of them.
func isLive(request, kind, queue, mayBePending string) string {
	return `finalized_at IS NULL AND CASE state::text
			WHEN 'running' THEN attempted_at IS NOT NULL AND attempted_by[1] IS NOT NULL
			ELSE river_job.kind = ` + kind + `
			     AND river_job.queue = ` + queue + `
			     AND args ->> 'request_id' = ` + request + `.id::text
			     AND scheduled_at <= greatest(now(), run_at, redelivered_at) + interval '48 hours'
			     AND (state::text <> 'pending' OR ` + mayBePending + `)
			END`
}

// notHeld says that no job may be pending: an ordering key holds callbacks back alone.
const notHeld = "false"

// heldBack tells whether the callback of a row of requests stands in the order of its key,
// which releases it.
func heldBack(request string) string {
	return "EXISTS (SELECT FROM ordered_requests WHERE ordered_requests.request_id = " + request + ".id)"
}

// Mended counts the requests that were put right.
type Mended struct {
	Work      int // requests with a work job again
	Callbacks int // requests with a callback job again
	Order     int // requests whose ordering key goes on
	Cancelled []uuid.UUID
}

// Any tells whether there was anything to put right.
func (m Mended) Any() bool { return m.Work+m.Callbacks+m.Order+len(m.Cancelled) > 0 }

// Mend gives requests that have lost the job of their next step another job, which is due
// at the request's own time, or else at once. A request whose work job was cancelled ends as
// cancelled, with reason as its error, as with CancelRequest. Requests that another
// transaction writes are noted for the next look.
func Mend(ctx context.Context, tx pgx.Tx, work, callback Jobs, ids []uuid.UUID, reason jsontext.Value) (m Mended, err error) {
	if len(ids) == 0 {
		return Mended{}, nil
	}
	places, err := owedPlaces(ctx, tx, ids)
	if err != nil {
		return Mended{}, err
	}
	if err := LockOrder(ctx, tx, places...); err != nil {
		return Mended{}, err
	}
	if err := removeNotes(ctx, tx, ids); err != nil {
		return Mended{}, err
	}
	if ids, err = lockOwed(ctx, tx, ids); err != nil {
		return Mended{}, err
	}
	if err := restorePlaces(ctx, tx, ids, places); err != nil {
		return Mended{}, err
	}
	// Each statement sees the changes of the transactions that held the locks before.
	if m.Cancelled, err = cancelLost(ctx, tx, ids, reason); err != nil {
		return Mended{}, err
	}
	cancelled := slices.DeleteFunc(slices.Clone(places), func(p Place) bool { return !slices.Contains(m.Cancelled, p.RequestID) })
	if err := LeaveOrder(ctx, tx, cancelled...); err != nil {
		return Mended{}, err
	}
	if m.Work, err = remakeJobs(ctx, tx, work, "work_job_id", "status = 'accepted'", notHeld, "true", ids); err != nil {
		return Mended{}, err
	}
	first := "(redelivered_at IS NOT NULL OR " + isFirst("lost", places) + ")" // a redelivery has left the order
	m.Callbacks, err = remakeJobs(ctx, tx, callback, "callback_job_id", "callback_state = 'pending'", heldBack("requests"), first, ids)
	return m, err
}

// owedPlaces returns the places of the requests that stand in the order of a key, or
// should.
func owedPlaces(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) ([]Place, error) {
	const sql = `
		SELECT client, ordering_key, id
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND ordering_key IS NOT NULL
		  AND redelivered_at IS NULL
		  AND (status = 'accepted' OR callback_state = 'pending')`
	rows, err := tx.Query(ctx, sql, column(ids, uuidOf))
	if err != nil {
		return nil, fmt.Errorf("finding places in an order: %w", err)
	}
	places, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Place])
	if err != nil {
		return nil, fmt.Errorf("finding places in an order: %w", err)
	}
	return places, nil
}

// restorePlaces puts requests back into the order of their key from which somebody removed
// them by hand.
func restorePlaces(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, places []Place) error {
	if len(places) == 0 {
		return nil
	}
	const sql = `
		INSERT INTO ordered_requests (client, ordering_key, seq, request_id)
		SELECT client, ordering_key, seq, id
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND ordering_key IS NOT NULL
		  AND redelivered_at IS NULL
		ON CONFLICT DO NOTHING`
	if _, err := tx.Exec(ctx, sql, column(ids, uuidOf)); err != nil {
		return fmt.Errorf("restoring places in an order: %w", err)
	}
	return nil
}

// removeNotes removes the notes of requests, after their ordering keys are locked: a
// cancellation holds those when it notes its request. A note that another transaction
// writes at the moment stays, since the change that it is about can't be seen yet.
func removeNotes(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) error {
	const sql = `
		DELETE FROM lost_steps
		WHERE request_id IN (
			SELECT request_id
			FROM lost_steps
			WHERE request_id = ANY ($1::uuid[])
			FOR UPDATE SKIP LOCKED
		)`
	if _, err := tx.Exec(ctx, sql, column(ids, uuidOf)); err != nil {
		return fmt.Errorf("removing notes of lost steps: %w", err)
	}
	return nil
}

// lockOwed locks the requests that are owed a step, and notes the requests that other
// transactions have locked. It waits for none of them: a cancellation may hold a request,
// and wait to note it.
func lockOwed(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) ([]uuid.UUID, error) {
	const lock = `
		SELECT id
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND (status = 'accepted' OR callback_state = 'pending')
		FOR UPDATE SKIP LOCKED`
	locked, err := readIDs(ctx, tx, "locking requests", lock, column(ids, uuidOf))
	if err != nil {
		return nil, err
	}
	const note = `
		INSERT INTO lost_steps (request_id)
		SELECT id
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND (status = 'accepted' OR callback_state = 'pending')
		  AND id <> ALL ($2::uuid[])
		ON CONFLICT DO NOTHING`
	if _, err := tx.Exec(ctx, note, column(ids, uuidOf), column(locked, uuidOf)); err != nil {
		return nil, fmt.Errorf("noting lost steps: %w", err)
	}
	return locked, nil
}

func cancelLost(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, reason jsontext.Value) ([]uuid.UUID, error) {
	const sql = `
		UPDATE requests
		SET status = 'cancelled',
		    error = $2,
		    finished_at = now(),
		    callback_state = CASE WHEN callback_url IS NOT NULL THEN 'cancelled' END,
		    settled_at = CASE WHEN callback_url IS NOT NULL THEN now() END
		FROM river_job
		WHERE requests.id = ANY ($1::uuid[])
		  AND requests.status = 'accepted'
		  AND river_job.id = requests.work_job_id
		  AND river_job.state::text = 'cancelled'
		RETURNING requests.id`
	return readIDs(ctx, tx, "cancelling requests", sql, column(ids, uuidOf), []byte(reason))
}

// remakeJobs replaces the jobs in column job of the requests that are owed the step and
// have no live job for it. mayBePending is as in isLive, first as in insertJobs.
func remakeJobs(ctx context.Context, tx pgx.Tx, jobs Jobs, job, owed, mayBePending, first string, ids []uuid.UUID) (int, error) {
	sql := `
		WITH lost AS MATERIALIZED (
			SELECT requests.id, client, ordering_key, seq, redelivered_at, greatest(now(), run_at, redelivered_at) AS due_at, ` + job + ` AS earlier_job_id,
			       nextval('river_job_id_seq') AS job_id, 1 AS position
			FROM requests
			LEFT JOIN river_job ON river_job.id = ` + job + `
			WHERE requests.id = ANY ($6::uuid[])
			  AND ` + owed + `
			  AND (` + isLive("requests", "$1", "$2", mayBePending) + `) IS NOT TRUE
		), remade AS (
			UPDATE requests
			SET ` + job + ` = lost.job_id
			FROM lost
			WHERE requests.id = lost.id
			RETURNING 1
		), replaced AS (
			-- No row would lead to the earlier job any more to remove it.
			DELETE FROM river_job
			WHERE id = ANY (ARRAY(SELECT earlier_job_id FROM lost))
		), ` + insertJobs("lost", "due_at", first) + `
		SELECT count(*)
		FROM jobs
		WHERE (SELECT count(*) >= 0 FROM notified)
		  AND ` + wroteAll("remade", "lost")
	var remade int
	if err := tx.QueryRow(ctx, sql, append(jobs.args(), column(ids, uuidOf))...).Scan(&remade); err != nil {
		return 0, fmt.Errorf("giving requests another job: %w", err)
	}
	return remade, nil
}

// MendOrder looks at the next requests with ordering keys after a position. Requests whose
// callback has ended leave the order, and where the first of a key is held back, it is
// released. It returns how many requests that were, and the position to go on from.
func MendOrder(ctx context.Context, tx pgx.Tx, after uuid.UUID) (mended int, next uuid.UUID, err error) {
	// By the unique index of request_id.
	sql := fmt.Sprintf(`
		SELECT client, ordering_key, request_id,
		       request.id IS NULL OR settled_at IS NOT NULL,
		       coalesce(callback_state = 'pending', false) AND `+isFirst("page", []Place{{}})+`
		       AND EXISTS (SELECT FROM river_job WHERE river_job.id = callback_job_id AND state::text = 'pending' LIMIT 1)
		FROM (
			SELECT client, ordering_key, seq, request_id
			FROM ordered_requests
			WHERE request_id > $1
			ORDER BY request_id
			LIMIT %[1]d
		) AS page
		LEFT JOIN LATERAL (
			SELECT id, callback_state, callback_job_id, settled_at
			FROM requests
			WHERE requests.id = page.request_id
			LIMIT 1
		) AS request ON true
		ORDER BY request_id`, reconciledAtOnce)
	rows, err := tx.Query(ctx, sql, after)
	if err != nil {
		return 0, after, fmt.Errorf("looking at ordering keys: %w", err)
	}
	var place Place
	var hasEnded, isHeld bool
	var ended, first []Place
	seen := 0
	_, err = pgx.ForEachRow(rows, []any{&place.Client, &place.OrderingKey, &place.RequestID, &hasEnded, &isHeld}, func() error {
		seen++
		switch {
		case hasEnded:
			ended = append(ended, place)
		case isHeld:
			first = append(first, place)
		}
		return nil
	})
	if err != nil {
		return 0, after, fmt.Errorf("looking at ordering keys: %w", err)
	}
	if seen == reconciledAtOnce {
		next = place.RequestID
	}
	return len(ended) + len(first), next, goOn(ctx, tx, ended, first)
}

// SaveOrderPosition writes how far MendOrder has come.
func SaveOrderPosition(ctx context.Context, tx pgx.Tx, position uuid.UUID) error {
	if _, err := tx.Exec(ctx, "UPDATE reconciliation SET order_position = $1", position); err != nil {
		return fmt.Errorf("writing how far the look at ordering keys has come: %w", err)
	}
	return nil
}

// goOn takes ended requests out of the order, and releases the first of their keys.
func goOn(ctx context.Context, tx pgx.Tx, ended, first []Place) error {
	if len(ended)+len(first) == 0 {
		return nil
	}
	if err := LockOrder(ctx, tx, append(ended, first...)...); err != nil {
		return err
	}
	if err := LeaveOrder(ctx, tx, ended...); err != nil {
		return err
	}
	if len(first) == 0 {
		return nil
	}
	if err := runTogether(ctx, tx, releaseFirst(first)); err != nil {
		return fmt.Errorf("releasing callbacks: %w", err)
	}
	return nil
}
