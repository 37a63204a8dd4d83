package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"ringback/cmd/internal/postgres"
)

// grownTables are the tables in which a request leaves rows: the lists are filled side by
// side, each in its order.
var grownTables = [][]string{{"requests", "callback_attempts"}, {"river_job"}}

// grow copies the only finished request of a database, with its attempt and its jobs, until
// there are so many rows. It copies all columns, so it doesn't know the schema; only ids and
// times differ. The times are spread over the last twelve hours: within the retention of
// jobs, so that River's cleaner has nothing to do.
func grow(ctx context.Context, d database, rows int) error {
	all := copies{rows, time.Now()}
	group, ctx := errgroup.WithContext(ctx)
	for _, tables := range grownTables {
		group.Go(func() error {
			return d.Connect(ctx, func(conn *pgx.Conn) error {
				for _, table := range tables {
					if err := all.fill(ctx, conn, table); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return group.Wait()
}

// copies are numbered from 1. The last has the present time.
type copies struct {
	count int
	now   time.Time
}

func (c copies) fill(ctx context.Context, conn *pgx.Conn, table string) error {
	columns, err := copiedColumns(ctx, conn, table)
	if err != nil {
		return err
	}
	statements := []string{
		"SET synchronous_commit = off",
		"SET maintenance_work_mem = '512MB'",
		"SET session_replication_role = replica", // no look-ups for foreign keys
		"CREATE TEMPORARY TABLE seed AS SELECT row_number() OVER () - 1 AS seed_number, * FROM " + table,
		// An index that is built at the end costs a tenth. REINDEX makes indexes ready again.
		"UPDATE pg_index SET indisready = false WHERE indrelid = '" + table + "'::regclass",
		c.statement(table, columns),
		"REINDEX TABLE " + table,
		"DROP TABLE seed",
		"VACUUM (ANALYZE) " + table,
	}
	if table == "river_job" { // its ids come from a sequence, which must go on after the copies' ids
		statements = append(statements, "SELECT setval(pg_get_serial_sequence('river_job', 'id'), (SELECT max(id) FROM river_job))")
	}
	return postgres.Execute(ctx, conn, statements...)
}

// column is a column that a copy fills in.
type column struct{ Name, Type string }

// copiedColumns leaves out generated columns.
func copiedColumns(ctx context.Context, conn *pgx.Conn, table string) ([]column, error) {
	const sql = `
		SELECT column_name, data_type
		FROM information_schema.columns
		WHERE table_schema = 'public'
		  AND table_name = $1
		  AND is_identity = 'NO'
		  AND is_generated = 'NEVER'
		ORDER BY ordinal_position`
	rows, _ := conn.Query(ctx, sql, table) // CollectRows returns the error
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s: %w", table, err)
	}
	return columns, nil
}

// statement copies the seed. A number has the same id in every table.
func (c copies) statement(table string, columns []column) string {
	names, values := make([]string, len(columns)), make([]string, len(columns))
	for i, column := range columns {
		names[i], values[i] = column.Name, valueOf(table, column)
	}
	return fmt.Sprintf(`
		INSERT INTO %s (%s)
		SELECT %s
		FROM generate_series(1, %[4]d) AS n
		CROSS JOIN LATERAL (SELECT 12 * 3600 * 1000 * (%[4]d - n)::bigint / %[4]d AS ms) AS before
		CROSS JOIN LATERAL (SELECT before.ms * interval '1 millisecond' AS age) AS ages
		CROSS JOIN LATERAL (
			SELECT lpad(to_hex(%[5]d - before.ms), 12, '0') AS ms, md5(n::text) AS hash
		) AS parts
		CROSS JOIN LATERAL (
			SELECT (parts.ms || '7' || left(hash, 3) || '8' || substr(hash, 4, 15))::uuid AS id
		) AS request
		CROSS JOIN seed`,
		table, strings.Join(names, ", "), strings.Join(values, ", "), c.count, c.now.UnixMilli())
}

// firstCopiedJob leaves room for the jobs of the seed.
const firstCopiedJob = 1000

// valueOf is a column of a copy: ids and times are made, all else is as in the
// seed. The two jobs of request n have neighbouring ids.
func valueOf(table string, c column) string {
	switch {
	case table == "requests" && c.Name == "id", c.Name == "request_id":
		return "request.id"
	case table == "river_job" && c.Name == "id":
		return fmt.Sprintf("%d + 2 * n + seed_number", firstCopiedJob)
	case table == "river_job" && c.Name == "args":
		return "jsonb_build_object('request_id', request.id)"
	case c.Name == "work_job_id":
		return fmt.Sprintf("%d + 2 * n", firstCopiedJob)
	case c.Name == "callback_job_id":
		return fmt.Sprintf("%d + 2 * n + 1", firstCopiedJob)
	case c.Type == "timestamp with time zone":
		return "seed." + c.Name + " - age"
	default:
		return "seed." + c.Name
	}
}
