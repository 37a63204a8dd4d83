package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// request is a request as the API shows it.
type request struct {
	requestFields
	raw jsontext.Value // as it was answered
}

type requestFields struct {
	ID            uuid.UUID `json:"id"`
	Mode          string    `json:"mode"`
	Work          string    `json:"work"`
	Status        string    `json:"status"`
	CallbackURL   string    `json:"callback_url"`
	CallbackState string    `json:"callback_state"`
	WaitsFor      string    `json:"callback_waits_for"`
	CallbackDueAt time.Time `json:"callback_due_at"`
	RunningSince  time.Time `json:"running_since"`
	AcceptedAt    time.Time `json:"accepted_at"`
	FinishedAt    time.Time `json:"finished_at"`
	SettledAt     time.Time `json:"settled_at"`

	Result   jsontext.Value `json:"result"`
	Error    failure        `json:"error"`
	Timeline []event        `json:"timeline"`
}

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type event struct {
	At    time.Time `json:"at"`
	Event string    `json:"event"`
}

// UnmarshalJSON keeps the JSON, too.
func (r *request) UnmarshalJSON(text []byte) error {
	r.raw = append(r.raw[:0:0], text...)
	return json.Unmarshal(text, &r.requestFields)
}

// ended tells whether all steps of the request have ended.
func (r *request) ended() bool {
	return r.Status != "accepted" && r.CallbackState != "waiting" && r.CallbackState != "pending"
}

// status says of an accepted request whether the service of its work runs it.
func (r *request) status() string {
	if !r.RunningSince.IsZero() {
		return r.Status + " (running)"
	}
	return r.Status
}

// state is the part of a request that changes in its life.
func (r *request) state() string { return r.status() + " " + cmp.Or(r.CallbackState, "-") }

// table prints requests, a line each.
type table struct{ *tabwriter.Writer }

func newTable(out io.Writer) table {
	t := table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t, "ID\tMODE\tWORK\tSTATUS\tCALLBACK\tACCEPTED\tTOOK\tTO")
	return t
}

func (t table) add(r *request) { fmt.Fprintln(t, strings.Join(r.columns(), "\t")) }

func (r *request) columns() []string {
	return []string{
		r.ID.String(), printable(r.Mode), printable(cmp.Or(r.Work, "-")), printable(r.status()), printable(cmp.Or(r.CallbackState, "-")),
		r.AcceptedAt.UTC().Format("2006-01-02T15:04:05.000Z"), r.took(), printable(cmp.Or(r.CallbackURL, "-")),
	}
}

// took is the time from acceptance to the end of the work.
func (r *request) took() string {
	if r.FinishedAt.IsZero() {
		return "-"
	}
	took := r.FinishedAt.Sub(r.AcceptedAt)
	if took < time.Second {
		return took.Round(10 * time.Microsecond).String()
	}
	return took.Round(10 * time.Millisecond).String()
}

// write prints all of a request for people.
func (r *request) write(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, printable(value))
		}
	}
	line("request", r.ID.String())
	line("mode", r.Mode)
	line("work", r.Work)
	r.writeOutcome(line)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, event := range r.Timeline {
		if err := event.write(out); err != nil {
			return err
		}
	}
	return nil
}

// writeOutcome prints the outcome so far.
func (r *request) writeOutcome(line func(name, value string)) {
	line("status", r.status())
	line("callback", r.CallbackState)
	line("waits for", r.waitsFor())
	line("to", r.CallbackURL)
	line("result", string(r.Result))
	if r.Error.Code != "" {
		line("error", r.Error.Code+": "+r.Error.Message)
	}
}

func (r *request) waitsFor() string {
	if r.WaitsFor == "" || r.CallbackDueAt.IsZero() {
		return r.WaitsFor
	}
	return r.WaitsFor + " until " + r.CallbackDueAt.UTC().Format(time.RFC3339)
}

func (e event) write(out io.Writer) error {
	_, err := fmt.Fprintf(out, "%s  %s\n", e.At.UTC().Format("2006-01-02T15:04:05.000000Z"), printable(strings.ReplaceAll(e.Event, "_", " ")))
	return err
}
