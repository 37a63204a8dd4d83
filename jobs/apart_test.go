package jobs

import (
	"testing"

	"ringback/db"
	"ringback/jobs/clients"
	"ringback/work"
)

// mallory's reports wait for the lock of a row, and take connections meanwhile.
func TestStatementsOfAClientLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, func(config *Config) { config.Limits = limited(clients.Limits{}) })
	receiver := newServer(t, noContent)
	requestOf := func(client string) db.Request {
		request := newRequest(receiver)
		request.Client = client
		return request
	}
	flooded, calm := requestOf("mallory"), requestOf("alice")
	flood, other := e.begin(t, flooded), e.beginNext(t, calm)

	tx, err := e.direct.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release := func() { _ = tx.Rollback(t.Context()) }
	if _, err := tx.Exec(t.Context(), "SELECT FROM work_leases WHERE request_id = $1 FOR UPDATE", flooded.ID); err != nil {
		t.Fatal(err)
	}
	const reports = 60 // more than a pool has connections
	answers := at(make([]db.Request, reports), func(db.Request) error { return e.report(t, flood, ten) })
	share := e.singles.gate.Share()
	waitUntil(t, func() bool { return e.singles.gate.Waiting("mallory") >= reports-share })
	e.waitForBlocked(t, share)
	if connections := int(e.pool.Config().MaxConns); share > connections/2 || e.holds(t, "SELECT count(*) > $1 "+blocked, share) {
		t.Errorf("want %d statements of a client at a time, less than half of the %d connections", share, connections)
	}
	if err := e.report(t, other, work.Report{Result: hasResult.Result}); err != nil {
		t.Errorf("beside the flood: got %v, want alice's report taken", err)
	}
	e.waitFor(t, calm.ID, "callback_state = 'delivered'")
	e.beginNext(t, requestOf("alice"))
	release()
	for _, err := range answers() {
		if err != nil && !db.IsUnavailable(err) {
			t.Error(err)
		}
	}
}
