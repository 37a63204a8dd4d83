package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// cancelInRiverUI cancels a job as River UI's button does.
func (p *program) cancelInRiverUI(t *testing.T, job int64) {
	t.Helper()
	body := strings.NewReader(fmt.Sprintf(`{"ids":["%d"]}`, job))
	response, err := http.Post(p.adminURL+"/riverui/api/jobs/cancel", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("cancelling job %d: got %s", job, response.Status)
	}
}

// Who cancels a job in River UI takes nothing from its request for good.
func TestJobsCancelledInRiverUI(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p, pool := startHere(t, database, nil, fingerprint.Do), dbtest.Pool(t, database)
	jobOf := func(id, column string) (job int64) {
		if err := pool.QueryRow(t.Context(), "SELECT "+column+" FROM requests WHERE id = $1", id).Scan(&job); err != nil {
			t.Fatal(err)
		}
		return job
	}

	t.Run("TheCallbackIsDelivered", func(t *testing.T) {
		t.Parallel()
		mended := make(chan struct{})
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			select {
			case <-mended:
				w.WriteHeader(http.StatusNoContent)
			default:
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		id := p.accept(t, `{"text":"x"}`, r.URL)
		p.waitFor(t, id, "a failed attempt", func(r request) bool { return len(r.Attempts) > 0 })
		p.cancelInRiverUI(t, jobOf(id, "callback_job_id"))
		p.served(t, "/requests/"+id+"/redeliver", "", http.StatusAccepted)
		close(mended)
		p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	})

	t.Run("TheRequestWhoseWorkWasToComeIsCancelled", func(t *testing.T) {
		t.Parallel()
		r := newReceiver(t, nil)
		body := fmt.Sprintf(`{"input":{"text":"x"},"callback_url":%q,"delay":86400}`, r.URL)
		id := p.served(t, "/async", body, http.StatusAccepted).ID
		p.cancelInRiverUI(t, jobOf(id, "work_job_id"))
		p.waitFor(t, id, "cancelled", func(r request) bool { return r.Status == "cancelled" })
	})
}
