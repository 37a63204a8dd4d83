package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// vacuumInterval is how often the autovacuum workers are looked at. What one
// takes after the last look isn't counted.
const vacuumInterval = 200 * time.Millisecond

// vacuumWatch adds up the CPU time of autovacuum workers by the table that they
// are at.
type vacuumWatch struct {
	cpu  func(pid int) time.Duration
	seen map[int]time.Duration // by pid
	took map[string]time.Duration
}

// vacuuming is a worker that runs, and its table, empty between two.
type vacuuming struct {
	PID   int
	Table string
}

// note takes in who runs now. What a worker had taken before the watch began
// isn't counted, and where it has gone on to another table, that gets what was
// taken since the last look.
func (w *vacuumWatch) note(workers []vacuuming, first bool) {
	seen := map[int]time.Duration{}
	for _, worker := range workers {
		now := w.cpu(worker.PID)
		seen[worker.PID] = now
		if before, known := w.seen[worker.PID]; known || !first {
			w.took[worker.Table] += max(0, now-before)
		}
	}
	w.seen = seen
}

// String lists the tables, the one that took the most first.
func (w *vacuumWatch) String() string {
	tables := slices.SortedFunc(maps.Keys(w.took), func(a, b string) int { return int(w.took[b] - w.took[a]) })
	var parts []string
	for _, table := range tables {
		if w.took[table] > 0 {
			parts = append(parts, fmt.Sprintf("%s %.1f s", table, w.took[table].Seconds()))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (w *vacuumWatch) total() (total time.Duration) {
	for _, took := range w.took {
		total += took
	}
	return total
}

// watchVacuum watches the autovacuum of a database while do runs.
func (c *cluster) watchVacuum(ctx context.Context, d database, do func() error) (*vacuumWatch, error) {
	watch := &vacuumWatch{cpu: ownCPU, seen: map[int]time.Duration{}, took: map[string]time.Duration{}}
	err := d.connect(ctx, func(conn *pgx.Conn) error {
		if err := watch.look(ctx, conn, true); err != nil {
			return err
		}
		watching, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			var err error
			for err == nil && pause(watching, vacuumInterval) {
				err = watch.look(ctx, conn, false)
			}
			ended <- err
		}()
		err := do()
		stop()
		if lost := <-ended; err == nil {
			err = lost
		}
		return err
	})
	return watch, err
}

func ownCPU(pid int) time.Duration {
	process, _ := readProcess(pid)
	return process.own
}

func (w *vacuumWatch) look(ctx context.Context, conn *pgx.Conn, first bool) error {
	const sql = `
		SELECT pid, coalesce(vacuum.relid::regclass::text, analysis.relid::regclass::text, 'between tables')
		FROM pg_stat_activity
		LEFT JOIN pg_stat_progress_vacuum AS vacuum USING (pid)
		LEFT JOIN pg_stat_progress_analyze AS analysis USING (pid)
		WHERE backend_type = 'autovacuum worker'
		  AND pg_stat_activity.datname = current_database()`
	rows, _ := conn.Query(ctx, sql) // CollectRows returns the error
	workers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[vacuuming])
	if err != nil {
		return fmt.Errorf("looking at autovacuum: %w", err)
	}
	w.note(workers, first)
	return nil
}
