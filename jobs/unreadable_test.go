package jobs

import (
	"net/http"
	"testing"

	"ringback/db"
)

// A job that somebody changed by hand so that it can't be fetched doesn't hold up the jobs
// behind it.
func TestJobsThatCannotBeFetched(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"AttemptsAtTheirEnd":    "attempt = 32767",
		"TagsWithANull":         "tags = ARRAY[NULL]::varchar[]",
		"ErrorsWithANull":       "errors = ARRAY[NULL]::jsonb[]",
		"HoldersOfTwoDimension": "attempted_by = '{{a},{b}}'",
		"MadeBeforeAllTimes":    "created_at = '-infinity'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			requests := newRequests(5)
			for i := range requests {
				requests[i].CallbackURL = receiver.URL
				q.accept(t, requests[i])
			}
			q.exec(t, "UPDATE river_job SET "+change+" WHERE id = (SELECT work_job_id FROM requests WHERE id = $1)", requests[0].ID)
			q.start(t)
			for _, request := range requests {
				q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_state = 'completed'")
			}
		})
	}
}

// Infinite times, and times in years that JSON doesn't have, are read as times that are far
// away. Somebody wrote them by hand.
func TestInfiniteTimes(t *testing.T) {
	t.Parallel()
	for change, status := range map[string]db.Status{
		"expires_at = 'infinity'":   db.Succeeded,
		"expires_at = '-infinity'":  db.Expired,
		"accepted_at = '-infinity'": db.Succeeded,
		"run_at = 'infinity'":       db.Succeeded,

		"expires_at = '200000-01-01'":   db.Succeeded,
		"expires_at = '4000-01-01 BC'":  db.Expired,
		"accepted_at = '4000-01-01 BC'": db.Succeeded,
		"accepted_at = '200000-01-01'":  db.Succeeded,
		"run_at = '200000-01-01'":       db.Succeeded,
	} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			request := newRequest(receiver.URL)
			q.accept(t, request)
			q.exec(t, "UPDATE requests SET "+change)
			q.start(t)
			q.waitFor(t, request.ID, "callback_state = 'delivered'")
			if got := q.get(t, request.ID); got.Status != status {
				t.Errorf("got %s, want %s", got.Status, status)
			}
		})
	}
}

// An error of a job that somebody wrote by hand doesn't keep its request from being read.
func TestErrorsOfOtherForms(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	request := newRequest("http://127.0.0.1:9/")
	q.accept(t, request)
	q.exec(t, `UPDATE river_job SET errors = ARRAY['"x"', '{"attempt": "x"}', '{"at": "2026-11-24T09:00:00Z", "attempt": 3, "error": "not done: busy"}']::jsonb[]`)
	if got := q.get(t, request.ID).WorkAttempts; len(got) != 1 || got[0].Attempt != 3 {
		t.Errorf("got %+v, want the one error that River wrote", got)
	}
}
