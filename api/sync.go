package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/work"
)

// syncBody is the body of POST /sync.
type syncBody struct {
	Input jsontext.Value `json:"input"`
}

// respondAsync is the preference (RFC 7240, section 4.1) of a caller that wants a sync
// request stored before its work is done.
const respondAsync = "respond-async"

// isStored tells whether a caller prefers that a sync request that takes long isn't lost.
func isStored(header http.Header) bool {
	value, preferred := preference(header, respondAsync)
	return preferred && value == "" // it has none; false, say, would not mean it
}

// postSync does the work while the caller waits, and records the outcome.
func (a *API) postSync(c *call) (reply, error) {
	if isStored(c.Request.Header) {
		return a.postStored(c)
	}
	offer, err := a.offered(c)
	if err != nil {
		return reply{}, err
	}
	request, key, err := a.readSync(c, offer)
	if err != nil {
		return reply{}, err
	}
	if err := a.sync.enter(c.Request.Context(), request.Client); err != nil {
		return reply{}, err
	}
	defer a.sync.Leave(request.Client)
	leave, err := a.Queue.EnterWork(c.Request.Context(), offer.Name, request.Client)
	if err != nil {
		return reply{}, err
	}
	var outcome work.Outcome
	defer func() { leave(outcome) }()
	if key.Key != "" {
		if recorded, found, err := a.claim(c, key, offer); err != nil {
			return reply{}, err
		} else if found {
			return answerRecorded(recorded)
		}
	}
	outcome, err = a.runWork(c.Request.Context(), offer, &request)
	if err != nil {
		return reply{}, err
	}
	if outcome.Elsewhere {
		return answerRecorded(request)
	}
	return answerSync(request, outcome)
}

// postStored stores a sync request before its work is done, and answers with the outcome,
// or with the request's address after the wait that the caller prefers.
func (a *API) postStored(c *call) (reply, error) {
	offer, err := a.offered(c)
	if err != nil {
		return reply{}, err
	}
	request, key, err := a.readSync(c, offer)
	if err != nil {
		return reply{}, err
	}
	request.Status = db.Accepted
	made := request.ID
	if request, err = a.accept(c, request, key); err != nil {
		return reply{}, err
	}
	if request.ID != made {
		noteReplay(c)
	}
	if request.Status == db.Accepted {
		request = a.awaitStored(c, request)
	}
	answer, err := answerRecorded(request)
	if err != nil {
		c.Writer.Header().Del("Preference-Applied")
	}
	return answer, err
}

// awaitStored waits for a stored request as long as the caller prefers, and returns it as
// it is then, or as it was where the database doesn't answer.
func (a *API) awaitStored(c *call, request db.Request) db.Request {
	request.Input = nil // a call that waits holds no memory
	applied := []string{respondAsync}
	defer func() { c.Header("Preference-Applied", strings.Join(applied, ", ")) }()
	wait := preferredWait(c.Request.Header)
	if wait == 0 || !a.await(c, request.ID, wait) {
		return request
	}
	applied = append(applied, c.Writer.Header().Get("Preference-Applied"))
	_ = a.read(c, func(ctx context.Context) error {
		now, err := db.GetRequest(ctx, a.Reads, request.Client, request.ID)
		if err == nil {
			request = now
		}
		return err
	})
	return request
}

// readSync decodes and checks as far as it goes without the database.
func (a *API) readSync(c *call, offer *work.Offer) (request db.Request, key db.Key, err error) {
	defer c.decoded()
	var body syncBody
	raw, err := a.decode(c, &body)
	if err != nil {
		return db.Request{}, db.Key{}, err
	}
	input, err := checkInput(offer, body.Input)
	if err != nil {
		return db.Request{}, db.Key{}, err
	}
	request = a.newRequest(c, db.Sync, offer.Name, input)
	key, err = a.keyOf(c, raw, request, offer.Timeout)
	return request, key, err
}

// claim takes the key of a call, or returns the earlier request of the key.
func (a *API) claim(c *call, key db.Key, offer *work.Offer) (recorded db.Request, found bool, err error) {
	if err := a.Queue.Ready(); err != nil {
		return db.Request{}, false, err
	}
	ctx, cancel := a.databaseContext(c.Request.Context())
	defer cancel()
	holder, err := a.Queue.Claim(ctx, key)
	if err != nil || !holder.Held {
		return db.Request{}, false, err
	}
	if recorded, err = a.replay(c, ctx, key, holder, offer.Name); err == nil {
		noteReplay(c)
	}
	return recorded, true, err
}

// runWork runs the work and records its outcome in request and in the database. Work isn't begun
// while the database is known to be away. An outcome that can't be recorded isn't answered: an
// answer that no audit finds is worse than an error.
func (a *API) runWork(ctx context.Context, offer *work.Offer, request *db.Request) (work.Outcome, error) {
	if err := a.Queue.Ready(); err != nil {
		return work.Outcome{}, err
	}
	call, err := a.Queue.SyncCall(ctx, offer, *request)
	if err != nil {
		return work.Outcome{}, err
	}
	outcome, err := a.Queue.Work(ctx, offer, call)
	if err != nil { // the caller went away, or we are stopping
		outcome = work.Abandoned(a.Queue.Here(request.AcceptedAt))
	}
	if outcome.Elsewhere {
		request.Status = db.Accepted
		return outcome, a.acceptElsewhere(ctx, offer, *request, outcome)
	}
	outcome = finalOf(outcome)
	if err := a.Queue.WriteOutcome(request, outcome); err != nil {
		return outcome, err
	}
	return outcome, a.record(ctx, *request)
}

// acceptElsewhere stores a request whose work goes on elsewhere.
func (a *API) acceptElsewhere(ctx context.Context, offer *work.Offer, request db.Request, outcome work.Outcome) error {
	ctx, cancel := a.databaseContext(ctx)
	defer cancel()
	return a.Queue.AcceptElsewhere(ctx, offer, request, outcome.StartedAt)
}

// finalOf makes an outcome that another attempt might change final: the caller decides
// whether to call again, and its idempotency key is free for that.
func finalOf(outcome work.Outcome) work.Outcome {
	if outcome.Again != nil && outcome.Error.Code != work.CodeDeadline {
		outcome.Error = &work.Error{Code: work.CodeNotDone, Message: outcome.Error.Message}
	}
	return outcome
}

// record commits a sync request that has ended.
func (a *API) record(ctx context.Context, request db.Request) error {
	ctx, cancel := a.databaseContext(ctx)
	defer cancel()
	return a.Queue.Record(ctx, request)
}

// answerSync is the request when its work succeeded, and otherwise a problem that points to
// the request.
func answerSync(request db.Request, outcome work.Outcome) (reply, error) {
	if outcome.Error == nil {
		request.Input = nil // the caller has it
		return reply{status: http.StatusOK, location: locationOf(request.ID), body: shown(request)}, nil
	}
	name := "work-failed"
	switch outcome.Error.Code {
	case work.CodeDeadline:
		name = "work-deadline-exceeded"
	case work.CodeAbandoned, work.CodeNotDone:
		name = "unavailable"
	case work.CodeRefused:
		name = "work-refused"
	}
	problem := newProblem(name, outcome.Error.Message)
	if outcome.Again != nil {
		problem.retryAfter = int(math.Ceil(outcome.Again.After.Seconds()))
	}
	problem.location = locationOf(request.ID)
	if outcome.Cause != nil {
		return reply{}, fmt.Errorf("%w: %w", problem, outcome.Cause)
	}
	return reply{}, problem
}
