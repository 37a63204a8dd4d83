package load

import (
	"testing"

	"github.com/go-json-experiment/json"
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
