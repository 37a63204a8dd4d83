package jobs

import (
	"slices"
	"testing"

	"ringback/db"
)

// Somebody empties tables that hold a single row. Without it, nothing is removed, mended or
// found.
func TestSingleRowsAreRestored(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	key, err := q.tokens.load(t.Context()) // as at a start
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	const sql = "SELECT array_agg(table_name::text) FROM information_schema.columns WHERE column_name = 'is_one_row' AND table_schema = current_schema()"
	if err := q.direct.QueryRow(t.Context(), sql).Scan(&tables); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		q.exec(t, "DELETE FROM "+table)
	}
	restored := q.singleRows.Restore(t.Context())
	slices.Sort(tables)
	slices.Sort(restored)
	if !slices.Equal(restored, tables) {
		t.Errorf("restored %q, want %q", restored, tables)
	}
	if after, err := db.FinishKey(t.Context(), q.direct); err != nil || !slices.Equal(after, key) {
		t.Errorf("the key of finish calls: got %x, %v, want %x as before", after, err, key)
	}
	if _, err := db.ListRequests(t.Context(), q.direct, db.Filter{Client: "test", Status: db.Failed, Limit: 1, Window: 2}); err != nil {
		t.Errorf("listing failed requests: %v, want none to be missing", err)
	}
	if again := q.singleRows.Restore(t.Context()); len(again) > 0 {
		t.Errorf("restored %q a second time, want nothing", again)
	}
}
