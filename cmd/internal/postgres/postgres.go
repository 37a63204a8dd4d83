// Package postgres makes databases for the tools that measure, break and show the
// service.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Server is a Postgres whose role may create databases.
type Server struct {
	*pgxpool.Pool
	url *url.URL
}

// Open connects to the server at a URL.
func Open(ctx context.Context, databaseURL string) (*Server, error) {
	parsed, err := url.Parse(databaseURL)
	if err != nil || parsed.Host == "" {
		return nil, errors.New("DATABASE_URL must be a URL")
	}
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return &Server{pool, parsed}, nil
}

// Create makes a database, empty or as a copy of a template. It replaces a database of the
// same name, which an earlier run may have left.
func (s *Server) Create(ctx context.Context, name, template string) (Database, error) {
	create := "CREATE DATABASE " + name
	if template != "" {
		create += " TEMPLATE " + template
	}
	address := *s.url
	address.Path = "/" + name
	d := Database{name, address.String()}
	return d, Execute(ctx, s, d.drop(), create)
}

// Drop removes a database, also when ctx has ended.
func (s *Server) Drop(ctx context.Context, d Database) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return Execute(ctx, s, d.drop())
}

// Database is a database on a Server.
type Database struct{ Name, URL string }

func (d Database) drop() string { return "DROP DATABASE IF EXISTS " + d.Name + " WITH (FORCE)" }

// Connect opens a connection for as long as do runs.
func (d Database) Connect(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", d.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}

// Execute runs statements, one after the other, in one session.
func (d Database) Execute(ctx context.Context, statements ...string) error {
	return d.Connect(ctx, func(conn *pgx.Conn) error { return Execute(ctx, conn, statements...) })
}

// executor is a connection, or a pool of connections.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Execute runs statements, one after the other.
func Execute(ctx context.Context, by executor, statements ...string) error {
	for _, sql := range statements {
		if _, err := by.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.100s: %w", sql, err)
		}
	}
	return nil
}
