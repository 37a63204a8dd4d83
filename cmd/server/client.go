package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"ringback/db"
	"ringback/jobs/clients"
)

// clientCommand is `ringback client …`: what it does, and to which client.
type clientCommand struct{ action, name string }

// readClientCommand takes what follows the word client on the command line.
func readClientCommand(args []string) (clientCommand, error) {
	var c clientCommand
	names := 0
	if len(args) > 0 {
		c.action = args[0]
	}
	switch c.action {
	case "add", "rotate", "disable":
		names = 1
	case "list", "reseal":
	default:
		return c, fmt.Errorf("client must be followed by add, list, rotate, disable or reseal, not %q", c.action)
	}
	if len(args) != 1+names {
		return c, fmt.Errorf("client %s takes %d names, not %d", c.action, names, len(args)-1)
	}
	if names == 1 {
		c.name = args[1]
	}
	return c, nil
}

// run brings the schema up to date, since the first client is often added
// before the first start, and does the command.
func (c clientCommand) run(ctx context.Context, config Config, stdout io.Writer) error {
	if err := db.Migrate(ctx, config.DatabaseURL); err != nil {
		return err
	}
	pool, err := db.Open(ctx, config.DatabaseURL, 5*time.Second)
	if err != nil {
		return err
	}
	defer pool.Close()
	switch c.action {
	case "add":
		return c.issue(ctx, pool, config, stdout, clients.Add)
	case "rotate":
		return c.issue(ctx, pool, config, stdout, clients.Rotate)
	case "disable":
		return c.disable(ctx, pool, stdout)
	case "reseal":
		return c.reseal(ctx, pool, config, stdout)
	default:
		return c.list(ctx, pool, stdout)
	}
}

type issuing func(ctx context.Context, q db.Querier, keys clients.Keys, client string, now time.Time) (clients.Credentials, error)

func (c clientCommand) issue(ctx context.Context, q db.Querier, config Config, stdout io.Writer, do issuing) error {
	now := time.Now()
	issued, err := do(ctx, q, config.SecretsKey, c.name, now)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "client  %s\nkey     %s\nsecret  %s\n\n", c.name, issued.Key, issued.Secret)
	fmt.Fprintln(stdout, "This is shown once. Servers that run know it within three seconds.")
	if c.action == "rotate" {
		fmt.Fprintf(stdout, "The key and the secret before it work until %s.\n", now.Add(clients.Overlap).UTC().Format(time.RFC3339))
	}
	return nil
}

func (c clientCommand) disable(ctx context.Context, q db.Querier, stdout io.Writer) error {
	if err := clients.Disable(ctx, q, c.name, time.Now()); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Client %s is disabled: servers that run refuse its key within three seconds.\n", c.name)
	fmt.Fprintln(stdout, "Callbacks that it is owed are still delivered.")
	return nil
}

func (c clientCommand) reseal(ctx context.Context, q db.Querier, config Config, stdout io.Writer) error {
	count, err := clients.Reseal(ctx, q, config.SecretsKey)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "The secrets of %d clients are sealed with the first SECRETS_KEY.\n", count)
	return nil
}

func (c clientCommand) list(ctx context.Context, q db.Querier, stdout io.Writer) error {
	rows, err := db.ListClients(ctx, q)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tCREATED\tROTATED\tDISABLED\tSECRET")
	for _, row := range rows {
		stored := "plain"
		if clients.IsSealed(row) {
			stored = "sealed"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", row.Name, when(row.CreatedAt), when(row.RotatedAt), when(row.DisabledAt), stored)
	}
	return table.Flush()
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
