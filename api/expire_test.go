package api_test

import (
	"net/http"
	"testing"
	"time"
)

func TestExpiresIn(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	body := func(value string) string {
		return `{"input":{"text":"a"},"callback_url":"` + hook + `","expires_in":` + value + `}`
	}

	for value, seconds := range map[string]time.Duration{"1": 1, "172800": 172800} {
		t.Run("IsCountedFromTheAcceptance/"+value, func(t *testing.T) {
			t.Parallel()
			row := s.located(t, s.call(t, "POST", "/async", body(value)))
			if got := row.ExpiresAt.Sub(row.AcceptedAt); got != seconds*time.Second {
				t.Errorf("got %v after it, want %d s", got, seconds)
			}
		})
	}

	t.Run("IsNoneWhereItIsAbsent", func(t *testing.T) {
		t.Parallel()
		if row := s.located(t, s.call(t, "POST", "/async", asyncBody)); !row.ExpiresAt.IsZero() {
			t.Errorf("got %v, want none", row.ExpiresAt)
		}
	})

	for _, value := range []string{"0", "-1", "172801", "1.5", `"1"`, "true"} {
		t.Run("IsRefused/"+value, func(t *testing.T) {
			t.Parallel()
			s.wantProblem(t, s.call(t, "POST", "/async", body(value)), http.StatusUnprocessableEntity, "invalid-input", "#/expires_in")
		})
	}
}
