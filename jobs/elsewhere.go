package jobs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/flow"
	"ringback/work"
)

// Work that goes on elsewhere holds no worker: its job is snoozed for as long as its
// lease, and the lease is a row. A report renews the lease or ends the request.
//
//	run ── 202 ──► lease ── report with or without progress ──► lease, from now
//	                 ├───── report of a result or an error ──► finish
//	                 └───── silence ──► the job wakes ──► lost: another run

// Why a report isn't taken.
var (
	ErrUnknownToken = errors.New("no attempt has this token")
	ErrGivenUp      = errors.New("the attempt has ended, or was given up")
	ErrNotYet       = errors.New("the request of the attempt is not stored yet")
)

const (
	// reportPause is the time after a stored report in which no other report is stored: at
	// most two reports a second are.
	reportPause = 500 * time.Millisecond
	// keyTimeout bounds a read of the key of the tokens. A caller may wait for it.
	keyTimeout = 1500 * time.Millisecond
	// notYet is how long a request may be missing from the database, besides the work's
	// timeout: an upstream may report before the record of its call is written.
	notYet = 30 * time.Second
)

// runID names a run of a request's work. Each run of a request has another number, also
// a run that was charged nothing. Only a run that a stopping process broke off is repeated
// under its number.
type runID struct {
	request uuid.UUID
	run     int
}

// runNumber is the number of a job's present run.
func runNumber(job *rivertype.JobRow) int {
	var metadata struct {
		Snoozes int `json:"snoozes"`
	}
	_ = json.Unmarshal(job.Metadata, &metadata) // River's own; empty for a job that was born running
	return job.Attempt + metadata.Snoozes
}

// tokens makes and reads the tokens of runs. A token names its run. Only the key makes
// tokens, so no token is stored. The owner of a token can report on its run, and can read
// nothing.
type tokens struct {
	find func(ctx context.Context) ([]byte, error)

	mu  sync.Mutex
	key []byte
}

func (t *tokens) load(ctx context.Context) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.key != nil {
		return t.key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	key, err := t.find(ctx)
	if err == nil {
		t.key = key
	}
	return key, err
}

// known is the key, nil where it isn't loaded yet.
func (t *tokens) known() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.key
}

const (
	runBytes = 16 + 4
	macBytes = 24 // of 32
)

var tokenEncoding = base64.RawURLEncoding.Strict()

func (t *tokens) of(ctx context.Context, id runID) (string, error) {
	key, err := t.load(ctx)
	if err != nil {
		return "", err
	}
	named := binary.BigEndian.AppendUint32(id.request[:], uint32(id.run))
	return tokenEncoding.EncodeToString(append(named, macOf(key, named)...)), nil
}

func (t *tokens) read(ctx context.Context, token string) (runID, error) {
	raw, err := tokenEncoding.DecodeString(token)
	if err != nil || len(raw) != runBytes+macBytes {
		return runID{}, ErrUnknownToken
	}
	key, err := t.load(ctx)
	if err != nil {
		return runID{}, err
	}
	named, mac := raw[:runBytes], raw[runBytes:]
	if !hmac.Equal(mac, macOf(key, named)) {
		return runID{}, ErrUnknownToken
	}
	return runID{uuid.UUID(named[:16]), int(binary.BigEndian.Uint32(named[16:]))}, nil
}

func macOf(key, named []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("finish\n"))
	mac.Write(named)
	return mac.Sum(nil)[:macBytes]
}

// SyncCall is the run that a sync caller waits for.
func (q *Queue) SyncCall(ctx context.Context, offer *work.Offer, request db.Request) (work.Call, error) {
	return q.call(ctx, offer, request, 1, 1)
}

func (q *Queue) call(ctx context.Context, offer *work.Offer, request db.Request, number, run int) (work.Call, error) {
	call := callOf(request, number)
	if offer.Lease == 0 {
		return call, nil
	}
	token, err := q.tokens.of(ctx, runID{request.ID, run})
	call.FinishURL = q.publicURL + "/work/" + token
	return call, err
}

// AcceptElsewhere stores a sync request whose work goes on elsewhere, with the job that
// wakes at the end of the lease.
func (q *Queue) AcceptElsewhere(ctx context.Context, offer *work.Offer, request db.Request, startedAt time.Time) error {
	request.Status = db.Accepted
	q.quotas.keep(request)
	return q.singles.do(ctx, request.Client, func(ctx context.Context) error {
		return db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
			if _, err := db.InsertRequests(ctx, tx, workJobs, []db.Request{request}); err != nil {
				return err
			}
			_, err := db.HoldLease(ctx, tx, db.Lease{RequestID: request.ID, Run: 1, StartedAt: q.clock.At(startedAt), Left: offer.Lease})
			return err
		})
	})
}

// hold takes a lease for work that goes on elsewhere, and snoozes its job.
func (w *runWorker) hold(ctx context.Context, job *rivertype.JobRow, offer *work.Offer, request db.Request, outcome work.Outcome) error {
	lease := db.Lease{RequestID: request.ID, Run: runNumber(job), StartedAt: w.queue.clock.At(outcome.StartedAt), Left: offer.Lease}
	var held bool
	err := w.queue.record.insist(func(ctx context.Context, _ bool) error {
		return w.queue.singles.do(ctx, request.Client, func(ctx context.Context) (err error) {
			held, err = db.HoldLease(ctx, w.queue.pool, lease)
			return err
		})
	})
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	if !held { // the run was finished before its lease, or another run goes on
		return w.leaveEnded(ctx, job, request.ID)
	}
	w.logger.InfoContext(ctx, "work_goes_on_elsewhere", tellTrace([]any{"request_id", request.ID.String(), "job_id", job.ID, "work", w.nameOf(request), "attempt", job.Attempt}, request)...)
	return w.sleep(request, lease)
}

// leaveEnded completes a job whose request has ended. A job of an unfinished request is left
// to the process that runs it by now.
func (w *runWorker) leaveEnded(ctx context.Context, job *rivertype.JobRow, id uuid.UUID) error {
	request, err := w.load(ctx, id)
	switch {
	case err != nil:
		return w.queue.postpone(ctx, w.logger, job, id, err)
	case request.ID == id:
		return nil
	}
	return w.queue.complete(ctx, job.ID)
}

// sleep snoozes a job until its lease or its request's time is over.
func (w *runWorker) sleep(request db.Request, lease db.Lease) error {
	left := lease.Left
	if !request.ExpiresAt.IsZero() {
		left = min(left, time.Until(w.here(request).ExpiresAt))
	}
	return river.JobSnooze(max(flow.Soonest, left))
}

// look decides on a request whose work goes on elsewhere, when its job wakes.
func (w *runWorker) look(ctx context.Context, job *rivertype.JobRow, offer *work.Offer, request db.Request) error {
	var lease db.Lease
	var found bool
	err := w.queue.singles.do(ctx, request.Client, func(ctx context.Context) (err error) {
		lease, found, err = db.FindLease(ctx, w.queue.pool, request.ID)
		return err
	})
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	here := w.here(request)
	ended, over := expire(here, time.Now())
	switch {
	case !found: // by now the run was given up, or a report has ended it, and with it the request
		return w.Work(ctx, &river.Job[workArgs]{JobRow: job, Args: workArgs{RequestID: request.ID}})
	case over:
		ended.Error.Message = "The work was not done when its time was over."
		return w.endElsewhere(ctx, job, request, ended)
	case lease.Left > 0:
		return w.sleep(request, lease)
	}
	err = w.queue.singles.do(ctx, request.Client, func(ctx context.Context) (err error) {
		over, err = db.GiveUpLease(ctx, w.queue.pool, lease)
		return err
	})
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	if !over {
		return river.JobSnooze(flow.Soonest) // the lease was renewed just now
	}
	final, next := w.again(ctx, job, offer, here, work.Lost(w.queue.Here(lease.StartedAt)))
	if next != nil {
		return next
	}
	return w.endElsewhere(ctx, job, request, final)
}

func (w *runWorker) endElsewhere(ctx context.Context, job *rivertype.JobRow, request db.Request, outcome work.Outcome) error {
	if err := w.finish(ctx, job, request, outcome); err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	w.queue.endLease(ctx, request)
	return nil
}

// endLease removes the lease of a request that has ended. Where it fails, DropLeases finds the
// lease.
func (q *Queue) endLease(ctx context.Context, request db.Request) {
	_ = q.singles.do(ctx, request.Client, func(ctx context.Context) error { return db.EndLease(ctx, q.pool, request.ID) })
}

// Report takes a report on a token's run. It fails with ErrUnknownToken, ErrGivenUp
// or ErrNotYet. A report that ends the work is committed when Report returns. The first
// progress in each half second is stored at once, and the last when the half second is over,
// unless this process dies before.
func (q *Queue) Report(ctx context.Context, id Run, report work.Report) error {
	taken := time.Now()
	if report.Ends() {
		q.heard.forget(id.runID)
	} else if q.heard.keepIfRecent(id.runID, report.Progress, taken) {
		return nil
	}
	request, lease, held, err := q.reported(ctx, id.runID)
	switch {
	case errors.Is(err, ErrGivenUp):
		q.heard.forget(id.runID)
		return err
	case err != nil:
		return err
	case report.Ends():
		return q.finishElsewhere(ctx, request, report.Outcome(q.Here(lease.StartedAt)))
	}
	if offer := q.runner.catalog.Find(request.Work); offer != nil && offer.Lease > 0 {
		lease.Left = offer.Lease
	}
	renewal := db.Renewal{RequestID: id.request, Run: id.run, Lease: lease.Left, Progress: report.Progress}
	return q.hear(ctx, request.Client, renewal, held, taken)
}

// hear takes a report that doesn't end the work. Where held is false, the lease of the run
// is not recorded yet.
func (q *Queue) hear(ctx context.Context, client string, renewal db.Renewal, held bool, taken time.Time) error {
	id, progress := runID{renewal.RequestID, renewal.Run}, renewal.Progress
	if held {
		var renewed []db.Renewed
		err := q.singles.do(ctx, client, func(ctx context.Context) (err error) {
			renewal.Age = time.Since(taken)
			renewed, err = q.renew(ctx, []db.Renewal{renewal}, reportPause)
			return err
		})
		if err != nil {
			return err
		}
		if len(renewed) > 0 {
			q.heard.stored(reportKind{id, progress != nil}, renewal.Lease, taken, time.Now())
			return nil
		}
	}
	if progress != nil {
		q.heard.keep(id, renewal.Lease, progress, taken)
	}
	return nil
}

// renew renews leases, and sends the progress to this process's callers who follow the
// requests.
func (q *Queue) renew(ctx context.Context, renewals []db.Renewal, pause time.Duration) ([]db.Renewed, error) {
	renewed, err := db.RenewLeases(ctx, q.pool, renewals, pause)
	if err != nil {
		return nil, err
	}
	told := make(map[runID]jsontext.Value, len(renewals))
	for _, s := range renewals {
		told[runID{s.RequestID, s.Run}] = s.Progress
	}
	var news []db.Progress
	for _, r := range renewed {
		if value := told[runID{r.RequestID, r.Run}]; value != nil {
			news = append(news, db.Progress{RequestID: r.RequestID, Number: r.Number, Value: value})
		}
	}
	q.follows.tell(news)
	return renewed, nil
}

// Run is a run whose token is valid.
type Run struct{ runID }

// RequestID is the request of the run.
func (r Run) RequestID() uuid.UUID { return r.request }

// RunByToken returns the run of a token, whether it goes on or has ended. It fails with
// ErrUnknownToken.
func (q *Queue) RunByToken(ctx context.Context, token string) (Run, error) {
	id, err := q.tokens.read(ctx, token)
	return Run{id}, err
}

// reported returns the request of a run that goes on, and its lease.
func (q *Queue) reported(ctx context.Context, id runID) (request db.Request, lease db.Lease, held bool, err error) {
	var found map[uuid.UUID]db.Request
	err = q.singles.do(ctx, "", func(ctx context.Context) error {
		found, err = db.LoadWork(ctx, q.pool, []uuid.UUID{id.request})
		return err
	})
	if err != nil {
		return db.Request{}, db.Lease{}, false, err
	}
	request, unfinished := found[id.request]
	if !unfinished {
		return db.Request{}, db.Lease{}, false, q.missing(ctx, id.request)
	}
	err = q.singles.do(ctx, request.Client, func(ctx context.Context) error {
		lease, held, err = db.FindRun(ctx, q.pool, request)
		return err
	})
	if err == nil && lease.Run != id.run {
		err = ErrGivenUp
	}
	return request, lease, held, err
}

// missing tells why there is no unfinished request.
func (q *Queue) missing(ctx context.Context, id uuid.UUID) error {
	var exists bool
	err := q.singles.do(ctx, "", func(ctx context.Context) (err error) {
		exists, err = db.Exists(ctx, q.pool, id)
		return err
	})
	age := q.Now().Sub(db.AcceptedAt(id))
	switch {
	case err != nil:
		return err // ErrGivenUp would make the service drop its result
	case !exists && age < q.runner.catalog.Longest()+notYet:
		return ErrNotYet
	}
	return ErrGivenUp
}

// finishElsewhere writes a reported outcome, unless another outcome was written first. The
// run is charged also where its job has only just been snoozed.
func (q *Queue) finishElsewhere(ctx context.Context, request db.Request, outcome work.Outcome) error {
	request.Elsewhere = true
	first, err := q.finishFirst(ctx, request, outcome)
	if isUnstorable(err) {
		outcome = unstorable(outcome, err)
		first, err = q.finishFirst(ctx, request, outcome)
	}
	switch {
	case err != nil:
		return fmt.Errorf("finishing work that went on elsewhere: %w", err)
	case !first:
		return ErrGivenUp
	}
	q.metrics.worked(q.runner.nameOf(request), request.Mode, outcome)
	q.runner.log(ctx, &rivertype.JobRow{ID: request.WorkJobID}, request, outcome)
	q.endLease(ctx, request)
	return nil
}
