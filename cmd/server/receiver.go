package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

// receiverCommand is `ringback receiver …`: what the operator says, and of which
// receiver.
type receiverCommand struct {
	action      string
	host, port  string // no port for all of them
	rate        float64
	concurrency int
	json        bool
}

// readReceiverCommand takes what follows the word receiver on the command line.
func readReceiverCommand(args []string) (receiverCommand, error) {
	var c receiverCommand
	if len(args) > 0 {
		c.action, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("receiver", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	names := 1
	switch c.action {
	case "allow":
		flags.Float64Var(&c.rate, "rate", 0, "")
		flags.IntVar(&c.concurrency, "concurrency", 0, "")
	case "deny", "forget":
	case "list":
		names = 0
		flags.BoolVar(&c.json, "json", false, "")
	default:
		return c, fmt.Errorf("receiver must be followed by list, allow, deny or forget, not %q", c.action)
	}
	found, err := parseMixed(flags, args)
	switch {
	case err != nil:
		return c, fmt.Errorf("receiver %s: %w", c.action, err)
	case len(found) != names:
		return c, fmt.Errorf("receiver %s takes %d hosts, not %d", c.action, names, len(found))
	case names == 1:
		if c.host, c.port, err = readReceiver(found[0]); err != nil {
			return c, err
		}
	}
	return c, c.checkLimits(flags)
}

// parseMixed parses flags before and after the other arguments, which it returns.
func parseMixed(flags *flag.FlagSet, args []string) (others []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) > 0 {
			others, args = append(others, args[0]), args[1:]
		}
	}
	return others, nil
}

func (c receiverCommand) checkLimits(flags *flag.FlagSet) (err error) {
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "rate" && !(c.rate >= 0.01 && c.rate <= 1_000_000) {
			err = errors.New("--rate must be from 0.01 to 1000000 callbacks a second")
		}
		if f.Name == "concurrency" && (c.concurrency < 1 || c.concurrency > 10_000) {
			err = errors.New("--concurrency must be from 1 to 10000 callbacks at a time")
		}
	})
	return err
}

// readReceiver reads HOST or HOST:PORT, an IPv6 address with a port in brackets.
func readReceiver(text string) (host, port string, err error) {
	wrong := fmt.Errorf("a receiver must be a host name or address, with a port if it is for that port alone, such as hooks.example.com:8443, not %q", text)
	host = strings.ToLower(strings.TrimSuffix(text, "."))
	if address, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return address.String(), "", nil
	}
	if name, number, err := net.SplitHostPort(host); err == nil {
		if value, err := strconv.ParseUint(number, 10, 16); err != nil || value == 0 || strconv.FormatUint(value, 10) != number {
			return "", "", wrong
		}
		host, port = name, number
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return address.String(), port, nil
	}
	if host == "localhost" {
		return host, port, nil
	}
	if host, err = webhook.PublicName(host); err != nil {
		return "", "", wrong
	}
	return host, port, nil
}

// run does the command.
func (c receiverCommand) run(ctx context.Context, config Config, stdout io.Writer) error {
	if err := db.CheckSchema(ctx, config.DatabaseURL); err != nil {
		return err
	}
	pool, err := db.Open(ctx, config.DatabaseURL, 5*time.Second)
	if err != nil {
		return err
	}
	defer pool.Close()
	switch c.action {
	case "list":
		return c.list(ctx, pool, stdout)
	case "forget":
		err = db.InTx(ctx, pool, func(tx pgx.Tx) error { return db.ForgetReceiver(ctx, tx, bracketed(c.host), orAll(c.port)) })
	case "allow":
		err = db.SayOfReceiver(ctx, pool, c.word(db.ReceiverAllowed))
	case "deny":
		err = db.SayOfReceiver(ctx, pool, c.word(db.ReceiverDenied))
	}
	if err == nil {
		fmt.Fprintf(stdout, "%s: %s. Servers that run know it within three seconds.\n", c.name(), c.told())
	}
	return err
}

func (c receiverCommand) word(word string) db.ReceiverWord {
	return db.ReceiverWord{Target: pacing.WordFor(c.host, c.port), Word: word, Rate: c.rate, Concurrency: c.concurrency}
}

func (c receiverCommand) name() string {
	if c.port == "" {
		return c.host
	}
	return net.JoinHostPort(c.host, c.port)
}

func (c receiverCommand) told() string {
	switch c.action {
	case "allow":
		return "allowed " + limits(c.rate, c.concurrency)
	case "deny":
		return "denied; requests that name it are refused, and callbacks that wait for it end as dead letters"
	default:
		return "forgotten"
	}
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
	Word        string    `json:"word,omitzero"` // the operator's
	WordRate    float64   `json:"allowed_rate,omitzero"`
	WordMost    int       `json:"allowed_concurrency,omitzero"`
	Rate        float64   `json:"rate,omitzero"`      // callbacks a second that it was known to take
	InFlight    int       `json:"in_flight,omitzero"` // likewise at a time
	Breaker     string    `json:"breaker,omitzero"`   // closed, open or half-open
	ClosedUntil time.Time `json:"closed_until,omitzero"`
	LastOutcome string    `json:"last_outcome,omitzero"`
	SavedAt     time.Time `json:"saved_at,omitzero"`
}

func listedReceiverOf(r db.Receiver, now time.Time) listedReceiver {
	row := listedReceiver{
		Receiver: strings.TrimSuffix(strings.TrimPrefix(r.Name, "*://"), ":*"), Word: r.Word, WordRate: r.ReceiverWord.Rate, WordMost: r.Concurrency,
		Rate: r.CallbackOrigin.Rate, InFlight: r.InFlight, LastOutcome: r.LastOutcome, SavedAt: r.SavedAt,
	}
	if r.ClosedUntil.After(now) {
		row.ClosedUntil = r.ClosedUntil
	}
	switch {
	case r.Word != "":
	case r.Openings == 0:
		row.Breaker = "closed"
	case row.ClosedUntil.IsZero():
		row.Breaker = "half-open"
	default:
		row.Breaker = "open"
	}
	return row
}

func (c receiverCommand) list(ctx context.Context, q db.Querier, stdout io.Writer) error {
	receivers, err := db.ListReceivers(ctx, q)
	if err != nil {
		return err
	}
	rows, now := make([]listedReceiver, len(receivers)), time.Now()
	for i, receiver := range receivers {
		rows[i] = listedReceiverOf(receiver, now)
	}
	if c.json {
		return json.NewEncoder(stdout).Encode(rows)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RECEIVER\tOPERATOR\tRATE\tIN FLIGHT\tBREAKER\tPAUSED UNTIL\tLAST OUTCOME\tAS OF")
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Receiver, row.said(), orDash(row.rate()), orDash(countOf(row.InFlight)),
			orDash(row.Breaker), when(row.ClosedUntil), orDash(row.LastOutcome), when(row.SavedAt))
	}
	return table.Flush()
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
