package api_test

import (
	"net/http"
	"testing"

	"ringback/api"
	"ringback/db"
	"ringback/jobs/clients"
)

// Changes of one client that take long, here for a lock, leave connections to the batches of
// others.
func TestChangesOfAClientLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	var connections, share int
	s := newService(t, func(c *api.Config) {
		limitedBy(t, func(string) clients.Limits { return clients.Limits{Rate: 1000, Unfinished: 100, PerDestination: 100} })(c)
		connections, share = int(c.Pool.Config().MaxConns), (c.ReadLimit+1)/2
	})
	request := s.store(t, db.Request{Client: "alice", Status: db.Succeeded, CallbackState: db.CallbackPending})
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM requests WHERE id = $1 FOR UPDATE", request.ID); err != nil {
		t.Fatal(err)
	}
	const waiting = "(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
	changed := make(chan answer, connections)
	for range connections {
		go func() {
			changed <- s.callOnce(t, "POST", "/requests/"+request.ID.String()+"/cancel", "", "Authorization", alice)
		}()
	}
	for !s.holds(t, "SELECT "+waiting+" + $1::int >= $2::int", len(changed), connections) { // each waits or is refused
		s.waitFor(t, "SELECT true")
	}
	if !s.holds(t, "SELECT "+waiting+" <= $1::int", share) {
		t.Fatalf("got more than %d of %d connections taken by the changes of one client", share, connections)
	}
	if got := s.call(t, "POST", "/async", asyncBody, "Authorization", bob); got.status != http.StatusAccepted {
		t.Errorf("another client, meanwhile: got %d with %s, want 202", got.status, got.body)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range connections {
		<-changed // refused, or done
	}
}
