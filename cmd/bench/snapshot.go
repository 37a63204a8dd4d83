package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/postgres"
)

// snapshot asks what a transaction costs that has read and stays open, as a forgotten prompt's
// or a long backup's does. Row versions that were made since can't be removed, and pile up
// while the transaction is open. So the last fifth is measured.
func snapshot(s *measurement) {
	const rate = 800
	var told [2]load.Async
	for i, name := range []string{"without", "with"} {
		s.scene(name+" a snapshot", func(s *measurement) {
			on := s.fresh("snapshot")
			if name == "with" {
				s.openSnapshot(on.rows)
			}
			config := s.atRate(on, rate)
			config.Length, config.Warmup, config.Drain = s.plan.snapshot, s.plan.snapshot*4/5, s.plan.snapshot
			told[i] = s.send(config).Async
			s.sampled("time to a callback", told[i].TimeToCallback)
			s.add("snapshot_per_s_"+name, told[i].Goodput)
			s.add("snapshot_ttc_p99_ms_"+name, told[i].TimeToCallback.P99)
		})
	}
	s.add("snapshot_ratio", told[1].Goodput/told[0].Goodput)
	s.add("snapshot_p99_ratio", told[1].TimeToCallback.P99/told[0].TimeToCallback.P99)
}

// openSnapshot opens a transaction that has read and then idles. The stage fails if the
// transaction ends before the stage does.
func (s *measurement) openSnapshot(d database) {
	conn, err := pgx.Connect(s.Ctx, d.URL)
	s.Must(err)
	ctx := context.WithoutCancel(s.Ctx)
	s.AtEnd(func() error { return conn.Close(ctx) })
	s.Must(postgres.Execute(ctx, conn, "SET idle_in_transaction_session_timeout = 0", "BEGIN ISOLATION LEVEL REPEATABLE READ",
		"SELECT count(*) FROM requests"))
	s.AtEnd(func() error {
		_, err := conn.Exec(ctx, "ROLLBACK")
		if err != nil {
			err = fmt.Errorf("the snapshot ended before the measurement: %w", err)
		}
		return err
	})
}
