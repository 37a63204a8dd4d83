package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"ringback/cmd/internal/load"
)

// Results of work that storm doesn't know are compared with the service's sync answers.
func TestOtherWorkIsComparedWithSync(t *testing.T) {
	t.Parallel()
	const input = `{"n":{{number 0..9}},"words":"{{text 20}}"}`
	for name, test := range map[string]struct {
		works    string
		result   string // the data of callbacks, %s for the input
		verified int
		status   int
	}{
		"equal but for order":       {`"deterministic":true`, `{"echo":%s,"a":1}`, 20, exitOK},
		"different":                 {`"deterministic":true`, `{"a":1,"echo":{"n":77}}`, 20, exitBroken},
		"work that may differ":      {`"deterministic":false`, `{"a":1,"echo":{"n":77}}`, 0, exitOK},
		"a service without a list":  {``, `{"a":1,"echo":{"n":77}}`, 0, exitOK},
		"another work than default": {`"deterministic":false},{"name":"other","deterministic":true`, `{"a":1}`, 0, exitOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := &service{works: test.works}
			service.onAsync = func(_ int, job job, w http.ResponseWriter) {
				echoed, err := json.Marshal(job.input)
				if err != nil {
					t.Error(err)
				}
				result := strings.Replace(test.result, "%s", string(echoed), 1)
				job.post(job.url, fmt.Sprintf(`{"type":"request.succeeded","data":{"id":%q,"status":"succeeded","result":%s}}`, job.id, result))
				accept(job, w)
			}
			service.onSync = func(n int, w http.ResponseWriter) {
				echoed, err := json.Marshal((*service.lastBody.Load())["input"])
				if err != nil {
					t.Error(err)
				}
				fmt.Fprintf(w, `{"id":%q,"status":"succeeded","result":{"a":1, "echo":%s}}`, jobID(n), echoed)
			}
			// A single connection, so that the last body is the call's.
			output := runStorm(t, against(start(t, service), "-input", input, "-mix", "sync=0,async=1", "-connections", "1", "-rate", "100")...)
			output.want(t, test.status)
			if got := output.report.Async; got.Verified != test.verified || got.Unverified != 0 || (got.Mismatched > 0) != (test.status == exitBroken) {
				t.Errorf("got %d verified, %d unverified and %d mismatched, want %d verified", got.Verified, got.Unverified, got.Mismatched, test.verified)
			}
			if output.report.Work != input {
				t.Errorf("the report names the work %q, want %q", output.report.Work, input)
			}
		})
	}
}

// The sample input is for the sample work, which is the default of a service that has no
// other.
func TestSampleInputIsSentToItsWork(t *testing.T) {
	t.Parallel()

	t.Run("ByItsNameWhereAnotherIsTheDefault", func(t *testing.T) {
		t.Parallel()
		service := &service{works: `"deterministic":true},{"name":"fingerprint","deterministic":true`}
		output := runStorm(t, against(start(t, service))...)
		output.want(t, exitOK)
		if got := output.report.Async; got.Delivered == 0 || got.Mismatched > 0 {
			t.Errorf("got %d delivered and %d mismatched, want all as the sample work does it", got.Delivered, got.Mismatched)
		}
	})

	t.Run("AndIsRefusedWhereTheServiceHasItNot", func(t *testing.T) {
		t.Parallel()
		output := runStormPlainly(t, against(start(t, &service{works: `"deterministic":true`}))...)
		output.want(t, exitUsage)
		if want := "the service doesn't offer the work fingerprint, but one: give an -input for it"; !strings.Contains(output.stderr, want) {
			t.Errorf("got %q, want %q", output.stderr, want)
		}
	})
}

func TestReportToStdout(t *testing.T) {
	t.Parallel()
	output := runStormPlainly(t, against(start(t, &service{}), "-json", "-")...)
	output.want(t, exitOK)
	var report load.Report
	err := json.Unmarshal([]byte(output.stdout), &report)
	if err != nil || report.Async.Delivered != 20 {
		t.Errorf("got %v and %s, want nothing but the report", err, output.stdout)
	}
}
