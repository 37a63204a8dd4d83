package db_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestListAllRequests(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	all := kinds()
	for i, k := range all {
		plantKind(t, pool, []string{"acme", "other"}[i%2], k, i+1, i+1, 1)
	}

	t.Run("ListsThoseOfAllClientsThatMatch", func(t *testing.T) {
		t.Parallel()
		for _, filter := range filters("") {
			var want []int
			for i, k := range slices.Backward(all) {
				if matches(filter, k) {
					want = append(want, i+1)
				}
			}
			filter.Limit, filter.Window = 100, 1000
			page, err := db.ListAllRequests(t.Context(), pool, filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, r := range page.Requests {
				got = append(got, int(r.AcceptedAt.Unix()))
			}
			if !slices.Equal(got, want) || page.Next != uuid.Nil {
				t.Errorf("%+v: got %v, next %v, want %v and no more", filter, got, page.Next, want)
			}
		}
	})

	t.Run("GoesOnBehindAWindowInWhichFewMatch", func(t *testing.T) {
		t.Parallel()
		filter, got := db.Filter{CallbackState: db.CallbackDead, Limit: 1, Window: 2}, 0
		for {
			page, err := db.ListAllRequests(t.Context(), pool, filter)
			if err != nil {
				t.Fatal(err)
			}
			if got += len(page.Requests); page.Next == uuid.Nil {
				break
			}
			filter.Cursor = page.Next
		}
		if got != 3 {
			t.Errorf("got %d dead letters over all pages, want 3", got)
		}
	})
}

func matches(f db.Filter, k kind) bool {
	return (f.Mode == "" || f.Mode == k.mode) && (f.Status == "" || f.Status == k.status) && (f.CallbackState == "" || f.CallbackState == k.callback)
}

func TestOperatorReadsOfARequest(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	plantKind(t, pool, "acme", kind{db.Async, db.Succeeded, db.CallbackDead}, 1, 3, 1)
	page, err := db.ListAllRequests(t.Context(), pool, db.Filter{Limit: 1, Window: 10})
	if err != nil {
		t.Fatal(err)
	}
	id := page.Requests[0].ID
	const attempts = `
		INSERT INTO callback_attempts (request_id, attempt, started_at, ended_at, outcome, http_status, address, cause, connect_us)
		SELECT $1, n, now(), now(), 'http_status', 500, '192.0.2.1:443', 'because', 1500
		FROM generate_series(1, 3) AS n`
	if _, err := pool.Exec(t.Context(), attempts, id); err != nil {
		t.Fatal(err)
	}
	found, err := db.FindRequest(t.Context(), pool, id)
	if err != nil || found.Client != "acme" || string(found.Input) != "{}" {
		t.Errorf("got %+v, %v, want the whole request", found, err)
	}
	seen, err := db.InspectAttempts(t.Context(), pool, id, 2)
	if err != nil || len(seen) != 2 || seen[0].Attempt != 2 || seen[1].Connect != 1500*time.Microsecond || seen[1].Cause != "because" {
		t.Errorf("got %+v, %v, want the latest two in order, with their causes", seen, err)
	}
	groups, err := db.GroupDeadLetters(t.Context(), pool, []string{"acme", "nobody"}, 100, 1000)
	if err != nil || len(groups) != 3 {
		t.Fatalf("got %+v, %v, want three groups", groups, err)
	}
	for _, group := range groups {
		if wanted := group.LatestRequest == id; wanted != (group.Cause == "because") || group.Count != 1 {
			t.Errorf("got %+v, want each with the cause of its latest attempt", group)
		}
	}
}

func TestListProcesses(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	if _, err := db.Beat(t.Context(), pool, "one", false); err != nil {
		t.Fatal(err)
	}
	processes, err := db.ListProcesses(t.Context(), pool)
	if err != nil || len(processes) != 1 || processes[0].ID != "one" || processes[0].Silent < 0 {
		t.Errorf("got %+v, %v, want the process", processes, err)
	}
}

// The page of dead letters reads a bounded number in all, of however many clients.
func TestGroupedDeadLettersAreBoundedInAll(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	dead := kind{db.Async, db.Succeeded, db.CallbackDead}
	for n, client := range []string{"acme", "mallory", "malvina"} {
		plantKind(t, pool, client, dead, 1+100*n, 50+100*n, 1)
	}
	plantKind(t, pool, "bob", dead, 400, 400, 1)
	clients := []string{"acme", "bob", "mallory", "malvina", "nobody"}
	for _, test := range []struct {
		each, all int
		want      map[string]int64
	}{
		{100, 1000, map[string]int64{"acme": 50, "bob": 1, "mallory": 50, "malvina": 50}},
		{20, 1000, map[string]int64{"acme": 20, "bob": 1, "mallory": 20, "malvina": 20}},
		{100, 40, map[string]int64{"acme": 10, "bob": 1, "mallory": 10, "malvina": 10}},
		{100, 2, map[string]int64{"acme": 1, "bob": 1}},
	} {
		groups, err := db.GroupDeadLetters(t.Context(), pool, clients, test.each, test.all)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, group := range groups {
			got[group.Client] += group.Count
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%d of each and %d in all (-want +got):\n%s", test.each, test.all, diff)
		}
	}
}
