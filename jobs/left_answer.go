package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/webhook"
)

// A process that stops may have a receiver's answer that it can't record, since
// callback_attempts is locked. The attempt was made: the answer is left with its job, and the
// process that takes the job up records it, rather than send the callback again.

// leaveTimeout is how long a process that stops may take to leave an answer.
const leaveTimeout = 2 * time.Second

// cutOff leaves an answer that can't be recorded before the process stops, and tells so.
func (w *callbackWorker) cutOff(ctx context.Context, job *rivertype.JobRow, request db.Request, sent webhook.Attempt) {
	if !w.queue.cutsOff(ctx) {
		return
	}
	then := "the next process records the attempt"
	if err := w.leaveAnswer(ctx, job, request.Client, sent); err != nil {
		then = "the attempt is made again"
	}
	w.tellCutOff(ctx, job, request, "recording", then)
}

func (w *callbackWorker) leaveAnswer(ctx context.Context, job *rivertype.JobRow, client string, sent webhook.Attempt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	answer, err := json.Marshal(sent)
	if err != nil {
		return err
	}
	return w.queue.singles.do(ctx, client, func(ctx context.Context) error {
		return db.LeaveAnswer(ctx, w.queue.pool, job.ID, answer)
	})
}

// leftAnswer is the answer that an earlier process left with a job, if any.
func leftAnswer(job *rivertype.JobRow) (webhook.Attempt, bool) {
	var metadata struct {
		Answer *webhook.Attempt `json:"unrecorded"`
	}
	if !bytes.Contains(job.Metadata, []byte(`"unrecorded"`)) { // most jobs
		return webhook.Attempt{}, false
	}
	if json.Unmarshal(job.Metadata, &metadata) != nil || metadata.Answer == nil {
		return webhook.Attempt{}, false
	}
	return *metadata.Answer, true
}

func (w *callbackWorker) forgetAnswer(ctx context.Context, job *rivertype.JobRow, client string) error {
	return w.queue.singles.do(ctx, client, func(ctx context.Context) error {
		return db.ForgetAnswer(ctx, w.queue.pool, job.ID)
	})
}
