package upkeep

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

// singleRowsInterval is the time between two looks for single rows that are gone.
const singleRowsInterval = 10 * time.Second

// SingleRows writes the row of tables that hold a single row again, where somebody removed it.
// Without these rows nothing would be removed, mended or found, and nobody would say so.
type SingleRows struct {
	Pool      *pgxpool.Pool
	Logger    *slog.Logger
	FinishKey func() []byte // the key of finish calls, nil while this process doesn't know it
	Search    *Searcher     // begins again where its row was gone

	told time.Time // when it last told of a failure that lasts; zero for none
}

// Run looks until ctx ends.
func (r *SingleRows) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if slices.Contains(r.Restore(ctx), "unsuccessful_search") {
			go r.Search.Run(ctx)
		}
		sleep(ctx, singleRowsInterval)
	}
}

// Restore looks once, and returns the names of the tables that have their row again.
func (r *SingleRows) Restore(ctx context.Context) []string {
	limited, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	restored, err := db.RestoreRows(limited, r.Pool, r.FinishKey())
	switch {
	case err == nil:
		r.told = time.Time{}
	case ctx.Err() == nil && time.Since(r.told) >= db.ToldAgainAfter && !db.IsUnavailable(err):
		r.told = time.Now()
		r.Logger.WarnContext(ctx, "single_rows_not_looked_for", "error", err, "remedy", "end what the error names, such as a lock on a table")
	}
	if len(restored) > 0 {
		r.Logger.WarnContext(ctx, "single_rows_restored", "tables", restored,
			"cause", "somebody emptied these tables, or copied the schema without its rows; nothing is to be done")
	}
	return restored
}
