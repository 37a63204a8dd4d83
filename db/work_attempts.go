package db

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// WorkNotDone begins the errors in a work job's row that stand for attempts which did not
// do the work. The code of the work's error follows.
const WorkNotDone = "not done: "

// WorkAttempt is a charged attempt that did not do the work.
type WorkAttempt struct {
	Attempt int       // counted from 1, with attempts that crashed
	At      time.Time // its start
	Code    string
}

// workAttempts reads the errors of a job, as River writes them.
func workAttempts(errors jsontext.Value) (attempts []WorkAttempt, err error) {
	if len(errors) == 0 {
		return nil, nil
	}
	var rows []struct {
		At      time.Time `json:"at"`
		Attempt int       `json:"attempt"`
		Error   string    `json:"error"`
	}
	if err := json.Unmarshal(errors, &rows); err != nil {
		return nil, err
	}
	for _, row := range rows {
		if code, ok := strings.CutPrefix(row.Error, WorkNotDone); ok {
			attempts = append(attempts, WorkAttempt{row.Attempt, row.At.UTC().Truncate(time.Microsecond), code})
		}
	}
	return attempts, nil
}
