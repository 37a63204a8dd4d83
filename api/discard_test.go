package api_test

import (
	"net/http"
	"testing"

	"ringback/db"
)

type discards struct {
	Matched, Discarded int
	More               bool
	NextCursor         string `json:"next_cursor"`
}

func TestDiscardRequest(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a": "local", "b": "bob"}))

	t.Run("GivesADeadLetterUp", func(t *testing.T) {
		t.Parallel()
		letter := s.ended(t, db.CallbackDead)
		path := "/requests/" + letter.ID.String() + "/discard"
		s.wantProblem(t, s.call(t, "POST", path, "", "Authorization", "Bearer b"), http.StatusNotFound, "not-found")
		for range 2 { // the second finds it cancelled
			if got := decode[map[string]any](t, s.call(t, "POST", path, "", "Authorization", "Bearer a"), http.StatusOK); got["callback_state"] != "cancelled" {
				t.Errorf("got %v, want its callback cancelled", got)
			}
		}
		if !s.holds(t, "SELECT NOT EXISTS (SELECT FROM dead_letters WHERE request_id = $1)", letter.ID) {
			t.Error("it is still a dead letter")
		}
		s.wantProblem(t, s.call(t, "POST", "/requests/"+letter.ID.String()+"/redeliver", "", "Authorization", "Bearer a"), http.StatusConflict, "not-redeliverable")
	})

	for _, state := range []db.CallbackState{db.CallbackDelivered, db.CallbackPending} {
		t.Run("RefusesWhatIs/"+string(state), func(t *testing.T) {
			t.Parallel()
			shape := db.Request{Status: db.Succeeded, CallbackState: state}
			if state == db.CallbackDelivered {
				shape.SettledAt = morning
			}
			s.wantProblem(t, s.call(t, "POST", "/requests/"+s.store(t, shape).ID.String()+"/discard", "", "Authorization", "Bearer a"), http.StatusConflict, "not-discardable")
		})
	}
}

func TestDiscards(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	s.storeDead(t, 1001) // for h.example.com
	other := s.ended(t, db.CallbackDead)
	const filter = `{"filter":{"callback_host":"h.example.com"}`
	dry := decode[discards](t, s.call(t, "POST", "/discards", filter+`,"dry_run":true}`), http.StatusOK)
	if dry.Matched != 1000 || dry.Discarded != 0 || !dry.More || !s.holds(t, "SELECT count(*) = 1002 FROM dead_letters") {
		t.Errorf("dry run: got %+v, want a thousand that match, and nothing done", dry)
	}
	first := decode[discards](t, s.call(t, "POST", "/discards", filter+`}`), http.StatusOK)
	if first.Matched != 1000 || first.Discarded != 1000 || !first.More || first.NextCursor == "" {
		t.Errorf("first: got %+v, want a thousand, and more", first)
	}
	next := decode[discards](t, s.call(t, "POST", "/discards", filter+`,"cursor":"`+first.NextCursor+`"}`), http.StatusOK)
	if next.Matched != 1 || next.Discarded != 1 || next.More {
		t.Errorf("next: got %+v, want the last dead letter", next)
	}
	if !s.holds(t, "SELECT (SELECT array_agg(request_id) FROM dead_letters) = ARRAY[$1::uuid] AND (SELECT count(*) = 1001 FROM requests WHERE callback_state = 'cancelled')", other.ID) {
		t.Error("want the dead letter of another host left, and no other")
	}
}
