package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/postgres"
	"ringback/cmd/internal/program"
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

// add notes a figure, and shows it.
func (b *bench) add(key string, value float64) {
	b.say("  %-40s%10s", key, short(value))
	b.figures.add(key, value)
}

// stage is where something is measured. As testing.T does, it ends at the first error, and
// then takes down all that was put up, the last first.
type stage struct {
	*bench
	ctx  context.Context
	err  error
	down []func() error
}

// on runs do on a stage of its own.
func (b *bench) on(ctx context.Context, do func(*stage)) error {
	s := &stage{bench: b, ctx: ctx}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do(s)
	}()
	<-ended
	for _, takeDown := range slices.Backward(s.down) {
		s.err = errors.Join(s.err, takeDown())
	}
	return s.err
}

// scene runs do on a stage within this one, which says what it was about if it fails.
func (s *stage) scene(about string, do func(*stage)) {
	if err := s.on(s.ctx, do); err != nil {
		s.must(fmt.Errorf("%s: %w", about, err))
	}
}

// must ends the stage where there is an error. It is called by the stage's own goroutine.
func (s *stage) must(err error) {
	if err != nil {
		s.err = err
		runtime.Goexit()
	}
}

func (s *stage) atEnd(takeDown func() error) { s.down = append(s.down, takeDown) }

func (s *stage) pause(d time.Duration) {
	if !load.Pause(s.ctx, d) {
		s.must(s.ctx.Err())
	}
}

// until returns when it is so, which may take queueTimeout.
func (s *stage) until(what string, isSo func() bool) {
	deadline := time.Now().Add(queueTimeout)
	for !isSo() {
		if s.pause(10 * time.Millisecond); time.Now().After(deadline) {
			s.must(fmt.Errorf("waiting for %s took more than %v", what, queueTimeout))
		}
	}
}

// folder is there until the stage ends.
func (s *stage) folder() string {
	folder, err := os.MkdirTemp("", "bench-")
	s.must(err)
	s.atEnd(func() error { return os.RemoveAll(folder) })
	return folder
}

// database is a measurement's own database.
type database = postgres.Database

// database makes a database, as a copy of another if template isn't empty. All earlier
// writes are flushed: no measurement pays for the one before.
func (s *stage) database(purpose, template string) database {
	s.made++
	d, err := s.cluster.Create(s.ctx, fmt.Sprintf("bench_%s_%d", purpose, s.made), template)
	s.must(err)
	s.atEnd(func() error { return s.cluster.Drop(s.ctx, d) })
	s.checkpoint()
	return d
}

func (s *stage) checkpoint() { s.must(s.cluster.Execute(s.ctx, "CHECKPOINT")) }

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
func (s *stage) fresh(purpose string, settings ...string) *server {
	return s.start(s.ours(), s.database(purpose, ""), settings...)
}

// start starts a server, which may not end by itself before the stage does.
func (s *stage) start(v variant, d database, settings ...string) *server {
	address, err := program.FreeAddress()
	s.must(err)
	command := exec.Command(v.program, v.flags...)
	// Nothing of the caller's environment: a setting in it would be measured, too.
	command.Env = append([]string{"DATABASE_URL=" + d.URL, "HTTP_ADDR=" + address, "ADMIN_ADDR=none"}, settings...)
	if s.logs != "" {
		log, err := os.Create(filepath.Join(s.logs, d.Name+"-"+v.name+".log"))
		s.must(err)
		s.atEnd(log.Close)
		command.Stderr = log
	}
	process, err := program.Start(command, address)
	s.must(err)
	s.atEnd(process.Stop)
	s.must(process.WaitHealthy(s.ctx))
	return &server{process, d}
}

// ringback runs a command of our program on a database, and returns its output.
func (s *stage) ringback(d database, args ...string) []byte {
	command := exec.CommandContext(s.ctx, s.server, args...)
	command.Env = []string{"DATABASE_URL=" + d.URL, "PLAIN_SECRETS=true"}
	output, err := program.Output(command)
	s.must(err)
	return output
}
