package db

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// oldestVersion is the first version of Postgres that has all that is needed.
const oldestVersion = 140_000

// CheckServer tells, with the remedy, why the server at url can never work. Where it can't
// be reached, IsUnavailable holds for the error.
func CheckServer(ctx context.Context, url string) error {
	config, err := parseURL(url)
	if err != nil {
		return err
	}
	conn, err := connectWithParameters(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := checkDatabase(ctx, conn); err != nil {
		return err
	}
	return checkPooler(ctx, config, conn)
}

const (
	// poolerSamples is how many sessions beside the first are compared. A pooler mostly
	// hands out the session that was used last; else it has few free sessions at start.
	poolerSamples = 4
	// poolerTimeout bounds the comparison.
	poolerTimeout = 2 * time.Second
)

// errTransactionPooling is told where no setting helps: prepared statements,
// notifications and the lock of a process belong to a session.
var errTransactionPooling = errors.New("DATABASE_URL leads through a pooler that gives each transaction another session: set pool_mode = session there, or connect to Postgres itself")

// checkPooler refuses a pooler whose sessions last for a transaction. Behind a pooler,
// the backend's pid differs from the pid told at connect. The pooler is in session mode
// if conn keeps its backend while other connections are in a transaction.
func checkPooler(ctx context.Context, config *pgxpool.Config, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, poolerTimeout)
	defer cancel()
	own, err := backendOf(ctx, conn)
	if err != nil {
		return err
	}
	if own == conn.PgConn().PID() {
		return nil
	}
	for range poolerSamples {
		other, err := connectWithParameters(ctx, config)
		if err != nil {
			return nil // the pooler has no more sessions, so its mode can't be found out
		}
		defer other.Close(ctx)
		if transactions, err := holdTransaction(ctx, other); err != nil || !transactions {
			return err
		}
		taken, err := backendOf(ctx, other)
		if err != nil {
			return nil
		}
		if now, err := backendOf(ctx, conn); err != nil || now != own || taken == own {
			return errTransactionPooling
		}
	}
	return nil
}

// holdTransaction begins a transaction, where there is a session for it.
func holdTransaction(ctx context.Context, conn *pgx.Conn) (bool, error) {
	_, err := conn.Exec(ctx, "BEGIN", pgx.QueryExecModeSimpleProtocol)
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Code == "08P01" { // a pooler that allows single statements only
		return false, errTransactionPooling
	}
	return err == nil, nil
}

func backendOf(ctx context.Context, conn *pgx.Conn) (backend uint32, err error) {
	row := conn.QueryRow(ctx, "SELECT pg_backend_pid()::bigint", pgx.QueryExecModeSimpleProtocol)
	if err := row.Scan(&backend); err != nil {
		return 0, fmt.Errorf("looking for a pooler: %w", err)
	}
	return backend, nil
}

func checkDatabase(ctx context.Context, conn *pgx.Conn) error {
	const sql = `
		SELECT current_setting('server_version_num'), current_setting('server_version'),
		       current_setting('server_encoding'), current_database(), coalesce(current_schema(), ''),
		       current_setting('search_path')`
	var number, version, encoding, database, schema, path string
	row := conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err := row.Scan(&number, &version, &encoding, &database, &schema, &path); err != nil {
		return fmt.Errorf("looking at the database: %w", err)
	}
	if n, err := strconv.Atoi(number); err != nil || n < oldestVersion {
		return fmt.Errorf("the database runs Postgres %s: 14 or newer is needed", version)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database %s has the encoding %s, which can't store every text: make one by CREATE DATABASE … ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0, and name it in DATABASE_URL", database, encoding)
	}
	if schema == "" {
		return fmt.Errorf("the search_path %s names no schema that is there: CREATE SCHEMA first, or change search_path in DATABASE_URL", path)
	}
	return nil
}
