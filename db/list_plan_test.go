package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// meter runs each statement twice: once as it is, and once to count the pages that
// its plan touches, with the settings of its connection.
type meter struct {
	*pgxpool.Conn
	prepared map[string]string // names by statement
	pages    int
	plans    []string
}

func (m *meter) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := m.measure(ctx, sql, args); err != nil {
		return nil, fmt.Errorf("measuring %s: %w", sql, err)
	}
	return m.Conn.Query(ctx, sql, args...)
}

func (m *meter) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := m.measure(ctx, sql, args); err != nil {
		m.plans = append(m.plans, err.Error())
		m.pages = 1 << 30
	}
	return m.Conn.QueryRow(ctx, sql, args...)
}

func (m *meter) measure(ctx context.Context, sql string, args []any) error {
	name, ok := m.prepared[sql]
	if !ok {
		name = fmt.Sprintf("measured_%d", len(m.prepared))
		if _, err := m.Conn.Exec(ctx, "PREPARE "+name+" AS "+sql); err != nil {
			return err
		}
		m.prepared[sql] = name
	}
	if len(args) > 0 {
		var literals []string
		for _, arg := range args {
			literals = append(literals, literal(arg))
		}
		name += "(" + strings.Join(literals, ", ") + ")"
	}
	var text string
	if err := m.Conn.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE "+name).Scan(&text); err != nil {
		return err
	}
	var explained []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := json.Unmarshal([]byte(text), &explained); err != nil {
		return err
	}
	m.pages += explained[0].Plan.Hit + explained[0].Plan.Read
	m.plans = append(m.plans, text)
	return nil
}

// literal writes an argument of a listing into SQL.
func literal(arg any) string {
	switch arg := arg.(type) {
	case []string:
		return "'{" + strings.Join(arg, ",") + "}'"
	case pgtype.FlatArray[pgtype.UUID]:
		var ids []string
		for _, id := range arg {
			ids = append(ids, id.String())
		}
		return literal(ids)
	case zeronull.Text:
		if arg == "" {
			return "NULL"
		}
	case zeronull.Timestamptz:
		if time.Time(arg).IsZero() {
			return "NULL"
		}
		return "'" + time.Time(arg).Format(time.RFC3339Nano) + "'"
	case int:
		return fmt.Sprint(arg)
	}
	return fmt.Sprintf("'%v'", arg)
}

// few writes a request of each kind for a client, before all others.
func few(t *testing.T, pool *pgxpool.Pool, client string) {
	t.Helper()
	for i, k := range kinds() {
		plantKind(t, pool, client, k, i+1, i+1, 1)
	}
}

// TestListingsReadLittle bounds the cost of a page, in pages of the database, regardless
// of the number of requests: with the mixes that mislead the planner most, and on a
// connection whose plans were made for nearly empty tables.
func TestListingsReadLittle(t *testing.T) {
	t.Parallel()
	delivered := kind{db.Async, db.Succeeded, db.CallbackDelivered}
	for name, plant := range map[string]func(t *testing.T, pool *pgxpool.Pool, first, last int){
		"OneModeAndAllDelivered": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", delivered, first, last, 1)
		},
		"TheOtherMode": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Sync, db.Succeeded, ""}, first, last, 1)
		},
		"AllFailed": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Async, db.Failed, db.CallbackDelivered}, first, last, 1)
		},
		"AllDead": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Async, db.Succeeded, db.CallbackDead}, first, last, 1)
		},
		"AllUnfinished": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Async, db.Accepted, db.CallbackWaiting}, first, last, 1)
		},
		"AllPending": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Async, db.Succeeded, db.CallbackPending}, first, last, 1)
		},
		"AllCancelled": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Async, db.Succeeded, db.CallbackCancelled}, first, last, 1)
		},
		"AllOthersAtTheFarEnd": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			if first == firstPlanted {
				few(t, pool, "alice")
			}
			plantKind(t, pool, "alice", delivered, first, last, 1)
		},
		"AllOfAnotherClient": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			if first == firstPlanted {
				few(t, pool, "alice")
			}
			plantKind(t, pool, "bob", delivered, first, last, 1)
		},
		"FewOfAnotherClientUnfinished": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			if first == firstPlanted {
				few(t, pool, "alice")
				plantKind(t, pool, "bob", kind{db.Async, db.Succeeded, db.CallbackPending}, first, last, (last-first)/170)
			}
			plantKind(t, pool, "alice", delivered, last+1, last+(last-first), 1)
		},
		"EachHasAPageOfItsOwn": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			if first == firstPlanted {
				few(t, pool, "alice")
				large := `"` + strings.Repeat("x", 1700) + `"` // about as large as a row is that is stored in one piece
				plantInput(t, pool, "alice", delivered, large, first, last, 1)
			}
		},
		"EachClientHasAMode": func(t *testing.T, pool *pgxpool.Pool, first, last int) {
			plantKind(t, pool, "alice", kind{db.Sync, db.Succeeded, ""}, first, last, 2)
			plantKind(t, pool, "bob", delivered, first+1, last, 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.New(t)
			pool := dbtest.Pool(t, url)
			conn, err := dbtest.Reads(t, url).Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Release)
			m := &meter{Conn: conn, prepared: map[string]string{}}
			wantCheapListings(t, m, 0)
			first := firstPlanted
			for _, last := range []int{3_000, 15_000} {
				plant(t, pool, first, last)
				wantCheapListings(t, m, last)
				if _, err := pool.Exec(t.Context(), "VACUUM ANALYZE"); err != nil {
					t.Fatal(err)
				}
				wantCheapListings(t, m, last)
				first = last + 1
			}
		})
	}
}

const firstPlanted = 101

// What a page may read in the database, of a table that fits an index of two levels.
const (
	pageLimit, pageWindow = 20, 200
	lookedUp              = 3  // pages for a request that is looked up: two of the index, and its own
	ways                  = 16 // down the indexes, and along their leaves
)

// wantCheapListings asks for all that can be asked for, from the newest on and from
// the middle, where so many requests are.
func wantCheapListings(t *testing.T, m *meter, requests int) {
	t.Helper()
	middle := db.FirstID(time.Unix(int64(requests/2), 0))
	m.pages, m.plans = 0, nil
	_, err := db.GetRequest(t.Context(), m, "alice", middle)
	if _, listErr := db.ListAttempts(t.Context(), m, middle, 100); listErr != nil || !errors.Is(err, db.ErrNoRequest) || m.pages > 3*lookedUp {
		t.Errorf("one request: got %v, %v, and %d pages read, want none found, with %d at most:\n%s", err, listErr, m.pages, 3*lookedUp, strings.Join(m.plans, "\n"))
	}
	for _, filter := range filters("alice") {
		filter.Limit, filter.Window = pageLimit, pageWindow
		newest, deep, oldest := filter, filter, filter
		deep.Cursor = middle
		oldest.OldestFirst, oldest.From = true, time.Unix(int64(requests/2), 0)
		for _, filter := range []db.Filter{newest, deep, oldest, ofHost(newest), ofHost(oldest), ofWork(newest)} {
			wantCheap(t, m, filter, mostPages(filter))
		}
	}
}

func ofHost(f db.Filter) db.Filter {
	f.CallbackHost = "nowhere.example.com"
	return f
}

func ofWork(f db.Filter) db.Filter {
	f.Work = "another"
	return f
}

// mostPages is the bound on a page of a listing.
func mostPages(f db.Filter) int {
	switch {
	case isIndexed(f):
		return (pageLimit+1)*lookedUp + ways
	case isRare(f.Status, f.CallbackState):
		return pageWindow/db.LookUpPages*lookedUp + ways
	}
	return pageWindow + ways
}

// isRare tells whether an index leads to requests of which some match.
func isRare(status db.Status, callback db.CallbackState) bool {
	return callback == db.CallbackDead || callback == db.CallbackCancelled ||
		callback != db.CallbackPending && status != "" && status != db.Accepted && status != db.Succeeded
}

// isIndexed tells whether an index leads to matching requests alone.
func isIndexed(f db.Filter) bool {
	switch {
	case f.Work != "":
		return false
	case f.CallbackState == db.CallbackDead:
		return f.Status == ""
	case f.CallbackHost != "":
		return false
	case f.CallbackState == db.CallbackCancelled:
		return f.Status == "" || f.Status == db.Cancelled
	}
	return f.CallbackState == "" && f.Status != db.Accepted && f.Status != db.Succeeded
}

func wantCheap(t *testing.T, m *meter, filter db.Filter, most int) {
	t.Helper()
	m.pages, m.plans = 0, nil
	if _, err := db.ListRequests(t.Context(), m, filter); err != nil {
		t.Fatal(err)
	}
	if m.pages > most {
		t.Errorf("%+v reads %d pages, want at most %d:\n%s", filter, m.pages, most, strings.Join(m.plans, "\n"))
	}
}
