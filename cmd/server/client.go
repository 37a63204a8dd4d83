package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/jobs/clients"
	"ringback/jobs/webhook"
)

// clientCommand is `ringback client …`: what it does, and to which client.
type clientCommand struct {
	action, name string
	json         bool               // list as JSON
	changes      []func(*db.Client) // that set makes
}

// readClientCommand takes what follows the word client on the command line.
func readClientCommand(args []string) (clientCommand, error) {
	var c clientCommand
	if len(args) > 0 {
		c.action, args = args[0], args[1:]
	}
	names := 0
	switch c.action {
	case "add", "rotate", "disable", "set":
		names = 1
	case "list", "reseal":
	default:
		return c, fmt.Errorf("client must be followed by add, set, list, rotate, disable or reseal, not %q", c.action)
	}
	if names == 1 && len(args) > 0 {
		c.name, args, names = args[0], args[1:], 0
	}
	args, err := c.readFlags(args)
	switch {
	case err != nil:
		return c, fmt.Errorf("client %s: %w", c.action, err)
	case names > 0:
		return c, fmt.Errorf("client %s takes the name of a client", c.action)
	case len(args) > 0:
		return c, fmt.Errorf("client %s: unknown argument %q", c.action, args[0])
	case c.action == "set" && len(c.changes) == 0:
		return c, errors.New("client set takes at least one limit, such as --rate 200")
	}
	return c, nil
}

// readFlags reads the flags that the action has, and returns what follows them.
func (c *clientCommand) readFlags(args []string) (rest []string, err error) {
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	switch c.action {
	case "list":
		flags.BoolVar(&c.json, "json", false, "")
	case "set":
		c.limit(flags, "rate", count(maxClientRate), func(row *db.Client, n int64) { row.Rate = int(n) })
		c.limit(flags, "unfinished", count(maxClientCount), func(row *db.Client, n int64) { row.Unfinished = int(n) })
		c.limit(flags, "per-destination", count(maxClientCount), func(row *db.Client, n int64) { row.PerDestination = int(n) })
		c.limit(flags, "storage", byteCount, func(row *db.Client, n int64) { row.Storage = n })
		c.limit(flags, "dead-letters", count(maxClientCount), func(row *db.Client, n int64) { row.DeadLetters = int(n) })
		flags.Func("callbacks", "", c.readCallbacks)
	}
	err = flags.Parse(args)
	return flags.Args(), err
}

// ofSettings as a value takes a limit of a client's own back.
const ofSettings = "default"

// limit makes a flag that sets a limit.
func (c *clientCommand) limit(flags *flag.FlagSet, name string, read func(text string) (int64, error), set func(row *db.Client, n int64)) {
	flags.Func(name, "", func(text string) (err error) {
		var n int64
		if text != ofSettings {
			if n, err = read(text); err != nil {
				return fmt.Errorf("%w, or the word %s", err, ofSettings)
			}
		}
		c.changes = append(c.changes, func(row *db.Client) { set(row, n) })
		return nil
	})
}

// count reads a whole number.
func count(most int64) func(text string) (int64, error) {
	return func(text string) (int64, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 || n > most {
			return 0, fmt.Errorf("must be from 1 to %d", most)
		}
		return n, nil
	}
}

// byteCount reads a size that isn't nothing.
func byteCount(text string) (int64, error) {
	var n size
	if err := n.UnmarshalText([]byte(text)); err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, errors.New("must be at least 1")
	}
	return int64(n), nil
}

// maxCallbackHosts is how many hosts a client's callbacks may be bound to: each
// request is held against all of them.
const maxCallbackHosts = 100

func (c *clientCommand) readCallbacks(text string) error {
	var hosts []string
	if text != ofSettings {
		for one := range items([]byte(text)) {
			host, err := webhook.ParseHost(one)
			if err != nil {
				return fmt.Errorf("%w, or the word %s", err, ofSettings)
			}
			hosts = append(hosts, host)
		}
	}
	if len(hosts) > maxCallbackHosts {
		return fmt.Errorf("must be at most %d hosts", maxCallbackHosts)
	}
	c.changes = append(c.changes, func(row *db.Client) { row.Callbacks = hosts })
	return nil
}

// run does the command, on the schema that is there.
func (c clientCommand) run(ctx context.Context, config Config, stdout io.Writer) error {
	if err := db.CheckSchema(ctx, config.DatabaseURL); err != nil {
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
	case "set":
		return c.set(ctx, pool, config, stdout)
	default:
		return c.list(ctx, pool, stdout)
	}
}

type issuing func(ctx context.Context, q db.Querier, keys clients.Keys, client string, now time.Time) (clients.Credentials, error)

func (c clientCommand) issue(ctx context.Context, q db.Querier, config Config, stdout io.Writer, do issuing) error {
	var clock db.Clock // of the database, by which keys end
	if err := clock.Read(ctx, q); err != nil {
		return err
	}
	now := clock.Now()
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

// set changes limits, and prints what the client has from now on.
func (c clientCommand) set(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	row, err := clients.Set(ctx, pool, c.name, func(row *db.Client) {
		for _, change := range c.changes {
			change(row)
		}
	})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	defaults := config.clientLimits()
	for _, limit := range []struct {
		name         string
		own, setting int64
	}{
		{"rate", int64(row.Rate), int64(defaults.Rate)},
		{"unfinished", int64(row.Unfinished), int64(defaults.Unfinished)},
		{"per-destination", int64(row.PerDestination), int64(defaults.PerDestination)},
		{"storage", row.Storage, defaults.Storage},
		{"dead-letters", int64(row.DeadLetters), int64(defaults.DeadLetters)},
	} {
		if limit.own == 0 {
			fmt.Fprintf(table, "%s\t%d (%s)\n", limit.name, limit.setting, ofSettings)
		} else {
			fmt.Fprintf(table, "%s\t%d\n", limit.name, limit.own)
		}
	}
	fmt.Fprintf(table, "callbacks\t%s\n", hostsOf(row))
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "\nServers that run know it within three seconds. The defaults are those of this environment.")
	return nil
}

// listedClient is a client as `client list --json` prints it: an absent limit is that of
// the settings, absent callbacks may name all hosts.
type listedClient struct {
	Name           string    `json:"name"`
	CreatedAt      time.Time `json:"created_at"`
	RotatedAt      time.Time `json:"rotated_at,omitzero"`
	DisabledAt     time.Time `json:"disabled_at,omitzero"`
	Secret         string    `json:"secret"` // how it is stored: sealed or plain
	Rate           int       `json:"rate,omitzero"`
	Unfinished     int       `json:"unfinished,omitzero"`
	PerDestination int       `json:"per_destination,omitzero"`
	Storage        int64     `json:"storage,omitzero"`
	DeadLetters    int       `json:"dead_letters,omitzero"`
	Callbacks      []string  `json:"callbacks,omitzero"`
}

func listedClientOf(row db.Client) listedClient {
	stored := "plain"
	if clients.IsSealed(row) {
		stored = "sealed"
	}
	return listedClient{
		Name: row.Name, CreatedAt: row.CreatedAt, RotatedAt: row.RotatedAt, DisabledAt: row.DisabledAt, Secret: stored,
		Rate: row.Rate, Unfinished: row.Unfinished, PerDestination: row.PerDestination, Storage: row.Storage,
		DeadLetters: row.DeadLetters, Callbacks: row.Callbacks,
	}
}

func (c clientCommand) list(ctx context.Context, q db.Querier, stdout io.Writer) error {
	rows, err := db.ListClients(ctx, q)
	if err != nil {
		return err
	}
	if c.json {
		return printJSON(rows, stdout)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tCREATED\tROTATED\tDISABLED\tSECRET\tRATE\tUNFINISHED\tPER-DESTINATION\tSTORAGE\tDEAD-LETTERS\tCALLBACKS")
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			row.Name, when(row.CreatedAt), when(row.RotatedAt), when(row.DisabledAt), listedClientOf(row).Secret,
			own(int64(row.Rate)), own(int64(row.Unfinished)), own(int64(row.PerDestination)),
			own(row.Storage), own(int64(row.DeadLetters)), hostsOf(row))
	}
	return table.Flush()
}

func printJSON(rows []db.Client, stdout io.Writer) error {
	all := make([]listedClient, len(rows))
	for i, row := range rows {
		all[i] = listedClientOf(row)
	}
	encoded, err := json.Marshal(all, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("encoding clients: %w", err)
	}
	_, err = fmt.Fprintf(stdout, "%s\n", encoded)
	return err
}

// own shows a limit of a client's own, if it has one.
func own(limit int64) string {
	if limit == 0 {
		return orDash("")
	}
	return strconv.FormatInt(limit, 10)
}

func hostsOf(row db.Client) string {
	return orDash(strings.Join(row.Callbacks, ","))
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
