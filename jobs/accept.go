package jobs

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
)

// workArgs are the arguments of a work job. The request's id is all: River
// rewrites and returns whole rows when it completes jobs.
type workArgs struct {
	RequestID uuid.UUID `json:"request_id"`
}

func (workArgs) Kind() string { return "work" }

// Accept commits an async request together with its work job. When it returns
// without an error, nothing but the loss of the database loses the request.
func (q *Queue) Accept(ctx context.Context, request db.Request) error {
	return db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		job, err := q.client.InsertTx(ctx, tx, workArgs{request.ID}, insertInto(workQueue))
		if err != nil {
			return fmt.Errorf("inserting work job: %w", err)
		}
		request.WorkJobID = job.Job.ID
		return db.InsertRequest(ctx, tx, request)
	})
}
