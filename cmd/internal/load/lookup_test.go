package load

import (
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"ringback/db/dbtest"
)

func TestExplanations(t *testing.T) {
	t.Parallel()
	const first = `"attempts":[{"attempt":1,"at":"2026-01-02T03:04:05Z","outcome":"http_status","http_status":500}`
	const attempts = first + `,{"attempt":2,"at":"2026-01-02T03:04:06Z","outcome":"timeout"}]`
	for answer, want := range map[string]string{
		`{"status":"accepted","callback_state":"waiting"}`:                "work accepted, callback waiting, never attempted",
		`{"status":"failed","callback_state":"pending",` + attempts + `}`: "work failed, callback pending, attempt 2 at 03:04:06: timeout",
		`{"status":"succeeded","callback_state":"dead",` + first + `]}`:   "work succeeded, callback dead, attempt 1 at 03:04:05: http_status 500",
	} {
		var found foundRequest
		if err := json.Unmarshal([]byte(answer), &found); err != nil {
			t.Fatal(err)
		}
		if got := found.explain(); got != want {
			t.Errorf("%s: got %q, want %q", answer, got, want)
		}
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	known := uuid.Must(uuid.NewV7())
	execute(t, url, `
		INSERT INTO requests
		    (id, mode, client, status, input, result, callback_url, callback_state, work_job_id, callback_job_id, accepted_at, finished_at)
		VALUES ($1, 'async', 'local', 'succeeded', '{}', '{}', 'http://127.0.0.1/', 'pending', 1, 2, now(), now())`, known)
	execute(t, url, `
		INSERT INTO callback_attempts (request_id, attempt, started_at, ended_at, outcome, cause)
		VALUES ($1, 1, now(), now(), 'timeout', 'slow'), ($1, 2, now(), now(), 'connection_failed', 'refused')`, known)
	lost := []Lost{{ID: known}, {ID: uuid.Must(uuid.NewV7())}}
	if err := audit(t.Context(), url, lost); err != nil {
		t.Fatal(err)
	}
	want := "work succeeded, callback pending, work job gone, callback job none, attempt 2 connection_failed, refused"
	if lost[0].Audit != want {
		t.Errorf("got %q, want %q", lost[0].Audit, want)
	}
	if lost[1].Audit != "no such request" {
		t.Errorf("unknown request: got %q", lost[1].Audit)
	}
}

func execute(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	if _, err := dbtest.Pool(t, url).Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}
