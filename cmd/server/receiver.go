package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ringback/cmd/server/cli"
	"ringback/db"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

// receiverCommand is `ringback receiver …`: the operator's rulings on receivers.
type receiverCommand struct {
	host, port  string // an empty port stands for all ports
	rate        float64
	concurrency int
}

// receiverCommands are the operator's commands for receivers.
func (l *commandLine) receiverCommands() *cobra.Command {
	c := &receiverCommand{}
	group := cli.Group("receiver", "Show the pace of receivers, and allow or deny them", `A receiver is a host and port that callbacks go to. Without a port, allow, deny
and forget are for all ports of the host, and replace decisions on single ports; a later
decision on a port goes before its host's. Running servers follow a change within
three seconds.`)
	list := &cobra.Command{
		Use: "list", Short: "Show the known receivers",
		Long: `Shows the known receivers: how many callbacks a second and at a time they may get,
whether they take callbacks (yes, not yet, no, probes, or of some clients), until when
they are closed, and the last outcome, about a minute late at most while they are
called. A receiver that has taken no callback is listed for ten minutes after a call.
What the operator said has a line of its own,
without http:// or https://. Of more than a thousand, the table leaves out the
receivers that were saved first, and says how many; --json lists all.`,
		Args: cobra.NoArgs, RunE: databaseCommand(l.readOnlyConfig, listReceiversOn),
	}
	allow := c.command(l, "allow HOST[:PORT]", "Give a receiver so many callbacks, or as many as it takes",
		"  ringback receiver allow hooks.example.com --rate 500 --concurrency 50", c.allow)
	allow.Flags().SortFlags = false
	allow.Flags().Func("rate", "`N` callbacks a second, from 0.01 to 1000000", c.readRate)
	allow.Flags().Func("concurrency", "`N` callbacks at a time, from 1 to 10000", c.readConcurrency)
	group.AddCommand(list, allow,
		c.command(l, "deny HOST[:PORT]", "Refuse requests that name a receiver, and end callbacks that wait for it as dead letters", "  ringback receiver deny hooks.example.com:8443", c.deny),
		c.command(l, "forget HOST[:PORT]", "Take the decision back, and drop the receiver's known pace", "  ringback receiver forget hooks.example.com", c.forget),
	)
	return group
}

// command makes a command that takes a receiver.
func (c *receiverCommand) command(l *commandLine, use, short, example string, do onDatabase) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Example: example, Args: c.takeReceiver, RunE: databaseCommand(l.readOnlyConfig, do)}
}

func (c *receiverCommand) takeReceiver(_ *cobra.Command, args []string) (err error) {
	if len(args) != 1 {
		return fmt.Errorf("takes one host, not %d", len(args))
	}
	c.host, c.port, err = readReceiver(args[0])
	return err
}

func (c *receiverCommand) readRate(text string) (err error) {
	if c.rate, err = strconv.ParseFloat(text, 64); err != nil || !(c.rate >= 0.01 && c.rate <= 1_000_000) {
		return errors.New("must be from 0.01 to 1000000 callbacks a second")
	}
	return nil
}

func (c *receiverCommand) readConcurrency(text string) (err error) {
	if c.concurrency, err = strconv.Atoi(text); err != nil || c.concurrency < 1 || c.concurrency > 10_000 {
		return errors.New("must be from 1 to 10000 callbacks at a time")
	}
	return nil
}

// readReceiver reads HOST or HOST:PORT, an IPv6 address with a port in brackets.
func readReceiver(text string) (host, port string, err error) {
	wrong := fmt.Errorf("a receiver must be a host name or address, with a port if it is for that port alone, such as hooks.example.com:8443, not %q", text)
	host = strings.ToLower(strings.TrimSuffix(text, "."))
	inside, opened := strings.CutPrefix(text, "[")
	inside, closed := strings.CutSuffix(inside, "]")
	if address, err := netip.ParseAddr(inside); err == nil && address.Zone() == "" && opened == closed && (!opened || address.Is6()) {
		return address.Unmap().String(), "", nil
	}
	if strings.Contains(text, "/") {
		return "", "", fmt.Errorf("%w: leave out http:// and https://, since a decision is for both, and the path", wrong)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) { // some would become ASCII in lower case
		return "", "", wrong
	}
	if name, number, err := net.SplitHostPort(host); err == nil {
		if value, err := strconv.ParseUint(number, 10, 16); err != nil || value == 0 || strconv.FormatUint(value, 10) != number {
			return "", "", wrong
		}
		host, port = name, number
	}
	if address, err := netip.ParseAddr(host); err == nil && address.Zone() == "" {
		return address.Unmap().String(), port, nil
	}
	if host == "localhost" {
		return host, port, nil
	}
	if host, err = webhook.PublicName(host); err != nil {
		return "", "", fmt.Errorf("%w: %w", wrong, err)
	}
	return host, port, nil
}

func (c *receiverCommand) allow(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	return c.decide(ctx, pool, config, stdout, db.ReceiverAllowed, "allowed "+limits(c.rate, c.concurrency))
}

func (c *receiverCommand) deny(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	return c.decide(ctx, pool, config, stdout, db.ReceiverDenied, "denied; requests that name it are refused, and callbacks that wait for it end as dead letters")
}

func (c *receiverCommand) decide(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer, effect, sentence string) error {
	replaced, err := db.SetRuling(ctx, pool, c.ruling(effect))
	if err != nil {
		return err
	}
	if replaced > 0 {
		sentence += fmt.Sprintf("; earlier decisions on its ports that this one replaces: %d", replaced)
	}
	return c.tell(config, stdout, effect, sentence)
}

func (c *receiverCommand) forget(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	var found db.Forgotten
	err := db.InTx(ctx, pool, func(tx pgx.Tx) (err error) {
		found, err = db.ForgetReceiver(ctx, tx, bracketed(c.host), orAll(c.port))
		return err
	})
	if err != nil {
		return err
	}
	return c.tell(config, stdout, "", forgotten(found))
}

// forgotten says what was known of a receiver.
func forgotten(found db.Forgotten) string {
	var known []string
	if found.Effect != "" {
		known = append(known, "it was "+found.Effect)
	}
	if found.OnPorts > 0 {
		known = append(known, fmt.Sprintf("decisions on its ports: %d", found.OnPorts))
	}
	if found.Receivers > 0 {
		known = append(known, fmt.Sprintf("ports whose pace was known: %d", found.Receivers))
	}
	if len(known) == 0 {
		return "nothing was stored of it"
	}
	return "forgotten: " + strings.Join(known, ", ")
}

func (c *receiverCommand) ruling(effect string) db.Ruling {
	return db.Ruling{Target: pacing.RulingTarget(c.host, c.port), Effect: effect, Rate: c.rate, Concurrency: c.concurrency}
}

// tell prints the new state.
func (c *receiverCommand) tell(config Config, stdout io.Writer, effect, sentence string) error {
	if config.json {
		return cli.WriteJSON(stdout, listedReceiver{Receiver: c.name(), Word: effect, WordRate: c.rate, WordMost: c.concurrency})
	}
	_, err := fmt.Fprintf(stdout, "%s: %s. Running servers follow within three seconds, and callbacks that wait some seconds later.\n", c.name(), sentence)
	return err
}

func (c *receiverCommand) name() string {
	if c.port == "" {
		return c.host
	}
	return net.JoinHostPort(c.host, c.port)
}

func limits(rate float64, concurrency int) string {
	text := "any rate"
	if rate > 0 {
		text = strconv.FormatFloat(rate, 'f', -1, 64) + "/s"
	}
	if concurrency > 0 {
		text += fmt.Sprintf(", %d at a time", concurrency)
	}
	return text
}

// bracketed is a host as it stands before a port.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func orAll(port string) string {
	if port == "" {
		return "*"
	}
	return port
}

// listedReceiver is a receiver as list shows it.
type listedReceiver struct {
	Receiver    string    `json:"receiver"`
	Word        string    `json:"word,omitzero"` // the effect of the operator's ruling, also on the line of a receiver
	WordRate    float64   `json:"allowed_rate,omitzero"`
	WordMost    int       `json:"allowed_concurrency,omitzero"`
	Rate        float64   `json:"rate,omitzero"`         // callbacks a second that it was known to take
	InFlight    int       `json:"in_flight,omitzero"`    // likewise at a time
	Breaker     string    `json:"breaker,omitzero"`      // of its circuit: closed (it takes callbacks), open or half-open
	ClosedUntil time.Time `json:"closed_until,omitzero"` // to all clients, or to some
	Takes       string    `json:"takes_callbacks,omitzero"`
	LastOutcome string    `json:"last_outcome,omitzero"`
	SavedAt     time.Time `json:"saved_at,omitzero"`
}

func listedReceiverOf(r db.ListedReceiver, now time.Time) listedReceiver {
	row := listedReceiver{
		Receiver: strings.TrimSuffix(strings.TrimPrefix(r.Name, "*://"), ":*"), Word: r.Effect, WordRate: r.Ruling.Rate, WordMost: r.Concurrency,
		Rate: r.Receiver.Rate, InFlight: r.InFlight, LastOutcome: r.LastOutcome, SavedAt: r.SavedAt,
	}
	row.Takes, row.ClosedUntil = pacing.Takes(r, now)
	switch {
	case r.IsRuling(), r.Effect == db.ReceiverDenied:
	case r.Openings == 0:
		row.Breaker = "closed"
	case !r.ClosedUntil.After(now):
		row.Breaker = "half-open"
	default:
		row.Breaker = "open"
	}
	return row
}

// mostListed is how many receivers are listed for people.
const mostListed = 1000

func listReceiversOn(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error {
	most := mostListed
	if config.json {
		most = 0
	}
	receivers, more, err := db.ListReceivers(ctx, pool, most)
	if err != nil {
		return err
	}
	pacing.Govern(receivers)
	var clock db.Clock // of the database, by which receivers are closed
	if err := clock.Read(ctx, pool); err != nil {
		return err
	}
	rows, now := make([]listedReceiver, len(receivers)), clock.Now()
	for i, receiver := range receivers {
		rows[i] = listedReceiverOf(receiver, now)
	}
	if config.json {
		return cli.WriteJSON(stdout, rows)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RECEIVER\tOPERATOR\tRATE\tIN FLIGHT\tTAKES CALLBACKS\tCLOSED UNTIL\tLAST OUTCOME\tAS OF")
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Receiver, row.said(), orDash(row.rate()), orDash(countOf(row.InFlight)),
			orDash(row.Takes), when(row.ClosedUntil), orDash(row.LastOutcome), when(row.SavedAt))
	}
	if err := table.Flush(); err != nil || more == 0 {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%d more, saved before these, are left out; --json lists all.\n", more)
	return err
}

func (r listedReceiver) said() string {
	if r.Word == db.ReceiverAllowed {
		return r.Word + " " + limits(r.WordRate, r.WordMost)
	}
	return orDash(r.Word)
}

func (r listedReceiver) rate() string {
	switch {
	case r.Rate == 0:
		return ""
	case r.Rate >= pacing.Unlimited:
		return "any"
	default:
		return strconv.FormatFloat(r.Rate, 'f', 1, 64) + "/s"
	}
}

func countOf(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
