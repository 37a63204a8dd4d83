package upkeep

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

// Searcher looks for the requests that ended unsuccessfully before the database noted
// such requests. It reads the table once, a batch at a time, with pauses like the
// sweeper's. All processes share a position.
type Searcher struct {
	Pool   *pgxpool.Pool
	Logger *slog.Logger
}

// Run searches until all has been looked at, or ctx ends.
func (s *Searcher) Run(ctx context.Context) {
	for done := false; !done && ctx.Err() == nil; {
		start := time.Now()
		searched, last, err := s.batch(ctx)
		pause := sweepShare * time.Since(start)
		switch {
		case err != nil && ctx.Err() == nil:
			s.Logger.WarnContext(ctx, "unsuccessful_requests_not_searched", "error", err)
			pause = sweepIdle
		case err == nil && !searched:
			pause = time.Second // another process is at it
		}
		done = last
		sleep(ctx, pause)
	}
}

func (s *Searcher) batch(ctx context.Context) (searched, done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err = db.InTx(ctx, s.Pool, func(tx pgx.Tx) (err error) {
		searched, done, err = db.SearchUnsuccessful(ctx, tx)
		return err
	})
	return searched, err == nil && done, err
}
