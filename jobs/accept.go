package jobs

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"ringback/db"
)

// requestArgs are the arguments of every job. The request's id is all: River
// rewrites and returns whole rows when it completes jobs.
type requestArgs struct {
	RequestID uuid.UUID `json:"request_id"`
}

type workArgs requestArgs

func (workArgs) Kind() string { return "work" }

// Admit tells at once, without asking the database, whether Accept would refuse
// a request: with ErrBacklog, db.ErrFull or ErrAway. It is for callers that want
// to know before they read a body.
func (q *Queue) Admit() error {
	if err := q.backlog.admit(); err != nil {
		return err
	}
	if q.accepts.Full() {
		return db.ErrFull
	}
	return nil
}

// Ready returns ErrAway while the database is known to be away.
func (q *Queue) Ready() error {
	if q.backlog.away.Load() {
		return ErrAway
	}
	return nil
}

// Accept commits an async request together with its work job, in a batch with
// those that others accept meanwhile. When it returns without an error, nothing
// but the loss of the database loses the request. It fails at once as Admit
// does; when ctx ends first, the request may still be accepted.
func (q *Queue) Accept(ctx context.Context, request db.Request) error {
	if err := q.backlog.enter(); err != nil {
		return err
	}
	_, err := q.accepts.Do(ctx, request)
	if err != nil {
		q.backlog.leave()
	}
	return err
}

// acceptAll commits requests with their work jobs.
func (q *Queue) acceptAll(ctx context.Context, requests []db.Request) ([]struct{}, error) {
	jobs := make([]river.InsertManyParams, len(requests))
	for i, request := range requests {
		jobs[i] = river.InsertManyParams{Args: workArgs{request.ID}, InsertOpts: insertInto(workQueue)}
	}
	err := db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		ids, err := q.insertJobs(ctx, tx, jobs)
		if err != nil {
			return err
		}
		for i := range requests {
			requests[i].WorkJobID = ids[requests[i].ID]
		}
		return db.InsertRequests(ctx, tx, requests)
	})
	if err == nil && q.works {
		for _, request := range requests {
			q.recent.put(request.WorkJobID, request)
		}
	}
	return make([]struct{}, len(requests)), err
}

// insertJobs inserts jobs and returns their ids by request.
func (q *Queue) insertJobs(ctx context.Context, tx pgx.Tx, jobs []river.InsertManyParams) (map[uuid.UUID]int64, error) {
	inserted, err := q.client.InsertManyTx(ctx, tx, jobs)
	if err != nil {
		return nil, fmt.Errorf("inserting jobs: %w", err)
	}
	ids := make(map[uuid.UUID]int64, len(inserted))
	for _, job := range inserted {
		// Paired by their arguments: Postgres promises no order of what it returns.
		var args requestArgs
		if err := json.Unmarshal(job.Job.EncodedArgs, &args); err != nil {
			return nil, fmt.Errorf("reading a job's arguments: %w", err)
		}
		ids[args.RequestID] = job.Job.ID
	}
	return ids, nil
}

// Record commits a sync request that has ended, in a batch with others.
func (q *Queue) Record(ctx context.Context, request db.Request) error {
	_, err := q.records.Do(ctx, request)
	return err
}

func (q *Queue) recordAll(ctx context.Context, requests []db.Request) ([]struct{}, error) {
	return make([]struct{}, len(requests)), db.InsertRequests(ctx, q.pool, requests)
}

// sizeOf is about what a request takes in memory and in a statement, in bytes.
func sizeOf(r db.Request) int {
	const fixed = 500 // the other columns, with the row's and the job's overhead
	return fixed + len(r.Input) + len(r.Result) + len(r.Error) + len(r.CallbackURL)
}
