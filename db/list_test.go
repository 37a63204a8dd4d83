package db_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestListRequests(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	// Ids count up; a third of the requests are sync. Half of all are alice's, one
	// in a hundred is carol's.
	const sql = `
		INSERT INTO requests (id, mode, client, status, input, result, callback_url, callback_state, work_job_id, accepted_at, finished_at)
		SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
		       CASE WHEN n % 3 = 0 THEN 'sync' ELSE 'async' END,
		       CASE WHEN n % 2 = 0 THEN 'alice' WHEN n % 100 = 1 THEN 'carol' ELSE 'bob' END,
		       CASE WHEN n % 3 = 0 THEN 'succeeded' ELSE 'accepted' END,
		       '{}',
		       CASE WHEN n % 3 = 0 THEN '1'::json END,
		       CASE WHEN n % 3 <> 0 THEN 'https://hooks.example.com/' END,
		       CASE WHEN n % 3 <> 0 THEN 'waiting' END,
		       CASE WHEN n % 3 <> 0 THEN n END,
		       now(),
		       CASE WHEN n % 3 = 0 THEN now() END
		FROM generate_series(1, 6000) AS n`
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "VACUUM ANALYZE requests"); err != nil {
		t.Fatal(err)
	}
	idOf := func(n int) uuid.UUID { return uuid.MustParse(fmt.Sprintf("00000000-0000-7000-8000-%012d", n)) }

	for _, test := range []struct {
		name   string
		filter db.Filter
		want   []int
	}{
		{"GivesTheNewestFirst", db.Filter{Limit: 4}, []int{6000, 5998, 5996, 5994}},
		{"GoesOnBelowTheCursor", db.Filter{Limit: 3, Before: idOf(5996)}, []int{5994, 5992, 5990}},
		{"EndsWithTheOldest", db.Filter{Limit: 3, Before: idOf(5)}, []int{4, 2}},
		{"FiltersByMode", db.Filter{Limit: 2, Mode: db.Sync}, []int{6000, 5994}},
		{"FiltersByModeBelowTheCursor", db.Filter{Limit: 2, Mode: db.Async, Before: idOf(5998)}, []int{5996, 5992}},
		{"FiltersByStatus", db.Filter{Limit: 2, Status: db.Accepted}, []int{5998, 5996}},
		{"FiltersByCallbackState", db.Filter{Limit: 2, CallbackState: db.CallbackWaiting}, []int{5998, 5996}},
		{"FindsNothing", db.Filter{Limit: 2, Status: db.Failed}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.filter.Client = "alice"
			requests, err := db.ListRequests(t.Context(), pool, test.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got, want []uuid.UUID
			for _, request := range requests {
				got = append(got, request.ID)
			}
			for _, n := range test.want {
				want = append(want, idOf(n))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", test.filter, diff)
			}
		})
	}

	// What a page costs depends neither on how deep it lies nor on how rare the
	// client is, also when Postgres has turned to its generic plan, which it does
	// at the sixth run of a statement.
	for name, before := range map[string]uuid.UUID{"FirstPage": {}, "PageInTheMiddle": idOf(3000), "LastPage": idOf(50)} {
		for _, client := range []string{"alice", "carol"} {
			t.Run("ReadsLittleMoreThanItGives/"+name+"/"+client, func(t *testing.T) {
				t.Parallel()
				conn := connect(t, pool.Config().ConnString())
				seen := &recorder{Querier: conn}
				if _, err := db.ListRequests(t.Context(), seen, db.Filter{Client: client, Before: before, Limit: 20}); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Exec(t.Context(), "PREPARE list AS "+seen.sql); err != nil {
					t.Fatal(err)
				}
				cursor := "NULL"
				if before != uuid.Nil {
					cursor = "'" + before.String() + "'"
				}
				for run := 1; run <= 7; run++ {
					plan := explain(t, conn, fmt.Sprintf("EXECUTE list ('{sync,async}', '%s', %s, NULL, NULL, 20)", client, cursor))
					if strings.Contains(plan, "Seq Scan on requests") {
						t.Fatalf("run %d reads the whole table:\n%s", run, plan)
					}
					// A client with half of the rows may be read by id, throwing others' away.
					if removed := removedByFilter(t, plan); removed > 5*20 {
						t.Fatalf("run %d threw away %d rows of each mode, want at most 100:\n%s", run, removed, plan)
					}
				}
			})
		}
	}
}

func explain(t *testing.T, conn *pgx.Conn, statement string) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "EXPLAIN ANALYZE "+statement)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// recorder notes the statement that passes through it.
type recorder struct {
	db.Querier
	sql string
}

func (r *recorder) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	r.sql = sql
	return r.Querier.Query(ctx, sql, args...)
}

var removedLine = regexp.MustCompile(`Rows Removed by Filter: (\d+)`)

func removedByFilter(t *testing.T, plan string) int {
	t.Helper()
	match := removedLine.FindStringSubmatch(plan)
	if match == nil {
		return 0
	}
	removed, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return removed
}
