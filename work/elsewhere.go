package work

import (
	"errors"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrElsewhere is returned by Do where the work goes on elsewhere and will be finished by a
// call of Call.FinishURL. It is for work with a Lease.
var ErrElsewhere = errors.New("the work goes on elsewhere")

// CodeLeaseExpired is the code of a run that sent no report for its lease.
const CodeLeaseExpired = "lease_expired"

// Report is a message about work that goes on elsewhere. The zero Report renews the lease.
type Report struct {
	Result   jsontext.Value // ends the work as succeeded
	Error    *Error         // ends the work as failed
	Progress jsontext.Value
}

// Ends tells whether the work has ended.
func (r Report) Ends() bool { return r.Result != nil || r.Error != nil }

// Outcome is the outcome of a run that the report ends.
func (r Report) Outcome(startedAt time.Time) Outcome {
	outcome := Outcome{StartedAt: startedAt, FinishedAt: time.Now()}
	err := checkResult(r.Result)
	if r.Error != nil {
		err = r.Error
	}
	if err != nil {
		outcome.Error, outcome.Cause = explain(err), err
		return outcome
	}
	outcome.Result = r.Result
	return outcome
}

// Lost is the outcome of a run that sent no report for its lease.
func Lost(startedAt time.Time) Outcome {
	err := &Error{CodeLeaseExpired, "Nothing was heard of the work for too long."}
	return Outcome{StartedAt: startedAt, FinishedAt: time.Now(), Error: err, Cause: err, Again: &Again{}}
}
