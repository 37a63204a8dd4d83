package db

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Filter selects requests of a client for a listing. Zero fields don't filter.
type Filter struct {
	Client        string // required
	Mode          Mode
	Status        Status
	Work          string
	CallbackState CallbackState
	CallbackHost  string    // as in the URL, with the URL's port if any
	From, To      time.Time // when the request was accepted, To excluded
	Cursor        uuid.UUID // Page.Next of the page before
	OldestFirst   bool      // else the newest first
	Limit         int       // how many requests a page has at most, required
	Window        int       // how many requests are looked at for it at most, required and above Limit
}

// lookUpPages is how many pages of the database it costs to look up a request among ten million.
// They are the note's that leads to it, three of the index of ids, and its own. In the order of an
// index, a request costs its own alone.
const lookUpPages = 5

// lookUps is how many requests are looked up for a page at most. They cost no more than the window
// does in the order of an index, or they fill the page.
func (f Filter) lookUps() int { return max(f.Window/lookUpPages, f.Limit+1) }

// Page is a part of a listing.
type Page struct {
	Requests []Request // without inputs, results and errors
	Next     uuid.UUID // the cursor of the next page, zero where nothing is left
}

// ListRequests returns a page of the requests of a client. Its cost depends on the limit
// and the window alone, not on how many requests there are or how they ended. So a page
// may be short or empty although Next is set: few of the requests match that were looked
// at, and Next goes on behind them.
//
// It needs a pool of OpenReads, whose settings rule out all plans but the intended plan.
func ListRequests(ctx context.Context, q Querier, filter Filter) (Page, error) {
	filter = filter.withImplied()
	if filter.contradictsItself() {
		return Page{}, nil
	}
	from, err := sourceOf(ctx, q, filter)
	if err != nil {
		return Page{}, fmt.Errorf("listing requests: %w", err)
	}
	rows, err := q.Query(ctx, from.listing(filter), from.arguments(filter)...)
	if err != nil {
		return Page{}, fmt.Errorf("listing requests: %w", err)
	}
	page, err := readPage(rows, filter.Limit)
	if err == nil {
		err = noteRunning(ctx, q, page.Requests)
	}
	if err != nil {
		return Page{}, fmt.Errorf("listing requests: %w", err)
	}
	if page.Next == uuid.Nil {
		page.Next = from.behind
	}
	return page, nil
}

// withImplied adds the fields that follow from the others.
func (f Filter) withImplied() Filter {
	if f.CallbackState == CallbackWaiting && f.Status == "" {
		f.Status = Accepted
	}
	if f.Mode == "" && (f.CallbackState != "" || f.CallbackHost != "" || f.Status == Expired) {
		f.Mode = Async
	}
	return f
}

// CanMatch tells whether there can be a request that matches.
func (f Filter) CanMatch() bool { return !f.withImplied().contradictsItself() }

// contradictsItself tells whether no request can match.
func (f Filter) contradictsItself() bool {
	switch {
	case f.Mode == Sync:
		return f.CallbackState != "" || f.CallbackHost != "" || f.Status == Expired
	case f.CallbackState != "" && (f.Status == Accepted) != (f.CallbackState == CallbackWaiting):
		return true
	case f.Status == Cancelled:
		return f.CallbackState != "" && f.CallbackState != CallbackCancelled
	}
	return !f.To.IsZero() && !f.From.Before(f.To)
}

// source is where a listing finds its requests, in the order of their ids.
type source struct {
	sql       string // reads candidates from an index, with {mode}, {order} and {window} left open
	window    int    // how many candidates are looked at
	modes     []Mode // each has a part of the index; at least one mode
	ascending bool   // whether the index holds ids so
	argument  any    // $12; nil for none

	behind uuid.UUID // the cursor behind its candidates, where it left others out; zero for none
}

// sourceOf picks the source with the fewest requests that don't match. Endings that most
// requests come to are looked for among all requests.
func sourceOf(ctx context.Context, q Querier, f Filter) (source, error) {
	switch {
	case f.Status == Accepted, f.CallbackState == CallbackPending:
		live, all, err := liveRequests(ctx, q, f.Window)
		if err != nil || all {
			next, behind := f.nextOf(live)
			return source{sql: lookUp(fromIDs, "candidate"), window: f.lookUps() + 1, modes: []Mode{Async}, argument: column(next, uuidOf), behind: behind}, err
		}
	case f.CallbackState == CallbackDead:
		return f.deadLetters(), nil
	}
	if ending := f.unsuccessfulEnding(); ending != "" {
		known, err := unsuccessfulAreKnown(ctx, q)
		if err != nil || known {
			return source{sql: lookUp(fromUnsuccessful, "candidate"), window: f.lookUps(), modes: f.modes(), ascending: true, argument: ending}, err
		}
	}
	return source{sql: fromRequests, window: f.Window, modes: f.modes()}, nil
}

// deadLetters is the source of dead letters. They tell their host, so that dead letters
// to other hosts aren't looked up.
func (f Filter) deadLetters() source {
	s := source{sql: lookUp(fromDeadLetters, "candidate"), window: f.lookUps(), modes: []Mode{Async}, ascending: true}
	if f.CallbackHost != "" {
		s.sql = lookUp(fromDeadLetters, "CASE WHEN callback_host = $7 THEN candidate END")
		if f.Status == "" && f.Work == "" { // what is looked up matches
			s.window = f.Window
		}
	}
	return s
}

// nextOf are the next of some ids in the order of the listing, as many as may be looked
// up, and the cursor behind them where there are more. They may be other clients', so the
// cursor is none of them. It is the time of an id, without its random part, in which ids of
// one time differ: these stay together.
func (f Filter) nextOf(ids []uuid.UUID) (next []uuid.UUID, behind uuid.UUID) {
	after, before := f.bounds()
	ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool {
		return bytes.Compare(id[:], after[:]) <= 0 || bytes.Compare(id[:], before[:]) >= 0
	})
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	if !f.OldestFirst {
		slices.Reverse(ids)
	}
	n := f.lookUps()
	if len(ids) <= n {
		return ids, uuid.Nil
	}
	for n > 1 && bytes.Equal(ids[n-1][:timeBytes], ids[n][:timeBytes]) {
		n--
	}
	later := ids[n-1]
	if f.OldestFirst {
		later = ids[n]
	}
	copy(behind[:timeBytes], later[:])
	return ids[:n], behind
}

func (f Filter) modes() []Mode {
	if f.Mode != "" {
		return []Mode{f.Mode}
	}
	return []Mode{Sync, Async}
}

// unsuccessfulEnding is the ending under which unsuccessful_requests has every
// request that matches; empty where it hasn't.
func (f Filter) unsuccessfulEnding() string {
	switch {
	case f.Status == Cancelled:
		return "cancelled"
	case f.CallbackState == CallbackCancelled:
		return "callback_cancelled"
	case f.Status == Failed, f.Status == Expired:
		return string(f.Status)
	}
	return ""
}

// The candidates of each source. The client is an array of one element, and a part of the
// order, so that the primary key of requests hasn't that order. The planner would
// otherwise read that key backwards and throw away the requests of other clients and
// modes, which may be nearly all. The limits are written out, since plans are made before
// the arguments are known.
var fromRequests = `
			SELECT client AS owner, id AS candidate, ` + summaryColumns + `
			FROM requests
			WHERE client = ANY ($1::text[])
			  AND mode = '{mode}'
			  AND id > $2
			  AND id < $3
			ORDER BY {order}
			LIMIT {window}`

const (
	fromUnsuccessful = `
			SELECT client AS owner, request_id AS candidate
			FROM unsuccessful_requests
			WHERE client = ANY ($1::text[])
			  AND ending = $12
			  AND mode = '{mode}'
			  AND request_id > $2
			  AND request_id < $3
			ORDER BY {order}
			LIMIT {window}`
	fromDeadLetters = `
			SELECT client AS owner, request_id AS candidate, callback_host
			FROM dead_letters
			WHERE client = ANY ($1::text[])
			  AND request_id > $2
			  AND request_id < $3
			ORDER BY {order}
			LIMIT {window}`
	fromIDs = `
			SELECT '' AS owner, id AS candidate
			FROM unnest($12::uuid[]) AS live (id)
			WHERE id > $2
			  AND id < $3
			ORDER BY {order}
			LIMIT {window}`
)

// lookUp adds the requests to candidates, by an expression for their id. A candidate
// without an id stays a candidate, without columns, so that the window keeps its end. So
// does a request that is gone or another client's. IS TRUE is for the reason that
// GetRequest has.
func lookUp(candidates, id string) string {
	return `
			SELECT owner, candidate, ` + summaryNames + `
			FROM (` + candidates + `) AS found
			LEFT JOIN LATERAL (
				SELECT ` + summaryColumns + `
				FROM requests
				WHERE requests.id = ` + id + `
				  AND (requests.client = ANY ($1::text[])) IS TRUE
			) AS request ON true
			ORDER BY {order}`
}

// listing is the statement that reads a page. It stops when the page is full. The
// last row of the window is returned in any case, as the cursor of the next page.
func (s source) listing(f Filter) string {
	var parts []string
	for _, mode := range s.modes {
		parts = append(parts, "("+strings.ReplaceAll(s.sql, "{mode}", string(mode))+")")
	}
	sql := `
		SELECT candidate, matches, seen = {window} AS is_last, ` + summaryNames + `
		FROM (
			SELECT owner, candidate, ` + summaryNames + `,
			       row_number() OVER (ORDER BY {order}) AS seen,
			       coalesce(id IS NOT NULL
			                AND ($5::text IS NULL OR status = $5)
			                AND ($6::text IS NULL OR callback_state = $6)
			                AND ($7::text IS NULL OR ` + callbackHost + ` = $7)
			                AND ($8::timestamptz IS NULL OR accepted_at >= $8)
			                AND ($9::timestamptz IS NULL OR accepted_at < $9)
			                AND ($10::text IS NULL OR work = $10)
			                AND ($11::text IS NULL OR mode = $11), false) AS matches
			FROM (` + strings.Join(parts, " UNION ALL ") + `) AS candidates
			ORDER BY {order}
			LIMIT {window}
		) AS page
		WHERE matches OR seen = {window}
		ORDER BY {order}
		LIMIT $4`
	return strings.NewReplacer("{order}", s.order(f.OldestFirst), "{window}", fmt.Sprint(s.window)).Replace(sql)
}

// order is the order of the source's index, forwards or backwards. With a single owner,
// its direction means nothing.
func (s source) order(oldestFirst bool) string {
	ids := "candidate DESC"
	if oldestFirst {
		ids = "candidate"
	}
	if oldestFirst == s.ascending {
		return "owner, " + ids
	}
	return "owner DESC, " + ids
}

func (s source) arguments(f Filter) []any {
	after, before := f.bounds()
	arguments := []any{
		[]string{f.Client},
		after, before, f.Limit + 1, // a row more tells whether there is another page
		zeronull.Text(f.Status), zeronull.Text(f.CallbackState), zeronull.Text(f.CallbackHost),
		zeronull.Timestamptz(f.From), zeronull.Timestamptz(f.To), zeronull.Text(f.Work), zeronull.Text(f.Mode),
	}
	if s.argument != nil {
		arguments = append(arguments, s.argument)
	}
	return arguments
}

// bounds are two ids between which the page lies. Ids begin with their time, so the
// index leads to the page's first request.
func (f Filter) bounds() (after, before uuid.UUID) {
	before = uuid.Max
	if !f.From.IsZero() {
		after = firstID(f.From.Add(-time.Second)) // ids are made a moment before
	}
	if !f.To.IsZero() {
		before = firstID(f.To.Add(time.Millisecond))
	}
	switch {
	case f.Cursor == uuid.Nil:
	case f.OldestFirst && bytes.Compare(f.Cursor[:], after[:]) > 0:
		after = f.Cursor
	case !f.OldestFirst && bytes.Compare(f.Cursor[:], before[:]) < 0:
		before = f.Cursor
	}
	return after, before
}

func readPage(rows pgx.Rows, limit int) (page Page, err error) {
	defer rows.Close()
	unread := make([]any, len(summaryFields))
	for rows.Next() {
		var candidate uuid.UUID
		var matches, isLast bool
		if err := rows.Scan(append([]any{&candidate, &matches, &isLast}, unread...)...); err != nil {
			return Page{}, err
		}
		if isLast {
			page.Next = candidate
		}
		if !matches { // and may have no columns
			continue
		}
		var r Request
		if err := rows.Scan(append([]any{nil, nil, nil}, r.summary()...)...); err != nil {
			return Page{}, err
		}
		page.Requests = append(page.Requests, r)
	}
	if len(page.Requests) > limit {
		page.Requests = page.Requests[:limit]
		page.Next = page.Requests[limit-1].ID
	}
	return page, rows.Err()
}

// liveRequests returns the requests that have a job that has not ended, of all
// clients, unless there are more than most.
func liveRequests(ctx context.Context, q Querier, most int) (ids []uuid.UUID, all bool, err error) {
	// As CountUnfinished finds them, in the order of River's index for fetching.
	sql := fmt.Sprintf(`
		SELECT %[2]s
		FROM unnest(ARRAY['available', 'running', 'retryable', 'scheduled', 'pending']::river_job_state[]) AS unfinished (state)
		CROSS JOIN LATERAL (
			SELECT args
			FROM river_job
			WHERE river_job.state = unfinished.state
			ORDER BY queue, priority, scheduled_at, id
			LIMIT %[1]d
		) AS job
		LIMIT %[1]d`, most+1, requestOf("job.args"))
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, false, fmt.Errorf("looking for live jobs: %w", err)
	}
	ids, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (id uuid.UUID, err error) {
		return id, row.Scan((*zeronull.UUID)(&id)) // somebody else's jobs have none
	})
	if err != nil {
		return nil, false, fmt.Errorf("looking for live jobs: %w", err)
	}
	return ids, len(ids) <= most, nil
}

// ListAllRequests is ListRequests for the requests of all clients, the newest first, for
// operators. It reads the latest requests of the window for any filter, so rare requests
// are found faster by client.
func ListAllRequests(ctx context.Context, q Querier, filter Filter) (Page, error) {
	filter = filter.withImplied()
	filter.OldestFirst = false
	sql := fmt.Sprintf(`
		SELECT id AS candidate, matches, seen = %[1]d AS is_last, `+summaryNames+`
		FROM (
			SELECT `+summaryNames+`,
			       row_number() OVER (ORDER BY id DESC) AS seen,
			       coalesce(($4::text IS NULL OR mode = $4)
			                AND ($5::text IS NULL OR status = $5)
			                AND ($6::text IS NULL OR callback_state = $6)
			                AND ($7::text IS NULL OR `+callbackHost+` = $7)
			                AND ($8::timestamptz IS NULL OR accepted_at >= $8)
			                AND ($9::timestamptz IS NULL OR accepted_at < $9)
			                AND ($10::text IS NULL OR work = $10), false) AS matches
			FROM (
				SELECT `+summaryColumns+`
				FROM requests
				WHERE id > $1
				  AND id < $2
				ORDER BY id DESC
				LIMIT %[1]d
			) AS looked_at
		) AS page
		WHERE matches OR seen = %[1]d
		ORDER BY id DESC
		LIMIT $3`, filter.Window)
	after, before := filter.bounds()
	rows, err := q.Query(ctx, sql, after, before, filter.Limit+1,
		zeronull.Text(filter.Mode), zeronull.Text(filter.Status), zeronull.Text(filter.CallbackState), zeronull.Text(filter.CallbackHost),
		zeronull.Timestamptz(filter.From), zeronull.Timestamptz(filter.To), zeronull.Text(filter.Work))
	if err != nil {
		return Page{}, fmt.Errorf("listing requests of all clients: %w", err)
	}
	page, err := readPage(rows, filter.Limit)
	if err == nil {
		err = noteRunning(ctx, q, page.Requests)
	}
	if err != nil {
		return Page{}, fmt.Errorf("listing requests of all clients: %w", err)
	}
	return page, nil
}
