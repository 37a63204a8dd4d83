package db

import (
	"cmp"
	"context"
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

// Place is the request's place, without an OrderingKey where the request has none.
func (r Request) Place() Place { return Place{r.Client, r.OrderingKey, r.ID} }

// placesOf are the places of the items that have an ordering key.
func placesOf[T any](items []T, place func(T) Place) (places []Place) {
	for _, item := range items {
		if p := place(item); p.OrderingKey != "" {
			places = append(places, p)
		}
	}
	return places
}

// A transaction that depends on the order of a key holds the key's lock, of one of two classes,
// until it commits. So the later of two transactions sees the changes of the earlier.
const (
	// acceptLocks make requests of a key visible in the order of their sequences.
	acceptLocks = 0x52420001 // RB, so that no other program's locks are met
	// callbackLocks keep a request from finishing while its predecessor settles: its
	// callback would be neither sent nor released.
	callbackLocks = 0x52420002
)

// lockBuckets is how many locks of a class there are. The keys share them, since
// a lock of each key could fill Postgres's table of locks (6,400 by default). All
// processes must agree on it.
const lockBuckets = 1024

// lockKeys locks the keys of places until the transaction ends. The statements after it
// see all changes of the transactions that held the locks before. Locks are always taken
// in the same order, so that no two transactions wait for each other.
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

// FindPlaces returns the places of the requests that have an ordering key and whose
// callback has not ended.
func FindPlaces(ctx context.Context, q Querier, ids []uuid.UUID) ([]Place, error) {
	const sql = `
		SELECT client, ordering_key, request_id
		FROM ordered_requests
		WHERE request_id = ANY ($1::uuid[])`
	rows, err := q.Query(ctx, sql, column(ids, uuidOf))
	if err != nil {
		return nil, fmt.Errorf("finding places in an order: %w", err)
	}
	places, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Place])
	if err != nil {
		return nil, fmt.Errorf("finding places in an order: %w", err)
	}
	return places, nil
}

// LockOrder locks the ordering keys of places until tx ends. A transaction that ends a
// callback and calls LeaveOrder takes these locks before it changes a request, as
// SettleCallbacks does: otherwise two transactions may wait for each other.
func LockOrder(ctx context.Context, tx pgx.Tx, places ...Place) error {
	if err := runTogether(ctx, tx, lockKeys(callbackLocks, keyed(places))...); err != nil {
		return fmt.Errorf("locking ordering keys: %w", err)
	}
	return nil
}

// LeaveOrder takes requests whose callbacks have ended out of the order, and releases the
// next callback of each key. Places without an ordering key are skipped, as are requests
// that have left already.
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
		// Separate, since the deleting statement still sees the rows that it deletes.
		releaseFirst(places),
	}
}

// releaseFirst releases the first callback of the key of each place, where it is held back.
func releaseFirst(places []Place) statement {
	// A first request whose work goes on has no callback job yet: FinishRequests will find
	// it the first. The cast keeps the planner from River's index of states, where it would
	// read all pending jobs.
	const release = `
		WITH released AS (
			UPDATE river_job
			SET state = 'available',
			    scheduled_at = least(scheduled_at, now()) -- which lies ahead once the clock was set back
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

// keysOf keeps a place for each key.
func keysOf(places []Place) []Place {
	places = slices.Clone(places)
	compare := func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.OrderingKey, b.OrderingKey))
	}
	slices.SortFunc(places, compare)
	return slices.CompactFunc(places, func(a, b Place) bool { return compare(a, b) == 0 })
}
