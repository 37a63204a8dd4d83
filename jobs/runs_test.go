package jobs

import (
	"context"
	"net/http"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/flow"
)

func TestLongRunsOfAClientLeaveASlotToOthers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	url := newServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	do := func(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
		if string(input) == `"long"` {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return input, ctx.Err()
	}
	database := dbtest.New(t)
	q := newQueueOf(t, database, database, do, 12)
	*q.runSlots = *flow.NewSlots(5, flow.NewRoom(12, 5, true), true)
	request := func(client, input string) db.Request {
		request := newRequest(url)
		request.Client, request.Input = client, jsontext.Value(input)
		q.accept(t, request)
		return request
	}
	var long []uuid.UUID
	for range 20 {
		long = append(long, request("alice", `"long"`).ID)
	}
	q.start(t)
	short := request("bob", `"short"`).ID
	q.waitFor(t, short, "callback_state = 'delivered'")
	close(release)
	for _, id := range long {
		q.waitFor(t, id, "callback_state = 'delivered'")
	}
}
