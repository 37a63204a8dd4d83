package clients

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/jobs/webhook"
)

// Limits bound one client. In a client's own limits 0 stands for the default, and otherwise for no
// limit.
type Limits = db.Limits

// Limits returns the limits of a client: its own, and the defaults for limits of which it has none.
func (d *Directory) Limits(client string, defaults Limits) Limits {
	own := d.latest.Load().limits[client]
	return Limits{
		Rate:           cmp.Or(own.Rate, defaults.Rate),
		Unfinished:     cmp.Or(own.Unfinished, defaults.Unfinished),
		PerDestination: cmp.Or(own.PerDestination, defaults.PerDestination),
		Storage:        cmp.Or(own.Storage, defaults.Storage),
		DeadLetters:    cmp.Or(own.DeadLetters, defaults.DeadLetters),
	}
}

// Callbacks returns the hosts that a client's callbacks may name.
func (d *Directory) Callbacks(client string) webhook.Hosts { return d.latest.Load().callbacks[client] }

// Set changes a client's own limits and the hosts that its callbacks may name, and returns the
// changed client.
func Set(ctx context.Context, pool *pgxpool.Pool, client string, change func(*db.Client)) (row db.Client, err error) {
	err = db.InTx(ctx, pool, func(tx pgx.Tx) error {
		if row, err = db.LockClient(ctx, tx, client); err != nil {
			return err
		}
		change(&row)
		return db.SaveClientLimits(ctx, tx, row)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("there is no client %s: ringback client list names all", client)
	}
	return row, err
}
