package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/limit"
)

// newRequest begins a request of the caller and notes its id for the log line.
func (a *API) newRequest(c *call, mode db.Mode, work string, input jsontext.Value) db.Request {
	id := a.Queue.NewID()
	c.requestID = id.String()
	return db.Request{
		ID: id, Mode: mode, Work: work, Client: c.client, Input: input,
		Traceparent: c.traceparent,
		AcceptedAt:  a.Queue.Now(),
	}
}

func locationOf(id uuid.UUID) string { return "/requests/" + id.String() }

// Version 00 of W3C Trace Context, sections 3.2.2.3 and 3.2.2.4: an id of zeros is no id.
var (
	traceparentForm = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
	traceparentZero = regexp.MustCompile(`-0+-`)
)

// traceparent returns the header, or "" when it isn't valid, as the standard asks.
func traceparent(header http.Header) string {
	values := header.Values("Traceparent")
	if len(values) != 1 || !traceparentForm.MatchString(values[0]) || traceparentZero.MatchString(values[0]) {
		return ""
	}
	return values[0]
}

// requestPage is the answer to GET /requests.
type requestPage struct {
	Requests   []shownRequest `json:"requests"`              // newest first, without inputs and results
	NextCursor string         `json:"next_cursor,omitempty"` // absent on the last page
	// SearchedTo stands where a page ends before it is full, since it has looked at as many
	// requests as it may. All matches that were accepted later were shown.
	SearchedTo time.Time `json:"searched_to,omitzero"`
}

const listPath = "/requests"

// Limits of a page.
const (
	defaultPage = 20
	maxPage     = 100
	// listWindow is how many requests a page looks at: about as many as two pages of the
	// index hold. The database may have to read each of them from its disk.
	listWindow = 200
)

func (a *API) listRequests(c *call) (reply, error) {
	query, err := readQuery(c)
	if err != nil {
		return reply{}, err
	}
	filter, err := readFilter(query)
	if err != nil {
		return reply{}, err
	}
	filter.Client, filter.Window = c.client, listWindow
	listed, err := a.list(c, filter)
	if err != nil {
		return reply{}, err
	}
	page := requestPage{Requests: []shownRequest{}, NextCursor: cursorOf(listed)}
	if len(listed.Requests) < filter.Limit && listed.Next != uuid.Nil {
		page.SearchedTo = time.Unix(listed.Next.Time().UnixTime()).UTC()
	}
	for _, row := range listed.Requests {
		page.Requests = append(page.Requests, shown(row))
	}
	return reply{status: http.StatusOK, body: page}, nil
}

func cursorOf(page db.Page) string {
	if page.Next == uuid.Nil {
		return ""
	}
	return page.Next.String()
}

// readFilter reads all parameters and reports every mistake.
func readFilter(query url.Values) (db.Filter, error) {
	p := parameters{query: query}
	p.refuseUnknown("mode", "status", "work", "callback", "callback_host", "from", "to", "limit", "cursor")
	filter := db.Filter{
		Mode:   oneOf(&p, "mode", db.Sync, db.Async),
		Status: oneOf(&p, "status", db.Accepted, db.Succeeded, db.Failed, db.Expired, db.Cancelled),
		CallbackState: oneOf(&p, "callback",
			db.CallbackWaiting, db.CallbackPending, db.CallbackDelivered, db.CallbackDead, db.CallbackCancelled),
		Work:         p.work("work"),
		CallbackHost: p.host("callback_host"),
		From:         p.time("from"),
		To:           p.time("to"),
		Limit:        p.number("limit", defaultPage, maxPage),
		Cursor:       p.cursor("cursor"),
	}
	p.refuseContradictions(filter)
	return filter, p.problem()
}

// parseID takes the canonical form of a UUID only, in either letter case (RFC 9562,
// section 4).
func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err == nil && !strings.EqualFold(id.String(), text) {
		err = fmt.Errorf("not the canonical form")
	}
	return id, err
}

// parseCursor is parseID for a page's next_cursor, which is never the id of zeros: that would
// be taken for no cursor.
func parseCursor(text string) (uuid.UUID, error) {
	id, err := parseID(text)
	if err == nil && id == uuid.Nil {
		err = errors.New("no page ends there")
	}
	return id, err
}

// wholeRequest is the answer to GET /requests/{id}.
type wholeRequest struct {
	shownRequest
	row              db.Request
	last             db.Attempt
	CallbackWaitsFor limit.Reason `json:"callback_waits_for,omitzero"` // while it is pending
	CallbackDueAt    time.Time    `json:"callback_due_at,omitzero"`    // likewise, where that is known
	Attempts         []attempt    `json:"attempts"`                    // the latest hundred, oldest first
	Timeline         []event      `json:"timeline"`
}

// attempt is a callback attempt as its caller sees it: no address, no cause, and times to
// the second. More would make a port scanner of it.
type attempt struct {
	Attempt       int       `json:"attempt"`
	At            time.Time `json:"at"`
	Outcome       string    `json:"outcome"`
	HTTPStatus    int       `json:"http_status,omitzero"`
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
}

// event is a step in a request's life.
type event struct {
	At    time.Time `json:"at"`
	Event string    `json:"event"`
}

const maxAttempts = 100

// getOrFollow answers with a request, or with its events where the caller prefers them.
func (a *API) getOrFollow(c *call) {
	if c.Request.Method == http.MethodGet && wantsStream(c.Request.Header) {
		a.followRequest(c)
		return
	}
	a.handle(a.getRequest)(c.Context)
}

func (a *API) getRequest(c *call) (reply, error) {
	id, err := requestID(c)
	if err != nil {
		return reply{}, err
	}
	whole, err := a.loadAwaited(c, id)
	if err == nil && whole.CallbackState == db.CallbackPending {
		err = a.tellWait(c, &whole)
	}
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: whole}, nil
}

// tellWait tells why a pending callback waits, and until when. That may be later than its
// last attempt said.
func (a *API) tellWait(c *call, whole *wholeRequest) error {
	return a.read(c, func(ctx context.Context) error {
		wait, err := a.Queue.WaitOf(ctx, a.Reads, whole.row, whole.last)
		if err != nil {
			return err
		}
		whole.CallbackWaitsFor, whole.CallbackDueAt = wait.Reason, nextSecond(wait.Until)
		if n := len(whole.Attempts); n > 0 && wait.Until.After(whole.last.NextAttemptAt) {
			whole.Attempts[n-1].NextAttemptAt = whole.CallbackDueAt
		}
		return nil
	})
}

// nextSecond cuts a time to the second, and never to an earlier time; zero stays zero.
func nextSecond(t time.Time) time.Time {
	if cut := t.Truncate(time.Second); cut.Before(t) {
		return cut.Add(time.Second)
	}
	return t
}

func loadWhole(ctx context.Context, q db.Querier, client string, id uuid.UUID) (wholeRequest, error) {
	request, err := db.GetRequest(ctx, q, client, id)
	if err != nil {
		return wholeRequest{}, err
	}
	log, err := db.ListAttempts(ctx, q, id, maxAttempts)
	if err != nil {
		return wholeRequest{}, err
	}
	whole := wholeRequest{shownRequest: shown(request), row: request, Attempts: []attempt{}}
	earlier := 0 // attempts before the redelivery
	for _, row := range log {
		if row.StartedAt.Before(request.RedeliveredAt) {
			earlier++
		}
		whole.last = row
		whole.Attempts = append(whole.Attempts, attempt{
			Attempt: row.Attempt, At: row.StartedAt.Truncate(time.Second), Outcome: row.Outcome,
			HTTPStatus: row.HTTPStatus, NextAttemptAt: row.NextAttemptAt.Truncate(time.Second),
		})
	}
	whole.Timeline = timelineOf(whole, earlier)
	return whole, nil
}

// timelineOf lists events in order. A time that is cut to the second would fall before the
// event that it follows, and is moved up to that event's time. The latest redelivery
// follows the given number of attempts.
func timelineOf(whole wholeRequest, earlier int) []event {
	events := []event{{whole.AcceptedAt, "accepted"}}
	add := func(at time.Time, name string) {
		if !at.IsZero() {
			events = append(events, event{later(at, events[len(events)-1].At), name})
		}
	}
	for i, attempt := range whole.row.WorkAttempts {
		add(attempt.At, fmt.Sprintf("work_attempt_%d_%s", i+1, attempt.Code))
	}
	add(whole.RunningSince, "work_goes_on_elsewhere")
	add(whole.StartedAt, "work_started")
	add(whole.FinishedAt, "work_"+string(whole.Status))
	for i, attempt := range whole.Attempts {
		if i == earlier {
			add(whole.RedeliveredAt, "callback_redelivered")
		}
		add(attempt.At, fmt.Sprintf("callback_attempt_%d_%s", attempt.Attempt, attempt.Outcome))
	}
	if len(whole.Attempts) == earlier {
		add(whole.RedeliveredAt, "callback_redelivered")
	}
	add(whole.SettledAt, "callback_"+string(whole.CallbackState))
	return events
}
