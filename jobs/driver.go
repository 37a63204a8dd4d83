package jobs

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// driver is River's driver for pgx. It leaves River's statements as they are, and
// looks on at two of them: a fetch goes through the lane of its queue, and the
// cancellation of a job reaches the jobs that River doesn't know to run here.
type driver struct {
	*riverpgxv5.Driver
	lanes  map[string]*lane // by queue
	cancel func(job int64)
}

func newDriver(pool *pgxpool.Pool, lanes map[string]*lane, cancel func(int64)) *driver {
	return &driver{riverpgxv5.New(pool), lanes, cancel}
}

// GetExecutor is what River runs its statements with, outside transactions.
func (d *driver) GetExecutor() riverdriver.Executor {
	return &fetcher{d.Driver.GetExecutor(), d.lanes}
}

// GetListener is what River hears notifications from.
func (d *driver) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &hearer{d.Driver.GetListener(params), d.cancel}
}

type fetcher struct {
	riverdriver.Executor
	lanes map[string]*lane
}

// JobGetAvailable is River's fetch.
func (e *fetcher) JobGetAvailable(ctx context.Context, params *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	fetched := &riverdriver.JobGetAvailableResult{}
	err := e.lanes[params.Queue].fetch(params.MaxToLock, func(room int) (int, error) {
		limited := *params
		limited.MaxToLock = room
		got, err := e.Executor.JobGetAvailable(ctx, &limited)
		if err != nil {
			return 0, err
		}
		fetched = got
		return len(got.Jobs), nil
	})
	return fetched, err
}

type hearer struct {
	riverdriver.Listener
	cancel func(job int64)
}

// controlTopic is River's topic for what is to be done to queues and running jobs.
const controlTopic = "river_control"

// WaitForNotification returns River's next notification.
func (l *hearer) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	notification, err := l.Listener.WaitForNotification(ctx)
	if err == nil && notification.Topic == controlTopic {
		var control struct {
			Action string `json:"action"`
			JobID  int64  `json:"job_id"`
		}
		if json.Unmarshal([]byte(notification.Payload), &control) == nil && control.Action == "cancel" {
			l.cancel(control.JobID)
		}
	}
	return notification, err
}
