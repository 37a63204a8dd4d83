package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// recovery is how long the jobs that a killed process was running took until
// they were run again.
type recovery struct {
	watching sync.WaitGroup
	mu       sync.Mutex
	took     []window // from the kill to the next run
	open     int      // not run again within patience
}

// clear returns how long it took where nothing else was in the way: a database
// that was away, or another process that was paused.
func (r *recovery) clear(others ...window) (took []time.Duration) {
	for _, w := range r.took {
		if !slices.ContainsFunc(others, func(other window) bool { return other.meets(w.from, w.to) }) {
			took = append(took, w.to.Sub(w.from))
		}
	}
	return took
}

// held is a job that a process was running.
type held struct {
	id     int64
	runs   int // processes that had taken it up by then
	client string
}

const recoveryPatience = 4 * time.Minute // beyond River's own rescue

// watch follows the jobs that are running for the clients that are dead, until
// others have taken them up. Where the database is away, nobody can tell which
// they are, and nothing is measured.
func (r *recovery) watch(ctx context.Context, d *database, died time.Time, dead func(client string) bool) {
	left, err := running(ctx, d, dead)
	if err == nil && len(left) > 0 {
		r.watching.Go(func() { r.follow(ctx, d, died, left) })
	}
}

func running(ctx context.Context, d *database, dead func(client string) bool) (found []held, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		const sql = `
			SELECT id, array_length(attempted_by, 1), attempted_by[array_upper(attempted_by, 1)]
			FROM river_job
			WHERE state = 'running'`
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return fmt.Errorf("reading the running jobs: %w", err)
		}
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (h held, err error) {
			err = row.Scan(&h.id, &h.runs, &h.client)
			return h, err
		})
		return err
	})
	return slices.DeleteFunc(found, func(h held) bool { return !dead(h.client) }), err
}

func (r *recovery) follow(ctx context.Context, d *database, died time.Time, left []held) {
	ctx, cancel := context.WithDeadline(ctx, died.Add(recoveryPatience))
	defer cancel()
	for len(left) > 0 && ctx.Err() == nil {
		wait(ctx, 100*time.Millisecond)
		again, err := takenUp(ctx, d, left)
		if err != nil {
			continue // the database is away, and will be back
		}
		left = r.add(died, left, again)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open += len(left)
}

// add notes the jobs that run again and returns the rest.
func (r *recovery) add(died time.Time, left []held, again map[int64]time.Time) (still []held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range left {
		at, known := again[h.id]
		switch {
		case !known:
			still = append(still, h)
		case at.After(died): // otherwise it had ended, and the dead could still say so
			r.took = append(r.took, window{died, at})
		}
	}
	return still
}

// takenUp returns when those jobs that no longer run for the dead were last
// taken up.
func takenUp(ctx context.Context, d *database, left []held) (map[int64]time.Time, error) {
	runs := map[int64]held{}
	ids := make([]int64, 0, len(left))
	for _, h := range left {
		runs[h.id], ids = h, append(ids, h.id)
	}
	again := map[int64]time.Time{} // by this machine's clock
	err := d.connect(ctx, func(conn *pgx.Conn) error {
		const sql = `
			SELECT id, attempted_at, array_length(attempted_by, 1), state IN ('completed', 'cancelled', 'discarded'),
			       attempted_by[array_upper(attempted_by, 1)]
			FROM river_job
			WHERE id = ANY($1)`
		rows, err := conn.Query(ctx, sql, ids)
		if err != nil {
			return err
		}
		var id int64
		var at time.Time
		var count int
		var ended bool
		var client string
		_, err = pgx.ForEachRow(rows, []any{&id, &at, &count, &ended, &client}, func() error {
			if ended || count > runs[id].runs || client != runs[id].client {
				again[id] = at.Add(-d.ahead)
			}
			return nil
		})
		return err
	})
	return again, err
}
