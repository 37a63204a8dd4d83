package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle returns when no request is under way, or when patience is over: then the checks name
// the missing callbacks. It makes callbacks and work due that wait for their next try: no
// fault is left, so each must succeed. Callbacks to storm, whose requests lack the run's own
// text, are not waited for: storm itself waits for those of its acknowledged requests.
func (t *trial) settle() {
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
		t.Must(s.waitHealthy(t.Ctx))
	}
	for began := time.Now(); time.Since(began) < patience; t.Pause(500 * time.Millisecond) {
		left, err := t.database.count(t.Ctx, due, t.plan.mine())
		if t.Must(err); left <= 0 {
			break
		}
	}
	t.ledger.following.Wait()
	t.audit()
}

// audit reads the database's rows and the API's listings.
func (t *trial) audit() {
	const ofRequests = `
		SELECT id::text, seq, mode, status, coalesce(error ->> 'code', ''), coalesce(callback_state, ''),
		       coalesce(callback_url, ''), coalesce(input ->> 'text', ''), coalesce(work, ''), coalesce(result::text, ''), coalesce(work_job_id, 0),
		       coalesce(callback_job_id, 0), accepted_at, coalesce(started_at, '0001-01-01Z'), coalesce(finished_at, '0001-01-01Z'),
		       EXISTS (SELECT FROM dead_letters WHERE request_id = id),
		       ARRAY(SELECT outcome FROM callback_attempts WHERE request_id = id ORDER BY attempt),
		       (SELECT coalesce(max(attempt), 0) FROM callback_attempts WHERE request_id = id)
		FROM requests`
	rows, err := query(t.Ctx, t.database, pgx.RowToStructByPos[row], ofRequests)
	t.Must(err)
	for _, r := range rows {
		s := t.ledger.story(r.ID)
		s.stored, s.row = true, r
	}
	const ofJobs = `
		SELECT id, kind, state::text, coalesce(args ->> 'request_id', ''), attempt, coalesce((metadata ->> 'snoozes')::integer, 0), errors
		FROM river_job`
	jobs, err := query(t.Ctx, t.database, pgx.RowToStructByPos[job], ofJobs)
	t.Must(err)
	for _, j := range jobs {
		s := t.ledger.story(j.RequestID)
		s.jobs = append(s.jobs, j)
	}
	for _, mode := range []string{"sync", "async"} {
		t.ledger.listed[mode] = t.countListed(mode)
	}
}

// countListed counts the requests that the API lists.
func (t *trial) countListed(mode string) (count int) {
	seen := map[string]bool{}
	query := url.Values{"mode": {mode}, "limit": {"100"}}
	for {
		var page struct {
			Requests []struct {
				ID string `json:"id"`
			} `json:"requests"`
			Next string `json:"next_cursor"`
		}
		status, answer := exchange(t.Ctx, t.caller.client, http.MethodGet, t.caller.at(0).url("/requests?"+query.Encode()), "", nil)
		if err := json.Unmarshal(answer, &page); err != nil || status != http.StatusOK {
			t.Must(fmt.Errorf("listing %s requests: status %d: %w", mode, status, err))
		}
		for _, request := range page.Requests {
			seen[request.ID] = true
		}
		if page.Next == "" {
			return len(seen)
		}
		query.Set("cursor", page.Next)
	}
}
