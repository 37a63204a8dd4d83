package console

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs"
)

// maxAttempts bounds the attempts that a page shows, the latest.
const maxAttempts = 100

// inspected is a request with all its records.
type inspected struct {
	db.Request
	Wait     jobs.Wait
	Lease    db.Lease  // of work that goes on elsewhere; the zero Lease otherwise
	LostAt   time.Time // of that work, unless something is heard of it
	Attempts []db.Attempt
	Jobs     []db.JobState
}

func (c *Console) inspect(r *http.Request) (inspected, error) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return inspected{}, errNoRequest
	}
	ctx := r.Context()
	i := inspected{}
	if i.Request, err = db.FindRequest(ctx, c.Reads, id); err != nil {
		return inspected{}, err
	}
	if i.Attempts, err = db.InspectAttempts(ctx, c.Reads, id, maxAttempts); err != nil {
		return inspected{}, err
	}
	if i.Jobs, err = db.InspectJobs(ctx, c.Reads, []int64{i.WorkJobID, i.CallbackJobID}); err != nil {
		return inspected{}, err
	}
	if i.Status == db.Accepted {
		if err = c.inspectLease(ctx, &i); err != nil {
			return inspected{}, err
		}
	}
	if i.CallbackState == db.CallbackPending {
		i.Wait, err = c.Queue.WaitOf(ctx, c.Reads, i.Request, i.last())
	}
	return i, err
}

// inspectLease finds the lease of work that goes on elsewhere.
func (c *Console) inspectLease(ctx context.Context, i *inspected) error {
	lease, found, err := db.FindLease(ctx, c.Reads, i.ID)
	if err != nil || !found {
		return err
	}
	i.Lease, i.LostAt = lease, c.Queue.Now().Add(lease.Left)
	progress, err := db.FindProgress(ctx, c.Reads, []uuid.UUID{i.ID}, []int{0})
	for _, p := range progress {
		i.Progress = p.Value
	}
	return err
}

// GoesOn tells whether the work goes on elsewhere.
func (i inspected) GoesOn() bool { return i.Lease.Run > 0 }

// last is the latest attempt, the zero one for none.
func (i inspected) last() db.Attempt {
	if len(i.Attempts) == 0 {
		return db.Attempt{}
	}
	return i.Attempts[len(i.Attempts)-1]
}

// CanCancel tells whether a step can be stopped.
func (i inspected) CanCancel() bool {
	return i.Status == db.Accepted || i.CallbackState == db.CallbackPending
}

// CanRedeliver tells whether the callback may go again.
func (i inspected) CanRedeliver() bool {
	return i.CallbackState == db.CallbackDead || i.CallbackState == db.CallbackDelivered
}

// InputText and the methods below are texts as the page shows them.
func (i inspected) InputText() string    { return indented(i.Input) }
func (i inspected) ProgressText() string { return indented(i.Progress) }
func (i inspected) ResultText() string   { return indented(i.Result) }
func (i inspected) ErrorText() string    { return indented(i.Error) }

func indented(value []byte) string {
	if len(value) == 0 {
		return ""
	}
	text := jsontext.Value(bytes.Clone(value))
	if err := text.Indent(jsontext.WithIndent("  ")); err != nil {
		return string(value)
	}
	return string(text)
}

// attemptRow is an attempt as the page shows it.
type attemptRow struct{ db.Attempt }

func (a attemptRow) Said() string   { return said(a.Attempt) }
func (a attemptRow) Kind() string   { return kindOf(a.Attempt) }
func (a attemptRow) Phases() string { return phases(a.Attempt) }

// AttemptRows are the attempts, oldest first.
func (i inspected) AttemptRows() []attemptRow {
	rows := make([]attemptRow, len(i.Attempts))
	for n, a := range i.Attempts {
		rows[n] = attemptRow{a}
	}
	return rows
}

// requestPage shows one request.
type requestPage struct {
	inspected
	Picture picture
}

func (c *Console) request(r *http.Request) (view, error) {
	whole, err := c.inspect(r)
	if err != nil {
		return view{}, err
	}
	return view{page: "request", title: "Request " + whole.ID.String(), data: requestPage{whole, draw(whole, c.Queue.Now())}}, nil
}

// requestJSON is requestPage for programs.
func (c *Console) requestJSON(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	whole, err := c.inspect(r.WithContext(ctx))
	if err != nil {
		c.write(w, r, c.failed(r, err))
		return
	}
	encoded, err := json.Marshal(toldOf(whole), jsontext.WithIndent("  "), db.AsStored())
	if err != nil {
		c.write(w, r, c.failed(r, fmt.Errorf("encoding request: %w", err)))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(encoded, '\n'))
}

// question asks before a change.
type question struct {
	Asks   string // the whole question
	Does   string // the text of the button
	Back   string // the URL of the page before
	Fields map[string]string
	Danger bool
}

func (c *Console) askRequest(r *http.Request) (view, error) {
	whole, err := c.inspect(r)
	if err != nil {
		return view{}, err
	}
	q := question{Back: "/requests/" + whole.ID.String()}
	switch r.PathValue("action") {
	case "cancel":
		if !whole.CanCancel() {
			return view{}, mistake("there is nothing to stop: the request has ended")
		}
		q.Asks, q.Does, q.Danger = "Stop the steps of this request that have not ended? No callback is sent for it.", "Cancel the request", true
	case "redeliver":
		if !whole.CanRedeliver() {
			return view{}, mistake("there is no callback that has ended")
		}
		q.Asks, q.Does = fmt.Sprintf("Send the callback to %s again?", whole.CallbackURL), "Deliver again"
	default:
		return view{}, errNoPage
	}
	return view{page: "question", title: q.Does, data: q}, nil
}

func (c *Console) changeRequest(r *http.Request) (view, error) {
	whole, err := c.inspect(r)
	if err != nil {
		return view{}, err
	}
	switch r.PathValue("action") {
	case "cancel":
		_, err = c.Queue.Cancel(r.Context(), whole.Client, whole.ID)
	case "redeliver":
		err = c.redeliverOne(r.Context(), whole.Request)
	default:
		err = errNoPage
	}
	if err != nil {
		return view{}, err
	}
	return view{redirect: "/requests/" + whole.ID.String()}, nil
}

func (c *Console) redeliverOne(ctx context.Context, request db.Request) error {
	if err := c.CheckCallback(request.Client, request.CallbackURL); err != nil {
		return mistake("the callback URL is refused by now: " + err.Error())
	}
	done, err := c.Queue.Redeliver(ctx, []jobs.Redelivery{{
		Redelivery: db.Redelivery{RequestID: request.ID, Client: request.Client, At: time.Now()}, CallbackURL: request.CallbackURL,
	}})
	if err != nil {
		return err
	}
	if len(done.Refused) > 0 {
		return mistake(done.Refused[0].Reason.Error())
	}
	return nil
}
