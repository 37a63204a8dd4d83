package api_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
)

func TestCancelRequest(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a": "local", "b": "bob"}))
	cancel := func(t *testing.T, key string, id uuid.UUID) answer {
		return s.call(t, "POST", "/requests/"+id.String()+"/cancel", "", "Authorization", "Bearer "+key)
	}

	for name, test := range map[string]struct {
		shape  db.Request
		want   []string
		status string
		events []string
	}{
		"Work": {
			db.Request{Status: db.Accepted, CallbackState: db.CallbackWaiting},
			[]string{"work", "callback"},
			"cancelled",
			[]string{"accepted", "work_cancelled", "callback_cancelled"},
		},
		"Callback": {
			db.Request{Status: db.Succeeded, CallbackState: db.CallbackPending},
			[]string{"callback"},
			"succeeded",
			[]string{"accepted", "work_started", "work_succeeded", "callback_cancelled"},
		},
		"Delivered": {
			db.Request{Status: db.Succeeded, CallbackState: db.CallbackDelivered, SettledAt: morning.Add(time.Hour)},
			[]string{},
			"succeeded",
			[]string{"accepted", "work_started", "work_succeeded", "callback_delivered"},
		},
		"Dead": {
			db.Request{Status: db.Succeeded, CallbackState: db.CallbackDead, SettledAt: morning.Add(time.Hour)},
			[]string{},
			"succeeded",
			[]string{"accepted", "work_started", "work_succeeded", "callback_dead"},
		},
		"Sync": {db.Request{Status: db.Succeeded}, []string{}, "succeeded", []string{"accepted", "work_started", "work_succeeded"}},
	} {
		t.Run("SaysWhatItStopped/"+name, func(t *testing.T) {
			t.Parallel()
			request := s.store(t, test.shape)
			type body struct {
				Request map[string]any
				Stopped []string
			}
			for _, want := range [][]string{test.want, {}} { // a second time nothing
				got := decode[body](t, cancel(t, "a", request.ID), http.StatusOK)
				var events []string
				for _, event := range got.Request["timeline"].([]any) {
					events = append(events, event.(map[string]any)["event"].(string))
				}
				if !slices.Equal(got.Stopped, want) || got.Request["status"] != test.status || !slices.Equal(events, test.events) {
					t.Errorf("got %+v, want it %s, %v stopped, and %v", got, test.status, want, test.events)
				}
			}
		})
	}

	t.Run("KnowsNothingOfAnotherClients", func(t *testing.T) {
		t.Parallel()
		request := s.store(t, db.Request{Status: db.Accepted, CallbackState: db.CallbackWaiting})
		s.wantProblem(t, cancel(t, "b", request.ID), http.StatusNotFound, "not-found")
		if !s.holds(t, "SELECT status = 'accepted' FROM requests WHERE id = $1", request.ID) {
			t.Error("it was cancelled")
		}
	})
}
