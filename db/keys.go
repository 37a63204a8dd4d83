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

// Key is an Idempotency-Key that a call wants to take for its request.
type Key struct {
	Client      string
	Key         string            // "" for none
	Fingerprint [sha256.Size]byte // of the call
	RequestID   uuid.UUID         // the request that the key stands for, if it can be taken
	HeldUntil   time.Time         // when the call has recorded its request, or has died
	ExpiresAt   time.Time
}

// Holder is the request that a key stands for already.
type Holder struct {
	Held        bool // false: the key was taken by the call that asked
	RequestID   uuid.UUID
	Fingerprint [sha256.Size]byte
}

// slot is what a key is unique by.
type slot struct{ client, key string }

// ClaimKeys takes each key that is free, the first of equal ones, and returns for
// each the request that it stands for otherwise. A key is free, too, when it has
// expired, when its call died before it recorded a request, and when that was a
// sync one whose caller went away (nobody has its answer), or whose work was not done
// and may be the next time.
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
			holders[i] = held[slot{key.Client, key.Key}]
			holders[i].Held = true
		}
	}
	return holders, nil
}

// takeKeys returns the ids of the requests whose key was free.
func takeKeys(ctx context.Context, q Querier, keys []Key, now time.Time) (map[uuid.UUID]bool, error) {
	// Sorted, so that two batches that share keys take them in one order. Of two
	// calls at a time, the second waits here for the first one's commit, and may
	// then not see its request yet: that is what held_until is for.
	const sql = `
		INSERT INTO idempotency_keys AS held (client, key, fingerprint, request_id, held_until, expires_at)
		SELECT DISTINCT ON (client, key) client, key, fingerprint, request_id, held_until, expires_at
		FROM unnest(
			$1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::timestamptz[]
		) WITH ORDINALITY AS wanted (client, key, fingerprint, request_id, held_until, expires_at, position)
		ORDER BY client, key, position
		ON CONFLICT (client, key) DO UPDATE
		SET fingerprint = excluded.fingerprint,
		    request_id = excluded.request_id,
		    held_until = excluded.held_until,
		    expires_at = excluded.expires_at
		WHERE held.expires_at <= $7
		   OR (held.held_until <= $7 AND NOT EXISTS (SELECT FROM requests WHERE id = held.request_id))
		   OR EXISTS (SELECT FROM requests WHERE id = held.request_id AND mode = 'sync' AND (status = 'cancelled' OR error ->> 'code' = 'not_done'))
		RETURNING request_id`
	rows, err := q.Query(ctx, sql,
		column(keys, func(k Key) string { return k.Client }),
		column(keys, func(k Key) string { return k.Key }),
		column(keys, func(k Key) []byte { return k.Fingerprint[:] }),
		column(keys, func(k Key) pgtype.UUID { return uuidOf(k.RequestID) }),
		column(keys, func(k Key) time.Time { return k.HeldUntil }),
		column(keys, func(k Key) time.Time { return k.ExpiresAt }), now)
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

func readKeys(ctx context.Context, q Querier, keys []Key) (map[slot]Holder, error) {
	const sql = `
		SELECT client, key, request_id, fingerprint
		FROM idempotency_keys
		WHERE (client, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))`
	rows, err := q.Query(ctx, sql,
		column(keys, func(k Key) string { return k.Client }), column(keys, func(k Key) string { return k.Key }))
	if err != nil {
		return nil, fmt.Errorf("reading idempotency keys: %w", err)
	}
	holders := make(map[slot]Holder, len(keys))
	var at slot
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

// EndedWork returns those of the requests whose work has ended.
func EndedWork(ctx context.Context, q Querier, ids []uuid.UUID) ([]uuid.UUID, error) {
	const sql = `
		SELECT id
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND status <> 'accepted'`
	rows, err := q.Query(ctx, sql, column(ids, uuidOf))
	if err != nil {
		return nil, fmt.Errorf("looking for ended work: %w", err)
	}
	ended, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("looking for ended work: %w", err)
	}
	return ended, nil
}
