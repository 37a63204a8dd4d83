package console

import (
	"net/http"
	"time"

	"ringback/db"
)

// clientRow is a client as the page shows it: no key, no secret.
type clientRow struct {
	Name                                   string
	CreatedAt, RotatedAt, DisabledAt       time.Time
	Rate, Unfinished, PerDestination, Dead int
	Storage                                int64
	Callbacks                              []string
}

func (c *Console) clients(r *http.Request) (view, error) {
	listed, err := db.ListClients(r.Context(), c.Reads)
	if err != nil {
		return view{}, err
	}
	rows := make([]clientRow, len(listed))
	for i, client := range listed {
		rows[i] = clientRow{
			client.Name, client.CreatedAt, client.RotatedAt, client.DisabledAt,
			client.Rate, client.Unfinished, client.PerDestination, client.DeadLetters, client.Storage, client.Callbacks,
		}
	}
	return view{page: "clients", title: "Clients", data: rows}, nil
}
