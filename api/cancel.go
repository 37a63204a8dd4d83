package api

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"ringback/db"
)

// cancelled is the answer to POST /requests/{id}/cancel.
type cancelled struct {
	Request wholeRequest `json:"request"`
	Stopped []string     `json:"stopped"` // "work", "callback" or both: the steps that had not ended
}

// cancelRequest stops the steps of a request that have not ended. A second call finds
// nothing to stop.
func (a *API) cancelRequest(c *call) (reply, error) {
	id, err := requestID(c)
	if err != nil {
		return reply{}, err
	}
	var stopped db.Stopped
	var whole wholeRequest
	err = a.change(c, func(ctx context.Context) error {
		if stopped, err = a.Queue.Cancel(ctx, c.client, id); err == nil {
			whole, err = loadWhole(ctx, a.Pool, c.client, id)
		}
		return err
	})
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: cancelled{whole, namesOf(stopped)}}, nil
}

func namesOf(stopped db.Stopped) []string {
	switch {
	case stopped.JobID == 0:
		return []string{}
	case stopped.Work && stopped.Callback:
		return []string{"work", "callback"}
	case stopped.Work:
		return []string{"work"}
	default:
		return []string{"callback"}
	}
}

// requestID is the id in the URL, which it notes for the log line.
func requestID(c *call) (uuid.UUID, error) {
	id, err := parseID(c.Param("id"))
	if err != nil {
		return uuid.UUID{}, newProblem("invalid-parameter", "id must be the UUID of a request, which is a webhook-id without its req_.",
			fieldProblem{Parameter: "id", Detail: "must be the UUID of a request"})
	}
	c.requestID = id.String()
	return id, nil
}
