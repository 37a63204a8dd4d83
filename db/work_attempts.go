package db

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// WorkNotDone begins the errors in a work job's row that stand for attempts which did not
// do the work. The code of the work's error follows.
const WorkNotDone = "not done: "

// WorkUncharged is WorkNotDone for runs that charged no attempt.
const WorkUncharged = "not charged: "

// WorkAttempt is a run that did not do the work.
type WorkAttempt struct {
	Attempt int       // counted from 1, with attempts that crashed; a run that charged nothing is repeated with its number
	At      time.Time // its start
	Code    string
}

// workAttempts reads the errors of a job, as River writes them. An error that somebody wrote
// by hand may be anything, and is passed over.
func workAttempts(errors jsontext.Value) (attempts []WorkAttempt, err error) {
	if len(errors) == 0 {
		return nil, nil
	}
	var rows []jsontext.Value
	if err := json.Unmarshal(errors, &rows); err != nil {
		return nil, err
	}
	for _, encoded := range rows {
		var row struct {
			At      time.Time `json:"at"`
			Attempt int       `json:"attempt"`
			Error   string    `json:"error"`
		}
		if json.Unmarshal(encoded, &row) != nil {
			continue
		}
		code, isRun := strings.CutPrefix(row.Error, WorkNotDone)
		if !isRun {
			code, isRun = strings.CutPrefix(row.Error, WorkUncharged)
		}
		if isRun {
			attempts = append(attempts, WorkAttempt{row.Attempt, row.At.UTC().Truncate(time.Microsecond), code})
		}
	}
	return attempts, nil
}

// maxNoted bounds the runs in a job's row. Retry-After alone leads to about 300 in 48 hours.
const maxNoted = 1000

// NoteUncharged adds a run that charges no attempt to the errors in its job's row, which
// River keeps for charged attempts alone.
func NoteUncharged(ctx context.Context, q Querier, job int64, run WorkAttempt) error {
	const sql = `
		UPDATE river_job
		SET errors = array_append(errors, jsonb_build_object('at', $2::timestamptz, 'attempt', $3::integer, 'error', $4::text, 'trace', ''))
		WHERE id = $1
		  AND coalesce(cardinality(errors), 0) < $5`
	if _, err := q.Exec(ctx, sql, job, run.At, run.Attempt, WorkUncharged+run.Code, maxNoted); err != nil {
		return fmt.Errorf("noting a run: %w", err)
	}
	return nil
}
