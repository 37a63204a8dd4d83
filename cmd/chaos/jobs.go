package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
)

// way is a way to take a job away: by SQL, or by a call of River UI.
type way struct {
	name string
	sql  string // takes the job $1 away, and returns when
	call string // of River UI
	ends bool   // the request, if it is a work job
}

var ways = []way{
	{name: "cancelled by SQL", sql: "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1 AND finalized_at IS NULL RETURNING now()", ends: true},
	{name: "deleted by SQL", sql: "DELETE FROM river_job WHERE id = $1 AND finalized_at IS NULL RETURNING now()"},
	{name: "cancelled in River UI", call: "cancel", ends: true},
	{name: "discarded by SQL", sql: "UPDATE river_job SET state = 'discarded', finalized_at = now() WHERE id = $1 AND finalized_at IS NULL RETURNING now()"},
	{name: "deleted in River UI", call: "delete"},
}

// meddle takes away live jobs of the run's own requests, a few a second, in every way.
func meddle(ctx context.Context, t *trial, f *fault) error {
	ctx, cancel := context.WithTimeout(ctx, f.Length)
	defer cancel()
	f.Length = 0
	took, failed := 0, errors.New("found no job that could be taken away")
	for i := 0; ctx.Err() == nil; i++ {
		done, err := t.take(ctx, t.plan.mine(), ways[i%len(ways)])
		if done {
			took++
		}
		if err != nil && ctx.Err() == nil {
			failed = err
		}
		load.Pause(ctx, 100*time.Millisecond)
	}
	if took == 0 {
		return failed
	}
	return nil
}

// take takes away a job of a request whose input holds text, if there is one. It notes the
// request before.
func (t *trial) take(ctx context.Context, text string, w way) (done bool, err error) {
	const live = `
		SELECT river_job.id, river_job.kind, requests.id::text
		FROM river_job
		JOIN requests ON requests.id = (args ->> 'request_id')::uuid
		WHERE finalized_at IS NULL
		  AND river_job.kind IN ('work', 'callback')
		  AND strpos(input::text, $1) > 0
		ORDER BY random()
		LIMIT 1`
	type job struct {
		ID            int64
		Kind, Request string
	}
	found, err := query(ctx, t.database, pgx.RowToStructByPos[job], live, text)
	if err != nil || len(found) == 0 {
		return false, err
	}
	ends := w.ends && found[0].Kind == "work"
	t.ledger.tell(found[0].Request, func(s *story) {
		s.meddled.times++
		s.meddled.cancelled = s.meddled.cancelled || ends
	})
	if w.call != "" {
		address := "http://" + t.servers[rand.IntN(len(t.servers))].admin + "/riverui/api/jobs/" + w.call
		status, _ := exchange(ctx, http.DefaultClient, http.MethodPost, address, "", map[string]any{"ids": []string{fmt.Sprint(found[0].ID)}})
		return status == http.StatusOK, nil
	}
	at, err := query(ctx, t.database, pgx.RowTo[time.Time], w.sql, found[0].ID)
	t.ledger.tell(found[0].Request, func(s *story) {
		if ends && len(at) > 0 && s.meddled.at.IsZero() {
			s.meddled.at = at[0]
		}
	})
	return len(at) > 0, err
}

const recoveryPatience = 4 * time.Minute // far beyond what is promised

// watchJobs measures how long the jobs of a killed process stay in its name. While the database
// is away, nothing is measured.
func (t *trial) watchJobs(ctx context.Context, died time.Time, clients []string) {
	const running = "SELECT count(*) FROM river_job WHERE state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = ANY($1)"
	left, err := t.database.count(ctx, running, clients)
	if err != nil || left == 0 {
		return
	}
	for ctx.Err() == nil && time.Since(died) < recoveryPatience && (err != nil || left > 0) {
		load.Pause(ctx, 100*time.Millisecond)
		left, err = t.database.count(ctx, running, clients)
	}
	t.ledger.note(func() { t.ledger.returned = append(t.ledger.returned, window{from: died, to: time.Now()}) })
}
