package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func requestsCommands(p Program) *cobra.Command {
	r := newRemote(p)
	group := Group("requests", "List, follow, cancel and redeliver requests", `Speaks HTTP with the API key of a client, and shows the requests of that client.
In local mode there is no key.`)
	group.Example = `  export RINGBACK_URL=https://ringback.example.com RINGBACK_API_KEY=rbk_…
  ringback requests list --status failed --from 2h
  ringback requests show 01a20bd7-2978-722f-bf9b-7fdc9ae0399b --follow`
	r.flags(group)
	group.AddCommand(listCommand(r), showCommand(r), tailCommand(r), cancelCommand(r), redeliverCommand(r), discardCommand(r))
	return group
}

// filter picks the requests of a listing.
type filter struct {
	mode, work, status, callback, host string
	from, to                           moment
}

func (f *filter) flags(command *cobra.Command) {
	command.Flags().SortFlags = false
	addChoice(command, &f.mode, "mode", "sync", "async")
	f.workFlag(command)
	addChoice(command, &f.status, "status", "accepted", "succeeded", "failed", "expired", "cancelled")
	addChoice(command, &f.callback, "callback", "waiting", "pending", "delivered", "dead", "cancelled")
	f.narrow(command)
	command.Flags().Var(&f.from, "from", "accepted then or later: a time, or how long ago, such as 2h")
	command.Flags().Var(&f.to, "to", "accepted before then")
}

func (f *filter) workFlag(command *cobra.Command) {
	command.Flags().Var(given(&f.work), "work", "`NAME` of the work, see ringback works")
}

// narrow adds the flag that picks callbacks by their host.
func (f *filter) narrow(command *cobra.Command) {
	command.Flags().Var(given(&f.host), "callback-host", "`HOST` of the callback URL, with its port if the URL has a port")
}

func (f *filter) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{
		"mode": f.mode, "work": f.work, "status": f.status, "callback": f.callback, "callback_host": f.host, "from": f.from.String(), "to": f.to.String(),
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

// page is a part of a listing.
type page struct {
	Requests   []*request `json:"requests"`
	NextCursor string     `json:"next_cursor"`
}

// maxPage is the most that the API takes for a page.
const maxPage = 100

// idArgs takes ids of requests.
func idArgs(ids *[]uuid.UUID, least, most int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least {
			return errors.New("the id of a request is missing")
		}
		if len(args) > most {
			return fmt.Errorf("takes %s", idCount(most))
		}
		for _, arg := range args {
			id, err := parseID(arg)
			if err != nil {
				return err
			}
			*ids = append(*ids, id)
		}
		return nil
	}
}

func idCount(most int) string {
	if most == 1 {
		return "one id of a request"
	}
	return fmt.Sprintf("at most %d ids of requests", most)
}

// maxIDs is how many ids one command takes: a filter is for more.
const maxIDs = 1000

// recentIDs completes the ids of requests.
func (r *remote) recentIDs(command *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var recent page
	if err := r.do(command.Context(), call{path: "requests"}, &recent); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var found []cobra.Completion
	for _, request := range recent.Requests {
		if id := request.ID.String(); strings.HasPrefix(id, prefix) {
			found = append(found, cobra.CompletionWithDesc(id, printable(request.Mode+" "+request.state())))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// each calls do for several requests, and tells of each failure.
func each(ids []uuid.UUID, do func(id uuid.UUID) error) error {
	var failed []error
	for _, id := range ids {
		if err := do(id); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", id, err))
		}
	}
	return errors.Join(failed...)
}

func cancelCommand(r *remote) *cobra.Command {
	var ids []uuid.UUID
	command := &cobra.Command{
		Use: "cancel ID…", Short: "Stop the steps of requests that have not ended",
		Long: `Ends requests as cancelled, or their callbacks alone where the work has ended. No
callback is sent, not even to say so.`,
		Example:           "  ringback requests cancel 01a20bd7-2978-722f-bf9b-7fdc9ae0399b",
		Args:              idArgs(&ids, 1, maxIDs),
		ValidArgsFunction: r.recentIDs,
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		return each(ids, func(id uuid.UUID) error { return r.cancel(command, id) })
	}
	return command
}

func (r *remote) cancel(command *cobra.Command, id uuid.UUID) error {
	var answer jsontext.Value
	if err := r.do(command.Context(), call{method: http.MethodPost, path: "requests/" + id.String() + "/cancel"}, &answer); err != nil {
		return err
	}
	if asJSON(command) {
		return WriteJSON(command.OutOrStdout(), answer)
	}
	var cancelled struct {
		Request request  `json:"request"`
		Stopped []string `json:"stopped"`
	}
	if err := decode(answer, &cancelled); err != nil {
		return err
	}
	what := "nothing was left to stop"
	if len(cancelled.Stopped) > 0 {
		what = "stopped " + printable(strings.Join(cancelled.Stopped, " and "))
	}
	_, err := fmt.Fprintf(command.OutOrStdout(), "%s  %s: %s\n", id, printable(cancelled.Request.state()), what)
	return err
}

// act calls the API's action of the given name for one request, and prints the request.
func (r *remote) act(command *cobra.Command, id uuid.UUID, verb string) error {
	var whole request
	if err := r.do(command.Context(), call{method: http.MethodPost, path: "requests/" + id.String() + "/" + verb}, &whole); err != nil {
		return err
	}
	if asJSON(command) {
		return WriteJSON(command.OutOrStdout(), whole.raw)
	}
	_, err := fmt.Fprintf(command.OutOrStdout(), "%s  %s\n", id, printable(whole.state()))
	return err
}

func listCommand(r *remote) *cobra.Command {
	var f filter
	limit, cursor := 20, ""
	command := &cobra.Command{
		Use: "list", Short: "List requests, newest first",
		Long: `Lists requests, newest first, without inputs and results. Where there are more,
it says how to go on.`,
		Example: `  ringback requests list --status failed --from 2h
  ringback requests list --callback dead --callback-host hooks.example.com --json`,
		Args: cobra.NoArgs,
	}
	f.flags(command)
	command.Flags().Var(numberIn(&limit, 1, 10_000), "limit", "how many, from 1 to 10000")
	addCursor(command.Flags(), &cursor)
	command.RunE = func(command *cobra.Command, _ []string) error {
		listed, err := r.list(command, &f, limit, cursor)
		if err != nil {
			return err
		}
		return listed.print(command)
	}
	return command
}

// maxLooks is how many pages a listing reads: the API looks at 200 requests for
// each, and few of them may match.
const maxLooks = 250

func (r *remote) list(command *cobra.Command, f *filter, limit int, cursor string) (all page, err error) {
	calls := patience{remote: r, out: command.ErrOrStderr()}
	all = page{Requests: []*request{}, NextCursor: cursor}
	for range maxLooks {
		query := f.query()
		query.Set("limit", fmt.Sprint(min(limit-len(all.Requests), maxPage)))
		if all.NextCursor != "" {
			query.Set("cursor", all.NextCursor)
		}
		var next page
		if err := calls.do(command.Context(), call{path: "requests", query: query}, &next); err != nil {
			return all, err
		}
		all.Requests, all.NextCursor = append(all.Requests, next.Requests...), next.NextCursor
		if all.NextCursor == "" || len(all.Requests) >= limit {
			break
		}
	}
	return all, nil
}

func (p page) print(command *cobra.Command) error {
	if asJSON(command) {
		answer := struct {
			Requests   []jsontext.Value `json:"requests"`
			NextCursor string           `json:"next_cursor,omitzero"`
		}{[]jsontext.Value{}, p.NextCursor}
		for _, request := range p.Requests {
			answer.Requests = append(answer.Requests, request.raw)
		}
		return WriteJSON(command.OutOrStdout(), answer)
	}
	t := newTable(command.OutOrStdout())
	for _, request := range p.Requests {
		t.add(request)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	tellCursor(command, p.NextCursor)
	return nil
}

// addCursor adds the flag that goes on where an earlier command ended.
func addCursor(flags *pflag.FlagSet, cursor *string) {
	flags.Func("cursor", "`CURSOR` that an earlier command ended with", func(text string) error {
		*cursor = text
		if _, err := uuid.Parse(text); err != nil {
			return errors.New("must be the cursor that an earlier command ended with")
		}
		return nil
	})
}

func tellCursor(command *cobra.Command, cursor string) {
	if cursor != "" {
		fmt.Fprintf(command.ErrOrStderr(), "There may be more: --cursor %s\n", printable(cursor))
	}
}

func showCommand(r *remote) *cobra.Command {
	var ids []uuid.UUID
	var follow bool
	command := &cobra.Command{
		Use: "show ID", Short: "Show one request and its life",
		Long: `Shows a request, its result, and its life step by step. With --follow it goes on
until all steps have ended: each step as it happens, and then the outcome (with
--json, the request whenever it has changed, a line each).`,
		Example: `  ringback requests show 01a20bd7-2978-722f-bf9b-7fdc9ae0399b
  ringback requests show 01a20bd7-2978-722f-bf9b-7fdc9ae0399b --follow`,
		Args:              idArgs(&ids, 1, 1),
		ValidArgsFunction: r.recentIDs,
	}
	Switch(command.Flags(), &follow, "follow", "f", "go on until all steps have ended")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if follow {
			return r.follow(command, ids[0])
		}
		var whole request
		if err := r.do(command.Context(), call{path: "requests/" + ids[0].String()}, &whole); err != nil {
			return err
		}
		if asJSON(command) {
			return WriteJSON(command.OutOrStdout(), whole.raw)
		}
		return whole.write(command.OutOrStdout())
	}
	return command
}

// How long to wait between two looks at a request whose work has ended: a callback
// mostly follows at once, and otherwise after its next attempt.
const (
	firstLook = 200 * time.Millisecond
	lastLook  = 10 * time.Second
	// workWait is how long the server is asked to wait for the work: not for so long
	// that a proxy gives up.
	workWait = 30 * time.Second
)

// follow prints a request until all its steps have ended.
func (r *remote) follow(command *cobra.Command, id uuid.UUID) error {
	calls := patience{remote: r, out: command.ErrOrStderr()}
	seen := follower{command: command, told: map[event]bool{}}
	look := call{path: "requests/" + id.String(), wait: 0}
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		var whole request
		begun := time.Now()
		if err := calls.do(command.Context(), look, &whole); err != nil {
			return err
		}
		changed, err := seen.tell(&whole)
		if err != nil || whole.ended() {
			return err
		}
		if changed {
			pause = firstLook
		}
		if look.wait = 0; whole.Status == "accepted" {
			look.wait = workWait
		}
		// A server that waited as asked has made the pause itself.
		if err := sleep(command.Context(), pause-time.Since(begun)); err != nil {
			return err
		}
	}
}

// follower prints the news of a request.
type follower struct {
	command *cobra.Command
	told    map[event]bool
	last    string
}

func (f *follower) tell(r *request) (changed bool, err error) {
	changed = f.last != string(r.raw)
	f.last = string(r.raw)
	out := f.command.OutOrStdout()
	if asJSON(f.command) {
		if changed {
			err = WriteJSON(out, r.raw)
		}
		return changed, err
	}
	for _, event := range r.Timeline {
		if !f.told[event] {
			f.told[event] = true
			if err := event.write(out); err != nil {
				return changed, err
			}
		}
	}
	if r.ended() {
		r.writeOutcome(func(name, value string) {
			if value != "" && err == nil {
				_, err = fmt.Fprintf(out, "%-8s  %s\n", name, printable(value))
			}
		})
	}
	return changed, err
}
