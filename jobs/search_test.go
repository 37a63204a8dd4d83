package jobs

import "testing"

func TestSearch(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	q.exec(t, `
		INSERT INTO requests (id, mode, client, status, input, error, accepted_at, finished_at)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'sync', 'alice', 'failed', '1', '1', now(), now()
		FROM generate_series(1, 1500) AS n`)
	q.exec(t, "DELETE FROM unsuccessful_requests") // as if nobody had noted them
	q.exec(t, "UPDATE unsuccessful_search SET done = false")
	q.start(t)
	waitUntil(t, func() bool { return q.holds(t, "SELECT done FROM unsuccessful_search") })
	if !q.holds(t, "SELECT count(*) = 1500 FROM unsuccessful_requests") {
		t.Error("want all found")
	}
}
