package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Client is a row of clients. Secrets are as they are stored: sealed where the service
// has a SECRETS_KEY.
type Client struct {
	Name       string
	KeyHash    []byte // SHA-256 of the API key
	Secret     string // signs callbacks
	OldKeyHash []byte // of the key before RotatedAt
	OldSecret  string // before RotatedAt
	CreatedAt  time.Time
	RotatedAt  time.Time // zero for never
	DisabledAt time.Time // zero for not

	Limits             // of its own, 0 for the limit of the settings
	Callbacks []string // hosts that its callbacks may name, none for all
}

// Limits bound a client.
type Limits struct {
	Rate           int   // POSTs a second to a process, with a burst of twice as many
	Unfinished     int   // async requests that have not ended
	PerDestination int   // unfinished requests for callbacks to a host and port
	Storage        int64 // bytes kept
	DeadLetters    int
}

// InsertClient writes a new client: Name, KeyHash, Secret and CreatedAt. It returns false
// where the name exists.
func InsertClient(ctx context.Context, q Querier, c Client) (inserted bool, err error) {
	const sql = `
		INSERT INTO clients (name, key_hash, secret, created_at)
		VALUES ($1, $2, $3, $4)
		ON CONFLICT ON CONSTRAINT clients_pkey DO NOTHING`
	tag, err := q.Exec(ctx, sql, c.Name, c.KeyHash, c.Secret, c.CreatedAt)
	if err != nil {
		return false, fmt.Errorf("inserting client: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const clientColumns = `name, key_hash, secret, old_key_hash, old_secret, created_at, rotated_at, disabled_at,
			rate, unfinished, per_destination, storage, dead_letters, array_replace(callbacks, NULL, '')`

func readClient(row pgx.CollectableRow) (c Client, err error) {
	var rate, unfinished, perDestination, deadLetters zeronull.Int4
	err = row.Scan(&c.Name, &c.KeyHash, &c.Secret, &c.OldKeyHash, (*zeronull.Text)(&c.OldSecret),
		&c.CreatedAt, (*zeronull.Timestamptz)(&c.RotatedAt), (*zeronull.Timestamptz)(&c.DisabledAt),
		&rate, &unfinished, &perDestination, (*zeronull.Int8)(&c.Storage), &deadLetters, &c.Callbacks)
	c.Rate, c.Unfinished, c.PerDestination, c.DeadLetters = int(rate), int(unfinished), int(perDestination), int(deadLetters)
	return c, err
}

// ListClients returns all clients by name, disabled clients included.
func ListClients(ctx context.Context, q Querier) ([]Client, error) {
	const sql = `
		SELECT ` + clientColumns + `
		FROM clients
		ORDER BY name`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("listing clients: %w", err)
	}
	clients, err := pgx.CollectRows(rows, readClient)
	if err != nil {
		return nil, fmt.Errorf("listing clients: %w", err)
	}
	return clients, nil
}

// LockClient returns a client and locks it until tx ends; pgx.ErrNoRows if there is none
// of that name.
func LockClient(ctx context.Context, tx pgx.Tx, name string) (Client, error) {
	const sql = `
		SELECT ` + clientColumns + `
		FROM clients
		WHERE name = $1
		FOR UPDATE`
	rows, err := tx.Query(ctx, sql, name)
	if err != nil {
		return Client{}, fmt.Errorf("locking client: %w", err)
	}
	client, err := pgx.CollectExactlyOneRow(rows, readClient)
	if err != nil {
		return Client{}, fmt.Errorf("locking client: %w", err)
	}
	return client, nil
}

// SaveClientLimits writes the limits of a client's own.
func SaveClientLimits(ctx context.Context, q Querier, c Client) error {
	const sql = `
		UPDATE clients
		SET rate = $2,
		    unfinished = $3,
		    per_destination = $4,
		    storage = $5,
		    dead_letters = $6,
		    callbacks = $7
		WHERE name = $1`
	callbacks := c.Callbacks
	if len(callbacks) == 0 {
		callbacks = nil
	}
	_, err := q.Exec(ctx, sql, c.Name, zeronull.Int4(c.Rate), zeronull.Int4(c.Unfinished), zeronull.Int4(c.PerDestination),
		zeronull.Int8(c.Storage), zeronull.Int4(c.DeadLetters), callbacks)
	if err != nil {
		return fmt.Errorf("saving the limits of a client: %w", err)
	}
	return nil
}

// RotateClient gives a client another KeyHash and Secret. The present key and secret
// become the old ones, and the former old ones are dropped. It returns false where the
// client doesn't exist or is disabled.
func RotateClient(ctx context.Context, q Querier, c Client) (rotated bool, err error) {
	const sql = `
		UPDATE clients
		SET old_key_hash = key_hash,
		    old_secret = secret,
		    key_hash = $2,
		    secret = $3,
		    rotated_at = $4
		WHERE name = $1
		  AND disabled_at IS NULL`
	tag, err := q.Exec(ctx, sql, c.Name, c.KeyHash, c.Secret, c.RotatedAt)
	if err != nil {
		return false, fmt.Errorf("rotating client: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// DisableClient tells false where there is no such client. A client that is disabled
// already keeps its DisabledAt.
func DisableClient(ctx context.Context, q Querier, name string, at time.Time) (disabled bool, err error) {
	const sql = `
		UPDATE clients
		SET disabled_at = coalesce(disabled_at, $2)
		WHERE name = $1`
	tag, err := q.Exec(ctx, sql, name, at)
	if err != nil {
		return false, fmt.Errorf("disabling client: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// ResealClient replaces the stored forms of a client's secrets. It tells false where they
// were changed since the client was read.
func ResealClient(ctx context.Context, q Querier, read Client, secret, oldSecret string) (resealed bool, err error) {
	const sql = `
		UPDATE clients
		SET secret = $4,
		    old_secret = $5
		WHERE name = $1
		  AND secret = $2
		  AND old_secret IS NOT DISTINCT FROM $3`
	tag, err := q.Exec(ctx, sql, read.Name, read.Secret, zeronull.Text(read.OldSecret), secret, zeronull.Text(oldSecret))
	if err != nil {
		return false, fmt.Errorf("resealing client: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}
