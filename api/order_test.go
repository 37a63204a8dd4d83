package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestOrderingKey(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	body := func(value string) string {
		return `{"input":{"text":"a"},"callback_url":"` + hook + `","ordering_key":` + value + `}`
	}

	for name, key := range map[string]string{
		"Short": "7", "Spaced": "order 7", "Foreign": "Überweisung 7", "Longest": strings.Repeat("ü", 255),
	} {
		t.Run("IsShownWithTheSequence/"+name, func(t *testing.T) {
			t.Parallel()
			quoted, err := json.Marshal(key)
			if err != nil {
				t.Fatal(err)
			}
			row := s.located(t, s.call(t, "POST", "/async", body(string(quoted))))
			var got struct {
				OrderingKey string `json:"ordering_key"`
				Sequence    int64  `json:"sequence"`
			}
			answer := s.call(t, "GET", "/requests/"+row.ID.String(), "")
			if err := json.Unmarshal([]byte(answer.body), &got); err != nil || got.OrderingKey != key || got.Sequence == 0 {
				t.Errorf("got %s, %v, want the key %q and a sequence", answer.body, err, key)
			}
			if !s.holds(t, "SELECT seq = $2 FROM requests WHERE id = $1", row.ID, got.Sequence) {
				t.Errorf("got the sequence %d, want that of the row", got.Sequence)
			}
		})
	}

	for name, request := range map[string]string{"Absent": asyncBody, "Null": body("null")} {
		t.Run("IsNone/"+name, func(t *testing.T) {
			t.Parallel()
			row := s.located(t, s.call(t, "POST", "/async", request))
			got := s.call(t, "GET", "/requests/"+row.ID.String(), "")
			if text := string(got.body); strings.Contains(text, "ordering_key") || strings.Contains(text, "sequence") {
				t.Errorf("got %s, want neither key nor sequence", text)
			}
		})
	}

	for name, value := range map[string]string{
		"Empty": `""`, "TooLong": `"` + strings.Repeat("x", 256) + `"`, "Newline": `"a\nb"`, "Zero": `"a\u0000"`, "Override": `"a\u202eb"`,
		"Number": "7", "Object": "{}",
	} {
		t.Run("IsRefused/"+name, func(t *testing.T) {
			t.Parallel()
			s.wantProblem(t, s.call(t, "POST", "/async", body(value)), http.StatusUnprocessableEntity, "invalid-input", "#/ordering_key")
		})
	}
}
