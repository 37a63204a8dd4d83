package console

import (
	"context"
	"net/http"
	"slices"
	"time"

	"ringback/db"
)

// clientRow is a client as the page shows it: its limits, 0 where the settings' limits
// hold, and its counts; no key, no secret.
type clientRow struct {
	Name                             string
	CreatedAt, RotatedAt, DisabledAt time.Time

	Rate, Unfinished, PerDestination, Dead int
	Storage                                int64
	Callbacks                              []string

	HasUnfinished, HasDead, HasStored int64

	Unreadable bool // its secrets can't be opened, so it is refused
}

type clientsPage struct {
	Rows    []clientRow
	Counted bool // the counts are known
}

func (c *Console) clients(r *http.Request) (view, error) {
	listed, err := db.ListClients(r.Context(), c.Reads)
	if err != nil {
		return view{}, err
	}
	var page clientsPage
	unreadable := c.Unreadable()
	if c.LocalClient != "" {
		page.Rows = append(page.Rows, clientRow{Name: c.LocalClient})
	}
	for _, client := range listed {
		page.Rows = append(page.Rows, clientRow{
			Name: client.Name, CreatedAt: client.CreatedAt, RotatedAt: client.RotatedAt, DisabledAt: client.DisabledAt,
			Rate: client.Rate, Unfinished: client.Unfinished, PerDestination: client.PerDestination, Dead: client.DeadLetters,
			Storage: client.Storage, Callbacks: client.Callbacks, Unreadable: slices.Contains(unreadable, client.Name),
		})
	}
	page.Counted = c.countClients(r.Context(), page.Rows)
	return view{page: "clients", title: "Clients", data: page}, nil
}

// countSample is how many unfinished requests are looked up to count them by client.
const countSample = 20_000

// countClients fills in the counts of clients, as their quotas count. It tells false where
// counting takes too long: the page does without.
func (c *Console) countClients(ctx context.Context, rows []clientRow) bool {
	unfinished, err := db.CountByDestination(ctx, c.Pool, []string{"work", "callback"}, countSample)
	if err != nil {
		return false
	}
	kept, err := db.SampleKept(ctx, c.Pool)
	if err != nil {
		return false
	}
	has := map[string]int64{}
	for destination, count := range unfinished {
		has[destination.Client] += count
	}
	for i := range rows {
		row := &rows[i]
		row.HasUnfinished, row.HasDead, row.HasStored = has[row.Name], kept[row.Name].DeadLetters, kept[row.Name].Bytes
	}
	return true
}
