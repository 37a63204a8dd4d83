package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"ringback/cmd/internal/postgres"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/stage"
)

// bench is a run of the whole program.
type bench struct {
	options
	cluster *cluster
	figures figures
	made    int // databases, for their names
	out     io.Writer
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// add notes and prints a figure.
func (b *bench) add(key string, value float64) {
	b.say("  %-40s%10s", key, short(value))
	b.figures.add(key, value)
}

// measurement is a stage of bench.
type measurement struct {
	*bench
	*stage.Stage
}

// on runs do on a new stage.
func (b *bench) on(ctx context.Context, do func(*measurement)) error {
	return stage.On(ctx, func(s *stage.Stage) { do(&measurement{b, s}) })
}

// scene runs do on a stage within s. An error names what the scene is about.
func (s *measurement) scene(about string, do func(*measurement)) {
	s.Scene(about, func(inner *stage.Stage) { do(&measurement{s.bench, inner}) })
}

// until waits for a queue to be filled, or to be emptied.
func (s *measurement) until(what string, isSo func() bool) { s.Until(what, queueTimeout, isSo) }

// database is a measurement's own database.
type database = postgres.Database

// database makes a database, as a copy of another if template isn't empty. It flushes all
// earlier writes: no measurement pays for the previous one.
func (s *measurement) database(purpose, template string) database {
	s.made++
	d := s.Database(s.cluster.Server, fmt.Sprintf("bench_%s_%d", purpose, s.made), template)
	s.checkpoint()
	return d
}

func (s *measurement) checkpoint() { s.Must(postgres.Execute(s.Ctx, s.cluster, "CHECKPOINT")) }

// variant is which service is measured.
type variant struct {
	name    string
	program string // of its server
	flags   []string
}

func (b *bench) ours() variant { return variant{"ours", b.server, []string{"--dev"}} }

// strict is Ringback with clients, their keys and quotas.
func (b *bench) strict() variant { return variant{"strict", b.server, nil} }

// accepting is Ringback without workers.
func (b *bench) accepting() variant {
	return variant{"accepting", b.server, []string{"--dev", "--role=api"}}
}

// server is a variant on a database, as a separate process.
type server struct {
	*program.Server
	rows database
}

// fresh is our server on an empty database.
func (s *measurement) fresh(purpose string, settings ...string) *server {
	return s.start(s.ours(), s.database(purpose, ""), settings...)
}

// start starts a server. The stage fails if the server ends before the stage does.
func (s *measurement) start(v variant, d database, settings ...string) *server {
	address, err := program.FreeAddress()
	s.Must(err)
	command := exec.Command(v.program, v.flags...)
	// Without the caller's environment: a setting there would change the measurement.
	command.Env = append([]string{"DATABASE_URL=" + d.URL, "HTTP_ADDR=" + address, "ADMIN_ADDR=none"}, settings...)
	if s.logs != "" {
		log, err := os.Create(filepath.Join(s.logs, d.Name+"-"+v.name+".log"))
		s.Must(err)
		s.AtEnd(log.Close)
		command.Stderr = log
	}
	process, err := program.Start(command, address)
	s.Must(err)
	s.AtEnd(process.Stop)
	s.Must(process.WaitHealthy(s.Ctx))
	return &server{process, d}
}

// ringback runs a command of our program on a database, and returns its output.
func (s *measurement) ringback(d database, args ...string) []byte {
	command := exec.CommandContext(s.Ctx, s.server, args...)
	command.Env = []string{"DATABASE_URL=" + d.URL, "PLAIN_SECRETS=true"}
	output, err := program.Output(command)
	s.Must(err)
	return output
}
