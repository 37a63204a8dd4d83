package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ringback/cmd/server/cli"
	"ringback/cmd/server/console"
	"ringback/db"
	"ringback/jobs/clients"
	"ringback/jobs/webhook"
)

// clientCommand is `ringback client …`.
type clientCommand struct {
	line    *commandLine
	name    string
	changes []func(*db.Client) // that set makes
}

// clientCommands are the operator's commands for clients.
func (l *commandLine) clientCommands() *cobra.Command {
	c := &clientCommand{line: l}
	group := cli.Group("client", "Make API keys, and limit what each client may do", `A client is a caller: an API key, the secret that its callbacks are signed with,
and limits. Running servers follow a change within three seconds.`)
	group.AddCommand(
		c.command(c.line.config, "add NAME", "Make a client, and print its API key and signing secret", addHelp, c.issue(clients.Add, 0)),
		c.command(c.line.config, "rotate NAME", "Print a new key and secret; the old ones are good for another day", rotateHelp, c.issue(clients.Rotate, clients.Overlap)),
		c.setCommand(),
		c.command(c.line.readOnlyConfig, "show NAME", "Show the limits that count for a client, and the hosts of its callbacks", showHelp, c.show),
		c.command(c.line.readOnlyConfig, "disable NAME", "Take the keys of a client away for good", disableHelp, c.disable),
		c.command(c.line.readOnlyConfig, "list", "Show all clients, and their own limits", "", c.list),
		c.command(c.line.config, "reseal", "Seal all secrets and headers again, with the first SECRETS_KEY", resealHelp, c.reseal),
	)
	return group
}

const (
	addHelp = `Makes a client, and prints its API key and the secret that its callbacks are
signed with. Both are shown once.`
	rotateHelp = `Prints a new key and a new secret. For another day both keys are taken, and
callbacks are signed with both secrets. Rotating twice ends a leaked key
at once.`
	disableHelp = `Takes the keys of a client away for good. Its pending callbacks are still
delivered.`
	showHelp = `Shows each limit of a client, with the word default where the settings of this
environment count.`
	resealHelp = `Stores the secrets of all clients, and the headers of all callbacks, again,
sealed with the first SECRETS_KEY: the last step of replacing that key. All servers
must run with that key in the first place by then.`
	setHelp = `Gives a client limits of its own instead of CLIENT_RATE and so on, and the hosts
that its callbacks may name: host, host:port or *.suffix. The word default takes
a limit back.`
)

// command makes a command on the database. A NAME in its usage is a client's.
func (c *clientCommand) command(settings readSettings, use, short, long string, do onDatabase) *cobra.Command {
	command := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, RunE: databaseCommand(settings, do)}
	if strings.HasSuffix(use, " NAME") {
		command.Args = c.takeName
		command.Example = "  ringback client " + strings.Replace(use, "NAME", "acme", 1)
	}
	return command
}

// takeName reads the name of a client.
func (c *clientCommand) takeName(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("the name of a client is missing")
	case 1:
		c.name = args[0]
		return clients.CheckName(c.name)
	}
	return fmt.Errorf("unknown argument %q", args[1])
}

func (c *clientCommand) setCommand() *cobra.Command {
	command := c.command(c.line.readOnlyConfig, "set NAME", "Give a client limits of its own, and the hosts of its callbacks", setHelp, c.set)
	command.Example = `  ringback client set acme --rate 200 --storage 50GiB
  ringback client set acme --callbacks hooks.acme.com,*.acme.com:8443
  ringback client set acme --rate default`
	flags := command.Flags()
	flags.SortFlags = false
	c.limit(flags, "rate", "`N` POSTs a second, twice as many in a burst", count(maxClientRate), func(row *db.Client, n int64) { row.Rate = int(n) })
	c.limit(flags, "unfinished", "`N` unfinished requests", count(maxClientCount), func(row *db.Client, n int64) { row.Unfinished = int(n) })
	c.limit(flags, "per-destination", "`N` of them for one host and port", count(maxClientCount), func(row *db.Client, n int64) { row.PerDestination = int(n) })
	c.limit(flags, "storage", "`BYTES` kept, such as 50GiB", byteCount, func(row *db.Client, n int64) { row.Storage = n })
	c.limit(flags, "dead-letters", "`N` dead letters kept", count(maxClientCount), func(row *db.Client, n int64) { row.DeadLetters = int(n) })
	flags.Func("callbacks", "`HOSTS`, with commas between, that its callbacks may name", c.readCallbacks)
	command.Args = func(command *cobra.Command, args []string) error {
		if err := c.takeName(command, args); err != nil {
			return err
		}
		if len(c.changes) == 0 {
			return errors.New("client set takes at least one limit, such as --rate 200")
		}
		return nil
	}
	return command
}

// ofSettings as a value takes a limit of a client's own back.
const ofSettings = "default"

// limit makes a flag that sets a limit.
func (c *clientCommand) limit(flags *pflag.FlagSet, name, usage string, read func(text string) (int64, error), set func(row *db.Client, n int64)) {
	flags.Func(name, usage, func(text string) (err error) {
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
				return fmt.Errorf("must be the word %s, or hosts with commas between them; each %w", ofSettings, err)
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

type issuing func(ctx context.Context, q db.Querier, keys clients.Keys, client string, now time.Time) (clients.Credentials, error)

// issuedCredentials are the output of add and rotate.
type issuedCredentials struct {
	Client       string    `json:"client"`
	Key          string    `json:"key"`
	Secret       string    `json:"secret"`
	OverlapUntil time.Time `json:"overlap_until,omitzero"` // until when those before are good
}

// issue makes credentials. Those before them are good for the overlap.
func (c *clientCommand) issue(do issuing, overlap time.Duration) onDatabase {
	return func(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
		var clock db.Clock // of the database, by which keys end
		if err := clock.Read(ctx, pool); err != nil {
			return err
		}
		now := clock.Now()
		made, err := do(ctx, pool, config.SecretsKey, c.name, now)
		if err != nil {
			return err
		}
		issued := issuedCredentials{Client: c.name, Key: made.Key, Secret: made.Secret}
		if overlap > 0 {
			issued.OverlapUntil = now.Add(overlap).UTC().Truncate(time.Second)
		}
		return issued.print(config.json, stdout)
	}
}

func (i issuedCredentials) print(asJSON bool, stdout io.Writer) error {
	if asJSON {
		return cli.WriteJSON(stdout, i)
	}
	_, err := fmt.Fprintf(stdout, "client  %s\nkey     %s\nsecret  %s\n\nThis is shown once. Running servers follow within three seconds.\n", i.Client, i.Key, i.Secret)
	if err == nil && !i.OverlapUntil.IsZero() {
		_, err = fmt.Fprintf(stdout, "The key and the secret before it work until %s.\n", i.OverlapUntil.Format(time.RFC3339))
	}
	return err
}

func (c *clientCommand) disable(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	var clock db.Clock // of the database, as for all times there
	if err := clock.Read(ctx, pool); err != nil {
		return err
	}
	if err := clients.Disable(ctx, pool, c.name, clock.Now()); err != nil {
		return err
	}
	if config.json {
		return cli.WriteJSON(stdout, map[string]any{"client": c.name, "disabled": true})
	}
	_, err := fmt.Fprintf(stdout, "Client %s is disabled: servers that run refuse its key within three seconds.\nCallbacks that it is owed are still delivered.\n", c.name)
	return err
}

func (c *clientCommand) reseal(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	done, err := clients.Reseal(ctx, pool, config.SecretsKey)
	if err != nil {
		return err
	}
	if config.json {
		return cli.WriteJSON(stdout, map[string]int{"resealed": done.Clients, "callbacks": done.Callbacks})
	}
	_, err = fmt.Fprintf(stdout, "The secrets of %d clients are sealed with the first SECRETS_KEY, and so are the headers of all callbacks (%d were not before).\n", done.Clients, done.Callbacks)
	return err
}

// set changes limits, and prints the client's new limits.
func (c *clientCommand) set(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	row, err := clients.Set(ctx, pool, c.name, func(row *db.Client) {
		for _, change := range c.changes {
			change(row)
		}
	})
	if err != nil {
		return err
	}
	if err := printLimits(row, config, stdout); err != nil || config.json {
		return err
	}
	_, err = fmt.Fprintln(stdout, "\nRunning servers follow within three seconds. The defaults are those of this environment.")
	return err
}

func (c *clientCommand) show(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	rows, err := db.ListClients(ctx, pool)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(rows, func(row db.Client) bool { return row.Name == c.name })
	if at < 0 {
		return fmt.Errorf("there is no client %s: ringback client list names all", c.name)
	}
	return printLimits(rows[at], config, stdout)
}

// printLimits prints the limits that count for a client; as JSON, its own limits.
func printLimits(row db.Client, config Config, stdout io.Writer) error {
	if config.json {
		return cli.WriteJSON(stdout, listedClientOf(row))
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	defaults := config.clientLimits()
	for _, limit := range []struct {
		name         string
		own, setting int64
		text         func(int64) string
	}{
		{"rate", int64(row.Rate), int64(defaults.Rate), digits},
		{"unfinished", int64(row.Unfinished), int64(defaults.Unfinished), digits},
		{"per-destination", int64(row.PerDestination), int64(defaults.PerDestination), digits},
		{"storage", row.Storage, defaults.Storage, console.Size},
		{"dead-letters", int64(row.DeadLetters), int64(defaults.DeadLetters), digits},
	} {
		if limit.own == 0 {
			fmt.Fprintf(table, "%s\t%s (%s)\n", limit.name, limit.text(limit.setting), ofSettings)
		} else {
			fmt.Fprintf(table, "%s\t%s\n", limit.name, limit.text(limit.own))
		}
	}
	fmt.Fprintf(table, "callbacks\t%s\n", hostsOf(row))
	return table.Flush()
}

// listedClient is a client as `client list --json` prints it: an absent limit means the
// settings' limit, absent callbacks mean all hosts.
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

func (c *clientCommand) list(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	rows, err := db.ListClients(ctx, pool)
	if err != nil {
		return err
	}
	if config.json {
		return printJSON(rows, stdout)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tCREATED\tROTATED\tDISABLED\tSECRET\tRATE\tUNFINISHED\tPER-DESTINATION\tSTORAGE\tDEAD-LETTERS\tCALLBACKS")
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			row.Name, when(row.CreatedAt), when(row.RotatedAt), when(row.DisabledAt), listedClientOf(row).Secret,
			own(int64(row.Rate), digits), own(int64(row.Unfinished), digits), own(int64(row.PerDestination), digits),
			own(row.Storage, console.Size), own(int64(row.DeadLetters), digits), hostsOf(row))
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

// own shows a client's own limit, if it has one.
func own(limit int64, text func(int64) string) string {
	if limit == 0 {
		return orDash("")
	}
	return text(limit)
}

func digits(n int64) string { return strconv.FormatInt(n, 10) }

func hostsOf(row db.Client) string {
	return orDash(strings.Join(row.Callbacks, ","))
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
