package api_test

import (
	"net/http"
	"strings"
	"testing"

	"ringback/db"
)

func TestLoops(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a-key": "alice"}))
	earlier := s.store(t, db.Request{Client: "alice", Status: db.Succeeded})

	for name, loop := range map[string]string{
		"OurID": "ringback", "InAnotherCase": "RingBack", "WithParameters": `ringback; v="1"`, "AmongOthers": "cdn.example.com:8080; a=b ,\tringback,other",
	} {
		t.Run(name+"IsA508", func(t *testing.T) {
			t.Parallel()
			for path, body := range map[string]string{"/async": asyncBody, "/sync": `{"input":{"text":"a"}}`} {
				// Without a key too: our callbacks carry none.
				for _, header := range [][]string{{"CDN-Loop", loop}, {"CDN-Loop", loop, "Authorization", "Bearer a-key"}} {
					s.wantProblem(t, s.call(t, "POST", path, body, header...), http.StatusLoopDetected, "loop-detected")
				}
			}
		})
	}

	for name, loop := range map[string]string{
		"Absent": "", "OfOthers": "cdn.example.com, other", "WithOursAsAParameter": "other; by=ringback", "OfALongerName": "ringback.example.com, ringbacks",
	} {
		t.Run(name+"IsNoLoop", func(t *testing.T) {
			t.Parallel()
			got := s.call(t, "POST", "/async", asyncBody, "CDN-Loop", loop, "Authorization", "Bearer a-key")
			if got.status != http.StatusAccepted {
				t.Errorf("CDN-Loop %q: got %d, %s, want 202", loop, got.status, got.body)
			}
		})
	}

	t.Run("ReadingIsNoLoop", func(t *testing.T) {
		t.Parallel()
		got := s.call(t, "GET", "/requests/"+earlier.ID.String(), "", "CDN-Loop", "ringback", "Authorization", "Bearer a-key")
		if got.status != http.StatusOK || !strings.Contains(string(got.body), earlier.ID.String()) {
			t.Errorf("got %d, %s, want 200", got.status, got.body)
		}
	})
}
