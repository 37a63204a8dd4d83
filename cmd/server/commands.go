package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ringback/cmd/server/cli"
	"ringback/db"
	"ringback/jobs/clients"
	"ringback/work"
)

// commandLine makes the commands, and holds the values that they share.
type commandLine struct {
	environ map[string]string
	set     work.Set // written in Go
	options
}

// options are the flags that change the settings.
type options struct {
	dev       bool
	role      string
	json      bool // print for programs
	readsOnly bool // the command neither serves nor stores signing secrets
}

// storesSecrets tells whether the command serves outside local mode, or stores signing
// secrets for who does.
func (o options) storesSecrets() bool { return !o.dev && !o.readsOnly }

// errUsage says that the command line was wrong, which has been told already.
var errUsage = errors.New("wrong usage")

// execute runs a command line. Mistakes in args are reported before anything begins.
func (l *commandLine) execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := l.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean the process's arguments
	root.SetOut(stdout)
	root.SetErr(stderr)
	refuseUnknown(root)
	begun := false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	command, err := root.ExecuteContextC(ctx)
	if err == nil || begun {
		return err
	}
	if command == nil {
		command = root // its own flags were wrong
	}
	fmt.Fprintf(stderr, "ringback: %v\n\nUsage: %s\nMore: %s --help\n", err, command.UseLine(), command.CommandPath())
	return errUsage
}

func (l *commandLine) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ringback",
		Short: "The same work at once, or queued and called back",
		Long: `Ringback offers the same work both ways: POST /sync answers with the result;
POST /async acknowledges, does the work from a queue, and delivers the result to
a callback URL. Without a command it serves.

A command ends with status 0, with 1 if it failed, and with 2 if it was called
wrongly.`,
		Example: `  ringback --dev                        local mode: no key, loopback only
  ringback requests tail                follow the requests of callers
  ringback listen                       print callbacks while you develop
  ringback client add acme              an API key for a caller`,
		Args:             l.knownCommand,
		Version:          version(),
		SilenceErrors:    true,
		SilenceUsage:     true,
		TraverseChildren: true, // so that --dev may stand before a command
		RunE:             l.serve,
	}
	root.PersistentFlags().SortFlags = false
	cli.Switch(root.PersistentFlags(), &l.json, "json", "", "print JSON, for programs")
	l.servingFlags(root)
	root.AddGroup(
		&cobra.Group{ID: serving, Title: "To serve:"},
		&cobra.Group{ID: operating, Title: "For operators, on the database (DATABASE_URL):"},
		&cobra.Group{ID: calling, Title: "For callers, over HTTP (RINGBACK_URL, RINGBACK_API_KEY):"},
	)
	add(root, serving, l.serveCommand(), l.migrateCommand(), l.healthcheckCommand())
	add(root, operating, l.clientCommands(), l.receiverCommands())
	add(root, calling, cli.Commands(cli.Program{Environ: l.environ, Version: version(), LocalSecret: clients.LocalSecret})...)
	root.AddCommand(l.versionCommand())
	explain(root)
	return root
}

// refuseUnknown lets the library's own commands refuse what they don't know, which they would
// answer with a help and status 0.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, command := range root.Commands() {
		switch command.Name() {
		case "help":
			command.Args = func(_ *cobra.Command, args []string) error {
				if found, rest, err := root.Find(args); err != nil || found == nil || len(rest) > 0 {
					return fmt.Errorf("there is no command %q to explain", strings.Join(args, " "))
				}
				return nil
			}
		case "completion":
			shells := cli.Group(command.Name(), "", "")
			command.Args, command.RunE = shells.Args, shells.RunE
		}
	}
}

// The groups of commands in the help.
const serving, operating, calling = "serving", "operating", "calling"

func add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, command := range commands {
		command.GroupID = group
		root.AddCommand(command)
	}
}

// explain adds the settings to the help of the commands that serve.
func explain(root *cobra.Command) {
	help := root.HelpFunc()
	root.SetHelpFunc(func(command *cobra.Command, args []string) {
		help(command, args)
		if command == root || command.Name() == "serve" {
			fmt.Fprint(command.OutOrStdout(), "\nSettings come from the environment:\n\n", settingsTable())
		}
	})
}

// knownCommand refuses arguments of the bare program.
func (l *commandLine) knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	message := fmt.Sprintf("unknown command %q", args[0])
	root.SuggestionsMinimumDistance = 2
	if similar := root.SuggestionsFor(args[0]); len(similar) > 0 {
		message += ": do you mean " + strings.Join(similar, " or ") + "?"
	}
	return errors.New(message)
}

// roles are the roles of a process, the default first.
var roles = [...]string{"all", "api", "worker"}

// servingFlags gives a command the flags of a server.
func (l *commandLine) servingFlags(command *cobra.Command) {
	flags := command.Flags()
	flags.SortFlags = false
	cli.Switch(flags, &l.dev, "dev", "", "local mode: loopback only, no API key needed, callbacks by http and to loopback allowed, logs for people")
	l.role = roles[0]
	flags.Var(cli.Choice(&l.role, roles[:]...), "role", "all, api: accepts only, worker: runs jobs only")
	_ = command.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles[:], cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

func (l *commandLine) serveCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "serve",
		Short: "Serve the API and run jobs (the default command)",
		Long: `Serves the API at HTTP_ADDR and runs jobs, until it is told to stop, and then
drains. Any number of processes may share a database.`,
		Example: `  ringback serve --dev
  ringback serve --role=worker`,
		Args: cobra.NoArgs,
		RunE: l.serve,
	}
	l.servingFlags(command)
	return command
}

func (l *commandLine) serve(command *cobra.Command, _ []string) error {
	config, err := l.config()
	if err != nil {
		return err
	}
	log, out := newLogBuffer(command.ErrOrStderr()), newLogBuffer(command.OutOrStdout())
	defer log.flush()
	return serve(command.Context(), config, newLogger(config, log), log, out)
}

func (l *commandLine) migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema of the database up to date",
		Long: `Brings the schema of the database up to date, as the start of a server does;
before the first client is added, for example.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := l.readOnlyConfig()
			if err != nil {
				return err
			}
			if err := db.CheckServer(command.Context(), config.DatabaseURL); err != nil {
				return config.tried(err)
			}
			if err := db.MigrateTelling(command.Context(), config.DatabaseURL, newLogger(config, command.ErrOrStderr())); err != nil || !l.json {
				return err
			}
			return cli.WriteJSON(command.OutOrStdout(), map[string]bool{"migrated": true})
		},
	}
}

func (l *commandLine) healthcheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Tell whether the server at HTTP_ADDR is healthy",
		Long:  `Ends with status 0 when the server at HTTP_ADDR is healthy, for containers.`,
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := l.readOnlyConfig()
			if err != nil {
				return err
			}
			if err := checkHealth(command.Context(), config.HTTPAddr); err != nil || !l.json {
				return err
			}
			return cli.WriteJSON(command.OutOrStdout(), map[string]bool{"healthy": true})
		},
	}
}

func (l *commandLine) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			build := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if l.json {
				return cli.WriteJSON(command.OutOrStdout(), build)
			}
			_, err := fmt.Fprintf(command.OutOrStdout(), "ringback %s (%s, %s)\n", build.Version, build.Go, build.Platform)
			return err
		},
	}
}

// readSettings reads the settings that a command needs.
type readSettings func() (Config, error)

func (l *commandLine) config() (Config, error) { return readConfig(l.environ, l.options, l.set) }

// readOnlyConfig are the settings of a command that needs no SECRETS_KEY.
func (l *commandLine) readOnlyConfig() (Config, error) {
	o := l.options
	o.readsOnly = true
	return readConfig(l.environ, o, l.set)
}

// onDatabase runs a command on the schema that is there.
type onDatabase func(ctx context.Context, pool *pgxpool.Pool, config Config, stdout io.Writer) error

// statementTime bounds each statement of a command.
const statementTime = 5 * time.Second

// databaseCommand opens the database for a command.
func databaseCommand(settings readSettings, do onDatabase) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, _ []string) error {
		config, err := settings()
		if err != nil {
			return err
		}
		if err := db.CheckSchema(command.Context(), config.DatabaseURL); err != nil {
			return config.tried(err)
		}
		pool, err := db.Open(command.Context(), config.DatabaseURL, statementTime)
		if err != nil {
			return err
		}
		defer pool.Close()
		return do(command.Context(), pool, config, command.OutOrStdout())
	}
}
