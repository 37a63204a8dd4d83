package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"ringback/db"
)

const (
	perPage = 50
	// window is how many requests a page looks at. With a client chosen, rare endings are
	// found by an index of their own.
	window = 2000
)

// The choices of the filter.
var (
	modes    = []db.Mode{db.Sync, db.Async}
	statuses = []db.Status{db.Accepted, db.Succeeded, db.Failed, db.Expired, db.Cancelled}
	states   = []db.CallbackState{db.CallbackWaiting, db.CallbackPending, db.CallbackDelivered, db.CallbackDead, db.CallbackCancelled}
)

// requestsPage lists requests. The URL is the filter.
type requestsPage struct {
	Clients  []string
	Modes    []db.Mode
	Statuses []db.Status
	States   []db.CallbackState
	Chosen   url.Values
	Requests []db.Request
	Older    string // the URL of the next page; empty for none
	Newest   string // the URL of the first page; empty on it
	Wrong    string // the mistake in the filter

	SearchedTo time.Time // how far the page has looked when few matched, zero where it is full
}

func (c *Console) requests(r *http.Request) (view, error) {
	query := r.URL.Query()
	if id := strings.TrimSpace(query.Get("id")); id != "" {
		return findByID(id)
	}
	page := requestsPage{
		Modes: modes, Statuses: statuses, States: states, Chosen: query,
	}
	v := view{page: "requests", title: "Requests"}
	var err error
	if page.Clients, err = c.clientNames(r.Context()); err != nil {
		return view{}, err
	}
	filter, err := readFilter(query)
	if err != nil {
		page.Wrong, v.status = sentence(err), http.StatusUnprocessableEntity
	} else if err := c.list(r.Context(), filter, &page); err != nil {
		return view{}, err
	}
	v.data = page
	return v, nil
}

func (c *Console) list(ctx context.Context, filter db.Filter, page *requestsPage) error {
	list := db.ListRequests
	if filter.Client == "" {
		list = db.ListAllRequests
	}
	listed, err := list(ctx, c.Reads, filter)
	if err != nil {
		return err
	}
	page.Requests = listed.Requests
	if listed.Next != uuid.Nil {
		page.Older = pageURL(page.Chosen, listed.Next.String())
		if len(listed.Requests) < perPage {
			page.SearchedTo = db.AcceptedAt(listed.Next)
		}
	}
	if page.Chosen.Get("cursor") != "" {
		page.Newest = pageURL(page.Chosen, "")
	}
	return nil
}

// pageURL is the filter's URL at a cursor, without the fields that are empty.
func pageURL(chosen url.Values, cursor string) string {
	query := url.Values{}
	for name, values := range chosen {
		if values[0] != "" {
			query.Set(name, values[0])
		}
	}
	query.Del("cursor")
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	return "/requests?" + query.Encode()
}

// findByID leads to a request by its id, also as receivers and logs write it.
func findByID(text string) (view, error) {
	id, err := uuid.Parse(strings.TrimPrefix(text, "req_"))
	if err != nil {
		return view{}, mistake(fmt.Sprintf("%q is not the id of a request", text))
	}
	return view{redirect: "/requests/" + id.String()}, nil
}

func readFilter(query url.Values) (db.Filter, error) {
	filter := db.Filter{
		Client: query.Get("client"), Mode: db.Mode(query.Get("mode")), Status: db.Status(query.Get("status")), Work: strings.TrimSpace(query.Get("work")),
		CallbackState: db.CallbackState(query.Get("callback")), CallbackHost: strings.ToLower(strings.TrimSpace(query.Get("host"))),
		Limit: perPage, Window: window,
	}
	var err error
	if filter.From, err = readTime(query.Get("from")); err != nil {
		return filter, err
	}
	if filter.To, err = readTime(query.Get("to")); err != nil {
		return filter, err
	}
	if cursor := query.Get("cursor"); cursor != "" {
		if filter.Cursor, err = uuid.Parse(cursor); err != nil {
			return filter, mistake("the cursor is not from a page before")
		}
	}
	return filter, checkFilter(filter)
}

// checkFilter refuses a filter that no request can match.
func checkFilter(filter db.Filter) error {
	err := cmp.Or(oneOf("mode", filter.Mode, modes), oneOf("status", filter.Status, statuses), oneOf("callback", filter.CallbackState, states))
	switch {
	case err != nil:
		return err
	case strings.Contains(filter.CallbackHost, "/"):
		return mistake("the host is the part of callback URLs without scheme and path, such as hooks.example.com:8443")
	case !filter.To.IsZero() && !filter.From.Before(filter.To):
		return mistake("the time to which is not after the time from which")
	case !filter.CanMatch():
		return mistake("the mode, the status, the state of the callback and the host contradict each other, so that no request matches")
	}
	return nil
}

// oneOf returns nil where nothing is chosen.
func oneOf[T ~string](name string, chosen T, known []T) error {
	if chosen == "" || slices.Contains(known, chosen) {
		return nil
	}
	return mistake(fmt.Sprintf("the %s is one of %v, not %q", name, known, chosen))
}

// readTime reads a time in UTC as a form sends it, or in RFC 3339.
func readTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, mistake(fmt.Sprintf("%q is not a time such as 2026-11-26T15:04", text))
}

// clientNames are the clients that may have requests.
func (c *Console) clientNames(ctx context.Context) ([]string, error) {
	clients, err := db.ListClients(ctx, c.Reads)
	if err != nil {
		return nil, err
	}
	var names []string
	if c.LocalClient != "" {
		names = append(names, c.LocalClient)
	}
	for _, client := range clients {
		names = append(names, client.Name)
	}
	return names, nil
}
