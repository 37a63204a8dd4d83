package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/postgres"
)

const (
	snapshotRate = 800 // requests a second
	// snapshotLast is the measured part at the end: rows that a snapshot keeps from being
	// removed pile up as long as it is open. It is a fifth, a minute of five.
	snapshotLast = 5
)

// measureSnapshot asks what it costs that a transaction has read and stays open, as a
// forgotten prompt's or a long backup's: no version of a row that came to be since can be
// removed.
func (b *bench) measureSnapshot(ctx context.Context) error {
	if b.plan.snapshotFor == 0 {
		return b.leaveOut()
	}
	return rounds(b.plan.stormRepeat, func() error {
		alone, err := b.timeSnapshot(ctx, "without", func(context.Context, database) (func() error, error) {
			return func() error { return nil }, nil
		})
		if err != nil {
			return err
		}
		beside, err := b.timeSnapshot(ctx, "with", openSnapshot)
		if err != nil {
			return err
		}
		b.figures.add("snapshot_ratio", beside.Goodput/alone.Goodput)
		b.figures.add("snapshot_p99_ratio", beside.TimeToCallback.P99/alone.TimeToCallback.P99)
		return nil
	})
}

// timeSnapshot measures the last part of a long storm, while open's transaction stays
// open.
func (b *bench) timeSnapshot(ctx context.Context, name string, open func(context.Context, database) (func() error, error)) (told load.Async, err error) {
	last := b.plan.snapshotFor / snapshotLast
	order := stormOrder{
		mix: "async=100", rate: snapshotRate, warmup: b.plan.snapshotFor - last, length: last, drain: b.plan.snapshotFor,
	}
	err = b.onFreshServer(ctx, "snapshot", nil, func(d database, s *server) error {
		end, err := open(ctx, d)
		if err != nil {
			return err
		}
		report, err := b.runStorm(ctx, s, order)
		if report != nil {
			told = report.Async
		}
		return errors.Join(err, end())
	})
	if err != nil {
		return told, fmt.Errorf("%s a snapshot: %w", name, err)
	}
	b.say("  %-7s a snapshot, the last %s of %s at %d/s: %6.0f/s  p50 %6.2f ms  p99 %6.2f ms",
		name, last, b.plan.snapshotFor, snapshotRate, told.Goodput, told.TimeToCallback.P50, told.TimeToCallback.P99)
	b.figures.add("snapshot_per_s_"+name, told.Goodput)
	b.figures.add("snapshot_ttc_p99_ms_"+name, told.TimeToCallback.P99)
	return told, nil
}

// openSnapshot opens a transaction that has read and then idles. End ends it, and
// returns an error if it had ended before.
func openSnapshot(ctx context.Context, d database) (end func() error, err error) {
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", d.Name, err)
	}
	err = postgres.Execute(ctx, conn, "SET idle_in_transaction_session_timeout = 0", "BEGIN ISOLATION LEVEL REPEATABLE READ",
		"SELECT count(*) FROM requests")
	if err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return func() error {
		_, err := conn.Exec(ctx, "ROLLBACK")
		if err != nil {
			err = fmt.Errorf("the snapshot ended before the measurement: %w", err)
		}
		return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}, nil
}
