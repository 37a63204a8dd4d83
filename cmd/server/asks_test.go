package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// The time and the headers of a callback survive a restart.
func TestDelayedWorkWithHeadersOutlivesARestart(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	settings := map[string]string{"SECRETS_KEY": sealingKey}
	got := make(chan http.Header, 1)
	r := newReceiver(t, func(w http.ResponseWriter, call *http.Request) {
		got <- call.Header.Clone()
		w.WriteHeader(http.StatusNoContent)
	})
	first := startHere(t, database, settings, fingerprint.Do)
	sent := time.Now()
	body := `{"input":{"text":"x"},"delay":2,"callback":{"url":"` + r.URL + `","headers":{"Authorization":"Bearer hidden"}}}`
	first.served(t, "/async", body, http.StatusAccepted)
	first.stop()
	first.waitStopped(t)
	pool := dbtest.Pool(t, database)
	var stored string
	if err := pool.QueryRow(t.Context(), "SELECT callback_headers FROM requests").Scan(&stored); err != nil || strings.Contains(stored, "hidden") {
		t.Errorf("stored: got %q, %v, want the headers sealed", stored, err)
	}
	startHere(t, database, settings, fingerprint.Do)
	header := <-got
	if header.Get("Authorization") != "Bearer hidden" || header.Get("Content-Type") != "application/json" || header.Get("Webhook-Signature") == "" {
		t.Errorf("got %v, want the caller's header beside ours", header)
	}
	if early := time.Since(sent); early < 2*time.Second {
		t.Errorf("got the callback after %v, want the work to wait for its time", early)
	}
}
