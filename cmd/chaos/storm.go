package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// stormCounts are the counts of async requests in storm's report, which are compared with
// the service's. (Storm also calls a run broken in which it got no answer, since that run
// shows nothing; here, where the database is away for long, it is no fault.)
type stormCounts struct {
	load.Async
	Verdict string `json:"verdict"` // empty when it found nothing broken
}

func (c stormCounts) broken() bool { return c.Missing+c.Mismatched+c.BadSignatures+c.OutOfOrder > 0 }

// runStorm sends a modest load to one server while the faults last, and waits for the
// callbacks as long as settling may take.
func (t *trial) runStorm(ctx context.Context) stormCounts {
	found, err := t.stormServer(ctx)
	if err != nil {
		return stormCounts{Verdict: err.Error()}
	}
	counts := stormCounts{Async: found.Async}
	if counts.broken() {
		var text bytes.Buffer
		fmt.Fprintln(&text, found.Verdict())
		_ = found.WriteJSON(&text)
		counts.Verdict = text.String()
	}
	return counts
}

func (t *trial) stormServer(ctx context.Context) (*load.Findings, error) {
	config := load.Defaults()
	config.Target = t.servers.url(0)
	config.Rate, config.Length, config.Drain = float64(t.stormRate), t.plan.Duration, t.patience
	config.Timeout = 30 * time.Second
	config.Secret, config.Result = receivers.LocalSecret, sample.Result
	if t.history.Skewed { // its receivers take no signature of a wrong time; the run's own do
		config.Secret = ""
	}
	config.DatabaseURL = t.database.everywhere() + "&target_session_attrs=read-write"
	var err error
	if config.Input, err = sample.Pattern("rounds=100,delay=0s..300ms"); err != nil {
		return nil, err
	}
	run, err := load.New(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("running storm: %w", err)
	}
	return run.Do(ctx, nil)
}
