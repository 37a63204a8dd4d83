package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

// meddling is an interference with the jobs of a request behind the service's back.
type meddling struct {
	Times     int       // that it was tried
	Cancelled bool      // a work job, perhaps
	At        time.Time // of the first work job that was cancelled for certain, by the database's clock
}

// meddle takes away live jobs of requests whose input holds mine, a few a second,
// in every way there is. note is told of each before it is done.
func (in *injector) meddle(ctx context.Context, mine string, length time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	took := 0
	var err error
	for ctx.Err() == nil {
		for _, way := range ways {
			if wait(ctx, 100*time.Millisecond); ctx.Err() != nil {
				break
			}
			var done bool
			done, err = in.take(ctx, mine, way)
			if done {
				took++
			}
		}
	}
	if took == 0 {
		return errors.Join(errors.New("found no job that could be taken away"), err)
	}
	return nil
}

// way is a way to take a job away: by SQL, or by River UI's calls.
type way struct {
	name string
	sql  string // that returns when it was done, of the job $1
	page string
	ends bool // a work job's request
}

var ways = []way{
	{name: "cancelled by SQL", sql: "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1 AND finalized_at IS NULL RETURNING now()", ends: true},
	{name: "deleted by SQL", sql: "DELETE FROM river_job WHERE id = $1 AND finalized_at IS NULL RETURNING now()"},
	{name: "cancelled in River UI", page: "cancel", ends: true},
	{name: "discarded by SQL", sql: "UPDATE river_job SET state = 'discarded', finalized_at = now() WHERE id = $1 AND finalized_at IS NULL RETURNING now()"},
	{name: "deleted in River UI", page: "delete"},
}

// take takes a job away, if there is any.
func (in *injector) take(ctx context.Context, mine string, w way) (done bool, err error) {
	err = in.database.connect(ctx, func(conn *pgx.Conn) error {
		const live = `
			SELECT river_job.id, river_job.kind, requests.id::text
			FROM river_job
			JOIN requests ON requests.id = (args ->> 'request_id')::uuid
			WHERE finalized_at IS NULL
			  AND river_job.kind IN ('work', 'callback')
			  AND strpos(input::text, $1) > 0
			ORDER BY random()
			LIMIT 1`
		var job int64
		var kind, request string
		err := conn.QueryRow(ctx, live, mine).Scan(&job, &kind, &request)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for a job to take away: %w", err)
		}
		ends := w.ends && kind == "work"
		in.history.addMeddling(request, ends)
		if w.page != "" {
			done = in.press(ctx, w.page, job)
			return nil
		}
		var at time.Time
		err = conn.QueryRow(ctx, w.sql, job).Scan(&at)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("a job that was to be %s: %w", w.name, err)
		}
		if done = true; ends {
			in.history.addCancelled(request, at)
		}
		return nil
	})
	return done, err
}

// press is a button in River UI.
func (in *injector) press(ctx context.Context, button string, job int64) bool {
	address := in.servers.ui(rand.IntN(len(in.servers.roles))) + "/api/jobs/" + button
	status, _ := postJSON(ctx, http.DefaultClient, address, "", map[string]any{"ids": []string{fmt.Sprint(job)}})
	return status == http.StatusOK
}
