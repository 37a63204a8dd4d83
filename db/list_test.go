package db_test

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// kind is a kind of request.
type kind struct {
	mode     db.Mode
	status   db.Status
	callback db.CallbackState
}

// kinds are all that there are.
func kinds() (all []kind) {
	for _, status := range []db.Status{db.Succeeded, db.Failed, db.Cancelled} {
		all = append(all, kind{db.Sync, status, ""})
	}
	all = append(all, kind{db.Sync, db.Accepted, ""}, kind{db.Async, db.Accepted, db.CallbackWaiting}, kind{db.Async, db.Cancelled, db.CallbackCancelled})
	for _, status := range []db.Status{db.Succeeded, db.Failed, db.Expired} {
		for _, callback := range []db.CallbackState{db.CallbackPending, db.CallbackDelivered, db.CallbackDead, db.CallbackCancelled} {
			all = append(all, kind{db.Async, status, callback})
		}
	}
	return all
}

// filters are all combinations of mode, status and callback state, of the client.
func filters(client string) (all []db.Filter) {
	for _, mode := range []db.Mode{"", db.Sync, db.Async} {
		for _, status := range []db.Status{"", db.Accepted, db.Succeeded, db.Failed, db.Expired, db.Cancelled} {
			for _, callback := range []db.CallbackState{"", db.CallbackWaiting, db.CallbackPending, db.CallbackDelivered, db.CallbackDead, db.CallbackCancelled} {
				all = append(all, db.Filter{Client: client, Mode: mode, Status: status, CallbackState: callback})
			}
		}
	}
	return all
}

// plantKind writes the requests of the numbers from first to last, in steps, as
// they would be after all that led to them, with their live jobs and dead letters.
// Their ids are made, and they are accepted, at so many seconds.
func plantKind(t *testing.T, pool *pgxpool.Pool, client string, k kind, first, last, step int) {
	t.Helper()
	plantInput(t, pool, client, k, "{}", first, last, step)
}

func plantInput(t *testing.T, pool *pgxpool.Pool, client string, k kind, input string, first, last, step int) {
	t.Helper()
	const sql = `
		WITH made AS (
			INSERT INTO requests (
				id, mode, client, status, input, result, error, callback_url, callback_state,
				work_job_id, callback_job_id, accepted_at, finished_at, settled_at, expires_at
			)
			SELECT (lpad(to_hex(n * 1000::bigint), 12, '0') || '7000a' || lpad(to_hex(n), 15, '0'))::uuid, $2, $1, $3, $8,
			       CASE WHEN $3 = 'succeeded' THEN '1'::json END,
			       CASE WHEN $3 IN ('failed', 'expired', 'cancelled') THEN '1'::json END,
			       CASE WHEN $2 = 'async' THEN CASE n % 2 WHEN 0 THEN 'https://even.example.com:8443/' ELSE 'https://odd.example.com/' END END,
			       nullif($4, ''),
			       CASE WHEN $2 = 'async' OR $3 = 'accepted' THEN n END,
			       CASE WHEN $4 NOT IN ('', 'waiting') THEN n END,
			       to_timestamp(n),
			       CASE WHEN $3 <> 'accepted' THEN now() END,
			       CASE WHEN $4 IN ('delivered', 'dead', 'cancelled') THEN now() END,
			       CASE WHEN $3 = 'expired' THEN now() END
			FROM generate_series($5::int, $6::int, $7::int) AS n
			RETURNING id, seq, client, status, callback_url, callback_state, accepted_at
		), died AS (
			INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
			SELECT client, id, split_part(callback_url, '/', 3), accepted_at
			FROM made
			WHERE callback_state = 'dead'
		)
		INSERT INTO river_job (state, args, kind, queue, max_attempts)
		SELECT (ARRAY['available', 'running', 'retryable', 'scheduled', 'pending'])[1 + seq % 5]::river_job_state,
		       jsonb_build_object('request_id', id), 'any', CASE status WHEN 'accepted' THEN 'work' ELSE 'callback' END, 1000
		FROM made
		WHERE status = 'accepted' OR callback_state = 'pending'`
	if _, err := pool.Exec(t.Context(), sql, client, string(k.mode), string(k.status), string(k.callback), first, last, step, input); err != nil {
		t.Fatal(err)
	}
}

// TestListRequests holds all that can be asked for against the plain question, to
// the end of each listing.
func TestListRequests(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	pool := dbtest.Pool(t, url)
	reads := dbtest.Reads(t, url)
	all := kinds()
	for i, k := range all { // six of each, mixed, for alice and for bob
		plantKind(t, pool, "alice", k, 1000+2*i, 1203, 2*len(all))
		plantKind(t, pool, "bob", k, 1001+2*i, 1203, 2*len(all))
	}
	// Notes of requests that somebody removed by hand.
	for _, sql := range []string{
		"INSERT INTO unsuccessful_requests (client, ending, mode, request_id) VALUES ('alice', 'failed', 'async', $1)",
		"INSERT INTO dead_letters (client, request_id, callback_host, accepted_at) VALUES ('alice', $1, 'h', now())",
	} {
		if _, err := pool.Exec(t.Context(), sql, db.FirstID(time.Unix(1100, 0))); err != nil {
			t.Fatal(err)
		}
	}

	ranges := []db.Filter{
		{},
		{CallbackHost: "even.example.com:8443"},
		{From: time.Unix(1050, 0)},
		{To: time.Unix(1050, 0)},
		{From: time.Unix(1040, 0), To: time.Unix(1140, 0), CallbackHost: "odd.example.com"},
	}
	for _, variant := range []struct {
		name          string
		limit, window int
		searched      bool
	}{
		{"InOnePage", 1000, 1001, true}, {"InPages", 7, 1000, true}, {"InLookUps", 7, 100, true}, {"InWindows", 3, 5, true}, {"BeforeTheSearchIsDone", 7, 50, false},
	} {
		t.Run("AnswersAllCombinations"+variant.name, func(t *testing.T) { // in order, because of the search
			if _, err := pool.Exec(t.Context(), "UPDATE unsuccessful_search SET done = $1", variant.searched); err != nil {
				t.Fatal(err)
			}
			for _, filter := range filters("alice") {
				for _, between := range ranges {
					filter.CallbackHost, filter.From, filter.To = between.CallbackHost, between.From, between.To
					filter.Limit, filter.Window = variant.limit, variant.window
					for _, filter.OldestFirst = range []bool{false, true} {
						wantListed(t, reads, filter, askedPlainly(t, pool, filter))
					}
				}
			}
		})
	}

	t.Run("KeepsUnfinishedRequestsOfOneTimeTogether", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantKind(t, pool, "alice", kind{db.Async, db.Accepted, db.CallbackWaiting}, 4, 36, 4)
		plantKind(t, pool, "bob", kind{db.Async, db.Accepted, db.CallbackWaiting}, 2, 34, 4)
		// Up to three of each time, as far as times are told by ids, and four are looked up.
		for _, sql := range []string{
			"UPDATE requests SET id = overlay(id::text PLACING lpad(to_hex(work_job_id / 6), 8, '0') || '-0000' FROM 1)::uuid",
			"UPDATE river_job SET args = jsonb_build_object('request_id', requests.id) FROM requests WHERE requests.seq = river_job.id",
		} {
			if _, err := pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		for _, oldest := range []bool{false, true} {
			filter := db.Filter{Client: "alice", Status: db.Accepted, Limit: 3, Window: 20, OldestFirst: oldest}
			wantListed(t, pool, filter, askedPlainly(t, pool, filter))
		}
	})

	t.Run("LooksAtNoMoreThanTheWindow", func(t *testing.T) {
		t.Parallel()
		// Of five in a row, at most one was delivered.
		page, err := db.ListRequests(t.Context(), reads, db.Filter{Client: "bob", Status: db.Succeeded, CallbackState: db.CallbackDelivered, Limit: 2, Window: 5})
		if err != nil || len(page.Requests) > 1 || page.Next == uuid.Nil {
			t.Errorf("got %d requests, and next %v, %v, want at most one, and more to come", len(page.Requests), page.Next, err)
		}
	})
}

// askedPlainly are the ids of the requests that match, by a statement that may
// read all there is.
func askedPlainly(t *testing.T, pool *pgxpool.Pool, f db.Filter) []uuid.UUID {
	t.Helper()
	sql := `
		SELECT id
		FROM requests
		WHERE client = $1
		  AND ($2 = '' OR mode = $2)
		  AND ($3 = '' OR status = $3)
		  AND ($4 = '' OR callback_state = $4)
		  AND ($5 = '' OR split_part(callback_url, '/', 3) = $5)
		  AND ($6::timestamptz IS NULL OR accepted_at >= $6)
		  AND ($7::timestamptz IS NULL OR accepted_at < $7)
		ORDER BY id `
	if !f.OldestFirst {
		sql += "DESC"
	}
	rows, err := pool.Query(t.Context(), sql, f.Client, string(f.Mode), string(f.Status), string(f.CallbackState), f.CallbackHost, timeOrNull(f.From), timeOrNull(f.To))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func timeOrNull(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

// wantListed goes through all pages.
func wantListed(t *testing.T, q db.Querier, filter db.Filter, want []uuid.UUID) {
	t.Helper()
	got := []uuid.UUID{}
	for pages := 0; ; pages++ {
		page, err := db.ListRequests(t.Context(), q, filter)
		if err != nil || len(page.Requests) > filter.Limit || pages > 1000 {
			t.Fatalf("%+v: page %d: got %d requests, %v", filter, pages, len(page.Requests), err)
		}
		for _, request := range page.Requests {
			got = append(got, request.ID)
		}
		if filter.Cursor = page.Next; page.Next == uuid.Nil {
			break
		}
		if isBobs(page.Next) {
			t.Errorf("%+v: the cursor %v is another client's request", filter, page.Next)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		t.Errorf("%+v (-want +got):\n%s", filter, diff)
	}
}

// isBobs tells the requests that TestListRequests plants for bob: their numbers are odd,
// where cursors without a number are even.
func isBobs(id uuid.UUID) bool { return id[15]%2 == 1 }

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
