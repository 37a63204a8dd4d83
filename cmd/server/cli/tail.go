package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

func tailCommand(r *remote) *cobra.Command {
	t := tail{watched: map[uuid.UUID]*watched{}, interval: time.Second}
	command := &cobra.Command{
		Use: "tail", Short: "Follow new requests, and how they end",
		Long: `Prints a line for each new request, and another line whenever its status or its
callback's state has changed, until it is stopped. It asks once in --interval, and
less often for old requests; where it asks too often, it does as Retry-After says.`,
		Example: `  ringback requests tail
  ringback requests tail --mode async --since 10m --json`,
		Args: cobra.NoArgs,
	}
	command.Flags().SortFlags = false
	addChoice(command, &t.filter.mode, "mode", "sync", "async")
	t.filter.workFlag(command)
	t.filter.narrow(command)
	command.Flags().Var(&t.since, "since", "begin with requests accepted then: a time, or how long ago, such as 10m")
	command.Flags().Func("interval", "`TIME` between two looks, from 200ms to 1h (default 1s)", func(text string) (err error) {
		if t.interval, err = time.ParseDuration(text); err != nil || t.interval < 200*time.Millisecond || t.interval > time.Hour {
			return fmt.Errorf("must be a duration from 200ms to 1h, such as 5s")
		}
		return nil
	})
	command.RunE = func(command *cobra.Command, _ []string) error {
		t.command, t.calls = command, patience{remote: r, out: command.ErrOrStderr()}
		return t.run(command.Context())
	}
	return command
}

// tail follows the listing. Requests are listed by the time of their acceptance, and may appear a
// moment after younger requests. So each look begins a little before the youngest known request,
// and remembers the requests there.
type tail struct {
	command  *cobra.Command
	calls    patience
	filter   filter
	since    moment
	interval time.Duration

	from    time.Time // of the next look
	watched map[uuid.UUID]*watched
}

// watched is a request that was printed.
type watched struct {
	request *request
	state   string
	seen    int       // the number of the latest look that saw it
	due     time.Time // when to ask for it, where the listing is past it
}

const (
	// tailOverlap is more than a commit takes.
	tailOverlap = 2 * time.Second
	// tailPages bounds one look: nobody reads every line of a storm.
	tailPages = 20
	// tailAsked is how many single requests one look asks for.
	tailAsked = 20
	// tailWatched is how many requests are kept.
	tailWatched = 20_000
)

// run looks again and again until ctx ends, and then returns no error.
func (t *tail) run(ctx context.Context) error {
	for look := 1; ; look++ {
		err := t.look(ctx, look)
		if err == nil {
			err = sleep(ctx, t.interval)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tail) look(ctx context.Context, number int) error {
	listed, complete, err := t.list(ctx)
	if err != nil {
		return err
	}
	if !complete {
		fmt.Fprintf(t.command.ErrOrStderr(), "ringback: more requests than can be followed; some are left out\n")
	}
	silent := number == 1 && t.since.IsZero() // such requests were there before
	slices.Reverse(listed)
	for _, request := range listed {
		if err := t.saw(request, number, silent); err != nil {
			return err
		}
	}
	if err := t.askForOthers(ctx, number); err != nil {
		return err
	}
	t.forget()
	return nil
}

// list reads the requests that were accepted since from, newest first.
func (t *tail) list(ctx context.Context) (all []*request, complete bool, err error) {
	if t.from.IsZero() {
		t.from = t.since.Time
	}
	if t.from.IsZero() {
		if err := t.beginNow(ctx); err != nil {
			return nil, false, err
		}
	}
	query := t.filter.query()
	query.Set("limit", fmt.Sprint(maxPage))
	query.Set("from", t.from.UTC().Format(time.RFC3339Nano))
	for range tailPages {
		var next page
		if err := t.calls.do(ctx, call{path: "requests", query: query}, &next); err != nil {
			return nil, false, err
		}
		all = append(all, next.Requests...)
		if next.NextCursor == "" {
			return all, true, nil
		}
		query.Set("cursor", next.NextCursor)
	}
	return all, false, nil
}

// beginNow takes the time from the newest request, since the times of requests are by the
// database's clock.
func (t *tail) beginNow(ctx context.Context) error {
	query := t.filter.query()
	query.Set("limit", "1")
	var newest page
	if err := t.calls.do(ctx, call{path: "requests", query: query}, &newest); err != nil {
		return err
	}
	t.from = time.Unix(0, 0)
	if len(newest.Requests) > 0 {
		t.from = newest.Requests[0].AcceptedAt.Add(-tailOverlap)
	}
	return nil
}

// saw prints a request that is new or has changed.
func (t *tail) saw(r *request, number int, silent bool) error {
	if from := r.AcceptedAt.Add(-tailOverlap); from.After(t.from) {
		t.from = from
	}
	w, known := t.watched[r.ID]
	if !known {
		w = &watched{}
		t.watched[r.ID] = w
	}
	changed := w.state != r.state()
	w.request, w.state, w.seen = r, r.state(), number
	if !changed || silent {
		return nil
	}
	return t.print(r)
}

func (t *tail) print(r *request) error {
	out := t.command.OutOrStdout()
	if asJSON(t.command) {
		return WriteJSON(out, r.raw)
	}
	c := r.columns()
	_, err := fmt.Fprintf(out, "%s  %s  %-5s  %-11s  %-9s  %-9s  %8s  %s\n", c[5], c[0], c[1], c[2], c[3], c[4], c[6], c[7])
	return err
}

// askForOthers looks at requests that have not ended and that the listing is past:
// the older, the less often.
func (t *tail) askForOthers(ctx context.Context, number int) error {
	now := time.Now()
	var due []*watched
	for _, w := range t.watched {
		if w.seen != number && !w.request.ended() && !w.due.After(now) {
			due = append(due, w)
		}
	}
	slices.SortFunc(due, func(a, b *watched) int { return a.due.Compare(b.due) })
	for _, w := range due[:min(len(due), tailAsked)] {
		var whole request
		id := w.request.ID
		if err := t.calls.do(ctx, call{path: "requests/" + id.String()}, &whole); isGone(err) {
			delete(t.watched, id)
			continue
		} else if err != nil {
			return err
		}
		age := t.calls.date.Sub(whole.AcceptedAt)
		w.due = now.Add(min(max(age/10, t.interval), time.Minute))
		if err := t.saw(&whole, number, false); err != nil {
			return err
		}
	}
	return nil
}

// forget drops requests that have ended and can't be listed again, and the oldest where
// there are too many.
func (t *tail) forget() {
	var open []*watched
	for id, w := range t.watched {
		if w.request.ended() && w.request.AcceptedAt.Before(t.from) {
			delete(t.watched, id)
		} else {
			open = append(open, w)
		}
	}
	if len(open) <= tailWatched {
		return
	}
	slices.SortFunc(open, func(a, b *watched) int { return a.request.AcceptedAt.Compare(b.request.AcceptedAt) })
	for _, w := range open[:len(open)-tailWatched] {
		delete(t.watched, w.request.ID)
	}
}
