package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
)

// settle returns when no request is under way, or patience is at its end: the check names
// the missing callbacks. A callback, or work, that waits for its next try runs now: no
// fault is left, so each must succeed. Callbacks of requests whose input doesn't hold the
// run's own text are storm's, which may have left: settle waits only for its acknowledged
// requests.
func (t *trial) settle(ctx context.Context) error {
	const due = `
		WITH due AS (
			UPDATE river_job
			SET scheduled_at = now(), state = 'available'
			WHERE kind IN ('work', 'callback') AND state IN ('available', 'retryable', 'scheduled') AND scheduled_at > now() + interval '1 second'
		), storms AS (
			SELECT callback_job_id
			FROM requests
			WHERE callback_state = 'pending'
			  AND strpos(input::text, $1) = 0
		)
		SELECT (SELECT count(*) FROM requests WHERE callback_state IN ('waiting', 'pending'))
		     + (SELECT count(*) FROM river_job
		        WHERE state NOT IN ('completed', 'cancelled', 'discarded')
		          AND id NOT IN (SELECT callback_job_id FROM storms))
		     - (SELECT count(*) FROM storms)`
	for _, s := range t.servers {
		if err := s.waitHealthy(ctx); err != nil {
			return err
		}
	}
	left, err := t.database.count(ctx, due, t.plan.mine())
	for began := time.Now(); err == nil && left > 0 && time.Since(began) < patience; {
		load.Pause(ctx, 500*time.Millisecond)
		left, err = t.database.count(ctx, due, t.plan.mine())
	}
	if err != nil {
		return fmt.Errorf("waiting for calls under way: %w", err)
	}
	t.ledger.following.Wait()
	return t.audit(ctx)
}

// audit reads the database's rows and the API's listings.
func (t *trial) audit(ctx context.Context) error {
	const ofRequests = `
		SELECT id::text, seq, mode, status, coalesce(error ->> 'code', ''), coalesce(callback_state, ''),
		       coalesce(callback_url, ''), coalesce(input ->> 'text', ''), coalesce(work, ''), coalesce(result::text, ''), coalesce(work_job_id, 0),
		       coalesce(callback_job_id, 0), accepted_at, coalesce(started_at, '0001-01-01Z'), coalesce(finished_at, '0001-01-01Z'),
		       EXISTS (SELECT FROM dead_letters WHERE request_id = id),
		       ARRAY(SELECT outcome FROM callback_attempts WHERE request_id = id ORDER BY attempt),
		       (SELECT coalesce(max(attempt), 0) FROM callback_attempts WHERE request_id = id)
		FROM requests`
	rows, err := query(ctx, t.database, pgx.RowToStructByPos[row], ofRequests)
	if err != nil {
		return fmt.Errorf("reading requests: %w", err)
	}
	for _, r := range rows {
		s := t.ledger.story(r.ID)
		s.stored, s.row = true, r
	}
	const ofJobs = `
		SELECT id, kind, state::text, coalesce(args ->> 'request_id', ''), attempt, coalesce((metadata ->> 'snoozes')::integer, 0), errors
		FROM river_job`
	jobs, err := query(ctx, t.database, pgx.RowToStructByPos[job], ofJobs)
	if err != nil {
		return fmt.Errorf("reading jobs: %w", err)
	}
	for _, j := range jobs {
		s := t.ledger.story(j.RequestID)
		s.jobs = append(s.jobs, j)
	}
	for _, mode := range []string{"sync", "async"} {
		if t.ledger.listed[mode], err = countListed(ctx, t.caller, mode); err != nil {
			return err
		}
	}
	return nil
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
		status, answer := exchange(ctx, c.client, http.MethodGet, c.at(0).url("/requests?"+query.Encode()), "", nil)
		if err := json.Unmarshal(answer, &page); err != nil || status != http.StatusOK {
			return 0, fmt.Errorf("listing %s requests: status %d: %w", mode, status, err)
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
