package db

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Key is an Idempotency-Key that a call claims for its request.
type Key struct {
	Client      string
	Key         string            // "" for none
	Fingerprint [sha256.Size]byte // of the call
	RequestID   uuid.UUID         // of the request that will hold the key, if the key is free
	HeldUntil   time.Time         // by then the call has recorded its request, or has died
	ExpiresAt   time.Time
}

var keyFields = fields[Key]{
	written("client", "text", func(k Key) string { return k.Client }, nil),
	written("key", "text", func(k Key) string { return k.Key }, nil),
	written("fingerprint", "bytea", func(k Key) []byte { return k.Fingerprint[:] }, nil),
	written("request_id", "uuid", func(k Key) pgtype.UUID { return uuidOf(k.RequestID) }, nil),
	written("held_until", "timestamptz", func(k Key) time.Time { return k.HeldUntil }, nil),
	written("expires_at", "timestamptz", func(k Key) time.Time { return k.ExpiresAt }, nil),
}

// Holder is the request that held a key before it was claimed.
type Holder struct {
	Held        bool // false: the key was free, and is the caller's now
	RequestID   uuid.UUID
	Fingerprint [sha256.Size]byte
}

// clientKey is the unique name of a key.
type clientKey struct{ client, key string }

// ClaimKeys claims keys, the first of equal ones, and returns for each the request that holds it
// already, if any. A key is free where no request holds it, where it has expired, and where its
// call died before it recorded a request. It is free, too, where its request is a sync request
// without an answer. The caller went away, or the work was not done and may be done the next time.
func ClaimKeys(ctx context.Context, q Querier, keys []Key, now time.Time) ([]Holder, error) {
	claimed, err := takeKeys(ctx, q, keys, now)
	if err != nil || len(claimed) == len(keys) {
		return make([]Holder, len(keys)), err
	}
	held, err := readKeys(ctx, q, keys)
	if err != nil {
		return nil, err
	}
	holders := make([]Holder, len(keys))
	for i, key := range keys {
		if !claimed[key.RequestID] {
			holders[i] = held[clientKey{key.Client, key.Key}]
			holders[i].Held = true
		}
	}
	return holders, nil
}

// takeKeys returns the ids of the requests whose key was free.
func takeKeys(ctx context.Context, q Querier, keys []Key, now time.Time) (map[uuid.UUID]bool, error) {
	// Sorted, so that two batches that share keys lock them in one order. Of two calls with the
	// same key, the second waits here for the commit of the first, and may then not see its
	// request yet. held_until tells that the key is held nevertheless.
	sql := `
		INSERT INTO idempotency_keys AS held (` + keyFields.names() + `)
		SELECT DISTINCT ON (client, key) ` + keyFields.stored() + `
		FROM unnest(` + keyFields.arrays(2) + `) WITH ORDINALITY AS wanted (` + keyFields.names() + `, position)
		ORDER BY client, key, position
		ON CONFLICT (client, key) DO UPDATE
		SET ` + keyFields[2:].replaced() + `
		WHERE held.expires_at <= $1
		   OR (held.held_until <= $1 AND NOT EXISTS (SELECT FROM requests WHERE id = held.request_id))
		   OR EXISTS (SELECT FROM requests WHERE id = held.request_id AND mode = 'sync' AND (status = 'cancelled' OR error ->> 'code' = 'not_done'))
		RETURNING request_id`
	rows, err := q.Query(ctx, sql, append([]any{now}, keyFields.args(keys)...)...)
	if err != nil {
		return nil, fmt.Errorf("claiming idempotency keys: %w", err)
	}
	claimed := make(map[uuid.UUID]bool, len(keys))
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { claimed[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("claiming idempotency keys: %w", err)
	}
	return claimed, nil
}

func readKeys(ctx context.Context, q Querier, keys []Key) (map[clientKey]Holder, error) {
	const sql = `
		SELECT client, key, request_id, fingerprint
		FROM idempotency_keys
		WHERE (client, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))`
	rows, err := q.Query(ctx, sql,
		column(keys, func(k Key) string { return k.Client }), column(keys, func(k Key) string { return k.Key }))
	if err != nil {
		return nil, fmt.Errorf("reading idempotency keys: %w", err)
	}
	holders := make(map[clientKey]Holder, len(keys))
	var at clientKey
	var holder Holder
	var fingerprint []byte
	_, err = pgx.ForEachRow(rows, []any{&at.client, &at.key, &holder.RequestID, &fingerprint}, func() error {
		copy(holder.Fingerprint[:], fingerprint)
		holders[at] = holder
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading idempotency keys: %w", err)
	}
	return holders, nil
}

// DropKeys removes up to most keys that have expired and returns how many.
func DropKeys(ctx context.Context, q Querier, now time.Time, most int) (int, error) {
	const sql = `
		DELETE FROM idempotency_keys
		WHERE (client, key) IN (
			SELECT client, key
			FROM idempotency_keys
			WHERE expires_at <= $1
			ORDER BY expires_at
			LIMIT $2
			FOR UPDATE SKIP LOCKED
		)`
	tag, err := q.Exec(ctx, sql, now, most)
	if err != nil {
		return 0, fmt.Errorf("dropping idempotency keys: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
