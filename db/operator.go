package db

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// What operators read: requests of all clients, with addresses and causes that
// callers don't see. Each statement reads a bounded number of rows by index.

// FindRequest returns a request of any client; pgx.ErrNoRows if there is none.
func FindRequest(ctx context.Context, q Querier, id uuid.UUID) (Request, error) {
	const sql = `
		SELECT ` + summaryColumns + `, input, result, error
		FROM requests
		WHERE id = $1`
	var r Request
	err := q.QueryRow(ctx, sql, id).
		Scan(append(r.summary(), (*[]byte)(&r.Input), (*[]byte)(&r.Result), (*[]byte)(&r.Error))...)
	if err != nil {
		return Request{}, fmt.Errorf("finding request: %w", err)
	}
	return r, nil
}

// ListAllRequests is ListRequests for the requests of all clients, the newest
// first. It looks at the latest requests of the window whatever is asked for, so
// that rare ones are found faster with a client.
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
	if err != nil {
		return Page{}, fmt.Errorf("listing requests of all clients: %w", err)
	}
	return page, nil
}

// InspectAttempts is ListAttempts with what is for operators only.
func InspectAttempts(ctx context.Context, q Querier, request uuid.UUID, most int) ([]Attempt, error) {
	const sql = `
		SELECT attempt, started_at, ended_at, outcome, http_status, next_attempt_at,
		       address, cause, dns_us, connect_us, tls_us, first_byte_us
		FROM (
			SELECT *
			FROM callback_attempts
			WHERE request_id = $1
			ORDER BY attempt DESC
			LIMIT $2
		) AS latest
		ORDER BY attempt`
	rows, err := q.Query(ctx, sql, request, most)
	if err != nil {
		return nil, fmt.Errorf("inspecting callback attempts: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Attempt, err error) {
		var status zeronull.Int2
		var dns, connect, tls, firstByte zeronull.Int4
		err = row.Scan(&a.Attempt, &a.StartedAt, &a.EndedAt, &a.Outcome, &status, (*zeronull.Timestamptz)(&a.NextAttemptAt),
			(*zeronull.Text)(&a.Address), (*zeronull.Text)(&a.Cause), &dns, &connect, &tls, &firstByte)
		a.HTTPStatus = int(status)
		a.DNS, a.Connect, a.TLS, a.FirstByte = duration(dns), duration(connect), duration(tls), duration(firstByte)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("inspecting callback attempts: %w", err)
	}
	return attempts, nil
}

func duration(us zeronull.Int4) time.Duration { return time.Duration(us) * time.Microsecond }

// JobState is where a job of River stands.
type JobState struct {
	ID          int64
	Kind        string
	State       string
	Attempt     int
	MaxAttempts int
	Process     string // that has it, or had it last; empty before the first attempt
	AttemptedAt time.Time
	ScheduledAt time.Time
	FinalizedAt time.Time
	Errors      int
}

// InspectJobs returns the jobs with these ids that exist, in the order of their ids.
func InspectJobs(ctx context.Context, q Querier, ids []int64) ([]JobState, error) {
	const sql = `
		SELECT id, kind, state::text, attempt, max_attempts, attempted_by[array_upper(attempted_by, 1)],
		       attempted_at, scheduled_at, finalized_at, coalesce(array_length(errors, 1), 0)
		FROM river_job
		WHERE id = ANY ($1::bigint[])
		ORDER BY id`
	rows, err := q.Query(ctx, sql, ids)
	if err != nil {
		return nil, fmt.Errorf("inspecting jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (j JobState, err error) {
		err = row.Scan(&j.ID, &j.Kind, &j.State, &j.Attempt, &j.MaxAttempts, (*zeronull.Text)(&j.Process),
			(*zeronull.Timestamptz)(&j.AttemptedAt), &j.ScheduledAt, (*zeronull.Timestamptz)(&j.FinalizedAt), &j.Errors)
		return j, err
	})
	if err != nil {
		return nil, fmt.Errorf("inspecting jobs: %w", err)
	}
	return jobs, nil
}

// WorkingProcess is a working process, as its heartbeats show it.
type WorkingProcess struct {
	ID     string
	Silent time.Duration // since its last heartbeat, by the database's clock
}

// ListProcesses returns the processes that have not ended.
func ListProcesses(ctx context.Context, q Querier) ([]WorkingProcess, error) {
	const sql = `
		SELECT id, now() - beat_at
		FROM processes
		ORDER BY id
		LIMIT 1000`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	processes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[WorkingProcess])
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	return processes, nil
}

// DeadLetterGroup is the dead letters of a client at a host that failed alike.
type DeadLetterGroup struct {
	Client        string
	Host          string // with its port if there is one
	Outcome       string // of the latest attempt
	HTTPStatus    int    // likewise, 0 when there was no answer
	Cause         string
	Count         int64
	Oldest        time.Time // when the oldest of their requests was accepted
	Newest        time.Time
	LatestRequest uuid.UUID
}

// GroupDeadLetters groups the latest dead letters of each client, as many as most
// says, the largest group first. Where a client has more, the groups count less than
// there are.
func GroupDeadLetters(ctx context.Context, q Querier, clients []string, most int) ([]DeadLetterGroup, error) {
	sql := fmt.Sprintf(`
		SELECT client, callback_host, coalesce(outcome, ''), coalesce(http_status, 0), coalesce(cause, ''),
		       count(*), min(accepted_at), max(accepted_at), (array_agg(request_id ORDER BY request_id DESC))[1]
		FROM unnest($1::text[]) AS named (client)
		CROSS JOIN LATERAL (
			SELECT request_id, callback_host, accepted_at
			FROM dead_letters
			WHERE dead_letters.client = named.client
			ORDER BY request_id DESC
			LIMIT %d
		) AS dead
		LEFT JOIN LATERAL (
			SELECT outcome, http_status, cause
			FROM callback_attempts
			WHERE callback_attempts.request_id = dead.request_id
			ORDER BY attempt DESC
			LIMIT 1
		) AS latest ON true
		GROUP BY 1, 2, 3, 4, 5
		ORDER BY 6 DESC, 1, 2
		LIMIT 500`, most)
	rows, err := q.Query(ctx, sql, clients)
	if err != nil {
		return nil, fmt.Errorf("grouping dead letters: %w", err)
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeadLetterGroup])
	if err != nil {
		return nil, fmt.Errorf("grouping dead letters: %w", err)
	}
	return groups, nil
}
