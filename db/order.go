package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Place is where a request with an ordering key stands in the order of the
// callbacks of its client and key.
type Place struct {
	Client      string
	OrderingKey string
	RequestID   uuid.UUID
}

// Place is that of the request, without an OrderingKey where it has none.
func (r Request) Place() Place { return Place{r.Client, r.OrderingKey, r.ID} }

// placesOf are those of the items that have an ordering key.
func placesOf[T any](items []T, place func(T) Place) (places []Place) {
	for _, item := range items {
		if p := place(item); p.OrderingKey != "" {
			places = append(places, p)
		}
	}
	return places
}

// Whatever depends on the order of a key holds the key's lock of one of two
// classes until it commits: of two statements the later one then sees what the
// earlier one did.
const (
	// acceptLocks make requests of a key visible in the order of their sequences.
	acceptLocks = 0x52420001 // RB, so that nobody else's locks are met
	// callbackLocks let no finish look at a predecessor while that one is settled,
	// and none settle while its successor finishes: the successor's callback would
	// be neither sent nor released.
	callbackLocks = 0x52420002
)

// lockBuckets is how many locks of a class there are. The keys share them, since
// a lock of each key could fill Postgres's table of locks (6,400 by default). All
// processes must agree on it.
const lockBuckets = 1024

// lockKeys locks the keys of places until the transaction ends; the statements
// behind it see all that those did who held the locks before. Always in one
// order, so that nobody waits in a circle.
func lockKeys(class int32, places []Place) []statement {
	if len(places) == 0 {
		return nil
	}
	const sql = `
		SELECT pg_advisory_xact_lock($1, bucket)
		FROM unnest($2::integer[]) AS locks (bucket)`
	buckets := make([]int32, len(places))
	for i, place := range places {
		buckets[i] = place.bucket()
	}
	slices.Sort(buckets)
	return []statement{{sql: sql, args: []any{class, slices.Compact(buckets)}}}
}

func (p Place) bucket() int32 {
	hash := fnv.New32a()
	_, _ = fmt.Fprintf(hash, "%s\x00%s", p.Client, p.OrderingKey)
	return int32(hash.Sum32() % lockBuckets)
}

// insertPlaces puts the rows of a source that have an ordering key into the
// order. Only batches with such rows pay for it, as with isFirst.
func insertPlaces(source string, places []Place) string {
	if len(places) == 0 {
		return ""
	}
	return `, placed AS (
			INSERT INTO ordered_requests (client, ordering_key, seq, request_id)
			SELECT client, ordering_key, seq, id
			FROM ` + source + `
			WHERE ordering_key IS NOT NULL
		)`
}

// isFirst tells whether a row of a source is the first of its key: the callback
// job of any other row is held back.
func isFirst(source string, places []Place) string {
	if len(places) == 0 {
		return "true"
	}
	return `NOT EXISTS (
				SELECT
				FROM ordered_requests
				WHERE ordered_requests.client = ` + source + `.client
				  AND ordered_requests.ordering_key = ` + source + `.ordering_key
				  AND ordered_requests.seq < ` + source + `.seq
			)`
}

// FindPlace returns where a request of a client stands, without an OrderingKey
// where it has none or its callback has ended.
func FindPlace(ctx context.Context, q Querier, client string, id uuid.UUID) (Place, error) {
	const sql = `
		SELECT ordering_key
		FROM ordered_requests
		WHERE request_id = $1
		  AND client = $2`
	place := Place{Client: client, RequestID: id}
	err := q.QueryRow(ctx, sql, id, client).Scan(&place.OrderingKey)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Place{}, fmt.Errorf("finding a request's place in its order: %w", err)
	}
	return place, nil
}

// LockOrder locks the order of the callbacks of places until tx ends. A transaction
// that ends a callback and calls LeaveOrder takes the locks first, as
// SettleCallbacks does, or two of them may wait for each other.
func LockOrder(ctx context.Context, tx pgx.Tx, places ...Place) error {
	if err := runTogether(ctx, tx, lockKeys(callbackLocks, keyed(places))...); err != nil {
		return fmt.Errorf("locking ordering keys: %w", err)
	}
	return nil
}

// LeaveOrder takes requests whose callbacks have ended out of the order, and
// lets the next of each key leave. Places without an ordering key, and those
// that have left already, are skipped.
func LeaveOrder(ctx context.Context, tx pgx.Tx, places ...Place) error {
	if err := runTogether(ctx, tx, leaveOrder(keyed(places))...); err != nil {
		return fmt.Errorf("leaving the order of callbacks: %w", err)
	}
	return nil
}

func keyed(places []Place) []Place {
	return placesOf(places, func(p Place) Place { return p })
}

func leaveOrder(places []Place) []statement {
	if len(places) == 0 {
		return nil
	}
	const leave = `
		DELETE FROM ordered_requests
		WHERE request_id = ANY ($1::uuid[])`
	return []statement{
		{sql: leave, args: []any{column(places, func(p Place) pgtype.UUID { return uuidOf(p.RequestID) })}},
		// Of its own, since the statement that deletes still sees what it deletes.
		releaseFirst(places),
	}
}

// releaseFirst lets the first of the key of each place leave, where it is held back.
func releaseFirst(places []Place) statement {
	// A first one whose work goes on has no job yet; it will find itself the first.
	// The cast keeps the planner from River's index of states, where it would read
	// all that is pending.
	const release = `
		WITH released AS (
			UPDATE river_job
			SET state = 'available'
			FROM unnest($1::text[], $2::text[]) AS keys (client, ordering_key)
			CROSS JOIN LATERAL (
				SELECT request_id
				FROM ordered_requests
				WHERE ordered_requests.client = keys.client
				  AND ordered_requests.ordering_key = keys.ordering_key
				ORDER BY seq
				LIMIT 1
			) AS first
			JOIN requests ON requests.id = first.request_id
			WHERE river_job.id = requests.callback_job_id
			  AND river_job.state::text = 'pending'
			RETURNING river_job.queue
		)
		SELECT pg_notify(current_schema() || '.river_insert', json_build_object('queue', queue)::text)
		FROM (SELECT DISTINCT queue FROM released) AS queues`
	keys := keysOf(places)
	return statement{sql: release, args: []any{
		column(keys, func(p Place) string { return p.Client }),
		column(keys, func(p Place) string { return p.OrderingKey }),
	}}
}

// keysOf keeps one place of each key.
func keysOf(places []Place) []Place {
	places = slices.Clone(places)
	compare := func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.OrderingKey, b.OrderingKey))
	}
	slices.SortFunc(places, compare)
	return slices.CompactFunc(places, func(a, b Place) bool { return compare(a, b) == 0 })
}

// statement is one of several that are sent together.
type statement struct {
	sql  string
	args []any
	read func(rows pgx.Rows) error // nil where no rows are wanted
}

// runTogether runs statements in one round trip, each of which sees what those
// before it did: as one transaction of its own unless q is one.
func runTogether(ctx context.Context, q Querier, statements ...statement) error {
	if len(statements) == 1 && statements[0].read != nil {
		rows, err := q.Query(ctx, statements[0].sql, statements[0].args...)
		if err != nil {
			return err
		}
		return statements[0].read(rows)
	}
	batch := &pgx.Batch{}
	for _, s := range statements {
		if queued := batch.Queue(s.sql, s.args...); s.read != nil {
			queued.Query(s.read)
		}
	}
	return q.SendBatch(ctx, batch).Close()
}

// IsBehind tells whether the callback of a place waits for one before it.
func IsBehind(ctx context.Context, q Querier, place Place) (behind bool, err error) {
	const sql = `
		SELECT EXISTS (
			SELECT
			FROM ordered_requests AS before
			JOIN ordered_requests AS own USING (client, ordering_key)
			WHERE client = $1
			  AND ordering_key = $2
			  AND own.request_id = $3
			  AND before.seq < own.seq
		)`
	if err := q.QueryRow(ctx, sql, place.Client, place.OrderingKey, place.RequestID).Scan(&behind); err != nil {
		return false, fmt.Errorf("looking for what an ordering key waits for: %w", err)
	}
	return behind, nil
}
