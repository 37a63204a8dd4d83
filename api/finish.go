package api

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/jobs"
	"ringback/work"
)

// maxProgress is in bytes.
const maxProgress = 4 << 10

// reportBody is the body of POST /work/{token}. At most one field is given.
type reportBody struct {
	Result   jsontext.Value `json:"result"`
	Error    *reportedError `json:"error"`
	Progress jsontext.Value `json:"progress"`
}

type reportedError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// codeForm is the form of an error's code. ownCodes tell the end of a request, so no
// service may report them.
var (
	codeForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	ownCodes = []string{work.CodeAbandoned, work.CodeNotDone, "cancelled", "expired"}
)

// postReport takes a report on a run that goes on elsewhere. The token in the address
// replaces an API key, for that run alone.
func (a *API) postReport(c *call) {
	ctx, cancel := a.databaseContext(c.Request.Context())
	defer cancel()
	run, err := a.Queue.RunByToken(ctx, c.Param("token"))
	if err == nil {
		c.requestID = run.RequestID().String()
		err = a.report(c, run)
	}
	if err != nil {
		a.writeProblem(c, reportProblem(err))
		return
	}
	c.Status(http.StatusNoContent)
}

func (a *API) report(c *call, run jobs.Run) error {
	report, err := a.readReport(c)
	if err != nil {
		return err
	}
	ctx, cancel := a.databaseContext(c.Request.Context()) // anew: the body took its time
	defer cancel()
	return a.Queue.Report(ctx, run, report)
}

// reportProblem tells why a report isn't taken.
func reportProblem(err error) error {
	switch {
	case errors.Is(err, jobs.ErrUnknownToken):
		return newProblem("not-found", "No attempt has this token.")
	case errors.Is(err, jobs.ErrGivenUp):
		return newProblem("attempt-over", "The attempt has ended, or was given up for the next attempt.")
	case errors.Is(err, jobs.ErrNotYet):
		return newProblem("unavailable", "That the attempt goes on has not been recorded yet. Try again.")
	}
	return err
}

// readReport reads and checks a body. An empty body says that the run goes on.
func (a *API) readReport(c *call) (report work.Report, err error) {
	defer c.decoded()
	raw, err := a.readBody(c, maxBodyBytes)
	if err != nil || len(raw) == 0 {
		return work.Report{}, err
	}
	if err := checkMedia(c); err != nil {
		return work.Report{}, err
	}
	var body reportBody
	var syntactic *jsontext.SyntacticError
	err = unmarshal(raw, &body)
	if errors.As(err, &syntactic) {
		return work.Report{}, invalidInput("", "is not well-formed JSON")
	}
	if err != nil {
		return work.Report{}, err
	}
	return body.check()
}

func (b reportBody) check() (report work.Report, err error) {
	given := 0
	for _, isGiven := range []bool{b.Result != nil, b.Error != nil, b.Progress != nil} {
		if isGiven {
			given++
		}
	}
	switch {
	case given > 1:
		return work.Report{}, invalidInput("", "must hold one of result, error and progress")
	case b.Error != nil && b.Error.Code == "":
		return work.Report{}, invalidInput("/error/code", "is required")
	case b.Error != nil && (!codeForm.MatchString(b.Error.Code) || slices.Contains(ownCodes, b.Error.Code)):
		return work.Report{}, invalidInput("/error/code", "must be 1 to 64 of a-z, 0-9 and _, begin with a letter, and be none of "+strings.Join(ownCodes, ", "))
	case b.Error != nil && b.Error.Message == "":
		return work.Report{}, invalidInput("/error/message", "is required")
	case b.Progress != nil && b.Progress.Kind() != jsontext.KindBeginObject:
		return work.Report{}, invalidInput("/progress", "must be an object")
	case len(b.Progress) > maxProgress:
		return work.Report{}, invalidInput("/progress", fmt.Sprintf("must have at most %d bytes", maxProgress))
	}
	report = work.Report{Result: b.Result, Progress: b.Progress}
	if b.Error != nil {
		report.Error = &work.Error{Code: b.Error.Code, Message: b.Error.Message}
	}
	return report, nil
}
