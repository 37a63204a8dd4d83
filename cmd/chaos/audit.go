package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/sample"
)

// audit reads the database's rows and the API's listings.
func audit(ctx context.Context, d *database, c *caller, h *history) error {
	err := d.connect(ctx, func(conn *pgx.Conn) error {
		for _, read := range []func(context.Context, *pgx.Conn, *history) error{readRows, readJobs, readAttempts, readDead, readTraces} {
			if err := read(ctx, conn, h); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("auditing the database: %w", err)
	}
	h.Listed = map[string]int{}
	for _, mode := range []string{"sync", "async"} {
		if h.Listed[mode], err = countListed(ctx, c, mode); err != nil {
			return fmt.Errorf("auditing the API: %w", err)
		}
	}
	return nil
}

func readRows(ctx context.Context, conn *pgx.Conn, h *history) error {
	const sql = `
		SELECT id::text, seq, mode, status, coalesce(error ->> 'code', ''), coalesce(callback_state, ''),
		       coalesce(callback_url, ''), input::text, result::text, coalesce(work_job_id, 0),
		       coalesce(callback_job_id, 0), coalesce(work, ''), accepted_at, started_at, finished_at
		FROM requests
		ORDER BY seq`
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("reading requests: %w", err)
	}
	h.Rows, err = pgx.CollectRows(rows, func(found pgx.CollectableRow) (r row, err error) {
		var input string
		var result *string
		var started, finished *time.Time
		err = found.Scan(&r.ID, &r.Seq, &r.Mode, &r.Status, &r.ErrorCode, &r.CallbackState, &r.CallbackURL,
			&input, &result, &r.WorkJobID, &r.CallbackJobID, &r.Work, &r.AcceptedAt, &started, &finished)
		r.Text = sample.Text([]byte(input))
		if result != nil {
			r.Result = json.RawMessage(*result)
		}
		if started != nil {
			r.StartedAt = *started
		}
		if finished != nil {
			r.FinishedAt = *finished
		}
		return r, err
	})
	return err
}

func readJobs(ctx context.Context, conn *pgx.Conn, h *history) error {
	rows, err := conn.Query(ctx, "SELECT id, kind, state::text, coalesce(args ->> 'request_id', '') FROM river_job ORDER BY id")
	if err != nil {
		return fmt.Errorf("reading jobs: %w", err)
	}
	h.Jobs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[job])
	return err
}

func readAttempts(ctx context.Context, conn *pgx.Conn, h *history) error {
	rows, err := conn.Query(ctx, "SELECT request_id::text, attempt, outcome FROM callback_attempts ORDER BY request_id, attempt")
	if err != nil {
		return fmt.Errorf("reading attempts: %w", err)
	}
	h.Attempts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[attempt])
	return err
}

func readDead(ctx context.Context, conn *pgx.Conn, h *history) error {
	rows, err := conn.Query(ctx, "SELECT request_id::text FROM dead_letters")
	if err != nil {
		return fmt.Errorf("reading dead letters: %w", err)
	}
	h.Dead = map[string]bool{}
	var id string
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		h.Dead[id] = true
		return nil
	})
	return err
}

// countListed pages through the API's listing.
func countListed(ctx context.Context, c *caller, mode string) (count int, err error) {
	seen := map[string]bool{}
	query := url.Values{"mode": {mode}, "limit": {"100"}}
	for {
		var page struct {
			Requests []struct {
				ID string `json:"id"`
			} `json:"requests"`
			Next string `json:"next_cursor"`
		}
		if err := c.get(ctx, "/requests?"+query.Encode(), &page); err != nil {
			return 0, err
		}
		for _, request := range page.Requests {
			seen[request.ID] = true
		}
		if page.Next == "" {
			return len(seen), nil
		}
		query.Set("cursor", page.Next)
	}
}
