package jobs

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
)

// driver is River's driver for pgx, with seven differences. A fetch goes through the lane
// of its queue. A job that the statement of its step completed is not completed again. A
// job that another process runs by now is left to that process. Cancellations reach the
// jobs that River doesn't know to run here. The times that River takes from this process's
// clock become the database's. Faults of the database that a fetch meets are noted, and the
// connection for notifications closes with the pools'. Jobs that a fetch can't read are
// mended.
type driver struct {
	*riverpgxv5.Driver
	pool    *pgxpool.Pool
	process func() string    // River's client id
	lanes   map[string]*lane // by queue
	cancel  func(job int64)
	clock   *db.Clock
	health  *db.Health
	mender  *jobMender
}

func newDriver(pool *pgxpool.Pool, process func() string, lanes map[string]*lane, cancel func(int64), clock *db.Clock, health *db.Health, logger *slog.Logger) *driver {
	return &driver{riverpgxv5.New(pool), pool, process, lanes, cancel, clock, health, &jobMender{pool: pool, logger: logger}}
}

// GetExecutor returns River's executor for statements outside transactions.
func (d *driver) GetExecutor() riverdriver.Executor {
	return &fetcher{d.Driver.GetExecutor(), d.pool, d.process, d.lanes, d.clock, d.health, d.mender}
}

// GetListener returns River's listener for notifications.
func (d *driver) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &hearer{Listener: d.Driver.GetListener(params), cancel: d.cancel, health: d.health}
}

type fetcher struct {
	riverdriver.Executor
	pool    *pgxpool.Pool
	process func() string
	lanes   map[string]*lane
	clock   *db.Clock
	health  *db.Health
	mender  *jobMender
}

// Begin is for River's upkeep.
func (f *fetcher) Begin(ctx context.Context) (riverdriver.ExecutorTx, error) {
	tx, err := f.Executor.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &scheduler{tx, f.clock}, nil
}

// UnwrapTx is for further SQL in a transaction of the executor.
func (d *driver) UnwrapTx(tx riverdriver.ExecutorTx) pgx.Tx {
	if s, ok := tx.(*scheduler); ok {
		tx = s.ExecutorTx
	}
	return d.Driver.UnwrapTx(tx)
}

type scheduler struct {
	riverdriver.ExecutorTx
	clock *db.Clock
}

// JobSchedule makes due jobs available.
func (s *scheduler) JobSchedule(ctx context.Context, params *riverdriver.JobScheduleParams) ([]*riverdriver.JobScheduleResult, error) {
	due := *params
	due.Now = timeAt(s.clock, params.Now)
	return s.ExecutorTx.JobSchedule(ctx, &due)
}

func timeAt(clock *db.Clock, t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	at := clock.At(*t)
	return &at
}

// JobGetAvailable is River's fetch.
func (f *fetcher) JobGetAvailable(ctx context.Context, params *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	fetched := &riverdriver.JobGetAvailableResult{DecodeErrors: map[int64]error{}}
	err := f.lanes[params.Queue].fetch(params.MaxToLock, func(room int) (int, error) {
		limited := *params
		limited.MaxToLock = room
		got, err := f.Executor.JobGetAvailable(ctx, &limited)
		f.health.Note(db.FetchStep, err)
		if err != nil && !db.IsUnavailable(err) || got != nil && len(got.DecodeErrors) > 0 {
			f.mender.mend(ctx, params.Queue)
		}
		if err != nil {
			return 0, err
		}
		fetched.Jobs = append(fetched.Jobs, got.Jobs...)
		maps.Copy(fetched.DecodeErrors, got.DecodeErrors)
		return len(got.Jobs), nil
	})
	return fetched, err
}

// jobMender mends the jobs that fail a fetch.
type jobMender struct {
	pool   *pgxpool.Pool
	logger *slog.Logger

	mu   sync.Mutex
	next time.Time
}

// mendPause is the time between two looks for jobs to mend: a fetch may fail by something
// else, ten times a second.
const mendPause = time.Second

func (m *jobMender) mend(ctx context.Context, queue string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Before(m.next) || ctx.Err() != nil {
		return
	}
	m.next = now.Add(mendPause)
	mended, err := db.MendJobs(ctx, m.pool, queue)
	if mended > 0 || err != nil {
		m.logger.WarnContext(ctx, "unreadable_jobs_mended", "queue", queue, "jobs", mended, "error", err,
			"remedy", "none: the jobs are fetched again; somebody changed their attempt or lists in river_job by hand")
	}
}

// JobSetStateIfRunningMany is River's completer. A worker that returns no error has
// completed its job by then. The job of a process that paused may run in another process
// by now: a retry or a pause would have it run once more beside that.
func (f *fetcher) JobSetStateIfRunningMany(ctx context.Context, params *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	isCompleted := func(i int) bool { return params.State[i] == rivertype.JobStateCompleted && !params.MetadataDoMerge[i] }
	var ids []int64
	for i, id := range params.ID {
		if !isCompleted(i) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	elsewhere, err := db.JobsElsewhere(ctx, f.pool, f.process(), ids)
	if err != nil {
		return nil, err
	}
	left := riverdriver.JobSetStateIfRunningManyParams{Now: params.Now, Schema: params.Schema}
	for i, state := range params.State {
		if isCompleted(i) || slices.Contains(elsewhere, params.ID[i]) {
			continue
		}
		left.ID = append(left.ID, params.ID[i])
		left.Attempt = append(left.Attempt, params.Attempt[i])
		left.ErrData = append(left.ErrData, params.ErrData[i])
		left.FinalizedAt = append(left.FinalizedAt, timeAt(f.clock, params.FinalizedAt[i]))
		left.MetadataDoMerge = append(left.MetadataDoMerge, params.MetadataDoMerge[i])
		left.MetadataUpdates = append(left.MetadataUpdates, params.MetadataUpdates[i])
		left.ScheduledAt = append(left.ScheduledAt, timeAt(f.clock, params.ScheduledAt[i]))
		left.State = append(left.State, state)
	}
	if len(left.ID) == 0 {
		return nil, nil
	}
	return f.Executor.JobSetStateIfRunningMany(ctx, &left)
}

// QueueDeleteExpired removes queues that no process has used for long.
func (f *fetcher) QueueDeleteExpired(ctx context.Context, params *riverdriver.QueueDeleteExpiredParams) ([]string, error) {
	expired := *params
	expired.UpdatedAtHorizon = f.clock.At(params.UpdatedAtHorizon)
	return f.Executor.QueueDeleteExpired(ctx, &expired)
}

type hearer struct {
	riverdriver.Listener
	cancel  func(job int64)
	health  *db.Health
	emptied int64 // times that the pools had been emptied when it connected
}

// Connect takes a connection from the pool.
func (l *hearer) Connect(ctx context.Context) error {
	l.emptied = l.health.Emptied()
	return l.Listener.Connect(ctx)
}

// Ping fails, too, when the connection may lead to a server that can't be written any
// more: nobody notifies there. River then connects again.
func (l *hearer) Ping(ctx context.Context) error {
	if l.health.Emptied() != l.emptied {
		return errors.New("the server of this connection could not be written")
	}
	return l.Listener.Ping(ctx)
}

// controlTopic is River's topic for commands about queues and running jobs.
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
