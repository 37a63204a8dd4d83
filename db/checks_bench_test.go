package db_test

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// BenchmarkFoldedChecks compares the CPU that a request costs Postgres, from acceptance
// to delivery: with the rules of each hot table in one function; with a CHECK constraint
// for each rule, as in River and the first migrations; and without rules. The three take
// turns, and the medians count. Postgres must run on this machine, and outside a
// container.
func BenchmarkFoldedChecks(b *testing.B) {
	for _, rows := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			ways := []*backend{
				newBackend(b, "folded", ""),
				newBackend(b, "apart", downOfFolding(b)),
				newBackend(b, "none", dropChecks),
			}
			for b.Loop() {
				for _, way := range ways {
					way.pass(b, rows)
				}
			}
			b.ReportMetric(0, "ns/op") // of all three, and of this program
			for _, way := range ways {
				b.ReportMetric(way.median(), way.name+"-µs/request")
			}
		})
	}
}

const dropChecks = `
	DO $$
	DECLARE
		rule record;
	BEGIN
		FOR rule IN
			SELECT conrelid::regclass AS of, conname AS name
			FROM pg_constraint
			WHERE contype = 'c'
			  AND conrelid IN ('requests'::regclass, 'river_job'::regclass, 'callback_attempts'::regclass)
		LOOP
			EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', rule.of, rule.name);
		END LOOP;
	END;
	$$`

func downOfFolding(b *testing.B) string {
	names, err := fs.Glob(db.Migrations(), fmt.Sprintf("%06d_*.down.sql", folding))
	if err != nil || len(names) != 1 {
		b.Fatalf("got migrations %q, %v, want one", names, err)
	}
	sql, err := fs.ReadFile(db.Migrations(), names[0])
	if err != nil {
		b.Fatal(err)
	}
	return string(sql)
}

// backend is a database with one connection, whose process's time is measured.
type backend struct {
	name  string
	pool  *pgxpool.Pool
	pid   int
	costs []float64 // µs for each request, of each pass
}

func newBackend(b *testing.B, name, changes string) *backend {
	b.Helper()
	way := &backend{name: name, pool: dbtest.Pool(b, dbtest.New(b)+"&pool_max_conns=1")}
	if _, err := way.pool.Exec(b.Context(), changes); err != nil {
		b.Fatal(err)
	}
	if err := way.pool.QueryRow(b.Context(), "SELECT pg_backend_pid()").Scan(&way.pid); err != nil {
		b.Fatal(err)
	}
	way.pass(b, 1) // plans
	way.costs = nil
	return way
}

// pass takes some batches through their whole life.
func (w *backend) pass(b *testing.B, rows int) {
	b.Helper()
	batches := max(1, 16/rows)
	before := w.used(b)
	for range batches {
		w.deliver(b, rows)
	}
	w.costs = append(w.costs, float64((w.used(b)-before).Nanoseconds())/1000/float64(batches*rows))
}

func (w *backend) deliver(b *testing.B, rows int) {
	b.Helper()
	work, callback := workJobs, callbackJobs
	work.Process, work.Running = "bench", rows
	callback.Process, callback.Running = "bench", rows
	requests := make([]db.Request, rows)
	for i := range requests {
		requests[i] = asyncRequest()
		requests[i].Input = jsontext.Value(`{"text":"` + strings.Repeat("word ", 40) + `"}`)
	}
	inserted, err := db.InsertRequests(b.Context(), w.pool, work, requests)
	if err != nil {
		b.Fatal(err)
	}
	for i := range requests {
		requests[i].WorkJobID = inserted[requests[i].ID].WorkJobID
		requests[i].Status, requests[i].Result = db.Succeeded, jsontext.Value(`{"words":40}`)
		requests[i].StartedAt, requests[i].FinishedAt = morning, morning
	}
	finished, err := db.FinishRequests(b.Context(), w.pool, callback, requests)
	if err != nil || len(finished) != rows {
		b.Fatalf("got %d finished, %v, want %d", len(finished), err, rows)
	}
	settlements := make([]db.Settlement, rows)
	for i, request := range requests {
		settlements[i] = db.Settlement{Attempt: attemptAt(morning), JobID: finished[request.ID].CallbackJobID, State: db.CallbackDelivered}
		settlements[i].RequestID = request.ID
	}
	if _, err := db.SettleCallbacks(b.Context(), w.pool, settlements); err != nil {
		b.Fatal(err)
	}
}

// used is the time that the process has spent on a core.
func (w *backend) used(b *testing.B) time.Duration {
	b.Helper()
	folder := fmt.Sprintf("/proc/%d/", w.pid)
	name, err := os.ReadFile(folder + "comm")
	if err != nil || strings.TrimSpace(string(name)) != "postgres" {
		b.Fatalf("process %d is %q, %v, want this machine's Postgres", w.pid, name, err)
	}
	stat, err := os.ReadFile(folder + "schedstat")
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(stat), " ")
	nanoseconds, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(nanoseconds)
}

func (w *backend) median() float64 {
	slices.Sort(w.costs)
	return w.costs[len(w.costs)/2]
}
