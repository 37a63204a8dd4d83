package db

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// StoredHeaders are the headers of a request's callback as they are stored, "" where the
// request has none.
type StoredHeaders struct {
	Request uuid.UUID
	Client  string
	Headers string
}

// headersPage is the number of requests that ListHeaders reads: no snapshot is held for
// longer than such a page takes, however large the table.
const headersPage = 1000

// ListHeaders reads the stored headers of the next requests after an id, by id, also of
// requests that have none. An empty page ends the table.
func ListHeaders(ctx context.Context, q Querier, after uuid.UUID) ([]StoredHeaders, error) {
	const sql = `
		SELECT id, client, callback_headers
		FROM requests
		WHERE id > $1
		ORDER BY id
		LIMIT $2`
	rows, err := q.Query(ctx, sql, after, headersPage)
	if err != nil {
		return nil, fmt.Errorf("listing headers of callbacks: %w", err)
	}
	page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s StoredHeaders, err error) {
		return s, row.Scan(&s.Request, &s.Client, (*zeronull.Text)(&s.Headers))
	})
	if err != nil {
		return nil, fmt.Errorf("listing headers of callbacks: %w", err)
	}
	return page, nil
}

// ResealHeaders replaces the stored form of the headers of a request's callback, unless the
// request is gone.
func ResealHeaders(ctx context.Context, q Querier, request uuid.UUID, headers string) error {
	const sql = `
		UPDATE requests
		SET callback_headers = $2
		WHERE id = $1`
	if _, err := q.Exec(ctx, sql, request, headers); err != nil {
		return fmt.Errorf("resealing headers of a callback: %w", err)
	}
	return nil
}
