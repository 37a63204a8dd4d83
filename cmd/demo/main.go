// Command demo shows Ringback's promises in ninety seconds, and checks each claim before it
// prints it.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"time"

	"ringback/cmd/internal/program"
	"ringback/cmd/internal/stage"
)

func main() { stage.Main("demo", run) }

// options are the demo's settings.
type options struct {
	server       string // path of the binary
	databaseURL  string // of a database in whose server the demo makes its own
	address      string // of the API
	adminAddress string
	fast         bool // without pauses to read in, and with less load
}

func readOptions(args []string, getenv func(string) string, output io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&o.server, "server", "bin/ringback", "path of the server's binary")
	flags.BoolVar(&o.fast, "fast", getenv("DEMO") == "fast", "no pauses to read in, and less load; so does DEMO=fast")
	flags.StringVar(&o.address, "addr", getenv("HTTP_ADDR"), "address of the API (default 127.0.0.1:8080, with -fast any free address)")
	flags.StringVar(&o.adminAddress, "admin", getenv("ADMIN_ADDR"), "address of the operator's pages (default 127.0.0.1:8081, likewise)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.address, err = o.orDefault(o.address, "127.0.0.1:8080"); err != nil {
		return o, err
	}
	if o.adminAddress, err = o.orDefault(o.adminAddress, "127.0.0.1:8081"); err != nil {
		return o, err
	}
	if o.databaseURL = getenv("DATABASE_URL"); o.databaseURL == "" {
		return o, errors.New("DATABASE_URL is not set: make demo sets it")
	}
	return o, nil
}

// orDefault is the given address, or the default.
func (o options) orDefault(given, usual string) (string, error) {
	switch {
	case given != "":
		return given, nil
	case o.fast: // nobody watches, and another server may run here
		return program.FreeAddress()
	}
	return usual, nil
}

// run plays all scenes.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := readOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	return stage.On(ctx, func(s *stage.Stage) {
		show := newShow(s, o, stdout)
		begun := time.Now()
		show.bothWays()
		show.receiverDies()
		show.workerDies()
		show.evilURLs()
		show.calmAndStorm()
		show.say("That took %.0f seconds. `make run` starts a server to try by hand, README goes on from here.", time.Since(begun).Seconds())
	})
}
