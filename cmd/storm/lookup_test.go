package main

import (
	"net/http"
	"testing"
)

// No callback comes here: the server's answers about the requests decide.
func TestLookUpOfRequestsThatNobodyCalled(t *testing.T) {
	t.Parallel()
	found := func(state string) string {
		return `{"status":"succeeded","callback_state":"` + state + `","attempts":[{"attempt":1,"outcome":"connection_failed"}]}`
	}
	const untried = `{"status":"succeeded","callback_state":"pending","attempts":[]}`
	for name, test := range map[string]struct {
		receivers, answer string
		callbacks         callbacks
		status            int
	}{
		"pending at one that takes nothing":        {"gone=1", found("pending"), callbacks{dead: 20}, exitOK},
		"delivered to one that takes nothing":      {"gone=1", found("delivered"), callbacks{missing: 20}, exitBroken},
		"a receiver that takes nothing, no answer": {"gone=1", "", callbacks{dead: 20}, exitBroken},
		"untried at a receiver that takes nothing": {"gone=1", untried, callbacks{dead: 20}, exitBroken},
		"untried at a slow one":                    {"slow=1", untried, callbacks{pending: 20}, exitBroken},
		"pending at a flaky one":                   {"flaky=1", found("pending"), callbacks{pending: 20}, exitOK},
		"work not done for a slow one":             {"slow=1", found("waiting"), callbacks{pending: 20}, exitOK},
		"given up at a flaky one":                  {"flaky=1", found("dead"), callbacks{missing: 20}, exitBroken},
		"a flaky one, no answer":                   {"flaky=1", "", callbacks{missing: 20}, exitBroken},
		"pending at one that is ok":                {"ok=1", found("pending"), callbacks{missing: 20}, exitBroken},
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
	output.want(t, exitBroken, "Broken: not one of 20 acknowledged requests was called back, nor was that tried", "Still to be called back",
		": work succeeded, callback pending, never attempted\n", "and 10 more")
	if got := output.report.Async.PendingRequests; len(got) != 20 {
		t.Errorf("explained in the report: got %d, want all 20", len(got))
	}
}
