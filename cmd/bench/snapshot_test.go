package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
)

func TestSnapshotStaysOpen(t *testing.T) {
	t.Parallel()
	d := database{Name: "test", URL: dbtest.New(t)}
	const sql = `
		SELECT pid
		FROM pg_stat_activity
		WHERE datname = current_database()
		  AND state = 'idle in transaction'
		  AND backend_xmin IS NOT NULL`
	holders := func() (pids []int) {
		err := d.Connect(t.Context(), func(conn *pgx.Conn) (err error) {
			rows, _ := conn.Query(t.Context(), sql) // CollectRows returns the error
			pids, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return pids
	}

	err := new(bench).on(t.Context(), func(s *measurement) {
		s.openSnapshot(d)
		if got := holders(); len(got) != 1 {
			t.Errorf("holders of a snapshot: got %v, want one", got)
		}
	})
	if err != nil || len(holders()) != 0 {
		t.Errorf("after its end: got %v and %v", err, holders())
	}

	err = new(bench).on(t.Context(), func(s *measurement) {
		s.openSnapshot(d)
		s.Must(d.Connect(t.Context(), func(conn *pgx.Conn) error {
			_, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend($1)", holders()[0])
			return err
		}))
	})
	if err == nil || !strings.Contains(err.Error(), "the snapshot ended before") {
		t.Errorf("a snapshot that was ended by others: got %v", err)
	}
}
