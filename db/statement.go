package db

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// uuidOf is id as pgx encodes it without a detour over text.
func uuidOf(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// statement is a statement that is sent together with others.
type statement struct {
	sql  string
	args []any
	read func(rows pgx.Rows) error // nil where no rows are wanted
}

// runTogether runs statements in a single round trip. Each sees the changes of the
// statements before it. They are one transaction of their own unless q is one.
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

// wroteAll is a condition that fails a statement in which a trigger, made by hand, kept rows from
// being written. Postgres tells of no error, and the rows would be lost. It is evaluated once.
func wroteAll(written, wanted string) string {
	return `(SELECT CASE WHEN (SELECT count(*) FROM ` + written + `) < (SELECT count(*) FROM ` + wanted + `) THEN rows_are_missing() ELSE true END)`
}

// changedAll is wroteAll for a statement that ends a step of each row of wanted: of its
// request, by the CTE changed, and of its job, by completeJobs. Others may have ended it
// before, so where fewer rows were changed, a look at the rows decides.
func changedAll(changed, wanted, requests, jobs string) string {
	return `(SELECT CASE WHEN (SELECT count(*) FROM ` + changed + `) + (SELECT count(*) FROM completed) < 2 * (SELECT count(*) FROM ` + wanted + `) THEN rows_are_changed(` + requests + `::uuid[], ` + jobs + `::bigint[]) ELSE true END)`
}

func readIDs(ctx context.Context, q Querier, doing, sql string, args ...any) ([]uuid.UUID, error) {
	return readColumn[uuid.UUID](ctx, q, doing, sql, args...)
}

// readColumn reads rows of a single column.
func readColumn[T any](ctx context.Context, q Querier, doing, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return values, nil
}
