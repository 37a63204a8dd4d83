package db

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// holder is a session that holds a lock, or a prepared transaction, which has no session
// and waits for its COMMIT PREPARED.
type holder struct {
	PID    int      // 0 for a prepared transaction
	Told   string   // what is known of it, for an operator
	GID    string   // of a prepared transaction, as an SQL literal
	Owner  string   // of a session that this role may not end
	Tables []string // of this schema that it locks
}

type holders []holder

// String describes the holders for an operator.
func (h holders) String() string {
	told := make([]string, len(h))
	for i, holder := range h {
		told[i] = holder.Told
	}
	return strings.Join(told, ", ")
}

// remedy is what an operator may do about the holders.
func (h holders) remedy() string {
	remedies := make([]string, len(h))
	for i, holder := range h {
		lock := "the lock"
		if len(holder.Tables) > 0 {
			lock += " on " + strings.Join(holder.Tables, ", ")
		}
		remedies[i] = fmt.Sprintf("end the session that holds %s: SELECT pg_terminate_backend(%d)", lock, holder.PID)
		if holder.Owner != "" {
			remedies[i] += fmt.Sprintf(" as user %s, or as a superuser", holder.Owner)
		}
		if holder.PID == 0 {
			remedies[i] = fmt.Sprintf("end the prepared transaction that holds %s: ROLLBACK PREPARED %s, or COMMIT PREPARED where its program wants that", lock, holder.GID)
		}
	}
	return strings.Join(remedies, "; ")
}

// writersWait are the modes of locks on a table that keep others from writing it.
const writersWait = `('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

// ofThisSchema are the rows of pg_locks that are about a table or index of this schema.
const ofThisSchema = `
	      locktype = 'relation'
	  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	  AND relnamespace = current_schema()::regnamespace`

// holding are the sessions that keep others from writing a table of this schema.
const holding = `
	SELECT DISTINCT coalesce(pid, 0) AS pid
	FROM pg_locks
	JOIN pg_class ON pg_class.oid = relation
	WHERE ` + ofThisSchema + `
	  AND granted
	  AND mode IN ` + writersWait + `
	  AND pid IS DISTINCT FROM pg_backend_pid()`

// committing tells of a session that waits for the disk or for a standby, as commits do. It
// keeps its locks meanwhile, and isn't the cause: where no commit ends, every writer is such a
// session. Versions differ in the capitals of these names.
const committing = `coalesce(lower(other.wait_event) IN ('syncrep', 'walsync', 'walwrite'), false)`

// waitedFor are the sessions whose locks other sessions of this database wait for.
const waitedFor = `
	SELECT DISTINCT blocking.pid
	FROM pg_stat_activity AS waiting
	CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
	LEFT JOIN pg_stat_activity AS other ON other.pid = blocking.pid
	WHERE waiting.datname = current_database()
	  AND waiting.wait_event_type = 'Lock'
	  AND NOT ` + committing

// waitedForATable are the sessions for which another session has waited for a second, for a
// table of this schema.
const waitedForATable = `
	SELECT DISTINCT unnest(pg_blocking_pids(pid)) AS pid
	FROM pg_locks
	JOIN pg_class ON pg_class.oid = relation
	WHERE ` + ofThisSchema + `
	  AND NOT granted
	  AND waitstart < clock_timestamp() - interval '1 second'`

// waitedForRows are the sessions of other programs for which a session of this program has
// waited for a second, for rows.
const waitedForRows = `
	SELECT blocking.pid
	FROM pg_locks
	JOIN pg_stat_activity AS waiting USING (pid)
	CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
	LEFT JOIN pg_stat_activity AS other ON other.pid = blocking.pid
	WHERE locktype = 'transactionid'
	  AND NOT granted
	  AND waitstart < clock_timestamp() - interval '1 second'
	  AND waiting.datname = current_database()
	  AND waiting.application_name = current_setting('application_name')
	  AND other.application_name IS DISTINCT FROM current_setting('application_name')
	  AND NOT ` + committing

// preparedHolders are the prepared transactions of this database that hold a lock which
// keeps others from writing a table of this schema, or which others wait for. A lock of a
// prepared transaction has no pid; its virtual transaction is that of the lock on its own id.
const preparedHolders = `
	SELECT gid, owner, prepared AS prepared_at, own.virtualtransaction
	FROM pg_prepared_xacts
	JOIN pg_locks AS own ON own.transactionid = transaction AND own.pid IS NULL AND own.granted
	WHERE pg_prepared_xacts.database = current_database()
	  AND EXISTS (
	      SELECT
	      FROM pg_locks AS held
	      LEFT JOIN pg_class ON pg_class.oid = relation
	      WHERE held.virtualtransaction = own.virtualtransaction
	        AND held.pid IS NULL
	        AND (` + ofThisSchema + ` AND mode IN ` + writersWait + `
	             OR EXISTS (
	                 SELECT
	                 FROM pg_locks AS wanted
	                 WHERE NOT wanted.granted
	                   AND (wanted.relation = held.relation OR wanted.transactionid = held.transactionid)
	             ))
	  )`

// described are the columns of a holder. It locks the tables that others can't write, and
// the tables that others wait for.
const described = `
	holder.pid,
	CASE WHEN holder.pid = 0 THEN
	    format('the prepared transaction %s (of user %s, %s s old)',
	        coalesce(quote_literal(gid), 'of pg_prepared_xacts'),
	        coalesce(owner, 'unknown'),
	        coalesce(extract(epoch FROM clock_timestamp() - prepared_at)::bigint::text, '?'))
	WHEN session.state IS NULL AND session.usename IS NOT NULL THEN
	    format('pid %s (of user %s; to see more of it, a user needs the role pg_read_all_stats)', holder.pid, session.usename)
	ELSE
	    format('pid %s (%s of user %s, %s, its transaction is %s s old)',
	        holder.pid,
	        coalesce(nullif(session.application_name, ''), session.backend_type, 'unknown'),
	        coalesce(session.usename, 'unknown'),
	        coalesce(session.state, 'unknown'),
	        coalesce(extract(epoch FROM clock_timestamp() - session.xact_start)::bigint::text, '?'))
	END,
	coalesce(quote_literal(gid), 'with its gid of pg_prepared_xacts'),
	CASE
	WHEN pg_has_role(session.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE') THEN ''
	ELSE coalesce(session.usename::text, '')
	END,
	ARRAY(
	    SELECT DISTINCT relname::text
	    FROM pg_locks AS held
	    JOIN pg_class ON pg_class.oid = relation
	    WHERE ` + ofThisSchema + `
	      AND granted
	      AND relkind IN ('r', 'p')
	      AND coalesce(pid, 0) = holder.pid
	      AND held.virtualtransaction = coalesce(prepared.virtualtransaction, held.virtualtransaction)
	      AND (mode IN ` + writersWait + `
	           OR EXISTS (SELECT FROM pg_locks AS wanted WHERE NOT wanted.granted AND wanted.relation = held.relation))
	    ORDER BY 1
	)`

// mostHolders bounds a description of holders.
const mostHolders = 10

// findHolders returns the holders of locks that a query of the database finds by pid.
func findHolders(ctx context.Context, q Querier, found string) (holders, error) {
	sql := `
		SELECT ` + described + `
		FROM (` + found + `) AS holder
		LEFT JOIN pg_stat_activity AS session USING (pid)
		LEFT JOIN (` + preparedHolders + `) AS prepared ON holder.pid = 0
		WHERE NOT EXISTS ( -- a session that waits as well isn't the cause
		    SELECT
		    FROM pg_locks AS wanted
		    WHERE wanted.pid = holder.pid
		      AND NOT granted
		)
		ORDER BY holder.pid, prepared_at
		LIMIT $1`
	rows, err := q.Query(ctx, sql, mostHolders)
	if err != nil {
		return nil, fmt.Errorf("looking for the holders of locks: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[holder])
	if err != nil {
		return nil, fmt.Errorf("looking for the holders of locks: %w", err)
	}
	return all, nil
}

// findTableLocks finds the sessions that lock a table of this schema. Among them, or behind them,
// it finds those for which another session has waited for a second, for a table or for rows.
func findTableLocks(ctx context.Context, q Querier) (held, blocking holders, err error) {
	if held, err = findHolders(ctx, q, holding); err != nil {
		return nil, nil, err
	}
	blocking, err = findHolders(ctx, q, waitedForATable+" UNION "+waitedForRows)
	return held, blocking, err
}
