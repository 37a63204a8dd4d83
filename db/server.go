package db

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// oldestVersion is the first version of Postgres that has all that is needed.
const oldestVersion = 140_000

// CheckServer tells, with the remedy, what of the server at url can never work. That
// it can't be reached is another error, for which IsUnavailable holds.
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
	return checkDatabase(ctx, conn)
}

// connectWithParameters makes one connection as those of a pool are.
func connectWithParameters(ctx context.Context, config *pgxpool.Config) (*pgx.Conn, error) {
	config = config.Copy()
	setLater(config)
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("connecting to database: %w", err)
	}
	if err := config.AfterConnect(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
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
