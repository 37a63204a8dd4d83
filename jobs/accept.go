package jobs

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

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
// a request of a client for any destination: with ErrUnsignable, ErrAway,
// a *limit.Refusal, batch.ErrFull, batch.ErrLarge or batch.ErrLate. It is for callers that
// want to know before they read a body.
func (q *Queue) Admit(client string) error {
	if !q.signs(client) {
		return ErrUnsignable
	}
	return q.admit(anywhere(client))
}

// AdmitWithoutCallback is Admit for a request that has none.
func (q *Queue) AdmitWithoutCallback(client string) error {
	d := anywhere(client)
	d.noLetter = true
	return q.admit(d)
}

func (q *Queue) admit(d demand) error {
	if err := q.backlog.admit(q.quotas.held(d.Client)); err != nil {
		return err
	}
	if err := q.quotas.admit(d); err != nil {
		return err
	}
	return q.accepts.Admit(d.Client)
}

// ErrUnsignable says that the secret of a client can't be had, so that no callback could
// be signed.
var ErrUnsignable = errors.New("the client's callbacks can't be signed")

// signs tells whether the callbacks of a client can be signed.
func (q *Queue) signs(client string) bool {
	if q.callbackWorker.secrets == nil {
		return true
	}
	_, err := q.callbackWorker.secrets(client)
	return err == nil
}

// AdmitSync tells whether a client may have a sync request recorded: with a
// *limit.Refusal where it may not.
func (q *Queue) AdmitSync(client string) error { return q.quotas.admitStorage(client) }

// Ready returns ErrAway while the database is known to be away.
func (q *Queue) Ready() error {
	if q.backlog.away.Load() {
		return ErrAway
	}
	return nil
}

// Accept commits a request together with its work job, in a batch with the requests of
// concurrent calls. After it returns without an error, only the loss of the database
// loses the request. It fails at once as Admit does, and where the destination has no
// room; when ctx ends first, the request may still be accepted.
func (q *Queue) Accept(ctx context.Context, request db.Request) error {
	_, err := q.AcceptOnce(ctx, request, db.Key{})
	return err
}

// AcceptOnce is Accept for a call with an idempotency key, if it has one: where the key
// stands for a request already, AcceptOnce returns that request and accepts nothing.
func (q *Queue) AcceptOnce(ctx context.Context, request db.Request, key db.Key) (db.Holder, error) {
	if err := q.enter(request); err != nil {
		return db.Holder{}, err
	}
	request.RunAt = q.quotas.dueAt(request.Client, request.RunAt, q.Now())
	holder, err := q.accepts.Do(ctx, acceptance{request, key})
	written := err == nil && !holder.Held
	q.entered(request, written)
	if !written {
		q.quotas.undue(request.Client, request.RunAt)
	}
	return holder, err
}

// enter counts a request that is about to be written. entered follows, and tells whether it was.
func (q *Queue) enter(request db.Request) error {
	d := demandOf(request)
	held := q.quotas.held(d.Client)
	if err := q.quotas.enter(d); err != nil {
		return err
	}
	err := q.backlog.enter(held)
	if err != nil {
		q.quotas.entered(d, false)
	}
	return err
}

func (q *Queue) entered(request db.Request, written bool) {
	q.quotas.entered(demandOf(request), written)
	q.backlog.entered(written)
}

// Left is how many more requests a client may have unfinished. It is for queues
// with such a limit.
func (q *Queue) Left(client string) int64 { return q.quotas.left(client) }

// acceptAll commits requests with their work jobs, and with their idempotency keys. It
// starts the jobs that are born running.
func (q *Queue) acceptAll(ctx context.Context, calls []acceptance) (holders []db.Holder, err error) {
	reserved := q.work.reserve(len(calls), time.Now())
	holders, requests, err := q.insert(ctx, calls, reserved)
	if err != nil {
		requests = nil
	}
	for _, request := range requests {
		q.metrics.accepted.WithLabelValues(string(request.Mode)).Inc()
	}
	running := requests[:min(dueNow(requests), reserved)]
	q.work.inserted(reserved, len(running))
	for _, request := range running {
		q.handoff.start(task{q.work, q.runner, q.handoff.born(request.WorkJobID, workJobs), request})
	}
	return holders, err
}

// insert writes the requests of calls, whose first jobs are born running. It returns the
// answer to each call, and the written requests; a request whose key stands for another
// is not written.
func (q *Queue) insert(ctx context.Context, calls []acceptance, running int) (holders []db.Holder, requests []db.Request, err error) {
	if !slices.ContainsFunc(calls, hasKey) {
		requests = requestsOf(calls)
		return make([]db.Holder, len(calls)), requests, q.insertRequests(ctx, q.pool, requests, running)
	}
	err = db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		var fresh []acceptance
		if holders, fresh, err = claimKeys(ctx, tx, calls, q.Now()); err != nil {
			return err
		}
		requests = requestsOf(fresh)
		return q.insertRequests(ctx, tx, requests, running)
	})
	return holders, requests, err
}

// dueNow is how many requests are due at once. They stand before requests that are due
// later.
func dueNow(requests []db.Request) int {
	first := slices.IndexFunc(requests, isLater)
	if first < 0 {
		return len(requests)
	}
	return first
}

func isLater(request db.Request) bool { return !request.RunAt.IsZero() }

// insertRequests writes requests and notes the work job of each.
func (q *Queue) insertRequests(ctx context.Context, tx db.Querier, requests []db.Request, running int) error {
	if len(requests) == 0 {
		return nil
	}
	inserted, err := db.InsertRequests(ctx, tx, q.bornHere(workJobs, min(dueNow(requests), running)), requests)
	for i := range requests {
		got := inserted[requests[i].ID]
		requests[i].WorkJobID, requests[i].Sequence = got.WorkJobID, got.Sequence
	}
	return err
}

// bornHere is jobs of which the first are born running in this process.
func (q *Queue) bornHere(jobs db.Jobs, running int) db.Jobs {
	jobs.Process, jobs.Running = q.client.ID(), running
	return jobs
}

// Record commits a sync request that has ended, in a batch with others.
func (q *Queue) Record(ctx context.Context, request db.Request) error {
	q.quotas.keep(request)
	_, err := q.records.Do(ctx, request)
	return err
}

func (q *Queue) recordAll(ctx context.Context, requests []db.Request) ([]struct{}, error) {
	_, err := db.InsertRequests(ctx, q.pool, workJobs, requests)
	if err == nil {
		q.metrics.accepted.WithLabelValues(string(db.Sync)).Add(float64(len(requests)))
	}
	return make([]struct{}, len(requests)), err
}

// sizeOf is roughly the size of a request in memory and in a statement, in bytes.
func sizeOf(r db.Request) int {
	const fixed = 500 // the other columns, with the row's and the job's overhead
	return fixed + len(r.Input) + len(r.Result) + len(r.Error) + len(r.CallbackURL) + len(r.CallbackHeaders)
}
