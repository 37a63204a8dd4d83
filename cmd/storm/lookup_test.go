package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"ringback/db/dbtest"
)

func TestExplanations(t *testing.T) {
	t.Parallel()
	const attempts = `"attempts":[{"attempt":1,"at":"2026-01-02T03:04:05Z","outcome":"http_status","http_status":500},
		{"attempt":2,"at":"2026-01-02T03:04:06Z","outcome":"timeout"}]`
	for answer, want := range map[string]string{
		`{"status":"accepted","callback_state":"waiting"}`:                "its work is not done yet",
		`{"status":"succeeded","callback_state":"pending"}`:               "work succeeded, callback still to come, never attempted",
		`{"status":"failed","callback_state":"pending",` + attempts + `}`: "work failed, callback still to come, attempt 2 at 03:04:06: timeout",
		`{"status":"succeeded","callback_state":"dead",` + attempts + `}`: "work succeeded, callback given up, attempt 2 at 03:04:06: timeout",
		`{"status":"cancelled","callback_state":"cancelled"}`:             "status cancelled, callback cancelled",
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

// Nobody is called back here: what the server says of the requests decides.
func TestLookUpOfRequestsThatNobodyCalled(t *testing.T) {
	t.Parallel()
	found := func(state string) string { return `{"status":"succeeded","callback_state":"` + state + `"}` }
	for name, test := range map[string]struct {
		receivers, answer string
		callbacks         callbacks
		status            int
	}{
		"pending at one that takes nothing":   {"gone=1", found("pending"), callbacks{dead: 20}, exitOK},
		"delivered to one that takes nothing": {"gone=1", found("delivered"), callbacks{missing: 20}, exitBroken},
		"one that takes nothing, no answer":   {"gone=1", "", callbacks{dead: 20}, exitOK},
		"pending at a flaky one":              {"flaky=1", found("pending"), callbacks{pending: 20}, exitOK},
		"work not done for a slow one":        {"slow=1", found("waiting"), callbacks{pending: 20}, exitOK},
		"given up at a flaky one":             {"flaky=1", found("dead"), callbacks{missing: 20}, exitBroken},
		"a flaky one, no answer":              {"flaky=1", "", callbacks{missing: 20}, exitBroken},
		"pending at one that is ok":           {"ok=1", found("pending"), callbacks{missing: 20}, exitBroken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := start(t, &service{
				onAsync: func(_ int, job job, w http.ResponseWriter) { accept(job, w) },
				onGet: func(_ string, w http.ResponseWriter) {
					if test.answer == "" {
						w.WriteHeader(http.StatusServiceUnavailable)
					}
					_, _ = w.Write([]byte(test.answer))
				},
			})
			output := runStorm(t, against(service, "-receivers", test.receivers, "-drain", "50ms", "-api-key", "secret")...)
			output.want(t, test.status)
			output.wantCallbacks(t, test.callbacks)
		})
	}
}

func TestPendingCallbacksAreExplained(t *testing.T) {
	t.Parallel()
	service := start(t, &service{
		onAsync: func(_ int, job job, w http.ResponseWriter) { accept(job, w) },
		onGet: func(_ string, w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"status":"succeeded","callback_state":"pending"}`))
		},
	})
	output := runStorm(t, against(service, "-receivers", "flaky=1", "-drain", "50ms")...)
	output.want(t, exitOK, "20 are still to come at slow or flaky ones", "Still to be called back",
		": work succeeded, callback still to come, never attempted\n", "and 10 more")
	if got := output.report.Async.PendingRequests; len(got) != 20 {
		t.Errorf("explained in the report: got %d, want all 20", len(got))
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
	lost := []lostRequest{{ID: known}, {ID: uuid.Must(uuid.NewV7())}}
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

func TestAuditWithoutADatabase(t *testing.T) {
	t.Parallel()
	service := start(t, &service{onAsync: func(_ int, job job, w http.ResponseWriter) { accept(job, w) }})
	output := runStorm(t, against(service, "-drain", "0s", "-database-url", "postgres://me:hidden@127.0.0.1:1/none")...)
	output.want(t, exitBroken, "database: connecting to the database for the audit")
	if strings.Contains(output.stdout, "hidden") {
		t.Error("the password is shown")
	}
}
