package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"ringback/db"
	"ringback/jobs/webhook"
	"ringback/work"
	"ringback/work/fingerprint"
)

const (
	naiveWorkQueue     = "work"
	naiveCallbackQueue = "callback"
)

const naiveStepTimeout = 10 * time.Second

func insertInto(queue string) *river.InsertOpts { return &river.InsertOpts{Queue: queue} }

// newNaiveClient tunes River as the service's queue was before it wrote sets.
// 500 workers, or cooldowns up to 50 ms, made no more than a tenth of difference;
// 30 workers were slower.
func newNaiveClient(n *naiveServer, o naiveOptions) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &naiveWorker{server: n})
	river.AddWorker(workers, &naiveCaller{server: n})
	settings := &river.Config{
		Workers:              workers,
		Logger:               slog.New(slog.DiscardHandler),
		FetchCooldown:        o.cooldown,
		FetchPollInterval:    100 * time.Millisecond,
		RescueStuckJobsAfter: 2 * time.Minute,
		MaxAttempts:          1000,
	}
	if o.role == "all" {
		settings.Queues = map[string]river.QueueConfig{
			naiveWorkQueue:     {MaxWorkers: o.workers},
			naiveCallbackQueue: {MaxWorkers: o.workers},
		}
	}
	client, err := river.NewClient(riverpgxv5.New(n.river), settings)
	if err != nil {
		return nil, fmt.Errorf("setting up river: %w", err)
	}
	return client, nil
}

type naiveWork struct {
	RequestID uuid.UUID `json:"request_id"`
}

func (naiveWork) Kind() string { return "work" }

type naiveWorker struct {
	river.WorkerDefaults[naiveWork]
	server *naiveServer
}

// Work loads, works, and finishes in one transaction.
func (w *naiveWorker) Work(ctx context.Context, job *river.Job[naiveWork]) error {
	n, id := w.server, job.Args.RequestID
	input, todo, err := loadNaiveWork(ctx, n.pool, id)
	if err != nil || !todo {
		return err
	}
	sample := fingerprint.Work
	sample.Timeout = 40 * time.Second
	outcome, err := work.Run(ctx, sample, work.Call{Input: input})
	if err != nil {
		return err
	}
	if outcome.Error != nil {
		return outcome.Error // the benchmark sends no work that fails
	}
	if err := n.finish(ctx, id, outcome); err != nil {
		return err
	}
	n.logger.InfoContext(ctx, "work_finished", "request_id", id, "job_id", job.ID,
		"status", "succeeded", "duration_ms", outcome.FinishedAt.Sub(outcome.StartedAt).Milliseconds())
	return nil
}

func (n *naiveServer) finish(ctx context.Context, id uuid.UUID, outcome work.Outcome) error {
	ctx, cancel := context.WithTimeout(ctx, naiveStepTimeout)
	defer cancel()
	return db.InTx(ctx, n.pool, func(tx pgx.Tx) error {
		status, _, err := lockNaive(ctx, tx, id)
		if err != nil || status != "accepted" {
			return err
		}
		job, err := n.client.InsertTx(ctx, tx, naiveCallback{id}, insertInto(naiveCallbackQueue))
		if err != nil {
			return fmt.Errorf("inserting callback job: %w", err)
		}
		return finishNaive(ctx, tx, id, outcome, job.Job.ID)
	})
}

type naiveCallback struct {
	RequestID uuid.UUID `json:"request_id"`
}

func (naiveCallback) Kind() string { return "callback" }

type naiveCaller struct {
	river.WorkerDefaults[naiveCallback]
	server *naiveServer
}

var errNaiveNotDelivered = errors.New("not delivered")

// Work loads, sends, and settles in one transaction.
func (w *naiveCaller) Work(ctx context.Context, job *river.Job[naiveCallback]) error {
	n := w.server
	request, todo, err := loadNaiveCallback(ctx, n.pool, job.Args.RequestID)
	if err != nil || !todo {
		return err
	}
	body, err := json.Marshal(struct {
		Type      string       `json:"type"`
		Timestamp time.Time    `json:"timestamp"`
		Data      naiveRequest `json:"data"`
	}{"request." + request.Status, request.FinishedAt, request})
	if err != nil {
		return fmt.Errorf("encoding callback: %w", err)
	}
	sent := n.sender.Send(ctx, webhook.Message{
		ID: "req_" + request.ID.String(), URL: request.CallbackURL, Body: body, Secrets: []webhook.Secret{n.secret},
	})
	number, err := n.settle(ctx, request.ID, sent)
	if err != nil {
		return err
	}
	n.logger.InfoContext(ctx, "callback_attempt", "request_id", request.ID, "job_id", job.ID, "attempt", number,
		"outcome", sent.Outcome, "http_status", sent.Status, "cause", sent.Cause, "address", sent.Address,
		"duration_ms", sent.EndedAt.Sub(sent.StartedAt).Milliseconds(), "state", "delivered", "retry_in_ms", 0)
	if sent.Outcome != webhook.Delivered {
		return errNaiveNotDelivered
	}
	return nil
}

func (n *naiveServer) settle(ctx context.Context, id uuid.UUID, sent webhook.Attempt) (number int, err error) {
	ctx, cancel := context.WithTimeout(ctx, naiveStepTimeout)
	defer cancel()
	err = db.InTx(ctx, n.pool, func(tx pgx.Tx) error {
		_, callback, err := lockNaive(ctx, tx, id)
		if err != nil {
			return err
		}
		if number, err = insertNaiveAttempt(ctx, tx, id, sent); err != nil {
			return err
		}
		if callback != "pending" || sent.Outcome != webhook.Delivered {
			return nil
		}
		return settleNaive(ctx, tx, id, sent.EndedAt)
	})
	return number, err
}
