package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

func worksCommand(p Program) *cobra.Command {
	r := newRemote(p)
	command := &cobra.Command{
		Use: "works", Short: "Show the kinds of work",
		Long: `Shows the kinds of work that the server does, by name, with the time that an
attempt may take and whether the service of the work is up, down or paused.
With --json the schema of each input stands beside it.`,
		Example: `  ringback works
  ringback works --json | jq '.works[].schema'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return r.works(command) },
	}
	r.flags(command)
	return command
}

func (r *remote) works(command *cobra.Command) error {
	var answer jsontext.Value
	if err := r.do(command.Context(), call{path: "works"}, &answer); err != nil {
		return err
	}
	if asJSON(command) {
		return WriteJSON(command.OutOrStdout(), answer)
	}
	var offered struct {
		Default string `json:"default"`
		Works   []struct {
			Name      string `json:"name"`
			TimeoutMS int64  `json:"timeout_ms"`
			Limit     int    `json:"limit"`
			Retries   int    `json:"retries"`
			State     string `json:"state"`
		} `json:"works"`
	}
	if err := decode(answer, &offered); err != nil {
		return err
	}
	t := tabwriter.NewWriter(command.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tDEFAULT\tTIMEOUT\tAT A TIME\tRETRIES\tSTATE")
	for _, work := range offered.Works {
		isDefault, limit := "-", "-"
		if work.Name == offered.Default {
			isDefault = "yes"
		}
		if work.Limit > 0 {
			limit = fmt.Sprint(work.Limit)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", printable(work.Name), isDefault, time.Duration(work.TimeoutMS)*time.Millisecond, limit, work.Retries, printable(work.State))
	}
	return t.Flush()
}
