package cli

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

// bulk is a command for single requests, by their ids, or for all requests that a filter
// picks.
type bulk struct {
	*remote
	verb, path string // of the calls for one request and for many
	done       string // names the count in the answer

	ids      []uuid.UUID
	all      bool
	dryRun   bool
	state    string // of the callbacks
	filter   filter
	rate     int // a second; 0 where there is none
	cursor   string
	selected bool // by a filter
}

func redeliverCommand(r *remote) *cobra.Command {
	b := &bulk{remote: r, verb: "redeliver", path: "redeliveries", done: "redelivered", state: "dead", rate: 10}
	command := b.command("Send callbacks again that are dead or delivered", `Makes callbacks pending again: of the requests with the given ids, or all dead
letters that a filter picks, oldest first, spaced by the rate. Callbacks that don't
fit into a quota, or may not be sent any more, stay as they are and are told.`, `  ringback requests redeliver 01a20bd7-2978-722f-bf9b-7fdc9ae0399b
  ringback requests redeliver --callback-host hooks.example.com --from 48h --dry-run`)
	addChoice(command, &b.state, "callback", "dead", "delivered")
	command.Flags().Var(numberIn(&b.rate, 1, 100), "rate", "callbacks a second, from 1 to 100")
	return command
}

func discardCommand(r *remote) *cobra.Command {
	b := &bulk{remote: r, verb: "discard", path: "discards", done: "discarded"}
	return b.command("Give dead letters up for good", `Gives dead letters up for good: of the requests with the given ids, or all dead
letters that a filter picks, oldest first.`, `  ringback requests discard 01a20bd7-2978-722f-bf9b-7fdc9ae0399b
  ringback requests discard --all --dry-run`)
}

func (b *bulk) command(short, long, example string) *cobra.Command {
	command := &cobra.Command{
		Use: b.verb + " [ID…]", Short: short, Long: long, Example: example,
		Args: b.readArgs, ValidArgsFunction: b.recentIDs, RunE: b.run,
	}
	flags := command.Flags()
	flags.SortFlags = false
	b.filter.narrow(command)
	flags.Var(&b.filter.from, "from", "accepted then or later: a time, or how long ago, such as 2h")
	flags.Var(&b.filter.to, "to", "accepted before then")
	addCursor(flags, &b.cursor)
	Switch(flags, &b.all, "all", "", "all dead letters, where no other flag picks some")
	Switch(flags, &b.dryRun, "dry-run", "", "count them only")
	return command
}

// readArgs takes either ids or a filter: no arguments must not mean everything.
func (b *bulk) readArgs(command *cobra.Command, args []string) error {
	filters := []string{"callback-host", "from", "to", "all", "callback", "rate", "dry-run", "cursor"}
	for i, name := range filters {
		flag := command.Flags().Lookup(name)
		if flag == nil || !flag.Changed {
			continue
		}
		if len(args) > 0 {
			return fmt.Errorf("--%s is for requests that are picked by a filter, not by their ids", name)
		}
		b.selected = b.selected || i < 4 && flag.Value.String() != "false"
	}
	if len(args) == 0 && !b.selected {
		return errors.New("takes ids of requests, or one of --callback-host, --from, --to and --all")
	}
	return idArgs(&b.ids, 0, maxIDs)(command, args)
}

func (b *bulk) run(command *cobra.Command, _ []string) error {
	if !b.selected {
		return each(b.ids, func(id uuid.UUID) error { return b.act(command, id, b.verb) })
	}
	total, err := b.pages(command)
	if err != nil && total.Cursor == b.cursor { // nothing was done
		return err
	}
	if printed := b.print(command, total); printed != nil {
		return printed
	}
	if err == nil && len(total.Refused) > 0 && !b.dryRun {
		return errors.New("some callbacks were refused, and stay as they are")
	}
	return err
}

// outcome adds up the answers of the calls.
type outcome struct {
	Matched int
	Done    int
	Refused []refusedCallbacks
	Cursor  string // where to go on, if the command stopped early
}

type refusedCallbacks struct {
	Count   int            `json:"count"`
	Problem jsontext.Value `json:"problem"`
}

// bulkAnswer is the answer to one call.
type bulkAnswer struct {
	Matched     int                `json:"matched"`
	Redelivered int                `json:"redelivered"`
	Discarded   int                `json:"discarded"`
	Refused     []refusedCallbacks `json:"refused"`
	NextCursor  string             `json:"next_cursor"`
}

// pages makes call after call. It waits until the redeliveries of a call have left, as
// their rate says, before the next call.
func (b *bulk) pages(command *cobra.Command) (total outcome, err error) {
	calls := patience{remote: b.remote, out: command.ErrOrStderr()}
	total.Cursor = b.cursor
	for {
		var answer bulkAnswer
		if err := calls.do(command.Context(), call{method: http.MethodPost, path: b.path, body: b.body(total.Cursor)}, &answer); err != nil {
			return total, err
		}
		done := answer.Redelivered + answer.Discarded
		total.Matched, total.Done = total.Matched+answer.Matched, total.Done+done
		total.Refused, total.Cursor = append(total.Refused, answer.Refused...), answer.NextCursor
		if total.Cursor == "" {
			return total, nil
		}
		if b.rate > 0 && done > 0 {
			pause := time.Duration(done) * time.Second / time.Duration(b.rate)
			fmt.Fprintf(command.ErrOrStderr(), "%d %s; the next in %s\n", total.Done, b.done, pause.Round(time.Second))
			if err := sleep(command.Context(), pause); err != nil {
				return total, err
			}
		}
	}
}

func (b *bulk) body(cursor string) map[string]any {
	filter := map[string]any{}
	set := func(in map[string]any, name, value string) {
		if value != "" {
			in[name] = value
		}
	}
	set(filter, "callback_host", b.filter.host)
	set(filter, "callback_state", b.state)
	set(filter, "from", b.filter.from.String())
	set(filter, "to", b.filter.to.String())
	body := map[string]any{"filter": filter, "dry_run": b.dryRun}
	if b.rate > 0 {
		body["rate"] = b.rate
	}
	set(body, "cursor", cursor)
	return body
}

func (b *bulk) print(command *cobra.Command, total outcome) error {
	if asJSON(command) {
		answer := map[string]any{"matched": total.Matched, b.done: total.Done}
		if len(total.Refused) > 0 {
			answer["refused"] = total.Refused
		}
		if total.Cursor != "" {
			answer["next_cursor"] = total.Cursor
		}
		encoded, err := json.Marshal(answer, json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
		return WriteJSON(command.OutOrStdout(), jsontext.Value(encoded))
	}
	counts, verb := fmt.Sprintf("%d of %d %s", total.Done, total.Matched, b.done), "refused"
	if b.dryRun {
		counts, verb = fmt.Sprintf("%d would be %s", total.Matched-total.refused(), b.done), "would be refused"
	}
	if _, err := fmt.Fprintf(command.OutOrStdout(), "%s.\n", counts); err != nil {
		return err
	}
	for _, refused := range total.Refused {
		fmt.Fprintf(command.ErrOrStderr(), "%d %s: %s\n", refused.Count, verb, refused.reason())
	}
	tellCursor(command, total.Cursor)
	return nil
}

// refused is how many callbacks were refused, for all reasons.
func (o outcome) refused() (count int) {
	for _, refused := range o.Refused {
		count += refused.Count
	}
	return count
}

// reason is the sentence of a problem.
func (r refusedCallbacks) reason() string {
	var problem struct {
		Detail jsontext.Value `json:"detail"`
	}
	if err := decode(r.Problem, &problem); err != nil {
		return err.Error()
	}
	return printable(textOf(problem.Detail))
}

func decode(answer jsontext.Value, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("decoding the answer: %w", err)
	}
	return nil
}
